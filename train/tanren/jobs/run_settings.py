"""From a job to the settings of its run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tanren.config import RunConfig, flattened, lay, validate
from tanren.errors import ConfigError
from tanren.jobs.asked import MEANS, refused_settings
from tanren.store.errors import InvalidRequest
from tanren.store.settings import Base

KEPT_CHECKPOINTS = 4
"""The API lists the last three epochs; one more may be that of a pause."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a job goes on from: a base itself (`folder` None), or what was tuned on it.

    `folder` holds an adapter (`method` are its settings) or whole weights (`method` None).
    """

    base: Base
    folder: Path | None = None
    method: Mapping[str, Any] | None = None


def run_config(
    start: Start,
    *,
    train: Path,
    validation: Path | None,
    method: str,
    hyperparameters: Mapping[str, Any],
    auto: Mapping[str, Any],
    asked: Mapping[str, Any],
    seed: int,
    integrations: Sequence[Mapping[str, Any]] = (),
) -> RunConfig:
    """The run of a job. What decides, from weak to strong: the service's own defaults, `auto`
    (hyperparameters found from the data), the base's `run`, the job's hyperparameters, what it
    `asked` for by dotted path.

    Raises InvalidRequest with every fault of `asked`, and for hyperparameters that it contradicts.
    """
    values = _defaults(train, validation, seed)
    for name, value in auto.items():
        lay(values, MEANS[name], value)
    for path, value in flattened(copy.deepcopy(start.base.run)).items():
        lay(values, path, value)
    for name, value in hyperparameters.items():
        if value != "auto":
            _refuse_two_values(name, value, asked)
            lay(values, MEANS[name], value)
    if method == "dpo":
        lay(values, "objective.name", "dpo")
    for path, value in asked.items():
        lay(values, path, value)
    _add_offline_log(values, integrations)
    _begin_at(values, start, asked)
    try:
        return validate(values, source="tanren")
    except ConfigError as error:
        raise refused_settings(error.faults) from None


def _defaults(train: Path, validation: Path | None, seed: int) -> dict[str, Any]:
    return {
        "data": {"train": str(train), "validation": str(validation) if validation else None},
        "training": {"keep_checkpoints": KEPT_CHECKPOINTS},
        "evaluation": {"keep_best": False},  # the last epoch is the result, as with OpenAI
        "seed": seed,
    }


def writes_offline_log() -> bool:
    """Whether Weights & Biases is installed: then a job that names it gets a log on this disk."""
    return find_spec("wandb") is not None


def _add_offline_log(values: dict[str, Any], integrations: Sequence[Mapping[str, Any]]) -> None:
    """The process of the job is told that nothing may be sent (`attempts`)."""
    if integrations and writes_offline_log():
        lay(values, "tracking.trackers", ["wandb"])
        lay(values, "tracking.project", str(integrations[0]["wandb"]["project"]))


def _refuse_two_values(name: str, value: object, asked: Mapping[str, Any]) -> None:
    other = asked.get(MEANS[name], value)
    if other != value:
        raise InvalidRequest(
            f"hyperparameters.{name} is {value!r} and tanren.{MEANS[name]} is {other!r}: give one "
            "of them",
            param=f"hyperparameters.{name}",
        )


def _begin_at(values: dict[str, Any], start: Start, asked: Mapping[str, Any]) -> None:
    """Base, or what was tuned on it: an adapter goes on in its own shape."""
    if start.folder is not None and start.method is None:
        lay(values, "model.name", str(start.folder))
        return
    lay(values, "model.name", start.base.name)
    lay(values, "model.revision", start.base.revision)
    if start.folder is None or start.method is None:
        return
    lay(values, "model.adapter", str(start.folder))
    other = [
        f"tanren.{path} is {value!r} and the model's is {start.method.get(path[7:])!r}"
        for path, value in asked.items()
        if path.startswith("method.") and start.method.get(path[7:]) != value
    ]
    if other:
        raise InvalidRequest(
            f"a tuned model goes on with the method it has: {'; '.join(other)}", param="tanren"
        )
    values["method"] = dict(start.method)


def shown_hyperparameters(config: RunConfig, names: Mapping[str, Any]) -> dict[str, Any]:
    """What the job says once it is started: the numbers that its run really has."""
    flat = flattened(config.model_dump(mode="json"))
    return {name: _as_whole(flat[MEANS[name]]) for name in names}


def _as_whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
