"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries")
as F1 with precision and recall weighed alike, on words that fit the language.

No stemming and no stop words, so English agrees with the common implementations without a stemmer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric, refused
from tanren.evaluate.metrics.text import characters, mecab_words, script_of, words

Units = Literal["words", "mecab", "characters"]

CUT: dict[str, Callable[[str], list[str]]] = {
    "words": words,
    "mecab": mecab_words,
    "characters": characters,
}
UNITS: dict[str, Units] = {"japanese": "mecab", "chinese": "characters"}
"""By the references' script; where it is another one, words."""


@dataclass(frozen=True)
class _Rouge(RowMetric):
    """`units` without a choice are MeCab's words for Japanese references, characters for Chinese
    ones, words for others.
    """

    units: Units | None = None

    def __post_init__(self) -> None:
        if self.units is not None and self.units not in CUT:
            raise refused(f"{self.name}.units", self.units, ", ".join(CUT), "choose one of them")

    def fitted(self, rows: Sequence[Answered]) -> Self:
        if self.units is not None:
            return self
        return replace(self, units=UNITS.get(script_of(row.reference for row in rows), "words"))

    def scores(self, rows: Sequence[Answered]) -> list[float | None]:
        chosen = self.fitted(rows)
        return [chosen.score(row) for row in rows]

    def measure(self, row: Answered) -> float | None:
        """None where the reference has no word at all (nothing but punctuation)."""
        cut = CUT[self.fitted([row]).units or "words"]
        said, meant = cut(row.answer), cut(row.reference)
        return self.f1(said, meant) if meant else None

    def f1(self, said: Sequence[str], meant: Sequence[str]) -> float:
        raise NotImplementedError

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        return {**super().details(rows), "units": self.fitted(rows).units}


@dataclass(frozen=True)
class _RougeN(_Rouge):
    order = 1

    def f1(self, said: Sequence[str], meant: Sequence[str]) -> float:
        """A reference of fewer words than the order shares nothing with any answer."""
        a, b = (_grams(tokens, self.order) for tokens in (said, meant))
        return _f1((a & b).total(), a.total(), b.total())


class Rouge1(_RougeN):
    name = "rouge_1"
    title = "ROUGE-1"


class Rouge2(_RougeN):
    name = "rouge_2"
    title = "ROUGE-2"
    order = 2


@dataclass(frozen=True)
class RougeL(_Rouge):
    """By the longest common subsequence of the whole texts."""

    name = "rouge_l"
    title = "ROUGE-L"

    def f1(self, said: Sequence[str], meant: Sequence[str]) -> float:
        return _f1(common_subsequence(said, meant), len(said), len(meant))


def _grams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def _f1(both: int, said: int, meant: int) -> float:
    return 2 * both / (said + meant) if said + meant else 0.0


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, one bit per token of `a` (Hyyrö 2004, "Bit-parallel
    LCS-length computation revisited"): len(b) steps over integers of len(a) bits.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    every = (1 << len(a)) - 1
    row = every
    for token in b:
        hit = row & places.get(token, 0)
        row = (row + hit | row - hit) & every
    return len(a) - row.bit_count()
