"""What answers do whatever they say: stop, say nothing, repeat themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric, mean, refused
from tanren.evaluate.metrics.text import script_of


@dataclass(frozen=True)
class StopRate(RowMetric):
    """The share of answers that ended by themselves and were not cut at the limit (T4)."""

    name = "stop_rate"
    title = "Ended by itself"
    needs_reference = False

    def measure(self, row: Answered) -> float:
        return float(row.finish_reason == "stop")

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        reasons = Counter(row.finish_reason for row in rows)
        return {**super().details(rows), "finish_reasons": dict(sorted(reasons.items()))}


@dataclass(frozen=True)
class Empty(RowMetric):
    """The share of answers with nothing but white space."""

    name = "empty"
    title = "Empty answers"
    higher_is_better = False
    needs_reference = False

    def measure(self, row: Answered) -> float:
        return float(not row.answer.strip())


@dataclass(frozen=True)
class Repetition(RowMetric):
    """The share of an answer's character n-grams that stood in it before: 0 in ordinary short text,
    near 1 in a loop. Characters, so that it works without words.

    `n` without a choice is 8 in Japanese and Chinese and 16 elsewhere, where letters say less. An
    answer shorter than `n` repeats nothing.
    """

    n: int | None = None

    name = "repetition"
    title = "Repeated text"
    higher_is_better = False
    needs_reference = False

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise refused("repetition.n", self.n, "1 or more", "leave it out")

    def measure(self, row: Answered) -> float:
        return self.share(row.answer)

    def share(self, text: str) -> float:
        plain = " ".join(text.split())
        n = self.n or (8 if script_of([plain]) in ("japanese", "chinese") else 16)
        grams = [plain[i : i + n] for i in range(len(plain) - n + 1)]
        return 1 - len(set(grams)) / len(grams) if grams else 0.0

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`references`: the same of the references, the yardstick."""
        shares = [self.share(row.reference) for row in rows if row.reference.strip()]
        return {**super().details(rows), "references": mean(shares)}


@dataclass(frozen=True)
class LongestRepeat(RowMetric):
    """Characters of the longest passage that stands in the answer twice without overlap."""

    name = "longest_repeat"
    title = "Longest repeated passage"
    higher_is_better = False
    unit = "characters"
    needs_reference = False

    def measure(self, row: Answered) -> float:
        return float(longest_repeat(" ".join(row.answer.split())))


def longest_repeat(text: str) -> int:
    """By halving: where a passage of some length repeats, so does one of every smaller length."""
    low, high = 0, len(text) // 2
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _repeats(text, middle) else (low, middle - 1)
    return low


def _repeats(text: str, length: int) -> bool:
    first: dict[int, int] = {}
    for start in range(len(text) - length + 1):
        passage = text[start : start + length]
        earlier = first.setdefault(hash(passage), start)  # hashes, so that memory stays linear
        if start - earlier >= length and text[earlier : earlier + length] == passage:
            return True
    return False
