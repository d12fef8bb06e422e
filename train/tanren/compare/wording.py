"""Numbers and counts in sentences, in the manner of `evaluate.statistics`."""

from __future__ import annotations

from collections.abc import Sequence

from tanren.compare.data import Measure

_GIB, _MIB = 2**30, 2**20


def number(value: float, unit: str, *, signed: bool = False) -> str:
    """Points with one decimal, everything else with three digits that count."""
    sign = "+" if signed else ""
    if unit in ("share", "points"):
        shown = f"{100 * value if unit == 'share' else value:{sign}.1f}"
    elif unit == "bytes":
        scale = _GIB if abs(value) >= _GIB else _MIB
        shown = f"{value / scale:{sign}.3g}"
    else:
        shown = f"{value:{sign}.0f}" if abs(value) >= 1000 else f"{value:{sign}.3g}"
    return shown.lstrip("+-") if float(shown) == 0 else shown.replace("-", "−")


def amount(value: float, unit: str, *, signed: bool = False) -> str:
    """6.2 points, 0.031 nats, 3.4 GiB. A share's difference is in points."""
    return f"{number(value, unit, signed=signed)} {_unit(value, unit)}"


def level(value: float, unit: str) -> str:
    """A value itself: a share as percent."""
    return f"{100 * value:.1f}%" if unit == "share" else amount(value, unit)


def _unit(value: float, unit: str) -> str:
    if unit == "bytes":
        return "GiB" if abs(value) >= _GIB else "MiB"
    return "points" if unit == "share" else unit


def span(low: float, high: float, unit: str) -> str:
    return f"{number(low, unit)} to {number(high, unit)}"


def times(ratio: float) -> str:
    """1.40 times, 0.62 times: two digits behind the point below 10."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"


def p_words(p: float, *, corrected: bool) -> str:
    digits = f"{p:.4f}" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    told = "p < 0.0001" if p < 0.0001 else f"p = {digits}"
    return told + (" (corrected for several comparisons)" if corrected else "")


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def sample(seeds: int, rows: int | None) -> str:
    """`3 seeds x 200 rows`."""
    return counted(seeds, "seed") + (f" x {counted(rows, 'row')}" if rows is not None else "")


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def direction(measure: Measure, difference: float) -> str:
    """better or worse, or higher or lower where neither is better."""
    if measure.higher_is_better is None:
        return "higher" if difference > 0 else "lower"
    return "better" if (difference > 0) == measure.higher_is_better else "worse"
