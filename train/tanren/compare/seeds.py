"""Means and differences over seeds: few, independent, paired by seed (Student's t)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tanren.compare.data import Estimate
from tanren.evaluate.metrics.base import missing_extra

CONFIDENCE = 0.95
POWER = 0.8
SIGNIFICANCE = 0.05
SIGN = "sign"


def scipy_stats() -> Any:
    """ConfigError where scipy (an extra) is not installed."""
    try:
        from scipy import stats
    except ImportError:
        raise missing_extra("scipy", "intervals and tests") from None
    return stats


@dataclass(frozen=True, slots=True)
class Effect:
    """A mean difference with what is known of its error. `freedom`: degrees of freedom of
    `standard_error`; both None where there is too little for an interval. `rows`: None where only
    seeds were paired. `left_out`: rows that a side lacks.
    """

    difference: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    test: str = ""
    standard_error: float | None = None
    freedom: float | None = None
    seeds: int = 0
    rows: int | None = None
    left_out: int = 0

    @property
    def detectable(self) -> float | None:
        """The true difference that would be shown in `POWER` of all tries: both quantiles of
        Student's t times the standard error (the usual approximation of the noncentral t).
        """
        if not self.standard_error or self.freedom is None:
            return None
        t = scipy_stats().t
        quantiles = t.ppf(1 - SIGNIFICANCE / 2, self.freedom) + t.ppf(POWER, self.freedom)
        return float(quantiles) * self.standard_error


def effect(
    difference: float,
    standard_error: float,
    freedom: float,
    *,
    test: str,
    seeds: int,
    rows: int | None = None,
) -> Effect:
    """By Student's t."""
    t = scipy_stats().t
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * standard_error
    return Effect(
        difference,
        difference - half,
        difference + half,
        float(2 * t.sf(abs(difference) / standard_error, freedom)),
        test,
        standard_error,
        freedom,
        seeds,
        rows,
    )


def constant(difference: float, *, seeds: int, rows: int | None = None) -> Effect:
    """Where every cell says the same there is no variance to go by: nothing changed (p = 1), or
    all of them did, in one direction (the exact sign test over the cells that are independent).
    """
    cells = rows if rows is not None else seeds
    p = 1.0 if difference == 0 else min(1.0, 2 * 0.5**cells)
    return Effect(difference, difference, difference, p, SIGN, 0.0, None, seeds, rows)


def mean_over_seeds(values: Sequence[float | None]) -> Estimate:
    """Student's interval of the mean over the seeds that have a value; none with a single one."""
    known = [value for value in values if value is not None]
    if not known:
        return Estimate(None, None, None, tuple(values))
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return Estimate(mean, None, None, tuple(values))
    half = _half(known)
    return Estimate(mean, mean - half, mean + half, tuple(values))


def paired(arm: Sequence[float | None], reference: Sequence[float | None]) -> Effect:
    """arm - reference by seed, of seeds that both have. With one seed a difference and no more."""
    steps = [a - b for a, b in zip(arm, reference, strict=True) if a is not None and b is not None]
    if not steps:
        return Effect(None)
    mean = math.fsum(steps) / len(steps)
    if len(steps) == 1:
        return Effect(mean, seeds=1)
    error = _standard_error(steps)
    if _is_rounding(error, steps):
        return constant(mean, seeds=len(steps))
    return effect(mean, error, len(steps) - 1, test="paired t over seeds", seeds=len(steps))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Geometric mean of ratios; `low` and `high` None with fewer than two."""

    mean: float
    low: float | None
    high: float | None
    count: int


def ratio(arm: Sequence[float | None], reference: Sequence[float | None]) -> Ratio | None:
    """arm / reference by seed, averaged on the log scale with Student's interval there. None where
    no seed has two positive values.
    """
    pairs = zip(arm, reference, strict=True)
    logs = [math.log(a / b) for a, b in pairs if a is not None and b is not None and a * b > 0]
    if not logs:
        return None
    mean = math.fsum(logs) / len(logs)
    if len(logs) == 1:
        return Ratio(math.exp(mean), None, None, 1)
    half = _half(logs)
    ends = (math.exp(mean - half), math.exp(mean + half))
    return Ratio(math.exp(mean), *ends, len(logs))


def _half(values: Sequence[float]) -> float:
    freedom = len(values) - 1
    return float(scipy_stats().t.ppf((1 + CONFIDENCE) / 2, freedom)) * _standard_error(values)


def _standard_error(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1) / len(values))


def _is_rounding(error: float, values: Sequence[float]) -> bool:
    return error <= 1e-12 * max(abs(value) for value in values)
