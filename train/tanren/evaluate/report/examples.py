"""Answers before and after, the rows that changed most first."""

from __future__ import annotations

from dataclasses import dataclass

from tanren.evaluate.answered import Answered
from tanren.evaluate.report.data import Evaluation, MeasuredMetric

EXAMPLES = 8
"""Losses, and gains, that a report shows of each model."""


@dataclass(frozen=True, slots=True)
class Change:
    """`change` is better where above 0, whatever the metric's direction; None without scores."""

    before: Answered
    after: Answered
    change: float | None


def changes(evaluation: Evaluation, model: str) -> list[Change]:
    """Rows that the reference and `model` both answered, worst loss first, best gain last; rows of
    equal change in the order of the file.
    """
    if evaluation.reference is None:
        return []
    metric = evaluation.metric(evaluation.main)
    before = {row.row: row for row in evaluation.answers.get(evaluation.reference, ())}
    pairs = [
        Change(before[after.row], after, _change(metric, before[after.row], after))
        for after in evaluation.answers.get(model, ())
        if after.row in before and after.error is None and before[after.row].error is None
    ]
    return sorted(pairs, key=lambda pair: (pair.change or 0.0, pair.after.row))


def _change(metric: MeasuredMetric | None, before: Answered, after: Answered) -> float | None:
    if metric is None or metric.higher_is_better is None:
        return None
    first, then = before.scores.get(metric.name), after.scores.get(metric.name)
    if first is None or then is None:
        return None
    return then - first if metric.higher_is_better else first - then


def losses(found: list[Change]) -> list[Change]:
    """Worst first."""
    return [pair for pair in found if pair.change is not None and pair.change < 0][:EXAMPLES]


def gains(found: list[Change]) -> list[Change]:
    """Best first."""
    better = [pair for pair in found if pair.change is not None and pair.change > 0]
    return sorted(better, key=lambda pair: (-(pair.change or 0.0), pair.after.row))[:EXAMPLES]


def rewritten(found: list[Change]) -> list[Change]:
    """Rows whose answer reads otherwise, for where no metric scores single rows."""
    return [pair for pair in found if pair.before.answer != pair.after.answer][:EXAMPLES]
