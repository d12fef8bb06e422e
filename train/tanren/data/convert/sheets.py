"""Excel (.xlsx), cell by cell as the text that Excel shows."""

from __future__ import annotations

import datetime
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from tanren.data.convert.columns import named_columns
from tanren.data.convert.opening import Input
from tanren.data.convert.records import Broken, Record, Tally
from tanren.errors import ConfigError, DataError, Fault
from tanren.strict_json import close_match, quoted

FORMULA_ERROR = "a formula that failed"
_DECIMALS = re.compile(r"(#,##)?0(\.(0+))?(%)?")


class Sheet:
    """The sheet named, else the only one. `tally` counts cells that were no text."""

    def __init__(self, file: Input, sheet: str | None, tally: Tally, *, header: bool) -> None:
        self.name = file.name
        self.blank = 0
        self._file = file
        self._header = header
        self._tally = tally
        with self._workbook() as book:
            self._sheet = _choose(book.sheetnames, sheet, self.name)
            self.columns = self._read_columns(book)
        self.said = f"Excel, sheet {quoted(self._sheet)}, {len(self.columns)} columns"

    @property
    def total_bytes(self) -> int | None:
        return None  # packed: bytes read say nothing of rows

    def done_bytes(self) -> int:
        return 0

    def _workbook(self) -> _Workbook:
        return _Workbook(self._file)

    def _read_columns(self, book: _Workbook) -> tuple[str, ...]:
        for line, cells in book.rows(self._sheet):
            texts = [_shown(cell, Tally()) or "" for cell in cells]
            if any(texts):
                while not texts[-1]:
                    texts.pop()
                names = texts if self._header else [""] * len(texts)
                return named_columns(names, f"{self.name}:{line}")
        fault = Fault(self.name, f"the empty sheet {quoted(self._sheet)}", "a header", "fill it")
        raise DataError.of(fault)

    def __iter__(self) -> Iterator[Record | Broken]:
        self.blank = 0
        awaits_header = self._header
        with self._workbook() as book:
            for line, cells in book.rows(self._sheet):
                if all(cell.value is None for cell in cells):
                    self.blank += 1
                elif awaits_header:
                    awaits_header = False
                else:
                    yield self._record(line, cells)

    def _record(self, line: int, cells: tuple[Any, ...]) -> Record | Broken:
        columns = self.columns
        faults = []
        for index, cell in enumerate(cells):
            place = f"{self.name}:{line} column {index + 1}"
            if cell.data_type == "e":
                remedy = "mend the formula, or write the value"
                faults.append(Fault(place, quoted(str(cell.value)), "a value", remedy))
            elif index >= len(columns) and cell.value is not None:
                found = "a cell beyond the header"
                faults.append(Fault(place, found, f"{len(columns)} columns", "name its column"))
        if faults:
            return Broken(line, FORMULA_ERROR, tuple(faults))
        texts = [_shown(cell, self._tally) for cell in cells[: len(columns)]]
        texts += [None] * (len(columns) - len(texts))
        return Record(line, dict(zip(columns, texts, strict=True)))


class _Workbook:
    """An open workbook. openpyxl warns of what it cannot keep on saving; nothing is saved here."""

    def __init__(self, file: Input) -> None:
        self._file = file

    def __enter__(self) -> _Workbook:
        try:
            import openpyxl
        except ImportError:
            remedy = 'pip install "tanren[data]"'
            raise ConfigError.of(
                Fault(self._file.name, "no package openpyxl", "openpyxl to read Excel", remedy)
            ) from None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self._stream = self._file.opened()
            try:
                self._book = openpyxl.load_workbook(self._stream, read_only=True, data_only=True)
            except _UNREADABLE as error:
                self._stream.close()
                raise DataError.of(_damaged(self._file.name, error)) from None
        self.sheetnames: list[str] = [sheet.title for sheet in self._book.worksheets]
        return self

    def __exit__(self, *_: object) -> None:
        self._book.close()
        self._stream.close()

    def rows(self, sheet: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
        page = self._book[sheet]
        page.reset_dimensions()  # written by some programs as A1 alone, whatever there is
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                yield from enumerate(page.iter_rows(), 1)
        except _UNREADABLE as error:
            raise DataError.of(_damaged(self._file.name, error)) from None


# What a damaged archive or XML raises on its way through openpyxl (ParseError is a SyntaxError).
_UNREADABLE = (
    zipfile.BadZipFile,
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    EOFError,
    OSError,
    SyntaxError,
    NotImplementedError,
)


def _damaged(name: str, error: Exception) -> Fault:
    found = f"no workbook that can be read ({type(error).__name__}: {error})"
    return Fault(name, found, "an Excel file (.xlsx)", "open it in Excel and save it again")


def _choose(names: list[str], wanted: str | None, where: str) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names and wanted is not None:
        return wanted
    listed = ", ".join(map(quoted, names)) or "no sheet"
    if wanted is None:
        remedy = f"add --sheet {quoted(names[0])}" if names else "write the rows as a sheet"
        raise DataError.of(Fault(where, f"the sheets {listed}", "one sheet", remedy))
    meant = close_match(wanted, names)
    remedy = f"add --sheet {quoted(meant)}" if meant else "name one of them"
    raise DataError.of(Fault(where, f"no sheet {quoted(wanted)}", f"one of {listed}", remedy))


def _shown(cell: Any, tally: Tally) -> str | None:
    """The text of a cell; None for an empty one."""
    value = cell.value
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        tally["booleans written as text (TRUE, FALSE)"] += 1
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        tally["numbers written as text"] += 1
        return shown_number(value, cell.number_format or "General", tally)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    tally["dates and times written as text (2026-11-22 10:30:00)"] += 1
    return str(value)


def shown_number(value: int | float, form: str, tally: Tally) -> str:
    """Plain numbers, fixed decimals, thousands, percent and leading zeros as Excel shows them; in
    any other form the plain number, counted.
    """
    plain = str(int(value)) if float(value).is_integer() else repr(value)
    if form in ("General", "@", "0"):
        return plain if form != "0" else f"{value:.0f}"
    if re.fullmatch("0{2,}", form):
        return f"{round(value):0{len(form)}d}"
    match = _DECIMALS.fullmatch(form)
    if match is None:
        tally["numbers in a form that is not imitated, written plainly"] += 1
        return plain
    thousands, _, decimals, percent = match.groups()
    style = f"{',' if thousands else ''}.{len(decimals or '')}{'%' if percent else 'f'}"
    return format(value, style)
