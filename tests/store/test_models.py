"""What a name means: a base, another name of it, or what was tuned on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs.stores import START, Clock, add_job, add_model, config

from tanren.engine.wire import Target
from tanren.jobs.service import JobService
from tanren.store.errors import Conflict, Forbidden, NotFound
from tanren.store.records import JobStatus

TUNED = "ft:tiny:personal:taro:Ab12Cd34"
CHECKPOINT = "ft:tiny:personal:taro:Zz98Yy76:ckpt-step-20"
BASES = (
    {"id": "tiny", "name": "data/tiny-chat", "aliases": ("gpt-4o-mini", "gpt-3.5-turbo")},
    {"id": "big", "name": "Qwen/Qwen3-8B", "revision": "abc", "aliases": ("gpt-4-0613",)},
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "adapter"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service", models=BASES), clock=Clock()) as opened:
        yield opened


def test_the_list_has_bases_aliases_tuned_models_and_checkpoints(
    service: JobService, weights: Path
) -> None:
    add_model(service, TUNED, weights)
    add_model(service, CHECKPOINT, weights, kind="checkpoint")
    add_model(service, "ft:tiny:personal::gone", weights, deleted_at=START)
    listed = service.models.list()
    assert [(model.id, model.kind, model.base) for model in listed] == [
        ("tiny", "base", "tiny"),
        ("big", "base", "big"),
        ("gpt-4o-mini", "alias", "tiny"),
        ("gpt-3.5-turbo", "alias", "tiny"),
        ("gpt-4-0613", "alias", "big"),
        (CHECKPOINT, "checkpoint", "tiny"),
        (TUNED, "tuned", "tiny"),
    ]
    assert all(service.models.get(model.id) == model for model in listed)
    assert listed[-1].folder == str(weights) and listed[-1].job and listed[0].folder is None


def test_bases_keep_the_time_at_which_the_service_was_first_opened(service: JobService) -> None:
    first = service.models.get("tiny").created_at
    with JobService(service.config, clock=Clock(START + 9)) as again:
        assert again.models.get("tiny").created_at == first > 1_700_000_000


def test_a_name_leads_to_its_weights(service: JobService, weights: Path) -> None:
    add_model(service, TUNED, weights, base="big")
    assert service.models.target("tiny") == Target("data/tiny-chat", None, None)
    assert service.models.target("gpt-3.5-turbo") == service.models.target("tiny")
    assert service.models.target("gpt-4-0613") == Target("Qwen/Qwen3-8B", "abc", None)
    assert service.models.target(TUNED) == Target("Qwen/Qwen3-8B", "abc", str(weights))
    assert service.models.base_of(TUNED).id == "big"


@pytest.mark.parametrize("name", ["", "nope", "TINY", "ft:", TUNED, "../tiny", "a'b", "日本"])
def test_an_unknown_name_is_told_in_the_words_of_openai(service: JobService, name: str) -> None:
    for ask in (service.models.get, service.models.target, service.models.delete):
        with pytest.raises(NotFound) as missing:
            ask(name)
        assert missing.value.message == (
            f"The model `{name}` does not exist or you do not have access to it."
        )
        assert (missing.value.status, missing.value.code) == (404, "model_not_found")


def test_weights_that_are_gone_are_told(service: JobService, weights: Path) -> None:
    job = add_job(service, status="succeeded")
    add_model(service, TUNED, weights, job=job)
    weights.rmdir()
    with pytest.raises(NotFound, match=f"gone from this machine .*{job}") as missing:
        service.models.target(TUNED)
    assert missing.value.code == "model_not_found" and str(weights) not in missing.value.message
    service.models.delete(TUNED)


def test_a_tuned_model_whose_base_left_the_settings_is_told(
    service: JobService, weights: Path
) -> None:
    add_model(service, TUNED, weights, base="old")
    with pytest.raises(NotFound, match="tuned on `old`, which is not among"):
        service.models.target(TUNED)
    assert service.models.get(TUNED).base == "old"


def test_a_deleted_model_is_found_no_more_and_its_run_and_checkpoints_stay(
    service: JobService, weights: Path
) -> None:
    add_model(service, TUNED, weights)
    add_model(service, CHECKPOINT, weights, kind="checkpoint")
    service.models.delete(TUNED)
    for ask in (service.models.get, service.models.target, service.models.delete):
        with pytest.raises(NotFound):
            ask(TUNED)
    assert TUNED not in [model.id for model in service.models.list()]
    assert weights.is_dir() and service.models.target(CHECKPOINT).folder == str(weights)
    service.models.delete(CHECKPOINT)
    with pytest.raises(NotFound):
        service.models.target(CHECKPOINT)


@pytest.mark.parametrize("name", ["tiny", "big", "gpt-4o-mini", "gpt-4-0613"])
def test_bases_and_aliases_cannot_be_deleted(service: JobService, name: str) -> None:
    with pytest.raises(Forbidden) as refused:
        service.models.delete(name)
    assert refused.value.status == 403 and service.models.get(name)


@pytest.mark.parametrize(
    "status, needed",
    [("validating_files", True), ("queued", True), ("running", True), ("pausing", True),
     ("paused", True), ("succeeded", False), ("failed", False), ("cancelled", False)],
)  # fmt: skip
def test_a_model_stays_while_an_active_job_goes_on_from_it(
    service: JobService, weights: Path, status: JobStatus, needed: bool
) -> None:
    add_model(service, TUNED, weights)
    job = add_job(service, status=status, model=TUNED)
    if not needed:
        service.models.delete(TUNED)
        return
    with pytest.raises(Conflict, match=job) as refused:
        service.models.delete(TUNED)
    assert refused.value.status == 400 and service.models.get(TUNED)
