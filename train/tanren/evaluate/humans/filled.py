"""Filled sheets as they come back: the form's files, or a table that went through Excel.

Each mark is read with the place where a person finds it again. What is wrong with a file as a whole
is one fault; what is wrong in its cells is one fault each.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tanren.data.encoding import guess_encoding, marked_encoding
from tanren.errors import Fault
from tanren.evaluate.humans.sheet import FORMAT_VERSION
from tanren.strict_json import read_json, shown

RATINGS_FORMAT = "tanren-ratings"
_DELIMITERS = ",;\t"
_SHOWN = frozenset({"question", "reference", "answer", "answer_a", "answer_b"})
_SAVE_AS = "in Excel choose Save As, type 'CSV UTF-8 (Comma delimited)'"
_TABLE = "a filled sheet as CSV in UTF-8, or the form's JSON"
_FORM = "the form's file of ratings"


@dataclass(frozen=True, slots=True)
class FilledItem:
    """One item as one person rated it. `where` leads the places of its marks."""

    where: str
    sheet: str
    item: str
    rater: str
    marks: Mapping[str, str]
    comment: str
    decimal_comma: bool = False


@dataclass(slots=True)
class Filled:
    """What a file holds, what is wrong in it, and what was passed over. `named`: whether the file
    itself says who rated; else its name does.
    """

    path: Path
    items: list[FilledItem] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    named: bool = True

    def fault(self, where: str, found: str, expected: str, remedy: str) -> None:
        self.faults.append(Fault(where, found, expected, remedy))


def read_filled(path: Path, criteria: Sequence[str]) -> Filled:
    """A filled sheet. Nothing is raised: faults of all files are told together."""
    filled = Filled(path)
    text = _text(filled)
    if text is None:
        return filled
    if path.suffix.lower() == ".json" or text.lstrip().startswith("{"):
        _read_form(text, filled)
    else:
        _read_table(text, filled, criteria)
    return filled


def _text(filled: Filled) -> str | None:
    path, where = filled.path, str(filled.path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        filled.fault(where, "no such file", _TABLE, "correct the path")
        return None
    except OSError as error:
        filled.fault(where, error.strerror or "a file that cannot be read", _TABLE, "name a file")
        return None
    if content.startswith(b"PK\x03\x04"):
        filled.fault(where, "an Excel workbook", _TABLE, _SAVE_AS)
        return None
    guess = marked_encoding(content[:4096])
    if guess is None:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            where = f"{where}:{line}"
            guess = guess_encoding(content)
    found = f"what looks like {guess.shown}" if guess else "bytes that are not UTF-8"
    filled.fault(where, found, _TABLE, _SAVE_AS)
    return None


# --- tables ---------------------------------------------------------------------------------------


def _read_table(text: str, filled: Filled, criteria: Sequence[str]) -> None:
    try:
        lines = list(_numbered(text))
    except csv.Error as error:
        filled.fault(str(filled.path), str(error), _TABLE, "fill in a fresh copy of the sheet")
        return
    if lines and lines[0][1][:1] and lines[0][1][0].lower().startswith("sep="):
        lines = lines[1:]
    if not lines:
        filled.fault(str(filled.path), "an empty file", _TABLE, "fill in the sheet")
        return
    (number, header), *rows = lines
    names = [_column(cell) for cell in header]
    wanted = ["sheet", "item", *criteria]
    missing = [name for name in wanted if name not in names]
    if missing:
        found = "no column " + ", ".join(missing)
        expected = "the columns " + ", ".join(wanted)
        filled.fault(f"{filled.path}:{number}", found, expected, "restore the first line")
        return
    known = {*wanted, *_SHOWN, "comment", "rater", ""}
    if others := [name for name in names if name not in known]:
        filled.notes.append(f"{filled.path}: columns passed over: {', '.join(others)}")
    filled.named = False
    comma = _delimiter(text) == ";"
    for number, cells in rows:
        if any(cell.strip() for cell in cells):
            by_name = dict(zip(names, cells, strict=False))
            _read_line(f"{filled.path}:{number}", by_name, filled, criteria, comma)


def _read_line(
    where: str, cells: Mapping[str, str], filled: Filled, criteria: Sequence[str], comma: bool
) -> None:
    rater = _uncell(cells.get("rater", "")).strip()
    filled.named = filled.named or bool(rater)
    filled.items.append(
        FilledItem(
            where=where,
            sheet=cells.get("sheet", "").strip(),
            item=cells.get("item", "").strip(),
            rater=rater or filled.path.stem,
            marks={name: cells.get(name, "").strip() for name in criteria},
            comment=_uncell(cells.get("comment", "")).strip(),
            decimal_comma=comma,
        )
    )


def _numbered(text: str) -> Iterator[tuple[int, list[str]]]:
    """Records with the line that each begins on; cells may hold line breaks."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    before = 0
    for cells in reader:
        yield before + 1, cells
        before = reader.line_num


def _delimiter(text: str) -> str:
    """What stands between the names of the header: Excel writes `;` where `,` is the decimal mark,
    and tabs in another of its formats.
    """
    for line in text.splitlines()[:2]:
        counts = {each: line.replace('"', "").count(f"sheet{each}item") for each in _DELIMITERS}
        best = max(counts, key=lambda each: counts[each])
        if counts[best]:
            return best
    return ","


def _column(cell: str) -> str:
    """`coherent: Does it hang together? (yes/no)` -> `coherent`."""
    return cell.strip().split(":")[0].strip()


def _uncell(text: str) -> str:
    """Without the quote that keeps Excel from running a cell as a formula."""
    return text[1:] if text[:1] == "'" and text[1:2] in "=+-@\t\r＝＋－＠" else text


# --- the form's JSON ------------------------------------------------------------------------------


def _read_form(text: str, filled: Filled) -> None:
    where = str(filled.path)
    value, faults = read_json(text, where)
    filled.faults += faults
    if faults:
        return
    kind = (value.get("format"), value.get("version")) if isinstance(value, dict) else None
    if kind != (RATINGS_FORMAT, FORMAT_VERSION):
        remedy = "send the file that the form downloads"
        filled.fault(where, "another kind of JSON", f"{_FORM}, version {FORMAT_VERSION}", remedy)
        return
    rater, ratings = value.get("rater"), value.get("ratings")
    if not isinstance(rater, str) or not rater.strip():
        filled.fault(f"{where} rater", shown(rater), "the rater's name", "write it in the form")
    if not isinstance(ratings, list):
        filled.fault(f"{where} ratings", shown(ratings), "a list", "download it once more")
        return
    for number, rating in enumerate(ratings):
        _read_rating(f"{where} ratings[{number}]", rating, value, filled)


def _read_rating(where: str, rating: Any, whole: Mapping[str, Any], filled: Filled) -> None:
    marks = rating.get("values") if isinstance(rating, dict) else None
    if not isinstance(marks, dict) or not all(isinstance(m, str) for m in marks.values()):
        filled.fault(where, shown(rating), "an item with marks", "download it once more")
        return
    filled.items.append(
        FilledItem(
            where=where,
            sheet=str(whole.get("sheet")),
            item=str(rating.get("item")),
            rater=str(whole.get("rater")).strip(),
            marks=marks,
            comment=str(rating.get("comment") or "").strip(),
        )
    )
