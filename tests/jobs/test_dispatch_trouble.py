"""What is broken ends one job or is waited for; the dispatcher works on."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs.stores import add_job, config
from sqlalchemy import event

from tanren.config import RunConfig
from tanren.errors import Fault, StorageError
from tanren.jobs.dispatch import Dispatcher
from tanren.jobs.process import Stop
from tanren.jobs.rows import job_row
from tanren.jobs.service import JobService
from tanren.jobs.slots import Slot
from tanren.rundir import RunDirectory
from tanren.store.records import JobStatus

SLOT = Slot("here")
LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service")) as opened:
        yield opened


def with_run(service: JobService, status: JobStatus, **columns: object) -> tuple[str, Path]:
    """A job whose run directory has everything but its settings. Nobody may dispatch meanwhile,
    unless it is paused.
    """
    given = {"model": {"name": "nobody/nothing"}, "data": {"train": "t"}}
    id = add_job(service, status=status, **columns)
    run = RunDirectory.create(service.home / "runs" / id, RunConfig.model_validate(given))
    with service.database.session() as session:
        job_row(session, id).run = str(run.path)
    (run.path / "config.yaml").unlink()
    return id, run.path


def work_until_empty(service: JobService) -> None:
    stop = Stop()
    timer = threading.Timer(20, stop.set)
    timer.start()
    try:
        Dispatcher(service, slots=[SLOT]).run(stop, until_empty=True)
        assert not stop.is_set(), "it never became empty"
    finally:
        timer.cancel()


@pytest.mark.parametrize("status", ["queued", "running", "pausing"])
def test_a_job_whose_run_is_broken_fails_alone(service: JobService, status: JobStatus) -> None:
    id, _ = with_run(service, status)
    work_until_empty(service)
    job = service.jobs.get(id)
    assert job.status == "failed" and job.error is not None and job.slot is None
    assert job.error.code == "server_error" and "cannot go on" in job.error.message
    assert [e.level for e in service.jobs.events(id).items] == ["error"]


def test_a_cancelled_job_whose_run_is_gone_is_let_go(service: JobService) -> None:
    id, folder = with_run(service, "cancelled", slot="here")
    shutil.rmtree(folder)
    work_until_empty(service)
    job = service.jobs.get(id)
    assert job.status == "cancelled" and job.slot is None


def test_a_job_whose_file_has_lost_its_bytes_fails_alone(service: JobService) -> None:
    file = service.files.store(LINE * 10, filename="t", purpose="fine-tune")
    id = add_job(service, status="validating_files", training_file=file.id)
    service.files.path(file.id).unlink()
    work_until_empty(service)
    assert service.jobs.get(id).status == "failed"


def test_a_disk_that_fails_is_waited_for(
    service: JobService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tanren.jobs.dispatch._TROUBLE_SECONDS", 0.01)
    full = [True]

    def expire() -> int:
        if full[0]:
            fault = Fault("/disk", "a full disk", "room", "make room")
            raise StorageError("could not write", [fault])
        return 0

    monkeypatch.setattr(service, "expire", expire)
    stop, thread = in_thread(service)
    until(lambda: "jobs have to wait" in caplog.text)
    time.sleep(0.1)
    assert thread.is_alive() and caplog.text.count("jobs have to wait") == 1, "said once"
    full[0] = False
    id, _ = with_run(service, "paused")
    service.jobs.resume(id)
    until(lambda: service.jobs.get(id).status == "failed")
    stop.set()
    thread.join(10)


def in_thread(service: JobService) -> tuple[Stop, threading.Thread]:
    stop = Stop()
    thread = threading.Thread(target=Dispatcher(service, slots=[SLOT]).run, args=(stop,))
    thread.start()
    return stop, thread


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_what_has_ended_long_ago_costs_a_look_nothing(service: JobService) -> None:
    """Two questions a tick, each answered by an index."""
    dispatcher = Dispatcher(service, slots=[SLOT])
    asked: list[str] = []

    def note(_c: object, _d: object, words: str, values: object, *_: object) -> None:
        asked.append((words, values))  # type: ignore[arg-type]

    event.listen(service.database._engine, "before_cursor_execute", note)
    dispatcher._look()
    plans: list[Any] = []
    with service.database.reading() as session:
        connection = session.connection()
        for words, values in [each for each in asked if each[0].startswith("SELECT")]:
            plans += connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {words}", values).all()
    told = " ".join(str(row[-1]) for row in plans)
    assert "USING INDEX jobs_by_turn" in told and "USING INDEX jobs_by_slot" in told
    assert "SCAN" not in told
