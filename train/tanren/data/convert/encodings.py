"""Which encoding a text is in. Only UTF-8 is read without being told; others are named."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from tanren.data.encoding import BROKEN_UTF8, Guess, encoding_fault, guess_encoding, marked_encoding
from tanren.errors import ConfigError, DataError, Fault

_ESCAPES = re.compile(rb"\x1b\$[@B]")


def checked_encoding(name: str) -> str:
    """Python's name of the encoding. ConfigError for one that it does not know."""
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        raise ConfigError.of(
            Fault(
                "--encoding",
                repr(name),
                "an encoding",
                "write one such as cp932, euc_jp, iso2022_jp, utf-16 or cp1252",
            )
        ) from None


def encoding_of(head: bytes, name: str, told: str | None, command: str) -> str:
    """The encoding to read with. DataError where it is not UTF-8 and nobody said so, or is UTF-8
    although another one was named: that would turn every text into garbage without a word.
    """
    wrong = _utf8_error(head)
    if told is not None:
        encoding = checked_encoding(told)
        if encoding != "utf-8" and wrong is None and not head.isascii():
            fault = Fault(name, "text in UTF-8", f"{told}, as named", "leave --encoding out")
            raise DataError.of(fault)
        return encoding
    guess = marked_encoding(head) or (_wide(head) if b"\0" in head else None)
    if guess is None and _ESCAPES.search(head) and head.isascii():
        guess = Guess("ISO-2022-JP", "ISO-2022-JP")
    if guess is None and wrong is not None:
        guess = guess_encoding(head[: head.rfind(b"\n") + 1] or head[: wrong.start + 1])
        if guess is None:
            line = head.count(b"\n", 0, wrong.start) + 1
            raise DataError.of(encoding_fault(f"{name}:{line}", None, _in_line(wrong)))
    if guess is not None and guess.name != BROKEN_UTF8:
        raise DataError.of(other_encoding(name, guess, command))
    return "utf-8"


def _wide(head: bytes) -> Guess | None:
    """UTF-16 of Japanese text, of which little more than the line ends has a zero byte."""
    even, odd = head[0::2], head[1::2]
    ends = head.count(b"\n")
    for name, first, second in (("UTF-16LE", even, odd), ("UTF-16BE", odd, even)):
        wide = sum(a == 10 and b == 0 for a, b in zip(first, second, strict=False))
        if ends and wide > 0.9 * ends:
            return Guess(name, f"{name} without byte order mark")
    return None


def other_encoding(where: str, guess: Guess, command: str) -> Fault:
    python = codecs.lookup(guess.name).name
    remedy = f"if that is right: {command} --encoding {python}"
    return Fault(where, f"what looks like {guess.shown}", "text in UTF-8", remedy)


def _utf8_error(head: bytes) -> UnicodeDecodeError | None:
    """The first byte that is no UTF-8; a character cut at the end of the head is none."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        return error
    return None


def _in_line(error: UnicodeDecodeError) -> UnicodeDecodeError:
    start = error.object.rfind(b"\n", 0, error.start) + 1
    line = error.object[start:]
    return UnicodeDecodeError(
        error.encoding, line, error.start - start, error.end - start, error.reason
    )


@dataclass(slots=True)
class Damage:
    """Finds lines with bytes that did not decode: `surrogateescape` has kept them as they were."""

    name: str
    encoding: str
    command: str
    _seen_foreign: bool = False  # a line beyond ASCII was sound, so damage is that of single rows

    def fault(self, text: str, line: int) -> Fault | None:
        """The fault of a line beyond ASCII. DataError where the whole file is in another
        encoding.
        """
        try:
            text.encode("utf-8")
            self._seen_foreign = True
            return None
        except UnicodeEncodeError as wrong:
            where = f"{self.name}:{line}"
            if self.encoding != "utf-8":
                return self._under_a_name(text, wrong.start, where)
        raw = text.encode("utf-8", "surrogateescape")
        error = _utf8_error(raw + b" ")
        assert error is not None
        guess = guess_encoding(raw)
        if not self._seen_foreign and guess is not None and guess.name != BROKEN_UTF8:
            raise DataError.of(other_encoding(where, guess, self.command))
        return encoding_fault(where, Guess(BROKEN_UTF8, BROKEN_UTF8), error)

    def _under_a_name(self, text: str, place: int, where: str) -> Fault:
        before = text[:place].encode(self.encoding, "surrogateescape")
        shown = format(ord(text[place]) - 0xDC00, "02x")
        return Fault(
            f"{where} byte {len(before) + 1}",
            f"bytes that are not {self.encoding} ({shown})",
            f"text in {self.encoding}",
            "restore the character, delete the row, or name the right --encoding",
        )
