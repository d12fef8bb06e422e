"""The changes that are safe to make to a text: each says something else to a machine and the same
to a person.

`mended` is idempotent: every change makes the text shorter, or half-width characters fewer, so that
repeating all of them ends, and where it ends none of them changes anything.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tanren.data.lint.mojibake import mend_mojibake

# Scripts whose words are joined or broken by zero-width characters: there these are spelling.
_JOINING = "\u0600-\u08ff\u0900-\u0dff\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1800-\u18af"
_EMOJI = "\u2190-\u2bff\U0001f000-\U0001faff\ufe0f\U000e0020-\U000e007f"
INVISIBLE = re.compile(
    "[\u200b\u2060\ufeff\u00ad\u180e]"
    f"|(?<![{_JOINING}{_EMOJI}])[\u200c\u200d](?![{_JOINING}{_EMOJI}])"
)
_BREAKS = re.compile(f"(?<=[{_JOINING}])\u200b|\u200b(?=[{_JOINING}])")
# Marks alone are faces such as (ﾟДﾟ); a run counts when a letter is in it.
HALF_WIDTH_KANA = re.compile("[\uff61-\uff9f]*[\uff66-\uff6f\uff71-\uff9d][\uff61-\uff9f]*")
DECOMPOSED = re.compile("[^\\W\\d_][\u0300-\u036f\u3099\u309a]+")

Mend = Callable[[str], str]


def remove_invisible(text: str) -> str:
    if text.isascii() or not INVISIBLE.search(text):
        return text
    # Khmer, Thai and others break lines at U+200B; it stays beside their letters.
    kept = {match.start() for match in _BREAKS.finditer(text)}
    return INVISIBLE.sub(lambda match: match[0] if match.start() in kept else "", text)


def widen_kana(text: str) -> str:
    if text.isascii():
        return text
    return HALF_WIDTH_KANA.sub(lambda match: _widened(match[0]), text)


def _widened(run: str) -> str:
    wide = unicodedata.normalize("NFKC", run)
    return wide.replace("\u3099", "\u309b").replace("\u309a", "\u309c")


def compose(text: str) -> str:
    """Letters with the marks behind them as one character, where there is one.

    Not NFC of the whole text: that also replaces kanji of names (U+FA19 becomes U+795E).
    """
    if text.isascii():
        return text
    return DECOMPOSED.sub(lambda match: unicodedata.normalize("NFC", match[0]), text)


def trim(text: str) -> str:
    return text.strip()


MENDS: dict[str, Mend] = {
    "mojibake": mend_mojibake,
    "invisible-characters": remove_invisible,
    "half-width-kana": widen_kana,
    "decomposed-characters": compose,
    "outer-space": trim,
}


@dataclass(frozen=True, slots=True)
class Step:
    rule: str
    before: str
    after: str


def changed_by(rule: str, text: str) -> str | None:
    """The text after one rule's change; None where it has none or would leave nothing."""
    changed = MENDS[rule](text)
    return changed if changed != text and changed.strip() else None


def mended(text: str, rules: Collection[str] = tuple(MENDS)) -> tuple[str, list[Step]]:
    """The text with all safe changes made, and each of them in order."""
    steps: list[Step] = []
    while True:
        before = len(steps)
        for rule in MENDS:
            changed = changed_by(rule, text) if rule in rules else None
            if changed is not None:
                steps.append(Step(rule, text, changed))
                text = changed
        if len(steps) == before:
            return text, steps
