"""What people write into a rating's cell, and what it is worth as a number."""

from __future__ import annotations

import math
import unicodedata

from tanren.evaluate.judges.scale import SCALES, Mode

_YES = frozenset({"yes", "y", "true", "1", "はい", "○", "◯", "〇"})
_NO = frozenset({"no", "n", "false", "0", "いいえ", "×", "✕", "x"})
_TIES = frozenset({"tie", "t", "=", "引き分け", "同じ", "差がない", "no difference"})

EXPECTED: dict[Mode, str] = {
    "score": "a number from 0 to 100",
    "likert": "a whole number from 1 to 5",
    "rubric": "yes or no",
    "pairwise": "A, B or tie",
}


def marked_value(mode: Mode, text: str, *, decimal_comma: bool = False) -> float | None:
    """The number that a mark stands for on the mode's scale; None for no mark that we know.

    Of a pair 1 stands for A, 0 for B, 0.5 for a tie. Full-width letters are as good as others.
    """
    word = unicodedata.normalize("NFKC", text).strip().casefold()
    if mode == "pairwise":
        return {"a": 1.0, "b": 0.0}.get(word, 0.5 if word in _TIES else None)
    if mode == "rubric":
        return 1.0 if word in _YES else 0.0 if word in _NO else None
    try:
        number = float(word.replace(",", ".") if decimal_comma else word)
    except ValueError:
        return None
    scale = SCALES[mode]
    if not math.isfinite(number) or not scale.low <= number <= scale.high:
        return None
    return number if mode == "score" or number == int(number) else None
