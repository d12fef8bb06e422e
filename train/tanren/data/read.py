"""A file of chat or preference lines as a stream of rows and refused rows, counted while it is read
once.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Generic, TypeVar

from tanren.chat import Example, Preference, parse_line, parse_preference
from tanren.data.encoding import BROKEN_UTF8, Guess, encoding_fault, guess_encoding
from tanren.data.files import (
    FileStamp,
    copy_command,
    ensure_unchanged,
    is_regular,
    open_data,
    shown_path,
)
from tanren.errors import DataError, Fault
from tanren.strict_json import quoted

MAX_LINE_BYTES = 64 << 20
"""64 MiB. A longer line is no conversation, and reading it whole could take all memory."""

RowT = TypeVar("RowT", Example, Preference)

_SAMPLE_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be used, with everything that is wrong in it."""

    source: str
    line: int
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class FileCounts:
    """What was read so far. lines == blank_lines + examples + refused, at any moment."""

    total_bytes: int | None = None
    """Size at the start, for a progress bar; None for a pipe."""
    bytes: int = 0
    lines: int = 0
    blank_lines: int = 0
    examples: int = 0
    refused: int = 0
    faults: int = 0
    warnings: int = 0
    ignored_keys: Counter[str] = field(default_factory=Counter)
    """Rows in which each ignored top-level key (such as `metadata`) stands."""
    byte_order_marks: int = 0
    """At the start of the file, or of a line where files were joined. Accepted."""
    sha256: str | None = None
    """Hex digest of all bytes; None until the last one was read (and so after a `limit`)."""

    @property
    def complete(self) -> bool:
        return self.sha256 is not None


def read_chat(path: Path, *, limit: int | None = None) -> Iterator[Example | Refused]:
    """Rows of a chat-format file in order; see `ChatReader`, which also counts."""
    return iter(ChatReader(path, limit=limit))


class LineReader(ABC, Generic[RowT]):
    """Streams one file. `counts` is true at every moment of the iteration and final after it.

    BOM, CRLF, blank lines and a missing last newline are accepted. DataError is raised for what is
    wrong with the file as a whole: when iteration starts (missing, a folder, empty, compressed, a
    table, UTF-16), where it is met (another encoding, a line beyond 64 MiB), or at the end (nothing
    but blank lines, changed while it was read).
    """

    @abstractmethod
    def _parsed(self, text: str, line: int) -> RowT | list[Fault]:
        """The row on a line, or all its faults."""

    def __init__(self, path: Path, *, limit: int | None = None) -> None:
        """`limit` ends the iteration after that many rows, usable or not."""
        self.path = path
        self.source = shown_path(path)
        self.counts = FileCounts()
        self._limit = limit
        self._has_utf8 = False  # a line beyond ASCII was UTF-8, so damage is that of single rows

    def __iter__(self) -> Iterator[RowT | Refused]:
        """Starts at the first byte again, with fresh counts."""
        self.counts = counts = FileCounts()
        self._has_utf8 = False
        with open_data(self.path) as file:
            stamp = None
            if is_regular(file):
                stamp = FileStamp.of(os.fstat(file.fileno()))
                counts.total_bytes = stamp.size
            yield from self._rows(file, counts)
        if counts.complete:
            if stamp is not None:
                ensure_unchanged(self.path, stamp)
            self._refuse_blank(counts)

    def _rows(self, file: BufferedReader[FileIO], counts: FileCounts) -> Iterator[RowT | Refused]:
        digest = hashlib.sha256()
        rows = 0
        while rows != self._limit:
            raw = file.readline(MAX_LINE_BYTES)
            if not raw:
                counts.sha256 = digest.hexdigest()
                return
            digest.update(raw)
            counts.bytes += len(raw)
            counts.lines += 1
            if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
                raise DataError.of(self._too_long(counts.lines, raw))
            row = self._row(raw, file, counts)
            if row is not None:
                rows += 1
                yield row

    def _row(
        self, raw: bytes, file: BufferedReader[FileIO], counts: FileCounts
    ) -> RowT | Refused | None:
        """The row on one line, counted; None for a blank line."""
        if raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
            counts.byte_order_marks += 1
        line = counts.lines
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return self._refuse([self._undecodable(error, file, counts)], counts)
        self._has_utf8 = self._has_utf8 or not raw.isascii()
        text = text.strip(" \t\r\n")
        if not text:
            counts.blank_lines += 1
            return None
        parsed = self._parsed(text, line)
        if isinstance(parsed, list):
            if line == counts.blank_lines + 1:
                self._refuse_one_document(text, line)
            return self._refuse(parsed, counts)
        counts.examples += 1
        counts.warnings += len(parsed.warnings)
        counts.ignored_keys.update(parsed.ignored_keys)
        return parsed

    def _refuse(self, faults: list[Fault], counts: FileCounts) -> Refused:
        counts.refused += 1
        counts.faults += len(faults)
        return Refused(self.source, counts.lines, tuple(faults))

    def _undecodable(
        self, error: UnicodeDecodeError, file: BufferedReader[FileIO], counts: FileCounts
    ) -> Fault:
        """The fault of one damaged row; DataError where the whole file is in another encoding."""
        where = f"{self.source}:{counts.lines}"
        of_file = Guess(BROKEN_UTF8, BROKEN_UTF8)
        if not self._has_utf8:
            following = file.peek()[:_SAMPLE_BYTES]
            sample = error.object + following[: following.rfind(b"\n") + 1]
            guess = guess_encoding(sample)
            if guess is None or guess.name != BROKEN_UTF8:
                copy = copy_command(self.path, "utf8")
                raise DataError.of(encoding_fault(where, guess, error, copy=copy))
        return encoding_fault(where, guess_encoding(error.object) or of_file, error)

    def _refuse_one_document(self, text: str, line: int) -> None:
        """A file that is one JSON value would fail on every line; one fault says it better."""
        if text not in ("{", "[") and not text.startswith("[{"):
            return
        found, filter_ = "JSON spread over many lines", "."
        if text.startswith("["):
            found, filter_ = "one JSON list", "'.[]'"
        remedy = f"write one object per line: jq -c {filter_} {copy_command(self.path, 'lines')}"
        expected = "one JSON object per line (JSONL)"
        raise DataError.of(Fault(f"{self.source}:{line}", found, expected, remedy))

    def _refuse_blank(self, counts: FileCounts) -> None:
        if counts.lines == counts.blank_lines:
            found = f"{counts.blank_lines} blank line{'s' if counts.blank_lines != 1 else ''}"
            remedy = "write the rows or correct the path"
            raise DataError.of(Fault(self.source, found, "at least one row", remedy))

    def _too_long(self, line: int, raw: bytes) -> Fault:
        start = raw[:40].decode("utf-8", errors="replace")
        found = f"a line of more than {MAX_LINE_BYTES >> 20} MiB, starting {quoted(start)}"
        remedy = "write one JSON object per line"
        return Fault(f"{self.source}:{line}", found, "one row per line", remedy)


class ChatReader(LineReader[Example]):
    """Of chat lines."""

    def _parsed(self, text: str, line: int) -> Example | list[Fault]:
        return parse_line(text, source=self.source, line=line)


class PreferenceReader(LineReader[Preference]):
    """Of preference lines."""

    def _parsed(self, text: str, line: int) -> Preference | list[Fault]:
        return parse_preference(text, source=self.source, line=line)
