"""Intervals and tests over rows: bootstrap, permutation, and the exact ones for right and wrong.

Rows are drawn by number, so that every statistic of rows can be resampled. scipy (the `eval` extra)
is imported where it is needed.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tanren.evaluate.metrics.base import missing_extra

if TYPE_CHECKING:
    import numpy as np

Method = Literal["bca", "percentile"]
_BLOCK = 1_000_000
"""Rows drawn at a time, so that memory stays small whatever the file's size."""


@dataclass(frozen=True, slots=True)
class Interval:
    """`method`: bca, percentile, wilson, newcombe, or constant where every row says the same."""

    low: float
    high: float
    confidence: float
    method: str


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise missing_extra("scipy", "intervals and tests") from None
    return stats


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    rows: int,
    *,
    seed: int,
    resamples: int,
    confidence: float,
    method: Method,
) -> tuple[Interval | None, float]:
    """Interval and standard error of a `statistic`: (resamples, drawn) row numbers -> (resamples,).

    BCa (Efron 1987) falls back to percentiles where its correction is not defined. None and NaN
    where the statistic has no value.
    """
    import numpy as np

    stats = _scipy_stats()

    def of_rows(index: np.ndarray, axis: int = -1) -> np.ndarray:
        lines = index.reshape(-1, index.shape[-1])
        return statistic(lines).reshape(index.shape[:-1])

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # what is not finite is looked at below
        found = stats.bootstrap(
            (np.arange(rows),),
            of_rows,
            n_resamples=resamples,
            batch=max(1, _BLOCK // rows),
            vectorized=True,
            confidence_level=confidence,
            method="BCa" if method == "bca" else "percentile",
            rng=np.random.default_rng(seed),
        )
    drawn = found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)]
    if len(drawn) < 2:
        return None, math.nan
    spread = float(np.std(drawn, ddof=1))
    low, high = (float(end) for end in found.confidence_interval)
    if math.isfinite(low) and math.isfinite(high):
        return Interval(low, high, confidence, method), spread
    ends = np.quantile(drawn, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(float(ends[0]), float(ends[1]), confidence, "percentile"), spread


def times_drawn(index: np.ndarray, rows: int) -> np.ndarray:
    """(resamples, drawn) row numbers -> (resamples, rows): how often each row was drawn."""
    import numpy as np

    lines = np.arange(len(index))[:, None] * rows
    return np.bincount((index + lines).ravel(), minlength=len(index) * rows).reshape(-1, rows)


def permutation_p(
    exchanged: Callable[[np.ndarray], np.ndarray],
    rows: int,
    observed: float,
    *,
    seed: int,
    resamples: int,
) -> float:
    """Two-sided p of a paired difference: how often exchanging the sides of rows by coin gives one
    as large as `observed`.

    `exchanged`: (resamples, rows) booleans -> (resamples,) differences; `rows` are those that
    differ at all. Where all 2**rows exchanges are no more than `resamples` every one is tried,
    beyond that the observed one counts as one of the random ones (Phipson and Smyth 2010), so p
    is never 0.
    """
    import numpy as np

    if rows == 0:
        return 1.0
    least = abs(observed) * (1 - 1e-9) - 1e-12  # equal up to rounding is as large
    if 2**rows <= resamples:
        swaps = np.array(list(itertools.product((False, True), repeat=rows)))
        return float(np.mean(~(np.abs(exchanged(swaps)) < least)))
    random = np.random.default_rng(seed)
    as_large, left = 0, resamples
    while left:
        block = min(left, max(1, _BLOCK // rows))
        swaps = random.integers(0, 2, size=(block, rows), dtype=np.int8).astype(bool)
        as_large += int(np.sum(~(np.abs(exchanged(swaps)) < least)))
        left -= block
    return (as_large + 1) / (resamples + 1)


def mcnemar_p(gained: int, lost: int) -> float:
    """Two-sided exact p: are rows that changed as often won as lost?"""
    if gained + lost == 0:
        return 1.0
    return float(_scipy_stats().binomtest(gained, gained + lost, 0.5).pvalue)


def wilson(right: int, rows: int, confidence: float) -> Interval:
    """Of a share (Wilson 1927)."""
    ends = _scipy_stats().binomtest(right, rows).proportion_ci(confidence, method="wilson")
    return Interval(float(ends.low), float(ends.high), confidence, "wilson")


def newcombe(both: int, lost: int, gained: int, neither: int, confidence: float) -> Interval:
    """Of the difference of two paired shares, after minus before (Newcombe 1998, "Improved
    confidence intervals for the difference between binomial proportions based on paired data",
    method 10). Unlike a bootstrap it has a width where no row changed, or every one.
    """
    rows = both + lost + gained + neither
    before, after = both + lost, both + gained
    first, second = wilson(before, rows, confidence), wilson(after, rows, confidence)
    p, q = before / rows, after / rows
    together = _correlation(both, lost, gained, neither)

    def away(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * together * x * y + y * y))

    low = q - p - away(q - second.low, first.high - p)
    high = q - p + away(second.high - q, p - first.low)
    return Interval(low, high, confidence, "newcombe")


def _correlation(both: int, lost: int, gained: int, neither: int) -> float:
    """Of right before with right after, with the continuity correction of method 10."""
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - lost * gained)
    if product > 0:
        product = max(product - (both + lost + gained + neither) / 2, 0.0)
    return product / math.sqrt(margins)
