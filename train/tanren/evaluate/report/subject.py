"""One model of an evaluation with what rules ask about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.text import normalised
from tanren.evaluate.report.data import (
    EvaluatedModel,
    Evaluation,
    MeasuredMetric,
    MeasuredValue,
    PairedComparison,
)

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Subject:
    evaluation: Evaluation
    model: EvaluatedModel

    @property
    def name(self) -> str:
        return self.model.name

    @cached_property
    def rows(self) -> tuple[Answered, ...]:
        """Rows with an answer."""
        every = self.evaluation.answers.get(self.name, ())
        return tuple(row for row in every if row.error is None)

    @cached_property
    def with_reference(self) -> tuple[Answered, ...]:
        return tuple(row for row in self.rows if row.reference.strip())

    @cached_property
    def failed(self) -> tuple[Answered, ...]:
        every = self.evaluation.answers.get(self.name, ())
        return tuple(row for row in every if row.error is not None)

    @cached_property
    def cut(self) -> tuple[Answered, ...]:
        """Rows whose answer ran into the limit of tokens."""
        return tuple(row for row in self.rows if row.finish_reason == "length")

    @property
    def main(self) -> MeasuredMetric | None:
        return self.evaluation.metric(self.evaluation.main)

    @property
    def comparison(self) -> PairedComparison | None:
        """By the main metric, against the reference."""
        return self.evaluation.comparison(self.evaluation.main, self.name)

    def measured(self, metric: str | None) -> MeasuredValue | None:
        found = self.evaluation.metric(metric)
        return None if found is None else found.values.get(self.name)

    def value(self, metric: str | None) -> float | None:
        found = self.measured(metric)
        return None if found is None else found.value

    def reference_value(self, metric: str | None) -> float | None:
        found = self.evaluation.metric(metric)
        if found is None or self.evaluation.reference is None:
            return None
        measured = found.values.get(self.evaluation.reference)
        return None if measured is None else measured.value

    def details(self, *keys: str) -> Mapping[str, Any] | None:
        """Those of the first metric that has all these keys in them for this model."""
        for metric in self.evaluation.metrics:
            measured = metric.values.get(self.name)
            if measured is not None and all(key in measured.details for key in keys):
                return measured.details
        return None

    @cached_property
    def unchanged(self) -> tuple[int, int]:
        """(rows whose answer is that of the reference, rows that both answered)."""
        others = self.evaluation.answers.get(self.evaluation.reference or "", ())
        before = {row.row: row.answer for row in others if row.error is None}
        both = [row for row in self.rows if row.row in before]
        same = sum(normalised(row.answer) == normalised(before[row.row]) for row in both)
        return same, len(both)


def is_shown(comparison: PairedComparison) -> bool:
    """Whether the data show a difference, after the correction for many where there was one."""
    p = comparison.p_value if comparison.p_adjusted is None else comparison.p_adjusted
    return p is not None and p < SIGNIFICANCE


def is_better(comparison: PairedComparison, metric: MeasuredMetric) -> bool:
    """Whether the difference points the good way."""
    way = -1 if metric.higher_is_better is False else 1
    return way * (comparison.difference or 0.0) > 0
