"""A user's own list of words, found in any width and case. No list comes with the project."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tanren.data.screen.findings import Finding
from tanren.errors import ConfigError, Fault

_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class WordList:
    """Words in the form NFKC + casefold; `signs` is the same as one pattern."""

    words: Sequence[str]
    pattern: re.Pattern[str]

    def may_hold(self, text: str) -> bool:
        return self.pattern.search(fold(text)) is not None

    def find(self, text: str) -> list[Finding]:
        """Places in the text as it was given."""
        plain, places = fold_with_places(text)
        return [
            Finding("word", places[match.start()][0], places[match.end() - 1][1], "word list")
            for match in self.pattern.finditer(plain)
        ]


def read_words(path: Path) -> WordList:
    """One word or phrase a line, UTF-8; blank lines and lines that begin with # are passed over.

    Raises ConfigError with every fault.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        fault = Fault(str(path), error.strerror or "no file", "a word list", "check the path")
        raise ConfigError.of(fault) from None
    except UnicodeDecodeError:
        fault = Fault(str(path), "another encoding", "UTF-8", "write the list in UTF-8")
        raise ConfigError.of(fault) from None
    words, faults = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        word = " ".join(fold(line).split())
        if len(word) > _MOST_CHARACTERS:
            expected = f"at most {_MOST_CHARACTERS} characters"
            faults.append(
                Fault(f"{path}:{number}", f"{len(word)} characters", expected, "split it")
            )
        words.append(word)
    if not words:
        faults.append(Fault(str(path), "no word", "one word a line", "write the words"))
    if faults:
        raise ConfigError.of(*faults)
    return word_list(words)


def word_list(words: Sequence[str]) -> WordList:
    """Longer words win over their beginnings. A word of the Latin, Greek or Cyrillic letters has to
    stand alone, one of Japanese may stand anywhere: Japanese puts nothing between words.
    """
    folded = sorted({" ".join(fold(word).split()) for word in words}, key=lambda w: (-len(w), w))
    return WordList(folded, re.compile("|".join(_pattern(word) for word in folded)))


def _pattern(word: str) -> str:
    inner = r"\s+".join(re.escape(part) for part in word.split())
    before = rf"(?<!{_LETTER})" if re.match(_LETTER, word[0]) else ""
    after = rf"(?!{_LETTER})" if re.match(_LETTER, word[-1]) else ""
    return f"{before}{inner}{after}"


_LETTER = "[0-9a-z_\u00c0-\u024f\u0370-\u03ff\u0400-\u052f]"


def fold(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def fold_with_places(text: str) -> tuple[str, Sequence[tuple[int, int]]]:
    """The folded text and, for each of its characters, start and end of what it came from.

    Characters are folded with the combining marks behind them, so that half-width ﾊﾞ is バ.
    """
    if text.isascii():
        return text.lower(), [(place, place + 1) for place in range(len(text))]
    pieces: list[str] = []
    places: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and (unicodedata.combining(text[end]) or text[end] in "ﾞﾟ"):
            end += 1
        piece = fold(text[start:end])
        pieces.append(piece)
        places += [(start, end)] * len(piece)
        start = end
    return "".join(pieces), places
