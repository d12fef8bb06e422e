"""Every number of every seed as one table, for spreadsheets and data frames.

UTF-8 without a byte order mark, commas, a line an arm and seed. A text that a spreadsheet could
take for a formula stands behind an apostrophe, as does one that begins with an apostrophe itself:
whoever takes one apostrophe off the front of a text has what it was.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

from tanren.compare.data import Arm, Comparison, TrainedRun

FILE = "results.csv"
NOT_RUN = "not run"
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'", "\t", "\r", "\n")


def spreadsheet(comparison: Comparison) -> str:
    settings = _settings(comparison)
    measures = [measure.name for measure in comparison.measures]
    head = [
        "arm", "seed", "outcome", "why", "learning_rate", "rate_source", *measures,
        *(f"settings.{path}" for path in settings), "folder",
    ]  # fmt: skip
    written = StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(map(_text, head))
    for arm in comparison.arms:
        for seed, run in _seeds(comparison, arm):
            known: list[Any] = [
                arm.name, seed, *_ending(arm, run), _rate(arm, run), arm.rate_source,
                *(_measured(comparison, arm, seed, name) for name in measures),
                *(_setting(arm, path) for path in settings), run.path if run else None,
            ]  # fmt: skip
            writer.writerow(map(_cell, known))
    return written.getvalue()


def _settings(comparison: Comparison) -> list[str]:
    """Every setting that any arm changes, in the order of meeting them."""
    return list(dict.fromkeys(path for arm in comparison.arms for path in arm.settings))


def _seeds(comparison: Comparison, arm: Arm) -> Iterator[tuple[int, TrainedRun | None]]:
    runs = {run.seed: run for run in arm.runs}
    for seed in dict.fromkeys((*comparison.seeds, *runs)):
        yield seed, runs.get(seed)


def _ending(arm: Arm, run: TrainedRun | None) -> tuple[str, str]:
    return (NOT_RUN, arm.stopped) if run is None else (run.outcome, run.why)


def _rate(arm: Arm, run: TrainedRun | None) -> float | None:
    if run is not None and run.learning_rate is not None:
        return run.learning_rate
    return arm.learning_rate


def _measured(comparison: Comparison, arm: Arm, seed: int, name: str) -> float | None:
    estimate = arm.measures.get(name)
    if estimate is None or seed not in comparison.seeds:
        return None
    place = comparison.seeds.index(seed)
    return estimate.values[place] if place < len(estimate.values) else None


def _setting(arm: Arm, path: str) -> Any:
    """Empty where the arm leaves it; a setting that is null says so."""
    if path not in arm.settings:
        return None
    value = arm.settings[path]
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else (
        json.dumps(value, ensure_ascii=False, sort_keys=True)
    )  # fmt: skip


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, int):
        return str(int(value))
    return _text(value)


def _text(text: str) -> str:
    dangerous = text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return f"'{text}" if dangerous else text
