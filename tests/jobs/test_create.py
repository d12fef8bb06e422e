"""Whoever asks for the impossible learns it at once, in OpenAI's words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from jobs.stores import add_job, add_model, config

from tanren.jobs.auto import auto_batch_size, auto_epochs
from tanren.jobs.naming import checkpoint_name, tuned_name
from tanren.jobs.service import JobService
from tanren.store.errors import Conflict, InvalidRequest, LimitExceeded
from tanren.store.records import JobRequest

WANDB = {"type": "wandb", "wandb": {"project": "p"}}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service", limits={"queued_jobs": 50})) as opened:
        yield opened


@pytest.fixture
def request_(service: JobService) -> JobRequest:
    file = service.files.store(b"{}\n", filename="a.jsonl", purpose="fine-tune")
    return JobRequest(model="gpt-4o-mini", training_file=file.id)


def test_a_job_begins_with_its_events_and_shows_auto(
    service: JobService, request_: JobRequest
) -> None:
    job = service.jobs.create(replace(request_, metadata={}, suffix="太郎"))
    assert (job.status, job.model, job.base) == ("validating_files", "tiny", "tiny")
    assert job.error is None and job.fine_tuned_model is None and job.run is None
    assert job.hyperparameters == dict.fromkeys(
        ("n_epochs", "batch_size", "learning_rate_multiplier"), "auto"
    )
    assert (job.metadata, job.suffix) == (None, "太郎") and 0 <= job.seed < 2**31
    assert [event.message for event in service.jobs.events(job.id).items] == [
        f"Validating training file: {request_.training_file}",
        f"Created fine-tuning job: {job.id}",
    ]
    told = service.jobs.create(replace(request_, integrations=(WANDB,)))
    assert service.jobs.events(told.id).items[0].level == "warn", "nothing goes out silently"
    seeds = {service.jobs.create(request_).seed for _ in range(4)}
    assert len(seeds) == 4
    assert service.jobs.create(replace(request_, seed=0)).seed == 0


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs",
     "0 is less than the minimum of 1 - 'hyperparameters.n_epochs'"),
    ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs",
     "51 is greater than the maximum of 50 - 'hyperparameters.n_epochs'"),
    ({"hyperparameters": {"n_epochs": "x"}}, "hyperparameters.n_epochs", "'auto'"),
    ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs", "'integer'"),
    ({"hyperparameters": {"n_epochs": 1.5}}, "hyperparameters.n_epochs", "'integer'"),
    ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size", "maximum of 256"),
    ({"hyperparameters": {"learning_rate_multiplier": 0}},
     "hyperparameters.learning_rate_multiplier", "minimum of 0"),
    ({"hyperparameters": {"learning_rate_multiplier": float("nan")}},
     "hyperparameters.learning_rate_multiplier", "minimum of 0"),
    ({"hyperparameters": {"beta": 0.1}}, "hyperparameters", "'beta' was unexpected"),
    ({"method": "dpo", "hyperparameters": {"beta": 2.1}}, "hyperparameters.beta", "maximum of 2"),
    ({"suffix": "x" * 65}, "suffix", "too long"),
    ({"suffix": ""}, "suffix", "too short"),
    ({"seed": -1}, "seed", "minimum of 0"),
    ({"seed": 2**31}, "seed", "maximum of 2147483647"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "17 pairs"),
    ({"metadata": {"k" * 65: ""}}, "metadata", "too long"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k", "too long"),
    ({"metadata": {"k": "\ud800"}}, "metadata.k", "half a character"),
    ({"integrations": (WANDB,) * 6}, "integrations", "6 are too many"),
    ({"integrations": ({"type": "mlflow"},)}, "integrations.0.type", "not one of ['wandb']"),
    ({"integrations": ({"type": "wandb", "wandb": {}},)}, "integrations.0.wandb.project", "string"),
    ({"model": "nope"}, "model",
     "Model nope is not available for fine-tuning or does not exist."),
    ({"training_file": "file-nope"}, "training_file", "invalid training_file: file-nope"),
    ({"validation_file": "file-nope"}, "validation_file", "invalid validation_file: file-nope"),
    ({"tanren": {"rnak": 3}}, "tanren", 'did you mean "rank"?'),
    ({"tanren": {"rank": 0, "alpha": -1}}, "tanren", "method.alpha"),
    ({"tanren": {"method": "lroa"}}, "tanren", "did you mean 'lora'?"),
    ({"tanren": {"training": {"max_stpes": 5}}}, "tanren", "max_steps"),
    ({"tanren": {"priority": 1001}}, "tanren.priority", "maximum of 1000"),
    ({"metadata": {"tanren.rank": "x"}}, "tanren", "method.rank"),
    ({"hyperparameters": {"n_epochs": 2}, "tanren": {"num_epochs": 3}},
     "hyperparameters.n_epochs", "give one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param", "words"), WRONG)
def test_every_value_out_of_bounds_is_a_400_that_names_it(
    service: JobService, request_: JobRequest, change: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        service.jobs.create(replace(request_, **change))
    assert refused.value.param == param and words in refused.value.message
    assert not service.jobs.list().items, "nothing of it stays"


def test_bounds_themselves_are_taken(service: JobService, request_: JobRequest) -> None:
    for change in (
        {"hyperparameters": {"n_epochs": 50, "batch_size": 256, "learning_rate_multiplier": 1e-9}},
        {"hyperparameters": {"n_epochs": 1.0, "batch_size": None}},
        {"method": "dpo", "hyperparameters": {"beta": 2}},
        {"suffix": "x" * 64, "seed": 2**31 - 1},
        {"metadata": {f"{n:064}": "v" * 512 for n in range(16)}},
    ):
        assert service.jobs.create(replace(request_, **change))


def test_reinforcement_is_refused_by_its_code(service: JobService, request_: JobRequest) -> None:
    with pytest.raises(InvalidRequest) as refused:
        service.jobs.create(replace(request_, method="reinforcement"))  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.param) == ("unsupported_method", "method")


@pytest.mark.parametrize(
    "asked",
    [
        {"model": {"name": "/etc"}}, {"data.train": "/etc/passwd"}, {"data": {"validation": "x"}},
        {"model.adapter": "/tmp"}, {"model.chat_template": "/etc/passwd"}, {"model.revision": "x"},
        {"tracking": {"trackers": ["wandb"]}}, {"seed": 3}, {"objective": {"name": "dpo"}},
    ],
)  # fmt: skip
def test_no_client_names_paths_or_trackers(
    service: JobService, request_: JobRequest, asked: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        service.jobs.create(replace(request_, tanren=asked))
    texts = {f"tanren.{key}": json.dumps(value) for key, value in asked.items()}
    with pytest.raises(InvalidRequest):
        service.jobs.create(replace(request_, metadata=texts))


def test_settings_may_come_flat_nested_dotted_or_as_metadata(
    service: JobService, request_: JobRequest
) -> None:
    wanted = {"method.name": "dora", "method.rank": 32, "training.max_steps": 5}
    for change in (
        {"tanren": {"method": "dora", "rank": 32, "max_steps": 5, "priority": 7}},
        {"tanren": {"method": {"name": "dora", "rank": 32}, "training": {"max_steps": 5},
                    "priority": 7}},
        {"metadata": {"tanren.method": "dora", "tanren.rank": "32",
                      "tanren.training.max_steps": "5", "tanren.priority": "7"}},
    ):  # fmt: skip
        job = service.jobs.create(replace(request_, **change))
        assert (dict(job.tanren), job.priority) == (wanted, 7)


def test_a_few_letters_of_metadata_do_not_unfold_to_gigabytes(
    service: JobService, request_: JobRequest
) -> None:
    """YAML's aliases: each part is nine times the one before."""
    parts = ["&a [1,1,1,1,1,1,1,1,1]"]
    for before, name in pairwise("abcdefghijkl"):
        parts.append(f"&{name} [{','.join([f'*{before}'] * 9)}]")
    bomb = f"[{','.join(parts)}]"
    assert len(bomb) < 512 < 9**11
    job = service.jobs.create(replace(request_, metadata={"tanren.target_modules": bomb}))
    assert job.tanren == {"method.target_modules": bomb}, "the text itself"
    with pytest.raises(InvalidRequest, match=r"method.rank: found '\[&a"):
        service.jobs.create(replace(request_, metadata={"tanren.rank": bomb}))


@pytest.mark.parametrize(
    "value",
    ["!!set {a, b}", "!!binary aGk=", ".inf", "{1: 2}", "[" * 200 + "]" * 200, "2001-99-99 1:1:1"],
)
def test_metadata_that_json_cannot_say_is_text(
    service: JobService, request_: JobRequest, value: str
) -> None:
    job = service.jobs.create(replace(request_, metadata={"tanren.target_modules": value}))
    assert job.tanren == {"method.target_modules": value}


def test_the_same_key_is_the_same_job(service: JobService, request_: JobRequest) -> None:
    first = service.jobs.create(request_, client_key="k")
    service.jobs.cancel(first.id)
    again = service.jobs.create(request_, client_key="k")
    assert (again.id, again.status) == (first.id, "cancelled")
    with pytest.raises(Conflict):
        service.jobs.create(replace(request_, seed=1), client_key="k")
    assert service.jobs.create(request_, client_key="l").id != first.id
    assert len(service.jobs.list().items) == 2


def test_jobs_that_have_not_ended_are_limited(service: JobService, request_: JobRequest) -> None:
    for _ in range(50):
        last = add_job(service)
    with pytest.raises(LimitExceeded) as full:
        service.jobs.create(request_)
    assert full.value.retry_after > 0
    service.jobs.cancel(last)
    assert service.jobs.create(request_)


def test_files_of_another_purpose_or_deleted_are_no_training_files(
    service: JobService, request_: JobRequest
) -> None:
    other = service.files.store(b"{}", filename="a", purpose="assistants")
    with pytest.raises(InvalidRequest, match="its purpose is 'assistants'"):
        service.jobs.create(replace(request_, training_file=other.id))
    service.files.delete(request_.training_file)
    with pytest.raises(InvalidRequest, match="invalid training_file"):
        service.jobs.create(request_)


def adapter(folder: Path, method: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    (folder / "tanren.json").write_text(json.dumps({"method": method}), encoding="utf-8")
    return folder


def test_a_tuned_model_is_a_start_and_keeps_its_root(
    service: JobService, request_: JobRequest, tmp_path: Path
) -> None:
    name, step = "ft:tiny:personal::abcdefgh", "ft:tiny:personal::ijklmnop:ckpt-step-3"
    lora = {"name": "lora", "rank": 4}
    add_model(service, name, adapter(tmp_path / "a", lora))
    add_model(service, step, adapter(tmp_path / "b", lora), kind="checkpoint")
    for model in (name, step):
        job = service.jobs.create(replace(request_, model=model))
        assert (job.model, job.base) == (model, "tiny")
    with pytest.raises(InvalidRequest, match=r"method\.rank is 8 and the model's is 4"):
        service.jobs.create(replace(request_, model=name, tanren={"rank": 8}))
    add_model(service, "ft:p", adapter(tmp_path / "p", {"name": "pissa"}))
    add_model(service, "ft:gone", tmp_path / "gone")
    for model, words in (("ft:p", "cannot be tuned further"), ("ft:gone", "is gone")):
        with pytest.raises(InvalidRequest, match=words):
            service.jobs.create(replace(request_, model=model))
    for job in service.jobs.list(statuses=["validating_files"]).items:
        service.jobs.cancel(job.id)
    service.models.delete(name)
    with pytest.raises(InvalidRequest, match="does not exist"):
        service.jobs.create(replace(request_, model=name))


@pytest.mark.parametrize(
    ("examples", "epochs", "batch"),
    [(10, 10, 1), (4, 25, 1), (3, 25, 1), (33, 3, 1), (34, 3, 1), (100, 3, 1), (1000, 3, 2),
     (9000, 2, 18), (20_000, 1, 40), (200_000, 1, 256)],
)  # fmt: skip
def test_auto_follows_the_published_rules(examples: int, epochs: int, batch: int) -> None:
    assert (auto_epochs(examples), auto_batch_size(examples)) == (epochs, batch)


def test_names_have_openais_parts() -> None:
    assert tuned_name("b", "personal", "my-x").startswith("ft:b:personal:my-x:")
    assert tuned_name("b", "o", None).startswith("ft:b:o::")
    assert tuned_name("b", "o", "太 a/b").split(":")[3] == "--a-b"
    first, second = tuned_name("b", "o", None), checkpoint_name("b", "o", None, 12)
    assert len(first.split(":")[4]) == 8 and second.endswith(":ckpt-step-12")
    assert second.split(":")[4] != first.split(":")[4]
