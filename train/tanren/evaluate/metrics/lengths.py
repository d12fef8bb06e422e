"""How long answers are, beside how long they should be."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric, refused

Of = Literal["characters", "tokens"]
BINS = 20


def answer_length(row: Answered, of: Of) -> int | None:
    return _characters(row.answer) if of == "characters" else row.answer_tokens


def reference_length(row: Answered, of: Of) -> int | None:
    if not row.reference.strip():
        return None
    return _characters(row.reference) if of == "characters" else row.reference_tokens


def _characters(text: str) -> int:
    """Code points of the composed form, without white space at the ends."""
    return len(unicodedata.normalize("NFC", text).strip())


@dataclass(frozen=True)
class _Length(RowMetric):
    of: ClassVar[Of] = "characters"
    higher_is_better = None
    needs_reference = False

    def measure(self, row: Answered) -> float | None:
        length = answer_length(row, self.of)
        return None if length is None else float(length)

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`answers` and `references` (mean, median, min, max, spread, ...) and one `histogram` of
        both.
        """
        good = [row for row in rows if row.error is None]
        said = [n for row in good if (n := answer_length(row, self.of)) is not None]
        meant = [n for row in good if (n := reference_length(row, self.of)) is not None]
        return {
            **super().details(rows),
            "answers": spread_of(said),
            "references": spread_of(meant),
            "histogram": histogram(said, meant),
        }


class Characters(_Length):
    name = "characters"
    title = "Length in characters"
    unit = "characters"


class Tokens(_Length):
    name = "tokens"
    title = "Length in tokens"
    unit = "tokens"
    of = "tokens"


@dataclass(frozen=True)
class WithinTarget(RowMetric):
    """The share of answers from `minimum` to `maximum` (one may be missing), or at most `tolerance`
    away from `target`, in characters or tokens; the ends belong to it.
    """

    minimum: float | None = None
    maximum: float | None = None
    target: float | None = None
    tolerance: float | None = None
    of: Of = "characters"

    name = "within_target"
    needs_reference = False

    def __post_init__(self) -> None:
        if self.of not in ("characters", "tokens"):
            raise refused("within_target.of", self.of, "characters or tokens", "choose one of them")
        ends = self.minimum is not None or self.maximum is not None
        middle = self.target is not None and self.tolerance is not None
        half = (self.target is None) != (self.tolerance is None)
        if ends == middle or half:
            expected = "minimum and/or maximum, or target and tolerance"
            raise refused("within_target", self._given(), expected, "give one of the two")
        low, high = self.bounds
        if low > high:
            raise refused("within_target", self._given(), "a range with something in it", "swap")

    def _given(self) -> dict[str, float]:
        named = ("minimum", "maximum", "target", "tolerance")
        values = (self.minimum, self.maximum, self.target, self.tolerance)
        return {name: v for name, v in zip(named, values, strict=True) if v is not None}

    @property
    def bounds(self) -> tuple[float, float]:
        """Both ends; infinite where one is open."""
        if self.target is not None and self.tolerance is not None:
            return self.target - self.tolerance, self.target + self.tolerance
        low = -float("inf") if self.minimum is None else self.minimum
        return low, float("inf") if self.maximum is None else self.maximum

    @property
    def title(self) -> str:  # type: ignore[override]
        low, high = self.bounds
        if low == -float("inf"):
            return f"At most {high:g} {self.of}"
        return (
            f"At least {low:g} {self.of}"
            if high == float("inf")
            else f"{low:g} to {high:g} {self.of}"
        )

    def measure(self, row: Answered) -> float | None:
        length = answer_length(row, self.of)
        low, high = self.bounds
        return None if length is None else float(low <= length <= high)

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        low, high = self.bounds
        found = [
            n for r in rows if r.error is None and (n := answer_length(r, self.of)) is not None
        ]
        return {
            **super().details(rows),
            "target": self._given(),
            "too_short": sum(length < low for length in found),
            "too_long": sum(length > high for length in found),
        }


def spread_of(values: Sequence[float]) -> dict[str, float | int | None]:
    """`spread` is the sample standard deviation (of one value: None)."""
    import numpy as np

    if not values:
        return {"count": 0}
    p5, median, p95 = (float(v) for v in np.percentile(values, (5, 50, 95)))
    return {
        "count": len(values),
        "mean": float(np.mean(values)),
        "median": median,
        "min": min(values),
        "max": max(values),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "p5": p5,
        "p95": p95,
    }


def histogram(answers: Sequence[float], references: Sequence[float]) -> dict[str, list[float]]:
    """Counts over common bins of whole width: `edges` has one more than the counts; the last bin
    has both its ends.
    """
    import numpy as np

    both = [*answers, *references]
    if not both:
        return {"edges": [], "answers": [], "references": []}
    low, high = int(min(both)), int(max(both)) + 1
    width = max(1, -(-(high - low) // BINS))
    edges = np.arange(low, high + width, width)
    return {
        "edges": edges.tolist(),
        "answers": np.histogram(answers, edges)[0].tolist(),
        "references": np.histogram(references, edges)[0].tolist(),
    }
