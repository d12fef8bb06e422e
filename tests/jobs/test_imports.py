"""Past jobs of OpenAI's stand in one list with ours."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs.stores import config

from tanren.errors import DataError
from tanren.jobs.imports import PastJob, import_job
from tanren.jobs.service import JobService
from tanren.store.errors import InvalidState

CSV = (
    b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
    b"1,1.52347,0.0,,\n2,0.57719,0.5,0.4,0.25\n"
)
JOB = {
    "id": "ftjob-AbCdEf123", "object": "fine_tuning.job", "model": "gpt-4o-mini-2024-07-18",
    "created_at": 1_700_000_000, "finished_at": 1_700_000_600, "trained_tokens": 4321, "seed": 9,
    "fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:acme::abc", "training_file": "file-old",
    "hyperparameters": {"n_epochs": 3}, "metadata": {"名": "太郎"}, "organization_id": "org-1",
}  # fmt: skip


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service")) as opened:
        yield opened


@pytest.mark.parametrize("coded", [False, True], ids=["plain", "base64"])
def test_a_result_file_becomes_a_finished_job(service: JobService, coded: bool) -> None:
    content = base64.b64encode(CSV) if coded else CSV
    past = PastJob(content, "結果.csv", JOB, train=("太郎.jsonl", b"{}\n"))
    job = import_job(service, past)
    assert (job.id, job.status, job.model) == (JOB["id"], "succeeded", JOB["model"])
    assert (job.created_at, job.finished_at, job.trained_tokens) == (
        1_700_000_000, 1_700_000_600, 4321
    )  # fmt: skip
    assert job.metadata == {"名": "太郎"} and job.fine_tuned_model == JOB["fine_tuned_model"]
    assert service.files.get(job.training_file).filename == "太郎.jsonl"
    assert service.files.path(job.result_files[0]).read_bytes() == CSV
    events = list(reversed(service.jobs.events(job.id).items))
    steps = [event.data for event in events if event.type == "metrics"]
    assert steps == [
        {"step": 1, "total_steps": 2, "train_loss": 1.52347, "train_mean_token_accuracy": 0.0},
        {"step": 2, "total_steps": 2, "train_loss": 0.57719, "train_mean_token_accuracy": 0.5,
         "valid_loss": 0.4, "valid_mean_token_accuracy": 0.25},
    ]  # fmt: skip
    assert events[2].message == "Step 2/2: training loss=0.58, validation loss=0.40"
    again = import_job(service, PastJob(CSV, "x.csv", {}))
    assert again.id == job.id and len(service.jobs.list().items) == 1
    with pytest.raises(InvalidState):
        service.jobs.cancel(job.id)


def test_without_its_job_it_gets_an_id_of_ours(service: JobService) -> None:
    job = import_job(service, PastJob(CSV, "r.csv", {"id": "../../etc", "created_at": "x"}))
    assert job.id.startswith("ftjob-") and "/" not in job.id and job.training_file == "unknown"
    other = CSV.replace(b"1.5", b"1.6")
    twin = import_job(service, PastJob(other, "r.csv", {"id": job.id}))
    assert twin.id != job.id, "an id that is taken is not taken twice"


def test_metadata_that_is_no_text_becomes_text(service: JobService) -> None:
    """Else no list with this job could be sent any more."""
    given = {"metadata": {"a": 1, "名": "前"}}
    job = import_job(service, PastJob(CSV, "r.csv", given))
    assert job.metadata == {"a": "1", "名": "前"}


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"a,b\n1,2\n", CSV + b"x,1,,,\n", b"\xff\xfe,\n", b"%%%%"]
)
def test_what_is_no_result_file_is_refused_whole(service: JobService, content: bytes) -> None:
    with pytest.raises(DataError) as refused:
        import_job(service, PastJob(content, "r.csv", JOB))
    assert "r.csv" in str(refused.value)
    assert not service.jobs.list().items and not service.files.list().items
