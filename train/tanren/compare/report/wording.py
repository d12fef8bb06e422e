"""Numbers of a comparison as people read them: one unit a column, one form a kind of number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from tanren.compare.data import Arm, ArmComparison, Comparison, Estimate, Measure, Outcome
from tanren.evaluate.report.wording import NOTHING

_STEPS: dict[str, tuple[tuple[float, float, str], ...]] = {
    "bytes": (
        (2**30, 2**30, "GiB"), (2**20, 2**20, "MiB"), (2**10, 2**10, "KiB"), (0, 1, "bytes"),
    ),
    "seconds": ((7200, 3600, "h"), (120, 60, "min"), (1, 1, "s"), (0, 1e-3, "ms")),
    "joules": ((1e6, 1e6, "MJ"), (1e3, 1e3, "kJ"), (0, 1, "J")),
    "parameters": ((1e6, 1e6, "millions"), (0, 1, "")),
}  # fmt: skip
"""From which value on, the size, and the name of each unit that a kind of number is shown in."""
_WHOLE = ("steps", "tokens", "rows")
MEANINGS: dict[Outcome, str] = {
    "succeeded": "finished",
    "out_of_memory": "out of memory",
    "diverged": "diverged",
    "refused": "refused before training",
    "failed": "failed",
    "killed": "killed",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """A value is shown as value * factor in `unit`, with so many decimals."""

    factor: float
    unit: str
    decimals: int

    def number(self, value: float | None) -> str:
        if value is None:
            return NOTHING
        digits = f"{abs(value * self.factor):,.{self.decimals}f}"
        return f"{'−' if value < 0 and not _is_zero(digits) else ''}{digits}"

    def signed(self, value: float | None) -> str:
        if value is None:
            return NOTHING
        digits = f"{abs(value * self.factor):,.{self.decimals}f}"
        return f"{'±' if _is_zero(digits) else '+' if value > 0 else '−'}{digits}"

    def between(self, low: float | None, high: float | None) -> str:
        """Empty without an interval."""
        if low is None or high is None:
            return ""
        return f"{self.number(low)} to {self.number(high)}"

    @property
    def difference_unit(self) -> str:
        """A difference of two shares is counted in points."""
        return "points" if self.unit == "%" else self.unit

    def scaled(self, value: float | None) -> float | None:
        return None if value is None else value * self.factor


def scale_of(measure: Measure, comparison: Comparison) -> Scale:
    """One scale for all arms, so that a column can be read downward."""
    means = (arm.measures[measure.name].mean for arm in comparison.arms if _has(arm, measure))
    return scale_for(measure, [mean for mean in means if mean is not None])


def _has(arm: Arm, measure: Measure) -> bool:
    return measure.name in arm.measures


def scale_for(measure: Measure, values: Iterable[float]) -> Scale:
    """Of the units that a measure can be shown in, the one that suits the middle value."""
    if measure.unit == "share":
        return Scale(100, "%", max(measure.digits - 2, 0))
    middle = median([abs(value) for value in values] or [0.0])
    if measure.unit in _STEPS:
        size, unit = next((s, u) for least, s, u in _STEPS[measure.unit] if middle >= least)
        whole = size == 1 and measure.unit in ("bytes", "parameters")
        return Scale(1 / size, unit, 0 if whole else _decimals(middle / size))
    if measure.unit in _WHOLE:
        return Scale(1, measure.unit, 0)
    if measure.unit == "tokens/s":
        return Scale(1, measure.unit, _decimals(middle))
    if measure.unit in ("points", "characters"):
        return Scale(1, measure.unit, min(measure.digits, 1))
    return Scale(1, measure.unit, measure.digits)


def _decimals(value: float) -> int:
    """So many that three digits show, and never more than three."""
    if value <= 0:
        return 0
    return min(max(2 - math.floor(math.log10(value)), 0), 3)


def _is_zero(digits: str) -> bool:
    return not digits.strip("0.,")


def titled(measure: Measure, scale: Scale) -> str:
    """A column's head: what, in which unit, and which way is better."""
    sign = {True: "\u00a0↑", False: "\u00a0↓", None: ""}[measure.higher_is_better]
    return f"{measure.title}{f' ({scale.unit})' if scale.unit else ''}{sign}"


def estimated(estimate: Estimate | None, scale: Scale) -> str:
    """The mean; beneath it its interval, unless that is rounded away, and how many seeds it is of
    where some have no value.
    """
    if estimate is None or estimate.mean is None:
        return NOTHING
    mean = scale.number(estimate.mean)
    lines = [mean]
    interval = scale.between(estimate.low, estimate.high)
    if interval and interval != f"{mean} to {mean}":
        lines.append(f"({interval})")
    there = sum(value is not None for value in estimate.values)
    if there < len(estimate.values):
        lines.append(f"{there} of {len(estimate.values)} seeds")
    return "\n".join(lines)


def difference(found: ArmComparison | None, scale: Scale) -> str:
    """The difference, and beneath it its interval and whether it is shown, a line each."""
    if found is None or found.difference is None:
        return NOTHING
    interval = scale.between(found.low, found.high)
    if not interval:
        return f"{scale.signed(found.difference)}\n(no interval)"
    verdict = "shown" if found.shown else "not shown"
    return f"{scale.signed(found.difference)}\n({interval})\n{verdict}"


def ratio(value: float | None, low: float | None, high: float | None) -> str:
    """1.41 (1.38 to 1.44)"""
    if value is None:
        return NOTHING
    interval = "" if low is None or high is None else f"\n({low:.2f} to {high:.2f})"
    return f"{value:.2f}{interval}"


def within(title: str) -> str:
    """A title inside a sentence: `Peak memory` small, BLEU as it is."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def rate(value: float | None) -> str:
    """A learning rate as people write it: 2.5e-4."""
    if value is None:
        return NOTHING
    if value >= 0.01 or value <= 0:
        return f"{value:g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def setting(value: Any) -> str:
    """As it stands in a YAML file: words bare, everything else as JSON."""
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def listed(names: Iterable[str]) -> str:
    """a, b and c; none"""
    *most, last = [*names] or ["none"]
    return f"{', '.join(most)} and {last}" if most else last
