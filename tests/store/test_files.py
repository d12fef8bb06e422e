"""A file is there whole or not at all, and its name is a label."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobs.stores import (
    START,
    Clock,
    add_job,
    config,
    ended,
    files_below,
    killed_when_it_says,
    python,
)
from sqlalchemy import select, update

from tanren.errors import StorageError
from tanren.jobs.service import JobService
from tanren.store.errors import Conflict, InvalidRequest, NotFound, TooLarge
from tanren.store.records import FileRecord, JobStatus
from tanren.store.stamps import is_id
from tanren.store.tables import FileRow, JobRow


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(tmp_path: Path, clock: Clock) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service"), clock=clock) as opened:
        yield opened


def send(
    service: JobService,
    content: bytes = b"{}\n",
    *,
    name: str = "a.jsonl",
    after: int | None = None,
) -> FileRecord:
    with service.files.receive(filename=name, purpose="fine-tune", expires_after=after) as receiver:
        receiver.write(content)
        return receiver.commit()


def on_disk(service: JobService) -> list[str]:
    return [Path(name).name for name in files_below(service.files.folder)]


# --- in -------------------------------------------------------------------------------------------


def test_a_file_comes_back_byte_for_byte_under_a_name_of_its_id(service: JobService) -> None:
    parts = ["日本語\n".encode(), b"\x00\xff" * 1000, b""]
    with service.files.receive(filename="訓練.jsonl", purpose="fine_tune") as receiver:
        for part in parts:
            receiver.write(part)
        record = receiver.commit()
    content = b"".join(parts)
    assert service.files.path(record.id).read_bytes() == content
    assert service.files.path(record.id) == service.home / "files" / record.id[-2:] / record.id
    assert is_id(record.id, "file-") and service.files.get(record.id) == record
    assert (record.bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (record.filename, record.purpose) == ("訓練.jsonl", "fine-tune")
    assert (record.created_at, record.expires_at, record.status) == (START, None, "processed")


def test_what_is_not_committed_leaves_nothing(service: JobService) -> None:
    with service.files.receive(filename="a", purpose="fine-tune") as receiver:
        receiver.write(b"x" * 100_000)
        assert len(on_disk(service)) == 1
    with pytest.raises(ZeroDivisionError), service.files.receive(purpose="fine-tune") as receiver:
        receiver.write(b"x")
        raise ZeroDivisionError
    assert on_disk(service) == [] and service.files.list().items == ()


def test_what_is_written_with_it_is_kept_with_it_or_neither(service: JobService) -> None:
    job = add_job(service)

    def name_it(session: object, record: FileRecord) -> None:
        session.execute(update(JobRow).values(result_files=[record.id]))  # type: ignore[attr-defined]

    def fail(session: object, record: FileRecord) -> None:
        name_it(session, record)
        raise NotFound("gone")

    with pytest.raises(NotFound):
        service.files.store(b"step\n", filename="r.csv", also=fail)
    assert on_disk(service) == [] and service.files.list().items == ()
    record = service.files.store(b"step\n", filename="r.csv", also=name_it)
    assert record.purpose == "fine-tune-results" and on_disk(service) == [record.id]
    with service.database.reading() as session:
        assert session.scalar(select(JobRow.result_files).where(JobRow.id == job)) == [record.id]


def test_a_file_may_be_described_after_its_bytes(service: JobService) -> None:
    """Some clients send the purpose last."""
    with service.files.receive() as receiver:
        receiver.write(b"x")
        receiver.filename, receiver.purpose, receiver.expires_after = "b", "fine_tune", 3600
        record = receiver.commit()
    assert (record.filename, record.purpose) == ("b", "fine-tune")
    assert record.expires_at == START + 3600
    with service.files.receive() as receiver, pytest.raises(InvalidRequest, match="purpose"):
        receiver.commit()
    assert on_disk(service) == [record.id]


def test_a_wrong_purpose_is_refused_in_the_words_of_openai(service: JobService) -> None:
    for wrong in ("foo", "", "fine-tune-results"):
        with pytest.raises(InvalidRequest) as refused:
            service.files.receive(filename="a", purpose=wrong)
        assert refused.value.message == (
            f"{wrong!r} is not one of ['fine-tune', 'assistants', 'batch', 'user_data', 'vision', "
            "'evals'] - 'purpose'"
        )
        assert (refused.value.param, refused.value.code) == ("purpose", None)


@pytest.mark.parametrize("seconds, good", [(3599, False), (3600, True), (2_592_000, True),
                                           (2_592_001, False), (-1, False)])  # fmt: skip
def test_a_file_expires_after_an_hour_to_thirty_days(
    service: JobService, seconds: int, good: bool
) -> None:
    if good:
        assert send(service, after=seconds).expires_at == START + seconds
    else:
        with pytest.raises(InvalidRequest, match="expires_after"):
            send(service, after=seconds)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, kept",
    [
        ("../../etc/passwd", None),
        ("/etc/passwd", None),
        ("C:\\windows\\x", None),
        ("a\nb\r\x1b[31m\u202e", None),
        ("%2e%2e%2f", None),
        ("名前 🎉.jsonl", None),
        ("", "upload"),
        ("a\x00b", "a�b"),
        ("a\ud83db", "a�b"),
        ("x" * 1024, None),
    ],
)
def test_a_name_is_a_label_and_no_path(service: JobService, name: str, kept: str | None) -> None:
    before = set(files_below(service.home.parent))
    record = send(service, name=name)
    assert service.files.get(record.id).filename == (name if kept is None else kept)
    new = {Path(path).name for path in set(files_below(service.home.parent)) - before}
    assert new - {"service.db-wal", "service.db-shm"} == {record.id}


def test_a_name_beyond_measure_is_refused(service: JobService) -> None:
    with pytest.raises(InvalidRequest, match="1,024 characters at most; this one has 10,000"):
        send(service, name="x" * 10_000)
    assert on_disk(service) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.sampled_from(["../file-x", "file-" + "a" * 24 + "/..", "."]))
def test_no_text_that_is_no_id_finds_a_file(service: JobService, text: str) -> None:
    for ask in (service.files.get, service.files.path, service.files.delete):
        with pytest.raises(NotFound):
            ask(text.replace("\x00", ""))


# --- lists ----------------------------------------------------------------------------------------


def test_lists_hold_what_is_asked_for_newest_first(service: JobService) -> None:
    sent = [send(service, name=str(n)) for n in range(5)]
    result = service.files.store(b"", filename="r.csv")
    assert service.files.list().items == (result, *sent[::-1])
    assert service.files.list(purpose="fine_tune", newest_first=False).items == tuple(sent)
    page = service.files.list(purpose="fine-tune", limit=2)
    assert page.items == (sent[4], sent[3]) and page.has_more
    last = service.files.list(purpose="fine-tune", limit=3, after=sent[3].id)
    assert last.items == (sent[2], sent[1], sent[0]) and not last.has_more
    with pytest.raises(InvalidRequest) as refused:
        service.files.list(after="file-none")
    assert refused.value.param == "after"


def test_all_are_removed_by_who_deletes_while_he_goes_through_the_pages(
    service: JobService,
) -> None:
    for n in range(7):
        send(service, name=str(n))
    after, removed = None, 0
    while (page := service.files.list(limit=2, after=after)).items:
        for record in page.items:
            service.files.delete(record.id)
            removed += 1
        after = page.items[-1].id
    assert removed == 7 and on_disk(service) == []


# --- away -----------------------------------------------------------------------------------------


def test_a_deleted_file_is_gone(service: JobService) -> None:
    record = send(service)
    service.files.delete(record.id)
    assert on_disk(service) == []
    for ask in (service.files.get, service.files.path, service.files.delete):
        with pytest.raises(NotFound, match=f"^No such File object: {record.id}$") as missing:
            ask(record.id)
        assert (missing.value.param, missing.value.code) == ("id", None)


@pytest.mark.parametrize("column", ["training_file", "validation_file"])
@pytest.mark.parametrize(
    "status, reads",
    [("validating_files", True), ("queued", True), ("running", True), ("pausing", True),
     ("paused", True), ("succeeded", False), ("failed", False), ("cancelled", False)],
)  # fmt: skip
def test_a_file_stays_while_an_active_job_reads_it(
    service: JobService, clock: Clock, status: JobStatus, column: str, reads: bool
) -> None:
    record = send(service, after=3600)
    add_job(service, status=status, **{column: record.id})
    clock.at += 3600
    assert service.files.expire() == (0 if reads else 1)
    clock.at -= 3600
    if reads:
        assert service.files.path(record.id).read_bytes() == b"{}\n"
        with pytest.raises(Conflict, match="ftjob-") as refused:
            service.files.delete(record.id)
        assert refused.value.status == 400 and on_disk(service) == [record.id]


def test_an_expired_file_is_not_seen_and_then_removed(service: JobService, clock: Clock) -> None:
    lasting, record = send(service), send(service, after=3600)
    clock.at += 3599
    assert service.files.expire() == 0 and service.files.get(record.id) == record
    clock.at += 1
    assert service.files.list().items == (lasting,)
    with pytest.raises(NotFound):
        service.files.get(record.id)
    assert service.files.path(record.id).exists(), "until the dispatcher comes by"
    assert service.expire() == 1 and service.expire() == 0
    assert on_disk(service) == [lasting.id]
    assert service.files.list(after=record.id).items == (lasting,)


# --- limits and disks -----------------------------------------------------------------------------


def test_more_bytes_than_are_taken_are_refused_as_they_come(tmp_path: Path) -> None:
    with JobService(config(tmp_path, limits={"file_bytes": 10})) as service:
        assert send(service, b"x" * 10).bytes == 10
        with service.files.receive(purpose="fine-tune") as receiver:
            receiver.write(b"x" * 10)
            with pytest.raises(TooLarge, match="10 bytes") as refused:
                receiver.write(b"x")
        assert refused.value.status == 413 and len(on_disk(service)) == 1


def test_all_files_together_have_a_limit(tmp_path: Path) -> None:
    with JobService(config(tmp_path, limits={"storage_bytes": 10})) as service:
        first = send(service, b"x" * 6)
        with pytest.raises(TooLarge, match="delete some"):
            send(service, b"x" * 5)
        assert on_disk(service) == [first.id]
        service.files.delete(first.id)
        send(service, b"x" * 10)


@contextlib.contextmanager
def small_disk(most: int) -> Iterator[None]:
    """No file may grow beyond `most` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_leaves_nothing(service: JobService) -> None:
    """T14."""
    with (
        pytest.raises(StorageError),
        service.files.receive(purpose="fine-tune") as receiver,
        small_disk(300_000),
    ):
        for _ in range(10):
            receiver.write(b"x" * 100_000)
        receiver.commit()
    assert on_disk(service) == [] and service.files.list().items == ()
    send(service)


# --- processes that die ---------------------------------------------------------------------------

SEND = """
import sys, time
from pathlib import Path
from jobs.stores import config
from tanren.jobs.service import JobService
def say(*_):
    print("there", flush=True)
    time.sleep(60)
service = JobService(config(Path(sys.argv[1])))
with service.files.receive(filename="a", purpose="fine-tune") as receiver:
    receiver.write(b"x" * 300_000)
    {then}
"""


@pytest.mark.parametrize("then", ["say()", "receiver.commit(also=say)"])
def test_a_killed_sender_leaves_nothing_after_the_next_opening(
    service: JobService, then: str
) -> None:
    """T14: in the midst of the bytes, and when they are in place but nobody knows of them."""
    kept = send(service)
    killed_when_it_says("there", python(SEND.replace("{then}", then), service.home))
    assert len(on_disk(service)) == 2
    with JobService(service.config) as again:
        assert on_disk(again) == [kept.id]
        assert again.files.list().items == (kept,)
        assert again.files.path(kept.id).read_bytes() == b"{}\n"


def test_a_deletion_that_was_cut_short_is_finished_at_the_next_opening(
    service: JobService,
) -> None:
    record = send(service)
    with service.database.session() as session:
        session.execute(update(FileRow).values(deleted_at=START))
    with JobService(service.config) as again:
        assert on_disk(again) == [] and record.sha256


@pytest.mark.parametrize("in_place", [False, True])
def test_who_opens_the_service_takes_nothing_from_a_living_sender(
    service: JobService, in_place: bool
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def pause(*_: object) -> None:
        reached.set()
        assert go_on.wait(30)

    def work() -> None:
        with service.files.receive(filename="a", purpose="fine-tune") as receiver:
            receiver.write(b"x" * 300_000)
            if not in_place:
                pause()
            receiver.commit(also=pause if in_place else None)

    sender = threading.Thread(target=work)
    sender.start()
    assert reached.wait(30)
    code = (
        "import sys; from pathlib import Path; from jobs.stores import config\n"
        "from tanren.store.files import Files\n"
        "from tanren.store.database import Database\n"
        "home = Path(sys.argv[1]); made = config(home)\n"
        "print(Files(Database(None, home), home / 'files', made.limits).discard_leftovers())"
    )
    try:
        assert ended(python(code, service.home)).strip() == "0"
    finally:
        go_on.set()
        sender.join()
    assert [record.bytes for record in service.files.list().items] == [300_000]
    assert len(on_disk(service)) == 1


def test_the_folder_is_for_its_owner_alone(service: JobService) -> None:
    record = send(service)
    for path in (service.home, service.files.folder, service.files.path(record.id)):
        assert path.stat().st_mode & 0o077 == 0, path
