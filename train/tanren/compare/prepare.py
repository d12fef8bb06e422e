"""A comparison past the gate: what would be run, and where. Nothing is trained here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.compare.arms import Shared, Variant, shared_settings, variants
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
from tanren.jobs import find_slots

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
    find_slots(config.parallel)
    question = _question(found)
    path = out or _own_folder(slug(name), question)
    fresh = not path.exists()
    folder = ComparisonFolder.opened(path, question)
    try:
        with folder.held():
            return Prepared(planned(config, shared, found, folder, tell), shared, folder)
    except BaseException:
        if fresh:
            folder.discard()
        raise


def _question(found: Sequence[Variant]) -> str:
    """Tells a comparison from others: its arms, its model and its files, however many seeds."""
    first = found[0].config
    words = [first.model.name, first.data.train, first.data.validation, *(v.name for v in found)]
    return hashlib.sha256("\n".join(map(str, words)).encode("utf-8")).hexdigest()[:12]


def _own_folder(name: str, question: str) -> Path:
    """The folder of this question, else a free name: another comparison's report stays."""
    for number in range(1, 1000):
        path = comparisons_root() / (name if number == 1 else f"{name}-{number}")
        if not path.exists() or ComparisonFolder(path).question in (None, question):
            return path
    raise ConfigError.of(Fault(str(comparisons_root()), "no free name", "one", "give --out"))


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
