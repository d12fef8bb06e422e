"""What a judgement of each mode may say, and what it is worth as a number."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from tanren.evaluate.agreement import Level

Mode = Literal["score", "likert", "rubric", "pairwise"]

_YES = ("yes", "true", "はい")
_NO = ("no", "false", "いいえ")
_PREFERENCES = {"a": 1.0, "b": 0.0, "tie": 0.5, "引き分け": 0.5, "同等": 0.5}


@dataclass(frozen=True, slots=True)
class Scale:
    """`form` shows the judge what to write; `expected` says it to people. `level` is what the
    numbers mean when agreement is measured.
    """

    form: str
    expected: str
    unit: str
    level: Level
    low: float
    high: float


SCALES: dict[Mode, Scale] = {
    "score": Scale("0-100", "a number from 0 to 100", "points", "interval", 0, 100),
    "likert": Scale("1-5", "a whole number from 1 to 5", "points", "ordinal", 1, 5),
    "rubric": Scale("true | false", "true or false", "share", "nominal", 0, 1),
    "pairwise": Scale('"A" | "B" | "tie"', '"A", "B" or "tie"', "share", "ordinal", 0, 1),
}
"""For a rubric yes is 1; for a pair 1 means that A is better, 0.5 a tie."""


def value_of(mode: Mode, said: Any) -> float | None:
    """The number that a JSON value stands for; None where it is none on this mode's scale.

    Numbers and answers written as text are taken ("85", "Yes", "はい"); what is out of bounds is
    not moved into them.
    """
    word = unicodedata.normalize("NFKC", said).strip().casefold() if isinstance(said, str) else None
    if mode == "pairwise":
        return _PREFERENCES.get(word) if word is not None else None
    if mode == "rubric":
        return _yes_or_no(said, word)
    number = _number(said, word)
    scale = SCALES[mode]
    if number is None or not scale.low <= number <= scale.high:
        return None
    return number if mode == "score" or number == int(number) else None


def _yes_or_no(said: Any, word: str | None) -> float | None:
    if said is True or word in _YES:
        return 1.0
    return 0.0 if said is False or word in _NO else None


def _number(said: Any, word: str | None) -> float | None:
    if word is not None:
        try:
            number = float(word)
        except ValueError:
            return None
    elif isinstance(said, int | float) and not isinstance(said, bool):
        number = float(said)
    else:
        return None
    return number if math.isfinite(number) else None
