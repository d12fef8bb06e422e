"""What is committed stays, who writes takes turns, and every database is brought up to date: the
same laws for SQLite and PostgreSQL.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs.stores import (
    START,
    add_job,
    config,
    ended,
    killed_when_it_says,
    postgres_programs,
    postgres_server,
    python,
)
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from tanren.errors import ConfigError, StorageError
from tanren.jobs.service import JobService
from tanren.store.database import Database
from tanren.store.errors import InvalidRequest, RequestError
from tanren.store.migrations import FOLDER, HEAD, KNOWN
from tanren.store.pages import cursor, page
from tanren.store.tables import EventRow, JobRow, Table


@pytest.fixture(scope="module")
def new_postgres() -> Iterator[Callable[[], str]]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server on this machine")
    pytest.importorskip("psycopg", reason="no driver of PostgreSQL")
    with postgres_server(programs) as new_database:
        yield new_database


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Of an empty database; None: the file in the service's folder."""
    return None if request.param == "sqlite" else request.getfixturevalue("new_postgres")()


@pytest.fixture
def service(url: str | None, tmp_path: Path) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service", database=url)) as opened:
        yield opened


def priority(service: JobService, job: str) -> int | None:
    with service.database.reading() as session:
        return session.scalar(select(JobRow.priority).where(JobRow.id == job))


# --- sessions -------------------------------------------------------------------------------------


def test_a_session_is_kept_whole_or_not_at_all(service: JobService) -> None:
    job = add_job(service)
    with pytest.raises(ZeroDivisionError), service.database.session() as session:
        session.execute(update(JobRow).values(priority=7))
        raise ZeroDivisionError
    assert priority(service, job) == 0
    with service.database.session() as session:
        session.execute(update(JobRow).values(priority=7))
    assert priority(service, job) == 7


def test_reading_waits_for_nobody_and_sees_one_state(service: JobService) -> None:
    job = add_job(service)
    with service.database.reading() as reader:
        seen = reader.scalar(select(JobRow.priority))
        with service.database.session() as writer:
            writer.execute(update(JobRow).values(priority=1))
            writer.flush()
            assert priority(service, job) == 0, "what is not committed is nobody's"
        assert reader.scalar(select(JobRow.priority)) == seen == 0
    assert priority(service, job) == 1


def test_reading_cannot_write_and_the_connection_can_again_later(service: JobService) -> None:
    job = add_job(service)
    with pytest.raises(DBAPIError, match=r"read-?only"), service.database.reading() as session:
        session.execute(update(JobRow).values(priority=1))
    for _ in range(3):
        with service.database.session() as session:
            session.execute(update(JobRow).values(priority=JobRow.priority + 1))
    assert priority(service, job) == 3


def test_a_session_within_a_session_is_refused_at_once(service: JobService) -> None:
    with service.database.session(), pytest.raises(AssertionError, match="within"):
        service.database.session().__enter__()
    with service.database.session():
        pass


def test_nul_in_an_id_is_the_clients_mistake(service: JobService) -> None:
    """PostgreSQL takes no such text at all, SQLite finds nothing of that name."""
    for ask in (service.files.get, service.jobs.get, service.models.get, service.files.delete):
        with pytest.raises(RequestError):
            ask("a\0")
    with pytest.raises(RequestError):
        service.jobs.list(after="a\0")


def test_rows_belong_to_a_job_that_is_there(service: JobService) -> None:
    event = EventRow(id="e", job="ftjob-none", key="k", created_at=1, level="info", type="message",
                     message="", data={})  # fmt: skip
    with pytest.raises(IntegrityError), service.database.session() as session:
        session.add(event)


def test_nothing_is_null_and_not_the_word_null(service: JobService) -> None:
    add_job(service, metadata_=None)
    add_job(service, metadata_={"名": "前"})
    with service.database.reading() as session:
        assert session.scalars(
            select(JobRow.metadata_).where(JobRow.metadata_.is_(None))
        ).all() == [None]
        assert session.scalars(select(JobRow.metadata_).where(JobRow.error.is_(None))).all() == [
            None,
            {"名": "前"},
        ]


# --- turns ----------------------------------------------------------------------------------------

OPEN = """
import sys, time
from pathlib import Path
from jobs.stores import config
from sqlalchemy import select
from tanren.jobs.service import JobService
from tanren.store.tables import JobRow
with JobService(config(Path(sys.argv[1]), database=sys.argv[2] or None)) as service:
"""
COUNT = (
    OPEN
    + """
    with service.database.session() as session:
        row = session.scalars(select(JobRow)).one()
        before = row.priority
        print("read", flush=True)
        time.sleep(0.4)
        row.priority = before + 1
"""
)


def test_who_reads_and_then_writes_is_not_overtaken_by_another_process(
    service: JobService, url: str | None
) -> None:
    """Deferred transactions would end in `database is locked`, or lose what another one wrote."""
    job = add_job(service)
    other = python(COUNT, service.home, url or "")
    assert other.stdout is not None and other.stdout.readline() == "read\n"
    with service.database.session() as session:
        row = session.scalars(select(JobRow)).one()
        row.priority = row.priority + 1
    ended(other)
    assert priority(service, job) == 2


def test_threads_that_read_and_then_write_lose_no_count(service: JobService) -> None:
    job, failures = add_job(service), list[BaseException]()

    def work() -> None:
        try:
            for _ in range(25):
                with service.database.session() as session:
                    row = session.scalars(select(JobRow)).one()
                    row.priority = row.priority + 1
                priority(service, job)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and priority(service, job) == 200


def test_a_killed_writer_leaves_what_it_committed_and_nothing_else(
    service: JobService, url: str | None
) -> None:
    job = add_job(service)
    code = OPEN + (
        "    with service.database.session() as session:\n"
        "        session.scalars(select(JobRow)).one().priority = 5\n"
        "    with service.database.session() as session:\n"
        "        session.scalars(select(JobRow)).one().priority = 9\n"
        "        session.flush()\n"
        "        print('written', flush=True)\n"
        "        time.sleep(60)\n"
    )
    killed_when_it_says("written", python(code, service.home, url or ""))
    with service.database.session() as session:  # its turn has ended with it
        assert session.scalars(select(JobRow.priority)).one() == 5
    assert priority(service, job) == 5


def test_sqlite_flushes_at_every_commit(tmp_path: Path) -> None:
    """What a power failure takes cannot be tried here; what SQLite was told can be read."""
    with JobService(config(tmp_path)) as service:
        for begin in (service.database.session, service.database.reading):
            with begin() as session:
                told = [
                    session.scalar(text(f"PRAGMA {name}"))
                    for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                ]
                assert told == ["wal", 2, 1, 30_000]


# --- migrations -----------------------------------------------------------------------------------


def test_all_steps_together_make_the_tables_of_the_code(service: JobService) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with service.database._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_the_list_of_steps_is_that_of_their_files() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    steps = Config()
    steps.set_main_option("script_location", str(FOLDER))
    steps.set_main_option("path_separator", "os")
    walked = [step.revision for step in ScriptDirectory.from_config(steps).walk_revisions()]
    assert tuple(reversed(walked)) == KNOWN and KNOWN[-1] == HEAD


def test_a_database_is_made_once_and_found_again(service: JobService, url: str | None) -> None:
    assert service.database.migrated_from is None
    job = add_job(service)
    with JobService(service.config) as again:
        assert again.database.migrated_from == HEAD
        assert priority(again, job) == 0


def test_opening_waits_for_no_writer(service: JobService, url: str | None) -> None:
    """`tanren jobs list` answers while the server writes."""
    empty = OPEN + "    print(service.database.migrated_from)"
    with service.database.session():
        assert ended(python(empty, service.home, url or "")).strip() == HEAD


def test_a_database_of_newer_code_is_refused_and_left_alone(service: JobService) -> None:
    with service.database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match=r"'9999'.*newer tanren") as refused:
        JobService(service.config)
    assert "password" not in str(refused.value)
    with service.database.reading() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


def test_processes_that_open_a_new_folder_at_once_make_one_database(
    tmp_path: Path, url: str | None
) -> None:
    empty = OPEN + "    print(service.database.migrated_from)"
    started = [python(empty, tmp_path / "new", url or "") for _ in range(3)]
    told = sorted(ended(process).strip() for process in started)
    assert told == sorted(["None", HEAD, HEAD])


# --- what can be wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, word",
    [
        ("mysql://root@localhost/x", "mysql"),
        ("nonsense", "no URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_an_url_that_cannot_be_is_a_fault_of_the_settings(
    wrong: str, word: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=word):
        Database(wrong, tmp_path)


def test_a_server_that_does_not_answer_says_so_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="no driver of PostgreSQL")
    with pytest.raises(StorageError, match="answers") as failed:
        Database("postgresql://me:hush@127.0.0.1:9/x?connect_timeout=2", tmp_path)
    assert "hush" not in str(failed.value)


def test_a_file_that_is_no_database_is_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "service.db").write_bytes(b"my diary " * 1000)
    with pytest.raises(StorageError, match="not a database"):
        JobService(config(tmp_path))
    assert (tmp_path / "service.db").read_bytes() == b"my diary " * 1000


def test_a_full_disk_is_told_and_takes_nothing_away(tmp_path: Path) -> None:
    """T14, by SQLite's own limit on its file."""
    with JobService(config(tmp_path)) as service:
        job = add_job(service)
        with pytest.raises(StorageError, match="full disk"), service.database.session() as session:
            pages = session.scalar(text("PRAGMA page_count"))
            session.execute(text(f"PRAGMA max_page_count = {pages}"))
            session.execute(update(JobRow).values(waiting_for="x" * 1_000_000))
        assert priority(service, job) == 0


@pytest.mark.parametrize(
    "missing, url, remedy",
    [
        ("sqlalchemy", "None", 'pip install "tanren[serve]"'),
        ("alembic", "None", 'pip install "tanren[serve]"'),
        ("psycopg", "'postgresql://x@y/z'", 'pip install "tanren[serve,postgres]"'),
    ],
)
def test_a_missing_package_is_named(missing: str, url: str, remedy: str, tmp_path: Path) -> None:
    code = (
        f"import sys; from pathlib import Path; sys.modules[{missing!r}] = None\n"
        "from tanren.errors import ConfigError\n"
        "try:\n"
        "    from tanren.store.database import Database\n"
        f"    Database({url}, Path(sys.argv[1]))\n"
        "except ConfigError as error: print(error)\n"
    )
    assert remedy in ended(python(code, tmp_path))


# --- pages ----------------------------------------------------------------------------------------


def add_events(service: JobService, job: str, count: int) -> list[str]:
    with service.database.session() as session:
        session.execute(
            EventRow.__table__.insert(),  # type: ignore[attr-defined]
            [
                {"id": f"{job}-{n}", "job": job, "key": f"step:{n}", "created_at": START,
                 "level": "info", "type": "metrics", "message": "Step", "data": {"step": n}}
                for n in range(count)
            ],
        )  # fmt: skip
    return [f"{job}-{n}" for n in range(count)]


def walk(service: JobService, job: str, *, limit: int, newest_first: bool) -> list[str]:
    found, after = list[str](), None
    while True:
        with service.database.reading() as session:
            begin = cursor(session, EventRow.id, EventRow.number, after, EventRow.job == job)
            part: Any = page(
                session,
                select(EventRow).where(EventRow.job == job),
                EventRow.number,
                lambda row: row.id,
                limit=limit,
                after=begin,
                newest_first=newest_first,
            )
        assert len(part.items) == limit or not part.has_more
        found += part.items
        if not part.has_more:
            return found
        after = part.items[-1]


@pytest.mark.parametrize("limit", [1, 2, 7, 14, 15, 100])
@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_put_together_are_the_list(tmp_path: Path, limit: int, newest_first: bool) -> None:
    with JobService(config(tmp_path)) as service:
        one, other = add_job(service), add_job(service)
        wanted = add_events(service, one, 14)
        add_events(service, other, 3)
        found = walk(service, one, limit=limit, newest_first=newest_first)
        assert found == (wanted[::-1] if newest_first else wanted)


def test_after_the_last_one_there_is_nothing(service: JobService) -> None:
    """Clients that do not look at `has_more` would go round for ever."""
    job, other = add_job(service), add_job(service)
    first = add_events(service, job, 3)[0]
    foreign = add_events(service, other, 1)[0]
    with service.database.reading() as session:
        begin = cursor(session, EventRow.id, EventRow.number, first, EventRow.job == job)
        statement = select(EventRow).where(EventRow.job == job)
        last: Any = page(session, statement, EventRow.number, str, limit=20, after=begin)
        assert last.items == () and not last.has_more
        for wrong in ("nothing", foreign):
            with pytest.raises(InvalidRequest) as refused:
                cursor(session, EventRow.id, EventRow.number, wrong, EventRow.job == job)
            assert refused.value.param == "after"
        with pytest.raises(InvalidRequest, match="limit"):
            page(session, statement, EventRow.number, str, limit=0)


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_page_is_found_by_its_index_wherever_it_begins(
    tmp_path: Path, newest_first: bool
) -> None:
    """No sorting and no counting: the hundred-thousandth event costs what the first one does."""
    order = EventRow.number.desc() if newest_first else EventRow.number.asc()
    wanted = select(EventRow).where(EventRow.job == "j", EventRow.number < 5).order_by(order)
    with JobService(config(tmp_path)) as service, service.database.reading() as session:
        statement = str(wanted.limit(3).compile(compile_kwargs={"literal_binds": True}))
        plan = " ".join(row[3] for row in session.execute(text(f"EXPLAIN QUERY PLAN {statement}")))
    assert "USING INDEX events_by_job (job=? AND number<?)" in plan and "TEMP" not in plan


def test_the_database_loads_no_alembic_where_no_step_is_missing(tmp_path: Path) -> None:
    """`tanren jobs list` is to answer at once."""
    JobService(config(tmp_path)).close()
    code = (
        "import sys; from pathlib import Path; from jobs.stores import config\n"
        "from tanren.jobs.service import JobService\n"
        "JobService(config(Path(sys.argv[1]))).close()\n"
        "print([n for n in ('alembic', 'torch', 'transformers') if n in sys.modules])"
    )
    assert ended(python(code, tmp_path)).strip() == "[]"
    assert subprocess.run([sys.executable, "-c", "import alembic"], check=False).returncode == 0
