"""The options that a prompt lists, and which of them a text names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tanren.evaluate.metrics.text import normalised

_KATAKANA = "アイウエオカキクケコ"
_SIGN = rf"(?:[A-Za-zＡ-Ｚａ-ｚ]|[0-9０-９]{{1,2}}|[{_KATAKANA}])"
# "(A)", "A)", "A.", "A：" or "①"; what looks like 3.5 or 10:30 is none.
_MARKER = (
    rf"(?:[(（\[［【]\s?(?P<inside>{_SIGN})\s?[)）\]］】][.．:：、]?"
    rf"|(?<!\w)(?P<before>{_SIGN})(?:[)）：、]|[.．:](?![0-9０-９]))"
    rf"|(?P<circled>[①-⑳]))"
)
# At the start of a line "A text" is enough.
_AT_LINE_START = re.compile(
    rf"^[ \t　]*(?:[-*・][ \t]*)?(?:{_MARKER}|(?P<spaced>[A-ZＡ-Ｚ])(?=[ \t　]))[ \t　]*(?=\S)",
    re.MULTILINE,
)
_INLINE = re.compile(rf"{_MARKER}[ \t　]*(?=\S)")
_HEADING = re.compile(
    r"(?:選択肢|候補|answer choices|choices|options)[】\]]?[^\S\n]*(?:[:：][^\S\n]*\n?|\n)"
    r"(?P<list>.+?)(?:\n\s*\n|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_SEPARATORS = re.compile(r"[、,，;；/／|｜\n]")
_TRIM = " \t　、,，;；/／|｜"


@dataclass(frozen=True, slots=True)
class Option:
    """`marker` is normalised ("a", "1"; ① is "1") and empty where the prompt shows none."""

    marker: str
    text: str


def options_in(prompt: str) -> tuple[Option, ...]:
    """The last list of at least two options: a line each ("A. ...", "1) ...", "(ア) ...", "①..."),
    all in one line, or unmarked after 選択肢： or "Options:". Empty where there is none.
    """
    for pattern in (_AT_LINE_START, _INLINE):
        if found := _last_run(list(pattern.finditer(prompt)), prompt):
            return found
    return _after_heading(prompt)


def _last_run(matches: list[re.Match[str]], prompt: str) -> tuple[Option, ...]:
    """The last markers that count up one by one from A, ア, 0 or 1."""
    ends = [match.start() for match in matches[1:]] + [len(prompt)] * bool(matches)
    runs: list[list[tuple[str, int, str]]] = []
    for match, end in zip(matches, ends, strict=True):
        marker = _marker(match)
        kind, rank = _rank(marker)
        text = prompt[match.end() : end].split("\n", 1)[0].strip(_TRIM)
        if runs and _rank(runs[-1][-1][0]) == (kind, rank - 1):
            runs[-1].append((marker, rank, text))
        elif rank == 0 or (kind == "digit" and rank == 1):
            runs.append([(marker, rank, text)])
    long = [run for run in runs if len(run) > 1 and all(text for _, _, text in run)]
    return tuple(Option(marker, text) for marker, _, text in long[-1]) if long else ()


def _marker(match: re.Match[str]) -> str:
    sign = next(filter(None, match.groupdict().values()))
    return unicodedata.normalize("NFKC", sign).casefold()


def _rank(marker: str) -> tuple[str, int]:
    if marker.isdigit():
        return "digit", int(marker)
    if marker in _KATAKANA:
        return "katakana", _KATAKANA.index(marker)
    return "letter", ord(marker) - ord("a")


def _after_heading(prompt: str) -> tuple[Option, ...]:
    found = list(_HEADING.finditer(prompt))
    if not found:
        return ()
    pieces = [piece.strip(_TRIM + "-*・[]「」") for piece in _SEPARATORS.split(found[-1]["list"])]
    texts = [piece.rstrip("。.") for piece in pieces if piece]
    return tuple(Option("", text) for text in texts) if len(texts) > 1 else ()


@dataclass(frozen=True, slots=True)
class Choices:
    """What a row can be answered with: each option's text and the markers that stand for it."""

    texts: tuple[str, ...]
    markers: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, options: Sequence[str], prompt: str) -> Choices:
        """`options` are texts, or the markers under which the prompt lists texts; without any they
        are what the prompt lists.
        """
        shown = options_in(prompt)
        markers = [option.marker for option in shown]
        if shown and (not options or [normalised(o) for o in options] == markers):
            options = [option.text for option in shown]
        return cls(tuple(options), markers_for(options, prompt))

    def named_by(self, text: str) -> int | None:
        return named_option(text, self.texts, self.markers)


def markers_for(options: Sequence[str], prompt: str) -> tuple[tuple[str, ...], ...]:
    """Each option's markers: those that the prompt shows beside these options, else its letter and
    its number from 1.
    """
    shown = options_in(prompt)
    same = [normalised(o.text) for o in shown] == [normalised(o) for o in options]
    if same and all(option.marker for option in shown):
        return tuple((option.marker,) for option in shown)
    return tuple((chr(ord("a") + i), str(i + 1)) for i in range(len(options)))


# "A", "(A)", "A. text", "A: text"
_NAMED = re.compile(
    r"[(\[【]?\s?(?P<marker>\w{1,2})\s?(?P<end>[)\].:、,】]+|$)\s*(?P<rest>.*)", re.DOTALL
)


def named_option(text: str, options: Sequence[str], markers: Sequence[Sequence[str]]) -> int | None:
    """The index of the option that `text` is: its text, its marker, or marker and text together.
    Width, case and final punctuation do not count. None for everything else.
    """
    plain, texts = normalised(text), [normalised(option) for option in options]
    if plain in texts:
        return texts.index(plain)
    named = _NAMED.fullmatch(plain)
    if named is None:
        return None
    for i, known in enumerate(markers):
        if named["marker"] in known and named["rest"] in ("", texts[i]):
            return i
    return None
