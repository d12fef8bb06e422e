"""Two models' answers to the same rows, in the form that resampling wants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from tanren.errors import DataError, Fault
from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import Metric, RowMetric, SumMetric, mean
from tanren.evaluate.resampling import (
    Interval,
    Method,
    bootstrap,
    mcnemar_p,
    newcombe,
    permutation_p,
    times_drawn,
)

if TYPE_CHECKING:
    import numpy as np

SIGNIFICANCE = 0.05
POWER = 0.8
FEWEST_ROWS = 6
"""With five even a change of every row in one direction has p = 2 * 0.5**5 = 0.06."""
_ENOUGH_CHANGES = 7.91
"""Rows that must be expected to change in one direction for six of them to do so in `POWER` of all
tries: P(Poisson(7.91) >= 6) = 0.8.
"""
_FAULTS_TOLD = 10
SLOW_RESAMPLES = 1_000
"""For metrics that are neither a mean nor a formula over sums: each resample is a whole value."""


def matched(
    before: Sequence[Answered], after: Sequence[Answered]
) -> tuple[list[tuple[Answered, Answered]], int]:
    """Pairs in the order of their row numbers, and how many rows have no partner.

    DataError where a row number stands twice in a side or has another reference in the other side.
    """
    sides = [_by_number(before, "before"), _by_number(after, "after")]
    common = sorted(sides[0].keys() & sides[1].keys())
    pairs = [(sides[0][row], sides[1][row]) for row in common]
    faults = [
        Fault(f"row {a.row}", "two references", "the same row on both sides", "use one data file")
        for a, b in pairs
        if a.reference != b.reference
    ]
    _refuse(faults, "with another reference on the other side")
    return pairs, len(sides[0]) + len(sides[1]) - 2 * len(common)


def _by_number(rows: Sequence[Answered], side: str) -> dict[int, Answered]:
    found: dict[int, Answered] = {}
    faults = []
    for row in rows:
        if row.row in found:
            faults.append(Fault(f"row {row.row} ({side})", "two answers", "one", "remove one"))
        found[row.row] = row
    _refuse(faults, "with a second answer on the same side")
    return found


def _refuse(faults: Sequence[Fault], what: str) -> None:
    """The first of the faults, and how many rows have them: two different files have thousands."""
    if faults:
        count = f"{len(faults):,} rows" if len(faults) > 1 else "a row"
        raise DataError(f"the two sides are no pair: {count} {what}", faults[:_FAULTS_TOLD])


def step(before: float, after: float) -> float:
    """The change of a score, 0 where it is rounding."""
    near = math.isclose(before, after, rel_tol=1e-9, abs_tol=1e-12)
    return 0.0 if near else after - before


def is_mean(metric: Metric) -> bool:
    """Whether the value is the mean of the rows' scores."""
    return isinstance(metric, RowMetric) and not isinstance(metric, SumMetric)


@dataclass(frozen=True)
class Side:
    """One model's rows under one metric: `parts` (rows, parts) where the value is a formula over
    their sums, None where it must be computed anew for every resample.
    """

    metric: Metric
    rows: Sequence[Answered]
    parts: np.ndarray | None
    value: float | None

    @classmethod
    def of(cls, metric: Metric, rows: Sequence[Answered], scores: Sequence[float]) -> Side:
        """`scores` are those of `rows`, one each."""
        import numpy as np

        if is_mean(metric):
            parts = np.array([(score, 1.0) for score in scores]).reshape(-1, 2)
            return cls(metric, rows, parts, mean(scores))
        value = metric.value(rows) if rows else None
        return cls(
            metric, rows, metric.parts(rows) if isinstance(metric, SumMetric) else None, value
        )

    def from_sums(self, sums: np.ndarray) -> np.ndarray:
        if isinstance(self.metric, SumMetric):
            return self.metric.from_sums(sums)
        return sums[:, 0] / sums[:, 1]

    def resampled(self, index: np.ndarray) -> np.ndarray:
        """(resamples, drawn) row numbers -> (resamples,) values, NaN where there is none."""
        if self.parts is not None:
            return self.from_sums(times_drawn(index, len(self.rows)) @ self.parts)
        return values_of(self.metric, [[self.rows[i] for i in line] for line in index])


def values_of(metric: Metric, samples: Sequence[Sequence[Answered]]) -> np.ndarray:
    import numpy as np

    values = (metric.value(rows) for rows in samples)
    return np.array([math.nan if value is None else value for value in values])


@dataclass(frozen=True)
class Pairs:
    """Both sides, row by row, each row with a score in both."""

    before: Side
    after: Side
    steps: np.ndarray
    """(rows,): changes of the scores."""
    binary: bool
    """Whether the value is a share of rows that are right (1) or wrong (0)."""

    @classmethod
    def of(
        cls,
        metric: Metric,
        before: Sequence[Answered],
        after: Sequence[Answered],
        scores: Sequence[tuple[float, float]],
    ) -> Pairs:
        import numpy as np

        first, second = ([pair[side] for pair in scores] for side in (0, 1))
        return cls(
            Side.of(metric, before, first),
            Side.of(metric, after, second),
            np.array([step(a, b) for a, b in scores]),
            is_mean(metric) and {*first, *second} <= {0.0, 1.0},
        )

    @property
    def count(self) -> int:
        return len(self.steps)

    @property
    def difference(self) -> float | None:
        before, after = self.before.value, self.after.value
        return None if before is None or after is None else after - before

    def interval(
        self, *, seed: int, resamples: int, confidence: float, method: Method
    ) -> tuple[Interval | None, float]:
        """Of the difference, with its standard error (NaN where it is unknown)."""
        difference = self.difference
        if self.count < 2 or difference is None:
            return None, math.nan
        if not self._varies():
            if self.binary:
                return self._newcombe(confidence), 0.0
            return Interval(difference, difference, confidence, "constant"), 0.0
        return bootstrap(
            self._resampled,
            self.count,
            seed=seed,
            resamples=self._affordable(resamples),
            confidence=confidence,
            method=method,
        )

    def _affordable(self, resamples: int) -> int:
        return resamples if self.before.parts is not None else min(resamples, SLOW_RESAMPLES)

    def _resampled(self, index: np.ndarray) -> np.ndarray:
        if self._is_mean:
            return self.steps[index].mean(axis=-1)
        return self.after.resampled(index) - self.before.resampled(index)

    @property
    def _is_mean(self) -> bool:
        return is_mean(self.before.metric)

    def _varies(self) -> bool:
        """Whether resampling moves anything: the mean of equal changes never does."""
        import numpy as np

        return bool(np.ptp(self.steps) > 0) if self._is_mean else len(self._differing()) > 0

    def _newcombe(self, confidence: float) -> Interval:
        assert self.before.parts is not None, "binary scores are means"
        right = self.before.parts[:, 0] == 1
        gained, lost = int((self.steps > 0).sum()), int((self.steps < 0).sum())
        both = int(right.sum()) - lost
        return newcombe(both, lost, gained, self.count - both - gained - lost, confidence)

    def p_value(self, *, seed: int, resamples: int) -> tuple[float | None, str | None]:
        """With the name of the test."""
        difference = self.difference
        if self.count == 0 or difference is None:
            return None, None
        if self.binary:
            return mcnemar_p(int((self.steps > 0).sum()), int((self.steps < 0).sum())), "McNemar"
        rows = self._differing()
        number = self._affordable(resamples)
        exchanged = self._exchange(rows)
        p = permutation_p(exchanged, len(rows), difference, seed=seed, resamples=number)
        return p, "permutation"

    def _differing(self) -> np.ndarray:
        """Numbers of the rows whose exchange could change anything."""
        import numpy as np

        if self._is_mean:
            return np.flatnonzero(self.steps)
        if self.before.parts is not None and self.after.parts is not None:
            return np.flatnonzero((self.before.parts != self.after.parts).any(axis=1))
        sides = zip(self.before.rows, self.after.rows, strict=True)
        return np.flatnonzero([a != b for a, b in sides])

    def _exchange(self, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """(resamples, len(rows)) booleans, true where the sides of a row change places ->
        differences.
        """
        first, second = self.before.parts, self.after.parts
        if self._is_mean:
            return lambda swaps: (1 - 2 * swaps.astype(float)) @ self.steps[rows] / self.count
        if first is None or second is None:
            return lambda swaps: self._exchanged_rows(rows, swaps)
        total_a, total_b = first.sum(axis=0), second.sum(axis=0)
        moved = second[rows] - first[rows]

        def exchanged(swaps: np.ndarray) -> np.ndarray:
            shift = swaps.astype(float) @ moved
            return self.after.from_sums(total_b - shift) - self.before.from_sums(total_a + shift)

        return exchanged

    def _exchanged_rows(self, rows: np.ndarray, swaps: np.ndarray) -> np.ndarray:
        sides: tuple[list[list[Answered]], list[list[Answered]]] = ([], [])
        for line in swaps:
            first, second = list(self.before.rows), list(self.after.rows)
            for i in rows[line]:
                first[i], second[i] = second[i], first[i]
            sides[0].append(first)
            sides[1].append(second)
        metric = self.before.metric
        return values_of(metric, sides[1]) - values_of(metric, sides[0])

    def detectable(self, standard_error: float) -> float | None:
        """The true difference that so many rows show in `POWER` of all tries: the sum of both
        normal quantiles times the standard error.

        That of right and wrong comes from the rows that changed, half a row added to each of the
        four cells (Agresti and Min 2005), and is never below what the exact test could show. None
        with fewer rows than can show anything.
        """
        if self.count < FEWEST_ROWS:
            return None
        if self.binary:
            total = self.count + 2
            gained, lost = (self.steps > 0).sum() + 0.5, (self.steps < 0).sum() + 0.5
            variance = (gained + lost) / total - ((gained - lost) / total) ** 2
            standard_error = math.sqrt(variance / total)
        normal = NormalDist()
        factor = normal.inv_cdf(1 - SIGNIFICANCE / 2) + normal.inv_cdf(POWER)
        least = min(1.0, _ENOUGH_CHANGES / self.count) if self.binary else 0.0
        return max(factor * standard_error, least) if standard_error > 0 else None
