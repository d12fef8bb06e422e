"""What a metric is, and the two kinds of them: means over rows, and formulas over sums of rows.

A metric of a third kind needs no base class, only the shape of `Metric`; its interval then takes
longer, because its value is computed anew for every resample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from tanren.errors import ConfigError, Fault, TanrenError
from tanren.evaluate.answered import Answered

if TYPE_CHECKING:
    import numpy as np


class Metric(Protocol):
    """What statistics, tables and reports ask of a metric."""

    @property
    def name(self) -> str:
        """Unique among the metrics of a table; two settings of one metric have two names."""

    @property
    def title(self) -> str:
        """Words for people."""

    @property
    def higher_is_better(self) -> bool | None:
        """None where neither is: a length."""

    @property
    def unit(self) -> str:
        """`share` (0 to 1, shown as points of a hundred), `points` (0 to 100), `characters`..."""

    def score(self, row: Answered) -> float | None:
        """None where the metric says nothing of this row."""

    def value(self, rows: Sequence[Answered]) -> float | None:
        """Over all rows that it says something of; None without any."""

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """What JSON can hold: always `rows`, `errors` and `without_score`, then its own."""


class RowMetric(ABC):
    """Its value is the mean of the rows' scores. A row with an error has no score, nor has one
    without a reference where one is needed.
    """

    name: str
    title: str
    higher_is_better: bool | None = True
    unit: str = "share"
    needs_reference: bool = True

    @abstractmethod
    def measure(self, row: Answered) -> float | None:
        """The score of a row that has an answer (and a reference where one is needed)."""

    def says_something(self, row: Answered) -> bool:
        return row.error is None and not (self.needs_reference and not row.reference.strip())

    def score(self, row: Answered) -> float | None:
        return self.measure(row) if self.says_something(row) else None

    def scores(self, rows: Sequence[Answered]) -> list[float | None]:
        """Of many rows at once, for metrics that are faster so."""
        return [self.score(row) for row in rows]

    def value(self, rows: Sequence[Answered]) -> float | None:
        return mean([score for score in self.scores(rows) if score is not None])

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        scored = sum(score is not None for score in self.scores(rows))
        return counted(rows, scored)


class SumMetric(RowMetric):
    """Its value is a formula over sums of the rows' parts (a corpus metric), so that thousands of
    resamples cost one matrix product. `score` is a reading of the single row and no summand.
    """

    @abstractmethod
    def parts(self, rows: Sequence[Answered]) -> np.ndarray:
        """(rows, parts): what each row adds; a row of zeros where it adds nothing."""

    @abstractmethod
    def from_sums(self, sums: np.ndarray) -> np.ndarray:
        """(resamples, parts) -> (resamples,): the values, NaN where there is none."""

    def value(self, rows: Sequence[Answered]) -> float | None:
        if not rows:
            return None
        value = float(self.from_sums(self.parts(rows).sum(axis=0)[None])[0])
        return None if value != value else value


@runtime_checkable
class TakesFromData(Metric, Protocol):
    """A metric that takes a choice (labels, tokenizer) from the rows where it was not told."""

    def fitted(self, rows: Sequence[Answered]) -> Self:
        """The same metric with the choice made, so that both sides of a pair share it."""


def fitted(metric: Metric, rows: Sequence[Answered]) -> Metric:
    """The metric with its choices from the data made, where it makes any."""
    return metric.fitted(rows) if isinstance(metric, TakesFromData) else metric


def scores_of(metric: Metric, rows: Sequence[Answered]) -> list[float | None]:
    """Each row's score; errors have none, whatever the metric says."""
    if isinstance(metric, RowMetric):
        return metric.scores(rows)
    return [None if row.error is not None else metric.score(row) for row in rows]


def counted(rows: Sequence[Answered], scored: int) -> dict[str, Any]:
    """The counts that every metric's details begin with."""
    errors = sum(row.error is not None for row in rows)
    return {"rows": scored, "errors": errors, "without_score": len(rows) - errors - scored}


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def missing_extra(package: str, what_for: str) -> TanrenError:
    """For a library of the `eval` extra that is not installed."""
    found = f"{package} is not installed"
    return ConfigError.of(Fault(what_for, found, package, 'pip install "tanren[eval]"'))


def refused(where: str, found: object, expected: str, remedy: str) -> TanrenError:
    """For a metric's setting that cannot be."""
    return ConfigError.of(Fault(where, repr(found), expected, remedy))
