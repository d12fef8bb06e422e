"""What a run says is told once, in OpenAI's words, whatever dies in between."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from jobs.stores import add_job, config

from tanren.config import RunConfig
from tanren.jobs.follow import Follower
from tanren.jobs.process import RunEnd
from tanren.jobs.service import JobService
from tanren.jobs.settle import (
    Failure,
    failure_of,
    settle_cancelled,
    settle_failure,
    settle_pause,
    settle_success,
)
from tanren.rundir import RunDirectory, write_json
from tanren.store.records import EventRecord

TIME = "2026-11-22T14:00:00.000+00:00"
AT = 1_795_356_000


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service")) as opened:
        yield opened


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    settings = {"model": {"name": "m"}, "data": {"train": "/secret/train.jsonl"}}
    return RunDirectory.create(tmp_path / "run", RunConfig.model_validate(settings))


@pytest.fixture
def job(service: JobService, run: RunDirectory) -> str:
    return add_job(service, status="running", run=str(run.path), slot="here", suffix="s")


def gate(steps: int = 15, per_epoch: int = 3, warnings: Sequence[str] = ()) -> dict[str, Any]:
    plan = {"steps": steps, "steps_per_epoch": per_epoch}
    return {"event": "gate", "summary": {"plan": plan, "warnings": list(warnings)}}


def step(number: int, *, steps: int = 15, evaluated: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "event": "step", "step": number, "steps": steps, "loss": 1 / number,
        "token_accuracy": number / 100, "eta_seconds": 10.0, "evaluation_follows": evaluated,
        **more,
    }  # fmt: skip


def evaluation(number: int) -> dict[str, Any]:
    return {"event": "evaluation", "step": number, "loss": 2 / number, "token_accuracy": 0.5}


def checkpoint(run: RunDirectory, number: int) -> dict[str, Any]:
    folder = f"checkpoints/step-{number:08d}"
    (run.path / folder).mkdir(parents=True, exist_ok=True)
    return {"event": "checkpoint", "step": number, "path": folder}


def say(run: RunDirectory, *events: dict[str, Any]) -> bytes:
    text = "".join(json.dumps({"time": TIME, **e}, ensure_ascii=False) + "\n" for e in events)
    with open(run.events_file, "ab") as file:
        file.write(text.encode("utf-8"))
    return text.encode("utf-8")


def told(service: JobService, job: str) -> list[EventRecord]:
    return list(reversed(service.jobs.events(job, limit=1000).items))


def messages(service: JobService, job: str) -> list[str]:
    return [event.message for event in told(service, job)]


def test_steps_evaluations_and_checkpoints_in_openais_words(
    service: JobService, run: RunDirectory, job: str
) -> None:
    say(run, gate(steps=3, per_epoch=2), step(1, steps=3), step(2, steps=3, evaluated=True))
    say(run, evaluation(2), checkpoint(run, 2), step(3, steps=3), checkpoint(run, 3))
    Follower(service, job, run).read()
    assert messages(service, job) == [
        "Step 1/3: training loss=1.00",
        "Step 2/3: training loss=0.50, validation loss=1.00, full validation loss=1.00",
        "Checkpoint created at step 2",
        "Step 3/3: training loss=0.33",
        "Checkpoint created at step 3",
    ]
    second = told(service, job)[1]
    assert (second.type, second.level, second.created_at) == ("metrics", "info", AT)
    assert second.data == {
        "step": 2, "total_steps": 3, "train_loss": 0.5, "train_mean_token_accuracy": 0.02,
        "valid_loss": 1.0, "full_valid_loss": 1.0, "valid_mean_token_accuracy": 0.5,
        "full_valid_mean_token_accuracy": 0.5,
    }  # fmt: skip
    assert service.jobs.get(job).estimated_finish == AT + 10
    (saved,) = service.jobs.checkpoints(job).items
    assert (saved.step, saved.folder) == (2, str(run.checkpoints / "step-00000002"))
    assert saved.model.startswith("ft:tiny:personal:s:") and saved.model.endswith(":ckpt-step-2")
    assert saved.metrics["valid_loss"] == 1.0
    assert service.models.get(saved.model).kind == "checkpoint"


def test_a_step_waits_for_its_evaluation_and_no_longer_than_the_run(
    service: JobService, run: RunDirectory, job: str
) -> None:
    follower = Follower(service, job, run)
    say(run, gate(), step(1), step(2, evaluated=True))
    for _ in range(3):
        follower.read()
        assert len(told(service, job)) == 1
    say(run, evaluation(2), step(3, evaluated=True))
    follower.read()
    assert len(told(service, job)) == 2 and "valid_loss" in told(service, job)[1].data
    follower.read(at_end=True)
    assert "valid_loss" not in told(service, job)[2].data


def test_a_step_whose_evaluation_died_is_told_when_it_is_made_again(
    service: JobService, run: RunDirectory, job: str
) -> None:
    say(run, gate(), step(1), step(2), step(3, evaluated=True), gate(), {"event": "started"})
    Follower(service, job, run).read()
    assert len(told(service, job)) == 2
    say(run, step(2), step(3, evaluated=True), evaluation(3))
    Follower(service, job, run).read()
    assert [event.data["step"] for event in told(service, job)] == [1, 2, 3]
    assert "valid_loss" in told(service, job)[2].data


def test_half_a_line_waits_and_a_torn_one_is_left_out(
    service: JobService, run: RunDirectory, job: str
) -> None:
    follower = Follower(service, job, run)
    whole = json.dumps({"time": TIME, **step(1)}).encode()
    for part in (whole[:40], whole[40:]):
        with open(run.events_file, "ab") as file:
            file.write(part)
        follower.read()
        assert not told(service, job)
    say(run)
    with open(run.events_file, "ab") as file:
        file.write(b"\n" + whole[:50])  # the machine died here
    run.event("note", text="待って")
    follower.read()
    assert messages(service, job) == ["Step 1/15: training loss=1.00", "待って"]


def test_any_cutting_and_any_deaths_tell_the_same(
    service: JobService, run: RunDirectory, tmp_path: Path
) -> None:
    """Property: bytes arrive in random parts, readers die and are replaced at random, the run goes
    back to its last checkpoint and makes steps again: the job tells what it would have told.
    """
    chance = random.Random(7)
    attempt = [gate(), {"event": "started"}]
    for n in range(1, 16):
        attempt += [step(n, evaluated=n % 3 == 0)]
        attempt += [evaluation(n), checkpoint(run, n)] if n % 3 == 0 else []
    plain = add_job(service, status="running", run=str(run.path), slot="a")
    say(run, *attempt)
    Follower(service, plain, run).read(at_end=True)
    expected = messages(service, plain)
    for case in range(8):
        other = RunDirectory.create(tmp_path / f"run{case}", run.config())
        job = add_job(service, status="running", run=str(other.path), slot="b")
        for n in (3, 6, 9, 12, 15):
            checkpoint(other, n)
        stream = b""
        for begin in sorted(chance.sample((3, 6, 9, 12), 2)):
            cut = 2 + next(i for i, e in enumerate(attempt[2:]) if e.get("step") == begin)
            cut = min(cut + chance.randint(3, 8), len(attempt) - 1)
            stream += b"".join(_line(e) for e in attempt[:cut])
            stream += _line(attempt[cut])[: chance.randint(0, 30)] + b"\n"
            attempt_rest = [e for e in attempt[2:] if e["step"] > begin]
            stream += b"".join(_line(e) for e in (*attempt[:2], *attempt_rest[:2]))
        stream += b"".join(_line(e) for e in attempt)
        follower = Follower(service, job, other)
        while stream:
            size = chance.randint(1, 3000)
            with open(other.events_file, "ab") as file:
                file.write(stream[:size])
            stream = stream[size:]
            follower.read()
            if chance.random() < 0.3:
                follower = Follower(service, job, other)
        follower.read(at_end=True)
        assert sorted(messages(service, job)) == sorted(expected), case
        data = {e.data["step"]: e.data for e in told(service, job) if e.type == "metrics"}
        assert data == {e.data["step"]: e.data for e in told(service, plain) if e.type == "metrics"}


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps({"time": TIME, **event}).encode() + b"\n"


def test_checkpoints_are_the_ends_of_the_last_three_epochs(
    service: JobService, run: RunDirectory, job: str
) -> None:
    say(run, gate(), *(e for n in (3, 4, 6, 9, 12) for e in (step(n), checkpoint(run, n))))
    Follower(service, job, run).read()
    assert [c.step for c in service.jobs.checkpoints(job).items] == [12, 9, 6]
    assert "Checkpoint created at step 4" not in messages(service, job), "that of a pause"
    names = [model.id for model in service.models.list() if model.kind == "checkpoint"]
    assert sorted(n.rsplit("-", 1)[1] for n in names) == ["12", "6", "9"]
    succeed(run, 15)
    assert settle_success(service, job, run)
    found = service.jobs.checkpoints(job).items
    assert [c.step for c in found] == [15, 12, 9]
    assert found[0].model == service.jobs.get(job).fine_tuned_model
    assert len({c.model.split(":")[4] for c in found}) == 3, "each has its own eight"


def test_warnings_and_notes_are_told_without_our_paths(
    service: JobService, run: RunDirectory, job: str
) -> None:
    cut = "/secret/train.jsonl: 2 rows were longer than 8 tokens and lost 5 at their end"
    say(run, gate(warnings=[cut]), {"event": "note", "text": cut}, {"event": "note", "text": "x"})
    say(run, gate(warnings=[cut]))
    Follower(service, job, run).read()
    assert [(e.level, e.message) for e in told(service, job)] == [
        ("warn", cut.replace("/secret/train.jsonl", "the training file")),
        ("info", "x"),
    ]


# --- ends -----------------------------------------------------------------------------------------


def succeed(run: RunDirectory, steps: int) -> None:
    run.adapter.mkdir()
    result = {"artefact": str(run.adapter), "steps": steps, "trained_tokens": 123}
    write_json(run.result_file, result)
    run.event("succeeded")


def test_success_is_one_transaction_with_its_file(
    service: JobService, run: RunDirectory, job: str
) -> None:
    say(run, gate(), *(step(n, evaluated=n == 2) for n in (1, 2)), evaluation(2))
    Follower(service, job, run).read()
    succeed(run, 15)
    assert settle_success(service, job, run)
    found = service.jobs.get(job)
    assert (found.status, found.trained_tokens, found.error, found.slot) == (
        "succeeded", 123, None, None
    )  # fmt: skip
    assert found.finished_at is not None and found.estimated_finish is None
    assert messages(service, job)[-2:] == [
        f"New fine-tuned model created: {found.fine_tuned_model}",
        "The job has successfully completed",
    ]
    assert service.models.target(str(found.fine_tuned_model)).folder == str(run.adapter)
    (file,) = found.result_files
    assert service.files.get(file).purpose == "fine-tune-results"
    assert service.files.path(file).read_text(encoding="utf-8") == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
        "1,1.00000,0.01000,,\n"
        "2,0.50000,0.02000,1.00000,0.50000\n"
    )
    assert not settle_success(service, job, run), "settled once"
    assert len(service.files.list(purpose="fine-tune-results").items) == 1


def test_an_early_stop_gives_its_last_checkpoint_the_models_name(
    service: JobService, run: RunDirectory, job: str
) -> None:
    say(run, gate(), step(3), checkpoint(run, 3), step(6), checkpoint(run, 6))
    Follower(service, job, run).read()
    succeed(run, 6)
    assert settle_success(service, job, run)
    found = service.jobs.checkpoints(job).items
    assert [c.step for c in found] == [6, 3]
    assert found[0].model == service.jobs.get(job).fine_tuned_model
    assert [m.kind for m in service.models.list() if m.job == job] == ["tuned", "checkpoint"]


def test_a_cancelled_job_stays_so_and_keeps_what_was_measured(
    service: JobService, run: RunDirectory, job: str
) -> None:
    say(run, gate(), step(1))
    Follower(service, job, run).read()
    service.jobs.cancel(job)
    succeed(run, 15)
    assert not settle_success(service, job, run)
    assert not settle_failure(service, job, Failure("x"))
    assert not settle_pause(service, job, "x")
    before = service.jobs.get(job)
    assert (before.status, before.result_files) == ("cancelled", ())
    for _ in range(2):
        settle_cancelled(service, job)
    after = service.jobs.get(job)
    assert after.slot is None and len(after.result_files) == 1 and after.fine_tuned_model is None
    assert len(service.files.list(purpose="fine-tune-results").items) == 1
    assert not [model for model in service.models.list() if model.kind == "tuned"]


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("DataError", "invalid_file_format", "mend the row"),
        ("OutOfMemoryError", "server_error", "method=qlora"),
        ("DivergenceError", "server_error", "smaller learning_rate_multiplier"),
        ("ValueError", "server_error", "tanren runs show"),
    ],
)
def test_failures_say_cause_and_next_step(
    service: JobService, run: RunDirectory, job: str, kind: str, code: str, words: str
) -> None:
    """T25: what the run said, with the remedy, and where more is told."""
    fault = {"where": "w", "found": "f", "expected": "e", "remedy": "mend the row"}
    run.event("failed", error="it broke", kind=kind, faults=[fault], traceback=None)
    failure = failure_of(run, RunEnd("failed", 1, "it broke", 1.0), out_of_memory=False)
    assert (failure.code, failure.storage) == (code, False)
    assert (
        "it broke" in failure.words and words in failure.words and "mend the row" in failure.words
    )
    assert settle_failure(service, job, failure)
    found = service.jobs.get(job)
    assert found.status == "failed" and found.error is not None and found.error.code == code
    assert told(service, job)[-1].level == "error"


def test_a_full_disk_is_a_pause_that_names_what_to_free(
    service: JobService, run: RunDirectory, job: str
) -> None:
    run.event("failed", error="could not write", kind="StorageError", faults=[], traceback=None)
    failure = failure_of(run, RunEnd("failed", 1, "", 1.0), out_of_memory=False)
    assert failure.storage and str(run.path) in failure.words and "nothing is lost" in failure.words
    assert settle_pause(service, job, failure.words, level="warn")
    found = service.jobs.get(job)
    assert (found.status, found.error, found.slot) == ("paused", None, None)
    assert told(service, job)[-1].level == "warn"


def test_the_kernels_kill_is_told_from_anybody_elses(run: RunDirectory) -> None:
    run.event("started")
    end = RunEnd("killed", -9, "killed by SIGKILL (signal 9)", 1.0)
    theirs = failure_of(run, end, out_of_memory=True).words
    other = failure_of(run, end, out_of_memory=False).words
    assert "out of memory" in theirs and "by the kernel" in theirs
    assert "by the kernel" not in other and "SIGKILL" in other
