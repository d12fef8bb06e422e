"""Whole jobs, real processes: killed, left, paused, cancelled; nothing is lost or told twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jobs.stores import SOURCES, config

from tanren.errors import UserError
from tanren.jobs.dispatch import Dispatcher, dispatcher_of
from tanren.jobs.process import Stop, process_of
from tanren.jobs.service import JobService
from tanren.jobs.slots import Slot
from tanren.rundir import RunDirectory, write_text
from tanren.store.records import EventRecord, JobRecord, JobRequest

DATA = SOURCES.parent / "data"
SLOT = Slot("here", {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1", "TANREN_DEVICE": "cpu"})
RUN = {"evaluation": {"samples": 0}, "method": {"dropout": 0.1}, "data": {"date": "2026-01-31"}}
PATIENCE_SECONDS = 180.0


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobService]:
    monkeypatch.setenv("PYTHONPATH", str(SOURCES))
    models = ({"id": "tiny", "name": str(DATA / "tiny-chat"), "run": RUN},)
    with JobService(config(tmp_path / "service", models=models)) as opened:
        yield opened
        for job in opened.jobs.list(limit=100).items:
            if job.run is not None and (owner := process_of(RunDirectory(job.run))) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(owner, signal.SIGKILL)


def submit(service: JobService, *, epochs: int = 3, rows: int = 24, **request: Any) -> str:
    lines = (DATA / "taro.jsonl").read_bytes().splitlines(keepends=True)[:rows]
    files = [
        service.files.store(b"".join(part), filename="t", purpose="fine-tune").id
        for part in (lines, lines[:4])
    ]
    request.setdefault("hyperparameters", {"n_epochs": epochs, "batch_size": 4})
    asked = JobRequest("tiny", files[0], files[1], seed=7, **request)
    return service.jobs.create(asked).id


@contextlib.contextmanager
def dispatching(service: JobService, **options: Any) -> Iterator[Stop]:
    """A dispatcher in a thread, stopped at the end."""
    stop = Stop()
    dispatcher = Dispatcher(service, slots=[SLOT])
    thread = threading.Thread(target=dispatcher.run, args=(stop,), kwargs=options)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def status(service: JobService, id: str, *wanted: str) -> Callable[[], bool]:
    return lambda: service.jobs.get(id).status in wanted


def steps(service: JobService, id: str) -> list[EventRecord]:
    found = service.jobs.events(id, limit=1000).items
    return [event for event in reversed(found) if event.type == "metrics"]


def at_step(service: JobService, id: str, step: int) -> Callable[[], bool]:
    return lambda: any(event.data["step"] >= step for event in steps(service, id))


def owner(service: JobService, id: str) -> int:
    job = service.jobs.get(id)
    assert job.run is not None
    found = process_of(RunDirectory(job.run))
    assert found is not None
    return found


def working(service: JobService, folder: Path) -> subprocess.Popen[bytes]:
    """`tanren jobs work` in a process of its own."""
    settings = {
        "folder": str(service.home),
        "models": [{"id": "tiny", "name": str(DATA / "tiny-chat"), "run": RUN}],
    }
    write_text(folder / "serve.yaml", json.dumps(settings))
    words = ["jobs", "work", "--config", str(folder / "serve.yaml")]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tanren", *words],
        env={**os.environ, **SLOT.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def succeeded(service: JobService, id: str) -> JobRecord:
    job = service.jobs.get(id)
    assert job.status == "succeeded", job.error
    assert job.slot is None and job.error is None and job.fine_tuned_model is not None
    return job


def outcome(service: JobService, id: str) -> tuple[Any, ...]:
    """All that must not depend on what was killed: every number, checkpoint, token and the file."""
    job = succeeded(service, id)
    checkpoints = service.jobs.checkpoints(id).items
    assert all(Path(each.folder).is_dir() for each in checkpoints)
    return (
        [(event.message, dict(event.data)) for event in steps(service, id)],
        [(each.step, dict(each.metrics)) for each in checkpoints],
        job.trained_tokens,
        dict(job.hyperparameters),
        [service.files.path(file).read_bytes() for file in job.result_files],
        len(service.files.list(purpose="fine-tune-results").items),
    )


def plain_messages(service: JobService, id: str) -> list[str]:
    told = reversed(service.jobs.events(id, limit=1000).items)
    return [event.message for event in told if event.type == "message" and event.level == "info"]


@pytest.mark.slow
def test_killed_dispatcher_and_job_end_as_if_never_killed(
    service: JobService, tmp_path: Path
) -> None:
    """kill -9 of the dispatcher (its job works on and is adopted), then of the job (it goes on from
    its checkpoint): the same numbers, checkpoints and file as a job that nobody touched.
    """
    id = submit(service)
    first = working(service, tmp_path)
    wait_for(at_step(service, id, 2))
    process = owner(service, id)
    assert dispatcher_of(service.home) == first.pid
    with pytest.raises(UserError, match="at work on its jobs"):
        Dispatcher(service, slots=[SLOT]).run(Stop())
    first.kill()
    first.wait()
    assert psutil.pid_exists(process) and dispatcher_of(service.home) is None
    with dispatching(service):
        wait_for(at_step(service, id, 7))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        wait_for(status(service, id, "succeeded", "failed"))
        killed = outcome(service, id)
        told = service.jobs.events(id, limit=1000).items
        died = [event.message for event in told if "died" in event.message]
        assert len(died) == 1 and "goes on from its last checkpoint" in died[0]
        whole = submit(service)
        wait_for(status(service, whole, "succeeded", "failed"))
    assert outcome(service, whole)[:5] == killed[:5]
    assert (killed[5], len(killed[0]), [step for step, _ in killed[1]]) == (1, 18, [18, 12, 6])
    assert plain_messages(service, whole) == [
        f"Created fine-tuning job: {whole}",
        *plain_messages(service, whole)[1:2],
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        *(f"Checkpoint created at step {step}" for step in (6, 12, 18)),
        f"New fine-tuned model created: {service.jobs.get(whole).fine_tuned_model}",
        "The job has successfully completed",
    ]


def test_pause_stop_and_cancel(service: JobService) -> None:
    """A pause saves a checkpoint; a dispatcher that is stopped leaves its job `running`, and the
    next one goes on; cancelled is cancelled within 0.3 s, its process ends and nobody restarts it.
    """
    id = submit(service, epochs=50)
    queued = submit(service, epochs=50)
    with dispatching(service):
        wait_for(at_step(service, id, 2))
        assert service.jobs.get(queued).status == "queued"
        assert service.jobs.pause(queued).status == "paused"
        assert service.jobs.pause(id).status == "pausing"
        wait_for(status(service, id, "paused"))
        job = service.jobs.get(id)
        kept = RunDirectory(str(job.run)).complete_checkpoints()[-1].step
        assert kept >= 2 and process_of(RunDirectory(str(job.run))) is None
        assert plain_messages(service, id)[-1] == f"The job was paused after step {kept}"
        service.jobs.resume(id)
        wait_for(at_step(service, id, kept + 1))
    assert service.jobs.get(id).status == "running" and service.jobs.get(id).slot is None
    assert process_of(RunDirectory(str(job.run))) is None
    before = RunDirectory(str(job.run)).complete_checkpoints()[-1].step
    with dispatching(service):
        wait_for(at_step(service, id, before + 1))
        process = owner(service, id)
        began = time.monotonic()
        assert service.jobs.cancel(id).status == "cancelled"
        assert time.monotonic() - began < 0.3
        wait_for(lambda: not psutil.pid_exists(process))
        wait_for(lambda: service.jobs.get(id).result_files)
    found = service.jobs.get(id)
    assert (found.status, found.slot, found.fine_tuned_model) == ("cancelled", None, None)
    assert [event.data["step"] for event in steps(service, id)] == list(
        range(1, len(steps(service, id)) + 1)
    )


def test_what_was_cancelled_while_nobody_dispatched_is_ended(
    service: JobService, tmp_path: Path
) -> None:
    id = submit(service, epochs=50)
    first = working(service, tmp_path)
    wait_for(status(service, id, "running"))
    wait_for(lambda: process_of(RunDirectory(str(service.jobs.get(id).run))) is not None)
    process = owner(service, id)
    first.kill()
    first.wait()
    service.jobs.cancel(id)
    with dispatching(service):
        wait_for(lambda: not psutil.pid_exists(process) or _is_zombie(process))
        wait_for(lambda: service.jobs.get(id).slot is None)
    assert service.jobs.get(id).status == "cancelled"


def _is_zombie(process: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    return True


@pytest.mark.slow
def test_a_run_that_cannot_be_trained_fails_with_its_faults(service: JobService) -> None:
    """DataError of the run itself: nothing that is trained is left within eight tokens."""
    id = submit(service, tanren={"data": {"max_length": 8}})
    with dispatching(service):
        wait_for(status(service, id, "failed", "succeeded"))
    job = service.jobs.get(id)
    assert job.error is not None and job.error.param == "training_file"
    assert job.error.code == "invalid_file_format" and "max_length" in job.error.message


def test_a_job_that_dies_at_once_again_and_again_fails(service: JobService) -> None:
    id = submit(service)
    stop = Stop()
    slot = Slot("here", {**SLOT.environment, "PYTHONSTARTUP": "", "PYTHONHOME": "/nowhere"})
    Dispatcher(service, slots=[slot]).run(stop, until_empty=True)
    job = service.jobs.get(id)
    assert job.status == "failed" and job.error is not None
    assert job.error.code == "server_error" and "tanren runs show" in job.error.message


@pytest.mark.slow
def test_preferences_and_a_tuned_model_as_start(service: JobService) -> None:
    """DPO on the tuned model goes on from its weights and is measured against them: its first loss
    is ln 2; a second supervised job begins where the first one ended. Without dropout.
    """
    run = {**RUN, "method": {"dropout": 0.0}}
    base = service.config.models[0].model_copy(update={"run": run})
    service.config = service.config.model_copy(update={"models": (base,)})
    first = submit(service, epochs=10)
    with dispatching(service):
        wait_for(status(service, first, "succeeded", "failed"))
        tuned = str(succeeded(service, first).fine_tuned_model)
        lines = (DATA / "taro.jsonl").read_bytes().splitlines(keepends=True)
        file = service.files.store(b"".join(lines), filename="t", purpose="fine-tune").id
        again = service.jobs.create(
            JobRequest(tuned, file, seed=8, hyperparameters={"n_epochs": 1, "batch_size": 4})
        ).id
        pairs = (DATA / "short_answers.train.jsonl").read_bytes()
        pair_file = service.files.store(pairs, filename="p", purpose="fine-tune").id
        dpo = service.jobs.create(
            JobRequest(
                tuned,
                pair_file,
                method="dpo",
                hyperparameters={"n_epochs": 1, "batch_size": 4},
                tanren={"max_steps": 3},
            )
        ).id
        for id in (again, dpo):
            wait_for(status(service, id, "succeeded", "failed"))
    job = succeeded(service, again)
    assert (job.model, job.base) == (tuned, "tiny")
    assert str(job.fine_tuned_model).startswith("ft:tiny:personal:"), "named after the root"
    told = steps(service, first)
    assert steps(service, again)[0].data["train_loss"] < 0.5 * told[0].data["train_loss"]
    succeeded(service, dpo)
    assert abs(steps(service, dpo)[0].data["train_loss"] - 0.6931) < 1e-3
    assert "reward_margin" in steps(service, dpo)[-1].data
