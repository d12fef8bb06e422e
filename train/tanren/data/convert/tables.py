"""CSV and TSV: the delimiter is found out, every row must have the header's number of cells."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator

from tanren.data.convert.columns import named_columns
from tanren.data.convert.encodings import Damage
from tanren.data.convert.lines import UNDECODABLE
from tanren.data.convert.opening import Input
from tanren.data.convert.records import Broken, Record
from tanren.errors import ConfigError, DataError, Fault
from tanren.strict_json import quoted

RAGGED = "another number of cells than the header"
BAD_QUOTES = "quotes that do not pair"
MAX_CELL_CHARACTERS = 16 << 20
_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", "\x1f": "unit separator"}
_SAMPLE_ROWS = 50
_WRITTEN = {"\\t": "\t", "tab": "\t", "\\x1f": "\x1f"}


def checked_delimiter(written: str) -> str:
    """The character that the user wrote, also as `\\t` or `tab`."""
    delimiter = _WRITTEN.get(written, written)
    if len(delimiter) != 1 or delimiter in '"\r\n\ufeff':
        remedy = "write one character, or tab"
        raise ConfigError.of(Fault("--delimiter", repr(written), "one character", remedy))
    return delimiter


def find_delimiter(sample: str) -> str:
    """The one by which most of the first rows have as many cells as the first, which are more than
    one; a comma where there is none.
    """
    best, best_score = ",", 0.0
    for delimiter in _NAMES:
        rows = _sample_rows(sample, delimiter)
        cells = len(rows[0]) if rows else 0
        if cells > 1:
            score = Counter(map(len, rows))[cells] / len(rows)
            if score > best_score:
                best, best_score = delimiter, score
    return best


def _sample_rows(sample: str, delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter):
            if row:
                rows.append(row)
            if len(rows) > _SAMPLE_ROWS:
                break
    except csv.Error:
        pass
    return rows[:-1] if len(rows) > 1 else rows  # the last may be cut


class Table:
    def __init__(
        self, file: Input, encoding: str, command: str, delimiter: str | None, *, header: bool
    ) -> None:
        self.name = file.name
        self.blank = 0
        self._file = file
        self._encoding = encoding
        self._command = command
        self._header = header
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARACTERS))
        sample = file.head[: 1 << 16].decode(encoding, errors="replace").removeprefix("\ufeff")
        self._delimiter = delimiter or find_delimiter(sample)
        self.columns = self._read_columns()
        word = _NAMES.get(self._delimiter, quoted(self._delimiter))
        form = "TSV" if self._delimiter == "\t" else "CSV"
        self.said = f"{form}, {word}-separated, {len(self.columns)} columns" + (
            "" if encoding == "utf-8" else f", in {encoding}"
        )

    @property
    def total_bytes(self) -> int:
        return self._file.total_bytes

    def done_bytes(self) -> int:
        return self._file.done_bytes()

    def _read_columns(self) -> tuple[str, ...]:
        for line, cells in self._rows(Damage(self.name, self._encoding, self._command)):
            if isinstance(cells, Broken):
                raise DataError.of(*cells.faults)
            if cells:
                names = cells if self._header else [""] * len(cells)
                return named_columns(names, f"{self.name}:{line}")
        fault = Fault(self.name, "only blank lines", "a header and rows", "write the rows")
        raise DataError.of(fault)

    def __iter__(self) -> Iterator[Record | Broken]:
        self.blank = 0
        columns = self.columns
        wanted = len(columns)
        awaits_header = self._header
        for line, cells in self._rows(Damage(self.name, self._encoding, self._command)):
            if isinstance(cells, Broken):
                yield cells
            elif not cells:
                self.blank += 1
            elif awaits_header:
                awaits_header = False
            elif len(cells) == wanted:
                yield Record(line, dict(zip(columns, cells, strict=True)))
            else:
                yield Broken(line, RAGGED, (self._ragged(line, cells),))

    def _rows(self, damage: Damage) -> Iterator[tuple[int, list[str] | Broken]]:
        """The line where each row begins, and its cells or what is wrong with it."""
        damaged: list[Fault] = []
        lines = self._sound_lines(damage, damaged)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, Broken(line, BAD_QUOTES, (self._bad_quotes(line, str(error)),))
                damaged.clear()
                continue
            if damaged:
                yield line, Broken(line, UNDECODABLE, tuple(damaged))
                damaged.clear()
            else:
                yield line, cells

    def _sound_lines(self, damage: Damage, damaged: list[Fault]) -> Iterator[str]:
        for number, text in enumerate(self._file.lines(self._encoding, ""), 1):
            if not text.isascii():
                fault = damage.fault(text, number)
                if fault is not None:
                    damaged.append(fault)
            yield text

    def _ragged(self, line: int, cells: list[str]) -> Fault:
        delimiter = _NAMES.get(self._delimiter, "delimiter")
        remedy = f'put text with a {delimiter} in it into double quotes: "a, b"'
        if len(cells) < len(self.columns):
            remedy = "write the missing cells, empty ones too"
        return Fault(
            f"{self.name}:{line}", f"{len(cells)} cells", f"{len(self.columns)} as above", remedy
        )

    def _bad_quotes(self, line: int, words: str) -> Fault:
        if "field larger" in words:
            found = f"a cell of more than {MAX_CELL_CHARACTERS:,} characters"
            fault = Fault(f"{self.name}:{line}", found, "cells", "close the quote that opened it")
            raise DataError.of(fault)
        found, remedy = f"quotes that do not pair ({words})", 'write a quote inside text as ""'
        if "unexpected end" in words:
            found, remedy = "a quote that is never closed", "close it: the rest is read as one cell"
        return Fault(f"{self.name}:{line}", found, "quoted cells", remedy)
