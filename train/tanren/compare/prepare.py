"""A comparison past the gate: what would be run, and where. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.compare.arms import Shared, shared_settings, variants
from tanren.compare.evaluations import common_settings
from tanren.compare.folder import ComparisonFolder, comparisons_root
from tanren.compare.measures import VALIDATION_LOSS
from tanren.compare.plan import Plan, planned
from tanren.compare.settings import CompareConfig
from tanren.endpoint.checked import checked
from tanren.errors import ConfigError, Fault
from tanren.evaluate.folder import slug
from tanren.evaluate.measuring import make_plan
from tanren.evaluate.questions import read_questions
from tanren.evaluate.settings import EvaluateConfig

Tell = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Past the gate: what would be run, and where."""

    plan: Plan
    shared: Shared
    folder: ComparisonFolder


def prepare(
    config: CompareConfig, overrides: Mapping[str, Any], out: Path | None, name: str, tell: Tell
) -> Prepared:
    """Read everything and pass every arm through the gate; nothing is trained. UserError with every
    fault. A folder that was made for it goes again where a fault is found.
    """
    shared = shared_settings(config, overrides)
    found = variants(config, shared)
    _require_main(config)
    path = out or comparisons_root() / slug(name)
    fresh = not path.exists()
    folder = ComparisonFolder.opened(path)
    try:
        return Prepared(planned(config, shared, found, folder, tell), shared, folder)
    except BaseException:
        if fresh:
            folder.discard()
        raise


def _measures(config: CompareConfig) -> tuple[str, ...]:
    """Names of what can decide: the test's metrics are chosen now, from its rows. UserError where
    the test cannot be carried out: better now than after hours of training.
    """
    if config.test is None:
        return (VALIDATION_LOSS,)
    settings = checked(EvaluateConfig, common_settings(config.test), source="test")
    questions = read_questions(Path(config.test.data), limit=config.test.limit)
    plan, _ = make_plan(settings, questions.rows)
    return (VALIDATION_LOSS, *(metric.name for metric in plan.metrics))


def _require_main(config: CompareConfig) -> None:
    known = _measures(config)
    if config.main is not None and config.main not in known:
        fault = Fault("main", repr(config.main), "one of " + ", ".join(known), "choose one of them")
        raise ConfigError.of(fault)
