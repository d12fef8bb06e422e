"""Files are judged in a process of their own, by OpenAI's rules, with the line and what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs.stores import SOURCES, config

from tanren.jobs.service import JobService
from tanren.jobs.validate import Validation
from tanren.rundir import RunDirectory
from tanren.store.records import JobRecord, JobRequest

TINY = SOURCES.parent / "data" / "tiny-chat"
GOOD = {
    "messages": [{"role": "user", "content": "空は?"}, {"role": "assistant", "content": "青い。"}]
}
PAIR = {
    "input": {"messages": GOOD["messages"][:1]},
    "preferred_output": [{"role": "assistant", "content": "青い。"}],
    "non_preferred_output": [{"role": "assistant", "content": "blue"}],
}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobService]:
    monkeypatch.setenv("PYTHONPATH", str(SOURCES))
    models = ({"id": "tiny", "name": str(TINY), "run": {"training": {"weight_decay": 0.1}}},)
    with JobService(config(tmp_path / "service", models=models)) as opened:
        yield opened


def lines(*rows: Any) -> bytes:
    texts = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return "\n".join(texts).encode("utf-8") + b"\n"


def validated(
    service: JobService, train: bytes, valid: bytes | None = None, **request: Any
) -> JobRecord:
    files = [
        None if content is None else service.files.store(content, filename="f", purpose="fine-tune")
        for content in (train, valid)
    ]
    assert files[0] is not None
    job = service.jobs.create(
        JobRequest(
            model="tiny",
            training_file=files[0].id,
            validation_file=files[1].id if files[1] is not None else None,
            **request,
        )
    )
    validation = Validation(service, job)
    deadline = time.monotonic() + 60
    while not validation.poll():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    validation.settle()
    assert not list((service.home / "checking").iterdir()), "nothing is left behind"
    return service.jobs.get(job.id)


def without_error(job: JobRecord) -> JobRecord:
    assert job.status == "queued" and job.error is None, job.error
    return job


def failed(job: JobRecord) -> tuple[str, str, str | None]:
    assert job.status == "failed" and job.error is not None and job.run is None
    assert set(job.hyperparameters.values()) == {"auto"}
    return job.error.code, job.error.message, job.error.param


def test_good_files_become_a_run_that_has_every_number(service: JobService) -> None:
    """BOM, CRLF and a blank last line are fine. auto of ten lines: ten epochs of single rows; what
    the base's `run` and the job ask for is in; hyperparameters stay auto until the start.
    """
    train = b"\xef\xbb\xbf" + lines(*[GOOD] * 10).replace(b"\n", b"\r\n") + b"\r\n\r\n"
    job = without_error(validated(service, train, lines(GOOD), seed=5, tanren={"rank": 4}))
    assert set(job.hyperparameters.values()) == {"auto"}
    told = [event.message for event in service.jobs.events(job.id).items]
    assert told[0] == "Files validated, moving job to queued state"
    assert job.run is not None
    run = RunDirectory(job.run)
    settings = run.config()
    assert (settings.training.num_epochs, settings.training.batch_size) == (10, 1)
    assert (settings.training.learning_rate_multiplier, settings.training.weight_decay) == (1, 0.1)
    assert (settings.seed, settings.method.model_dump()["rank"]) == (5, 4)
    assert (settings.evaluation.keep_best, settings.training.keep_checkpoints) == (False, 4)
    assert settings.data.train == str(service.files.path(job.training_file))
    assert run.state() == "created"
    kept = json.loads((run.path / "job.json").read_text(encoding="utf-8"))
    assert kept["counted_in"] == "tokens" and len(kept["longest_rows"]) == 10
    explicit = {"n_epochs": 2, "batch_size": 3, "learning_rate_multiplier": 0.5}
    job = without_error(validated(service, train, hyperparameters=explicit))
    training = RunDirectory(str(job.run)).config().training
    assert (training.num_epochs, training.batch_size) == (2, 3)
    assert training.learning_rate_multiplier == 0.5


def test_too_few_examples(service: JobService) -> None:
    code, message, param = failed(validated(service, lines(*[GOOD] * 7)))
    assert (code, param) == ("invalid_n_examples", "training_file")
    assert message == "Training file has 7 example(s), but must have at least 10 examples"
    blank = failed(validated(service, b"\n\n"))
    assert blank[2] == "training_file"
    wrong = failed(validated(service, lines(*[GOOD] * 10), b"{}\n"))
    assert (wrong[0], wrong[2]) == ("invalid_file_format", "validation_file")


def with_message(**message: Any) -> dict[str, Any]:
    return {"messages": [GOOD["messages"][0], {"role": "assistant", "content": "x", **message}]}


FAULTY: list[tuple[Any, str]] = [
    ('{"messages": [', "line 4"),
    (with_message(weight=2), "weight"),
    (with_message(weight=0), 'of "weight" 0'),
    (with_message(role="bot"), "role"),
    ({"messages": []}, "messages"),
    ({"messages": GOOD["messages"][:1]}, "line 4"),
    ({**GOOD, "parallel_tool_calls": "yes"}, "parallel_tool_calls"),
    (PAIR, "line 4"),
    ("[" * 100_000, "line 4"),
    ('{"messages": NaN}', "line 4"),
]


@pytest.mark.parametrize(("row", "words"), FAULTY, ids=range(len(FAULTY)))
def test_a_bad_line_is_named_and_no_path_of_ours(service: JobService, row: Any, words: str) -> None:
    job = validated(service, lines(*[GOOD] * 3, row, *[GOOD] * 8))
    code, message, param = failed(job)
    assert (code, param) == ("invalid_file_format", "training_file")
    assert "line 4" in message and words in message
    assert str(service.home) not in message
    event = service.jobs.events(job.id).items[0]
    assert (event.level, event.message) == ("error", message)


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50, "太郎".encode("cp932") * 100, b"\0" * 5000,
     b"\x1f\x8b" + b"x" * 100, b"{" * (1 << 20), b'"' + b"x" * (70 << 20)],
    ids=["image", "cp932", "zeros", "gzip", "braces", "one long line"],
)  # fmt: skip
def test_hostile_files_fail_their_job_and_nothing_else(service: JobService, content: bytes) -> None:
    code, _, param = failed(validated(service, content))
    assert (code, param) == ("invalid_file_format", "training_file")


def test_faulty_rows_are_left_out_only_when_asked_and_said(service: JobService) -> None:
    content = lines(*[GOOD] * 10, "{", "[]")
    assert failed(validated(service, content))[0] == "invalid_file_format"
    job = without_error(validated(service, content, tanren={"faulty_rows": "skip"}))
    warned = [event for event in service.jobs.events(job.id).items if event.level == "warn"]
    assert len(warned) == 1 and warned[0].data == {"left_out": 2, "examples": 10}
    few = failed(validated(service, lines(*[GOOD] * 9, "{"), tanren={"faulty_rows": "skip"}))
    assert few[0] == "invalid_n_examples"


def test_preferences_are_checked_as_such(service: JobService) -> None:
    job = without_error(validated(service, lines(*[PAIR] * 10), method="dpo"))
    objective = RunDirectory(str(job.run)).config().objective
    assert (objective.name, objective.beta) == ("dpo", 0.1)
    kept = json.loads((Path(str(job.run)) / "job.json").read_text(encoding="utf-8"))
    assert kept["method"] == "dpo" and len(kept["longest_rows"]) == 20, "two sequences a row"
    code, message, _ = failed(validated(service, lines(*[GOOD] * 10), method="dpo"))
    assert code == "invalid_file_format" and "line 1" in message


def test_a_check_that_dies_or_hangs_fails_the_job(service: JobService) -> None:
    file = service.files.store(lines(*[GOOD] * 10), filename="f", purpose="fine-tune")
    job = service.jobs.create(JobRequest(model="tiny", training_file=file.id))
    validation = Validation(service, job)
    assert validation._child is not None
    validation._child.kill()
    while not validation.poll():
        time.sleep(0.005)
    validation.settle()
    assert failed(service.jobs.get(job.id))[0] == "server_error"
    slow = service.jobs.create(JobRequest(model="tiny", training_file=file.id))
    validation = Validation(service, slow)
    validation._deadline = 0.0
    while not validation.poll():
        time.sleep(0.005)
    validation.settle()
    assert "took too long" in failed(service.jobs.get(slow.id))[1]


def test_a_cancelled_job_is_not_brought_back(service: JobService) -> None:
    file = service.files.store(lines(*[GOOD] * 10), filename="f", purpose="fine-tune")
    job = service.jobs.create(JobRequest(model="tiny", training_file=file.id))
    validation = Validation(service, job)
    service.jobs.cancel(job.id)
    while not validation.poll():
        time.sleep(0.005)
    validation.settle()
    assert service.jobs.get(job.id).status == "cancelled"
    assert service.jobs.events(job.id).items[0].message == "The job was cancelled"


def test_a_half_made_run_of_a_dead_dispatcher_is_replaced(service: JobService) -> None:
    file = service.files.store(lines(*[GOOD] * 10), filename="f", purpose="fine-tune")
    job = service.jobs.create(JobRequest(model="tiny", training_file=file.id))
    left = service.home / "runs" / job.id
    left.mkdir(parents=True)
    (left / ".config.yaml.1.tmp").write_text("half", encoding="utf-8")
    validation = Validation(service, job)
    while not validation.poll():
        time.sleep(0.005)
    validation.settle()
    assert without_error(service.jobs.get(job.id)).run == str(left)
    assert not list(left.glob(".*.tmp"))
