"""The number at the end of a calculation (GSM8K, arXiv:2110.14168: it stands after `####`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric, refused

MARK = "####"

# A sign belongs to the number it touches, unless it can subtract from what stands before it, as in
# "10-5", "50%-75%" and "A-1". "- 5" is an item of a list.
_NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z%.)\]])(?P<sign>[-+])[$€£¥]?)?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\w)\.\d+)"
    r"(?P<exponent>[eE][-+]?\d{1,3}(?!\w))?"
    r"\s?(?P<kanji>[十百千万億兆])?"
)
_MINUS = str.maketrans({"−": "-", "–": "-", "－": "-", "‐": "-"})


@dataclass(frozen=True, slots=True)
class Number:
    value: Decimal
    kanji: bool
    """A kanji numeral such as 万 follows, which is not read: 3万 gives 3."""


def numbers_in(text: str) -> list[Number]:
    """Full-width digits, thousands separators (`1,234`), decimals (`.5`, `0.5`), signs (`-5`,
    `-$5`) and exponents (`1e3`). Kanji numerals are not read; `1,5` are two numbers.
    """
    plain = unicodedata.normalize("NFKC", text).translate(_MINUS)
    return [_number(match) for match in _NUMBER.finditer(plain)]


def _number(match: re.Match[str]) -> Number:
    sign = "-" if match["sign"] == "-" else ""
    digits = match["digits"].replace(",", "")
    return Number(Decimal(sign + digits + (match["exponent"] or "")), match["kanji"] is not None)


def final_number(text: str) -> Number | None:
    """The first number after the last `####`, without a mark the last number of all."""
    _, mark, after = unicodedata.normalize("NFKC", text).rpartition(MARK)
    if mark:
        marked = numbers_in(after)
        return marked[0] if marked else None
    found = numbers_in(after)
    return found[-1] if found else None


@dataclass(frozen=True)
class FinalNumber(RowMetric):
    """The final number of the answer is that of the reference, at most `tolerance` away."""

    tolerance: float = 0.0

    name = "number"
    title = "Right number"

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise refused("number.tolerance", self.tolerance, "0 or more", "drop the sign")

    def measure(self, row: Answered) -> float | None:
        wanted, given = final_number(row.reference), final_number(row.answer)
        if wanted is None:
            return None
        return float(given is not None and self._equal(given.value, wanted.value))

    def _equal(self, given: Decimal, wanted: Decimal) -> bool:
        if given == wanted or not self.tolerance:
            return given == wanted
        return abs(given - wanted) <= Decimal(str(self.tolerance))

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`no_number`: answers without any. `kanji_numerals`: answers whose final number is
        followed by 万 and the like, which is not read, so that they may be right and count as
        wrong. `marked`: answers with a number after `####`.
        """
        scored = [row for row in rows if self.score(row) is not None]
        found = [final_number(row.answer) for row in scored]
        return {
            **super().details(rows),
            "no_number": sum(number is None for number in found),
            "kanji_numerals": sum(number is not None and number.kanji for number in found),
            "marked": sum(MARK in row.answer for row in scored),
        }
