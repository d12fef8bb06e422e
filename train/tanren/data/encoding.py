"""What bytes that are not UTF-8 most likely are.

A guess is only made to name a remedy; nothing is ever decoded with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tanren.errors import Fault
from tanren.strict_json import quoted

BROKEN_UTF8 = "broken UTF-8"

_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_KANA_SHARE = 0.1
_HALF_WIDTH_SHARE = 0.2
_KANA = re.compile("[\u3041-\u30fe]").findall
_FOREIGN_RUNS = re.compile("[^\x00-\x7f]+").findall
_WESTERN_MARKS = "‘’“”–—…€£°§«»¿¡"
_HALF_WIDTH = re.compile("[\uff61-\uff9f]").findall


@dataclass(frozen=True, slots=True)
class Guess:
    """An encoding by the name that iconv knows, how we would call it, and how we know."""

    name: str
    shown: str


def marked_encoding(head: bytes) -> Guess | None:
    """UTF-16 or UTF-32, by a byte order mark or by where the zero bytes of ASCII text stand."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return Guess(name, f"{name} (byte order mark {mark.hex(' ')})")
    even, odd = head[0:4096:2], head[1:4096:2]
    if len(odd) < 4:
        return None
    # JSON is mostly ASCII punctuation even around Japanese text, so one half holds many zeros.
    if odd.count(0) > 0.3 * len(odd) and even.count(0) < 0.05 * len(even):
        return Guess("UTF-16LE", "UTF-16 (little-endian, without byte order mark)")
    if even.count(0) > 0.3 * len(even) and odd.count(0) < 0.05 * len(odd):
        return Guess("UTF-16BE", "UTF-16 (big-endian, without byte order mark)")
    return None


def guess_encoding(sample: bytes) -> Guess | None:
    """The likely encoding of bytes that do not decode as UTF-8; None when nothing fits."""
    lenient = sample.decode("utf-8", errors="replace")
    replaced = lenient.count("\ufffd")
    if _not_ascii(lenient) - replaced > replaced:
        return Guess(BROKEN_UTF8, "UTF-8 with broken bytes")
    # The two overlap: EUC-JP read as CP932 is a row of half-width katakana.
    if _reads_as_japanese(sample, "cp932"):
        return Guess("CP932", "CP932 (Shift_JIS)")
    if _reads_as_japanese(sample, "euc_jp"):
        return Guess("EUC-JP", "EUC-JP")
    if _is_western(sample):
        return Guess("CP1252", "CP1252 (Western European)")
    return None


def _reads_as_japanese(sample: bytes, codec: str) -> bool:
    """Whether the bytes decode, and to text with kana in it that are hardly ever half-width."""
    try:
        text = sample.decode(codec)
    except UnicodeDecodeError:
        return False
    foreign, kana, half_width = _not_ascii(text), len(_KANA(text)), len(_HALF_WIDTH(text))
    return kana >= _KANA_SHARE * foreign > 0 and half_width <= _HALF_WIDTH_SHARE * foreign


def _is_western(sample: bytes) -> bool:
    """Accented letters that stand nearly alone among ASCII; long runs are another script."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    runs = _FOREIGN_RUNS(text)
    foreign = "".join(runs)
    letters = sum(character.isalpha() or character in _WESTERN_MARKS for character in foreign)
    return 0 < len(foreign) < 1.5 * len(runs) and letters > 0.8 * len(foreign)


def _not_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", errors="ignore"))


def encoding_fault(
    where: str, guess: Guess | None, error: UnicodeDecodeError | None = None, *, copy: str = ""
) -> Fault:
    """Where the bytes that are not UTF-8 start, what they look like, and the remedy.

    `copy` is the `OLD > NEW` of a shell command for a whole file; without it only a row is meant.
    """
    shown_bytes = ""
    if error is not None:
        where = f"{where} byte {error.start + 1}"
        shown_bytes = f" ({error.object[error.start : error.start + 4].hex(' ')})"
    if guess is None:
        remedy = "save it as UTF-8 in the program that wrote it (its encoding is not known)"
        return Fault(where, f"bytes that are not UTF-8{shown_bytes}", "text in UTF-8", remedy)
    if guess.name == BROKEN_UTF8 and error is not None:
        before = error.object[: error.start].decode("utf-8")[-20:]
        found = f"broken UTF-8{shown_bytes} after {quoted(before)}"
        remedy = "restore the character (text was cut or damaged there) or delete the row"
        return Fault(where, found, "text in UTF-8", remedy)
    remedy = f"convert the row from {guess.name}"
    if copy:
        remedy = f"convert the file: iconv -f {guess.name} -t UTF-8 {copy}"
    return Fault(where, f"what looks like {guess.shown}{shown_bytes}", "text in UTF-8", remedy)
