"""JSON documents: one array of rows, or an object that holds one, read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import TextIOWrapper
from typing import NamedTuple

from tanren.data.convert.encodings import Damage
from tanren.data.convert.lines import NOT_JSON
from tanren.data.convert.opening import MAX_LINE_CHARACTERS, Input
from tanren.data.convert.records import Broken, Record
from tanren.errors import DataError, Fault
from tanren.strict_json import close_match, quoted, read_json

CHUNK_CHARACTERS = 1 << 18
SINGLE_ROW_KEYS = ("messages", "conversations", "conversation")
"""Arrays that are the turns of one row rather than rows."""

# Finds where a value ends; what the value is, strict_json says. Numbers stay text, for an integer
# may be longer than Python converts.
_scan = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).raw_decode
_SPACE = " \t\r\n"


class _Pieces:
    """A text with a window on it that moves along and grows as far as a value needs."""

    def __init__(self, text: TextIOWrapper, name: str, damage: Damage) -> None:
        self._text = text
        self._name = name
        self._damage = damage
        self._window = ""
        self._at = 0
        self._line = 1
        self._ended = False
        self._grow(CHUNK_CHARACTERS)
        self._window = self._window.removeprefix("\ufeff")

    def _grow(self, characters: int) -> None:
        self._line += self._window.count("\n", 0, self._at)
        more = self._text.read(characters)
        self._ended = len(more) < characters
        if not more.isascii():
            fault = self._damage.fault(more, self._line)
            if fault is not None:
                raise DataError.of(fault)
        self._window, self._at = self._window[self._at :] + more, 0

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            window, at = self._window, self._at
            while at < len(window) and window[at] in _SPACE:
                at += 1
            self._at = at
            if at < len(window) or self._ended:
                return window[at : at + 1]
            self._grow(CHUNK_CHARACTERS)

    def take(self, expected: str) -> str:
        """The next character, which has to be one of `expected`."""
        found = self.peek()
        if not found or found not in expected:
            shown = quoted(self._window[self._at :][:20]) if found else "the end of the file"
            wanted = " or ".join(expected)
            raise DataError.of(
                Fault(self._place(), shown, wanted, "mend the JSON there: nothing after it is read")
            )
        self._at += 1
        return found

    def value(self) -> str:
        """The text of the next value."""
        self.peek()
        size = CHUNK_CHARACTERS
        while True:
            try:
                _, end = _scan(self._window, self._at)
                # A number at the edge may go on: something must follow.
                if end < len(self._window) or self._ended:
                    start, self._at = self._at, end
                    return self._window[start:end]
            except json.JSONDecodeError as error:
                if self._ended or len(self._window) - self._at > MAX_LINE_CHARACTERS:
                    raise DataError.of(self._wrong(error)) from None
            except RecursionError:
                fault = Fault(self._place(), "values nested too deep", "rows", "flatten them")
                raise DataError.of(fault) from None
            self._grow(size)
            size *= 2

    def _wrong(self, error: json.JSONDecodeError) -> Fault:
        start = self._window.rfind("\n", 0, error.pos) + 1
        line = self._line + self._window.count("\n", 0, error.pos)
        found = f"no JSON: {error.msg} at {quoted(self._window[error.pos :][:20])}"
        return Fault(
            f"{self._name}:{line} column {error.pos - start + 1}",
            found,
            "JSON",
            "mend it there: nothing after it can be read",
        )

    def _place(self) -> str:
        return f"{self._name}:{self._line + self._window.count(chr(10), 0, self._at)}"

    def items(self) -> Iterator[str]:
        """The texts of an array's values; the array is read to its end."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def entries(self) -> Iterator[str]:
        """The keys of an object. The caller reads each value before it asks for the next key."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            self._require_quote()
            key = json.loads(self.value())
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def _require_quote(self) -> None:
        if self.peek() != '"':
            self.take('"')

    def end(self) -> None:
        if self.peek():
            place, found = self._place(), quoted(self._window[self._at :][:20])
            raise DataError.of(
                Fault(place, f"{found} after the value", "the end of the file", "delete it")
            )


class _Array(NamedTuple):
    key: str
    rows: int
    objects: int


class JsonDocument:
    """`key` names the array to read of an object that holds several; `says` which one it was."""

    columns = None

    def __init__(self, file: Input, encoding: str, command: str, key: str | None) -> None:
        self.name = file.name
        self.blank = 0
        self._file = file
        self._encoding = encoding
        self._damage = Damage(file.name, encoding, command)
        self._command = command
        self._key: str | None = None
        self._single = False
        self.said = self._find(key) + ("" if encoding == "utf-8" else f", in {encoding}")

    @property
    def total_bytes(self) -> int:
        return self._file.total_bytes

    def done_bytes(self) -> int:
        return self._file.done_bytes()

    def __iter__(self) -> Iterator[Record | Broken]:
        """Rows are numbered from 1, for they may all stand on one line."""
        for number, text in enumerate(self._texts(), 1):
            value, faults = read_json(text, f"{self.name}:{number}")
            yield Broken(number, NOT_JSON, tuple(faults)) if faults else Record(number, value)

    def _texts(self) -> Iterator[str]:
        with self._file.text(self._encoding, "\n") as text:
            pieces = _Pieces(text, self.name, self._damage)
            if self._single:
                yield pieces.value()
            elif self._key is None:
                yield from pieces.items()
            else:
                yield from self._below(self._key, pieces)
            pieces.end()

    def _below(self, wanted: str, pieces: _Pieces) -> Iterator[str]:
        for key in pieces.entries():
            if key == wanted and pieces.peek() == "[":
                yield from pieces.items()
            else:
                pieces.value()

    # --- which array ---

    def _find(self, key: str | None) -> str:
        with self._file.text(self._encoding, "\n") as text:
            pieces = _Pieces(text, self.name, self._damage)
            if pieces.peek() != "{":
                return self._plain_array(pieces, key)
            found, others = self._survey(pieces)
            pieces.end()
        if key is None and (single := self._single_row(found, others)):
            return single
        chosen = self._choose(found, key)
        self._key = chosen.key
        ignored = [*others, *(array.key for array in found if array.key != chosen.key)]
        beside = f"; not read beside it: {', '.join(map(quoted, ignored))}" if ignored else ""
        return f"JSON, the array {quoted(chosen.key)} of {chosen.rows:,} rows{beside}"

    def _plain_array(self, pieces: _Pieces, key: str | None) -> str:
        if key is not None:
            fault = Fault("--key", quoted(key), "no key: the file is an array", "leave it out")
            raise DataError.of(fault)
        if pieces.peek() != "[":
            pieces.take("[{")
        return "JSON, an array of rows"

    def _survey(self, pieces: _Pieces) -> tuple[list[_Array], list[str]]:
        """The arrays of the object, and its other keys."""
        found: list[_Array] = []
        others: list[str] = []
        for key in pieces.entries():
            if key in others or any(array.key == key for array in found):
                fault = Fault(self.name, f"the key {quoted(key)} twice", "each key once", "rename")
                raise DataError.of(fault)
            if pieces.peek() == "[":
                rows = objects = 0
                for text in pieces.items():
                    rows += 1
                    objects += text.startswith("{")
                found.append(_Array(key, rows, objects))
            else:
                pieces.value()
                others.append(key)
        return found, others

    def _single_row(self, found: list[_Array], others: list[str]) -> str | None:
        arrays = [array.key for array in found]
        if not any(array.objects for array in found if array.key not in SINGLE_ROW_KEYS) and (
            any(key in SINGLE_ROW_KEYS for key in arrays) or (others and not arrays)
        ):
            self._single = True
            return "JSON, one object as one row"
        return None

    def _choose(self, found: list[_Array], key: str | None) -> _Array:
        names = [array.key for array in found]
        if key is not None:
            for array in found:
                if array.key == key:
                    return array
            meant = close_match(key, names)
            remedy = f"write --key {meant}" if meant else "name one of them"
            listed = ", ".join(map(quoted, names)) or "none: the object holds no array"
            raise DataError.of(Fault("--key", quoted(key), f"an array: {listed}", remedy))
        tables = [array for array in found if array.objects]
        if len(tables) == 1:
            return tables[0]
        counts = ", ".join(f"{quoted(array.key)} ({array.rows:,} rows)" for array in found)
        remedy = "write the rows as one array"
        if tables:
            remedy = f"name one: {self._command} --key {tables[0].key}"
        where = f"an object with {counts or 'no array'}"
        raise DataError.of(Fault(self.name, where, "one array of rows", remedy))
