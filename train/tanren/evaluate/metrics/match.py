"""Answers that should be the reference, or hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric
from tanren.evaluate.metrics.text import normalised


@dataclass(frozen=True)
class ExactMatch(RowMetric):
    """Character for character; only white space at the ends does not count."""

    name = "exact_match"
    title = "Exact match"

    def measure(self, row: Answered) -> float:
        return float(row.answer.strip() == row.reference.strip())


@dataclass(frozen=True)
class NormalisedMatch(RowMetric):
    """Equal after `text.normalised`: width, case, white space and final punctuation do not
    count.
    """

    name = "normalised_match"
    title = "Match (normalised)"

    def measure(self, row: Answered) -> float:
        return float(normalised(row.answer) == normalised(row.reference))


@dataclass(frozen=True)
class Contains(RowMetric):
    """The reference stands somewhere in the answer, both normalised. A reference of nothing but
    punctuation says nothing.
    """

    name = "contains"
    title = "Contains the reference"

    def measure(self, row: Answered) -> float | None:
        wanted = normalised(row.reference)
        return float(wanted in normalised(row.answer)) if wanted else None

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`longer`: of the answers that contain the reference, how many say more than it."""
        held = [row for row in rows if self.score(row) == 1]
        longer = sum(normalised(row.answer) != normalised(row.reference) for row in held)
        return {**super().details(rows), "longer": longer}
