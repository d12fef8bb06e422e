"""What stands in an answer: patterns, words, its language."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

import regex
from pydantic import Field, model_validator

from tanren.distill.constraints.base import Constraint, Measured, Problem
from tanren.distill.rows import SourceRow

Share = Annotated[float, Field(gt=0, le=1)]
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
PATTERN_SECONDS = 1.0
"""A pattern that takes longer on one answer is one that backtracks without end."""


class Pattern(Constraint):
    """A regular expression (the `regex` module's; Python's own syntax means the same in it).

    A search that takes longer than a second ends, and the row is rejected with that reason.
    """

    pattern: str = Field(min_length=1, description="The expression; `.` does not match newlines.")
    whole: bool = Field(False, description="It must match the whole answer, not a part of it.")
    present: bool = Field(True, description="false: nothing in the answer may match.")

    @model_validator(mode="after")
    def _consistent(self) -> Pattern:
        try:
            compiled(self.pattern)
        except regex.error as error:
            raise ValueError(f"a regular expression ({error})") from None
        return self

    @property
    def name(self) -> str:
        return "regex" if self.present else "regex.absent"

    def measure(self, text: str, row: SourceRow) -> Measured:
        expression = compiled(self.pattern)
        search = expression.fullmatch if self.whole else expression.search
        try:
            match = search(text, timeout=PATTERN_SECONDS)
        except TimeoutError:
            facts = {"pattern": self.pattern, "seconds": PATTERN_SECONDS}
            return Measured(None, Problem("regex.slow", facts, mendable=False))
        if (match is not None) == self.present:
            return Measured(match is not None)
        facts = {"pattern": self.pattern, "whole": self.whole, "found": match[0] if match else ""}
        return Measured(not self.present, Problem(f"{self.name}.broken", facts))


@cache
def compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern)


class MustContain(Constraint):
    """Texts that all have to stand in the answer, letter by letter."""

    texts: Texts = Field(description="The texts.", min_length=1)
    ignore_case: bool = Field(False, description="Take large and small letters for the same.")

    @property
    def name(self) -> str:
        return "must_contain"

    def measure(self, text: str, row: SourceRow) -> Measured:
        missing = [one for one in self.texts if not _stands(one, text, self.ignore_case)]
        problem = Problem("must_contain", {"texts": missing}) if missing else None
        return Measured(len(self.texts) - len(missing), problem)


class MustNotContain(Constraint):
    """Texts of which none may stand in the answer."""

    texts: Texts = Field(description="The texts.", min_length=1)
    ignore_case: bool = Field(False, description="Take large and small letters for the same.")

    @property
    def name(self) -> str:
        return "must_not_contain"

    def measure(self, text: str, row: SourceRow) -> Measured:
        present = [one for one in self.texts if _stands(one, text, self.ignore_case)]
        problem = Problem("must_not_contain", {"texts": present}) if present else None
        return Measured(len(present), problem)


def _stands(part: str, text: str, ignore_case: bool) -> bool:
    return part.casefold() in text.casefold() if ignore_case else part in text


# --- language -------------------------------------------------------------------------------------

LanguageCode = Literal["ja", "zh", "ko", "en", "ru", "el", "ar", "he", "th", "hi"]
_SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "zh": ("CJK",),
    "ko": ("HANGUL", "CJK"),
    "en": ("LATIN",),
    "ru": ("CYRILLIC",),
    "el": ("GREEK",),
    "ar": ("ARABIC",),
    "he": ("HEBREW",),
    "th": ("THAI",),
    "hi": ("DEVANAGARI",),
}
_SHARES: Mapping[str, float] = {"ja": 0.5, "zh": 0.5, "ko": 0.5}
_SHARE = 0.8
_OWN: Mapping[str, tuple[str, ...]] = {"ja": ("HIRAGANA", "KATAKANA"), "ko": ("HANGUL",)}
"""A text in these languages has letters that no other has."""


class Language(Constraint):
    """The language by the scripts of its letters, counted; other characters have no say.

    Languages of one script are not told apart: `en` is any text in Latin letters without kana or
    Chinese characters beyond the share that is left. `ja` needs kana, `zh` has none.
    """

    language: LanguageCode = Field(description="The language.")
    share: Share | None = Field(
        None,
        description="Least share of letters in its scripts; null: 0.5 for ja, zh, ko, else 0.8.",
    )

    @property
    def name(self) -> str:
        return f"language.{self.language}"

    def measure(self, text: str, row: SourceRow) -> Measured:
        found = script_counts(text)
        share = language_share(found, self.language)
        wanted = self.share or _SHARES.get(self.language, _SHARE)
        facts = {"language": self.language, "found": share, "wanted": wanted}
        problem = Problem("language", facts) if share < wanted else None
        return Measured(round(share, 4), problem)


def script_counts(text: str) -> Counter[str]:
    """Letters by script: the first word of their Unicode name, half and full width alike."""
    return Counter(_script(c) for c in unicodedata.normalize("NFKC", text) if c.isalpha())


def language_share(found: Mapping[str, int], language: str) -> float:
    """The share of letters that a language is written in; 0 where its own letters are missing."""
    letters = sum(found.values())
    own = _OWN.get(language)
    kana = sum(found.get(name, 0) for name in _OWN["ja"])
    if not letters or (own and not any(found.get(name) for name in own)):
        return 0.0
    if language == "zh" and kana:
        return 0.0
    return sum(found.get(name, 0) for name in _SCRIPTS[language]) / letters


@cache
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    # ー, long vowels of either kana, and 々 count with what they stand among.
    if name.startswith("KATAKANA-HIRAGANA"):
        return "KATAKANA"
    if name.startswith("IDEOGRAPHIC"):
        return "CJK"
    return name.split(" ")[0].split("-")[0]


def texts_of(value: Any) -> list[Any]:
    """One text, or a list of them."""
    return list(value) if isinstance(value, list | tuple) else [value]
