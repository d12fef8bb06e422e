"""Do arms differ in the settings they name, and in nothing else; and were these really used?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tanren.compare.data import Arm, Check, Group, TrainedRun
from tanren.methods import METHODS

Runs = Sequence[tuple[Arm, TrainedRun]]

_ABSENT: Any = object()
_OF_THE_RUN = ("seed", "training.data_seed", "training.learning_rate", "data.date")
"""Differ from run to run or are checked elsewhere: by the order, the rates, the template."""
_PER_METHOD = (
    "training.optimizer",
    "training.micro_batch_tokens",
    "training.gradient_checkpointing",
    "training.packing",
)
"""`auto` may mean something else for every method."""
_WITHOUT_EFFECT = ("tracking.",)
_BY_ROWS = ("data.train", "data.max_length", "training.num_epochs", "training.max_steps")
"""Follow from `data.rows`: a file of its own, its longest row, and as many passes as the common
steps take.
"""
_RESOLVED = ("model.revision", "evaluation.every")
"""null stands for a choice that is made later."""
_MOST_TOLD = 5


# --- settings -------------------------------------------------------------------------------------


def settings_check(name: str, runs: Runs, shared: Mapping[str, Any]) -> Check:
    """Every run against what its arm names, and in all else against the other arms of its seed."""
    odd: dict[str, str] = {}
    for arm, run in runs:
        if arm.name in odd:
            continue
        usual = _usual(runs, run.seed, shared)
        found = [
            f"{key} is {value!r}, not {wanted!r}"
            for key, value in run.settings.items()
            if not _same(value, wanted := _wanted(key, arm, run, shared, usual))
        ]
        if found:
            more = f" and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
            odd[arm.name] = f"{arm.name} seed {run.seed}: {', '.join(found[:_MOST_TOLD])}{more}"
    if odd:
        return Check(name, False, "; ".join(odd.values()), tuple(odd))
    return Check(name, True, "every other setting is equal" if runs else "no finished run")


def _wanted(
    key: str, arm: Arm, run: TrainedRun, shared: Mapping[str, Any], usual: Mapping[str, Any]
) -> Any:
    """What the setting should be; its own value where anything goes."""
    actual = run.settings[key]
    if key in _OF_THE_RUN or key.startswith(_WITHOUT_EFFECT):
        return actual
    if key in _BY_ROWS and "data.rows" in arm.settings:
        return actual
    if key in arm.settings:
        return actual if _is_open(key, arm.settings[key]) else arm.settings[key]
    if key not in shared and key.startswith("method.") and key != "method.name":
        return actual if _same(actual, _default(key, run)) else usual[key]
    if key in shared and _is_open(key, shared[key]) and (key in _PER_METHOD or key in _RESOLVED):
        return actual
    return usual[key]


def _is_open(key: str, value: Any) -> bool:
    return value == "auto" or (value is None and key in _RESOLVED)


def _default(key: str, run: TrainedRun) -> Any:
    """Of the run's method, as plain values; what a method does not know is not looked at."""
    method = METHODS.get(str(run.settings.get("method.name")))
    field = method.model_fields.get(key.removeprefix("method.")) if method else None
    return field.default if field is not None else _ABSENT


def _usual(runs: Runs, seed: int, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Of each setting what the arms of a seed should all have: the shared value where any of them
    has it, else what most have (the comparison sets some for all alike, such as the evaluations).
    """
    of_seed = [(arm.settings, run.settings) for arm, run in runs if run.seed == seed]
    found = {}
    for key in dict.fromkeys(key for _, settings in of_seed for key in settings):
        having = [(own, settings) for own, settings in of_seed if key in settings]
        whole = [one for one in having if key not in _BY_ROWS or "data.rows" not in one[0]]
        values = [settings[key] for _, settings in whole or having]
        counts = Counter(repr(value) for value in values)
        most = max(counts, key=lambda text: counts[text])
        found[key] = next(value for value in values if repr(value) == most)
        if key in shared and any(_same(value, shared[key]) for value in values):
            found[key] = shared[key]
    return found


def _same(one: Any, other: Any) -> bool:
    """YAML knows lists only, and 8 is 8.0."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(one) == list(other)
    return bool(one == other)


# --- learning rates -------------------------------------------------------------------------------


def rates_check(name: str, runs: Runs, shared: Mapping[str, Any]) -> Check:
    """Of the optimizer's groups as they really were, against what the arm sets (T20)."""
    odd: dict[str, str] = {}
    known = False
    for arm, run in runs:
        known |= bool(run.groups)
        found = _wrong_rates(arm, run, shared) if run.groups else []
        if found and arm.name not in odd:
            odd[arm.name] = f"{arm.name} seed {run.seed}: {', '.join(found)}"
    if odd:
        return Check(name, False, "; ".join(odd.values()), tuple(odd))
    return Check(name, True, "as the optimizers had them" if known else "rates: not recorded")


def _wrong_rates(arm: Arm, run: TrainedRun, shared: Mapping[str, Any]) -> list[str]:
    def wanted(key: str) -> Any:
        value = arm.settings.get(key, shared.get(key, _ABSENT))
        return _default(key, run) if value is _ABSENT else value

    first = _first(run.groups)
    found = []
    peak = arm.learning_rate if arm.learning_rate is not None else run.learning_rate
    if peak is not None and not _near(first.learning_rate, peak):
        found.append(f"the peak rate was {first.learning_rate:g}, not {peak:g}")
    for group in run.groups:
        ratio = group.learning_rate / first.learning_rate
        own = wanted("method.embedding_learning_rate") if group.name == "embedding" else None
        if isinstance(own, (int, float)):
            if not _near(group.learning_rate, own):
                found.append(f"the embeddings' rate was {group.learning_rate:g}, not {own:g}")
            continue
        factor = wanted("method.lr_ratio") if group.name == "B" else 1.0
        factor = factor if isinstance(factor, (int, float)) else 1.0
        if not _near(ratio, factor):
            whose = f"{group.name}'s rate over {first.name}'s"
            found.append(f"{whose} was {ratio:g}, not {factor:g}")
    return found


def _first(groups: Sequence[Group]) -> Group:
    """A, or all of full fine-tuning."""
    return next((group for group in groups if group.name == "A"), groups[0])


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6)
