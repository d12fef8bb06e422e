"""The first pass: what has to be known of each row, 40 bytes of it, and no text."""

from __future__ import annotations

import contextlib
import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, Protocol

from tanren.chat import Example, parse_line
from tanren.data.files import is_regular, open_data, shown_path
from tanren.data.read import ChatReader, FileCounts, Refused
from tanren.errors import DataError, Fault
from tanren.strict_json import quoted

MAX_STRATA = 1_000
ANSWER = "answer"
NONE = "(none)"
_ABSENT = object()

_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode

Progress = Callable[[int, int | None], None]


class TakesText(Protocol):
    def add(self, text: str) -> None: ...


@dataclass(slots=True)
class Table:
    """What pass one found, by row number."""

    lines: array[int] = field(default_factory=lambda: array("q"))
    """1-based."""
    offsets: array[int] = field(default_factory=lambda: array("q"))
    """Where in the file to start reading for the row, in bytes; blank lines may come first."""
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    """Digests of all before the last answer, tools included."""
    groups: array[int] = field(default_factory=lambda: array("Q"))
    """Digests of the group key, of the rows that have one."""
    grouped_rows: array[int] = field(default_factory=lambda: array("q"))
    strata: array[int] = field(default_factory=lambda: array("q"))
    stratum_names: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    counts: FileCounts = field(default_factory=FileCounts)

    @property
    def rows(self) -> int:
        return len(self.lines)


class TableReader:
    """Reads a file once. Rows that are faulty are kept apart, with their faults."""

    def __init__(
        self, path: Path, *, stratify: str | None, group: str | None, near: TakesText | None
    ) -> None:
        self._path = path
        self._stratify = stratify
        self._group = group
        self._near = near
        self._codes: dict[str, int] = {}
        self._keys_there: Counter[str] = Counter()
        self.table = Table()

    def read(self, on_progress: Progress | None = None) -> Table:
        require_file(self._path)
        table, reader = self.table, ChatReader(self._path)
        end = 0
        with open_data(self._path) as file:
            for number, row in enumerate(reader):
                start, end = end, reader.counts.bytes
                if isinstance(row, Refused):
                    table.refused.append(row)
                    continue
                table.offsets.append(start)
                table.lines.append(row.line)
                table.prompts.append(prompt_digest(row))
                if self._near is not None:
                    self._near.add(said(row))
                if self._stratify is not None or self._group is not None:
                    self._read_keys(row, file, start)
                if on_progress is not None and number % 1000 == 0:
                    on_progress(end, reader.counts.total_bytes)
        table.counts = reader.counts
        table.stratum_names = list(self._codes)
        self._refuse_unknown()
        return table

    def _read_keys(self, row: Example, file: BufferedReader[FileIO], offset: int) -> None:
        asked = {self._stratify, self._group} - {None, ANSWER}
        found: dict[str, Any] = json.loads(_line_at(file, offset)) if asked else {}
        metadata = found.get("metadata")
        known = {**found, **(metadata if isinstance(metadata, dict) else {})}
        self._keys_there.update(key for key in known if key not in _CHAT_KEYS)
        if self._stratify is not None:
            value = answer(row) if self._stratify == ANSWER else known.get(self._stratify, _ABSENT)
            name = NONE if value is _ABSENT else plain_text(value)
            code = self._codes.setdefault(name, len(self._codes))
            self.table.strata.append(code)
            if len(self._codes) > MAX_STRATA:
                self._refuse_many()
        if self._group is not None:
            value = answer(row) if self._group == ANSWER else known.get(self._group, _ABSENT)
            if value is not _ABSENT:
                self.table.grouped_rows.append(self.table.rows - 1)
                self.table.groups.append(digest(plain_text(value)))

    def _refuse_many(self) -> None:
        found = f"more than {MAX_STRATA:,} different values of {quoted(self._stratify or '')}"
        remedy = "stratify by a field of few values; use --group to keep equal values together"
        fault = Fault("--stratify", found, f"at most {MAX_STRATA:,}", remedy)
        raise DataError("the rows cannot be stratified", [fault])

    def _refuse_unknown(self) -> None:
        """A key that no row has is a slip of the pen."""
        faults = []
        for option, key, found in (
            ("--stratify", self._stratify, set(self._codes) - {NONE}),
            ("--group", self._group, set(self.table.grouped_rows[:1])),
        ):
            if key is None or found or not self.table.rows:
                continue
            names = ", ".join(quoted(name) for name, _ in self._keys_there.most_common(8))
            expected = f"a key of the rows' metadata ({names or 'they have none'})"
            remedy = 'correct the name; keys are looked up in "metadata" and beside "messages"'
            faults.append(Fault(option, f"{quoted(key)}, which no row has", expected, remedy))
        if faults:
            raise DataError("the rows do not have what was asked for", faults)


def require_file(path: Path) -> None:
    """DataError for a pipe: rows are read a second time."""
    with open_data(path) as file:
        if not is_regular(file):
            expected, remedy = "a file, which can be read twice", "save it to a file first"
            fault = Fault(shown_path(path), "a pipe", expected, remedy)
            raise DataError("this cannot be read", [fault])


_CHAT_KEYS = ("messages", "tools", "functions", "parallel_tool_calls", "metadata")


def answer(row: Example) -> str:
    """The last assistant message's text, without white space around it."""
    last = next(m for m in reversed(row.messages) if m["role"] == "assistant")
    return str(last["content"]).strip()


def said(row: Example) -> str:
    """What users and the assistant say, calls included; a system prompt is often shared by all."""
    parts: list[str] = []
    for message in row.messages:
        if message["role"] in ("user", "assistant"):
            parts.append(message["content"])
            for call in message.get("tool_calls", ()):
                parts += [call["function"]["name"], call["function"]["arguments"]]
    return "\n".join(parts)


def prompt_digest(row: Example) -> int:
    """64 bits: the same for the same messages before the last answer and the same tools."""
    messages = row.messages
    last = len(messages) - 1
    while messages[last]["role"] != "assistant":
        last -= 1
    if row.tools or any(len(message) != 2 for message in messages[:last]):
        return digest("J" + _canonical([messages[:last], row.tools]))
    # JSON text of the values alone: no two prompts share it, at a third of the cost of objects.
    return digest("P" + _canonical([[m["role"], m["content"]] for m in messages[:last]]))


def digest(text: str) -> int:
    """64 bits of BLAKE2b. At a million rows one false pair has a chance of 3e-8, and would only
    keep two rows together.
    """
    found = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(found, "little")


def plain_text(value: object) -> str:
    """A metadata value as the name of a stratum or group: text as it is, all else as JSON."""
    return value if isinstance(value, str) else _canonical(value)


@contextlib.contextmanager
def row_reader(path: Path, offsets: array[int]) -> Iterator[Callable[[int], Example]]:
    """A function that reads a row again, by its number."""
    with open_data(path) as file:

        def read(row: int) -> Example:
            parsed = parse_line(_line_at(file, offsets[row]), source="row", line=row + 1)
            assert isinstance(parsed, Example), "the row was usable in the first pass"
            return parsed

        yield read


def _line_at(file: BufferedReader[FileIO], offset: int) -> str:
    """The first line from `offset` on that is not blank, as the reader of rows sees it."""
    file.seek(offset)
    return next(text for text in _lines(file) if text)


def _lines(file: BufferedReader[FileIO]) -> Iterator[str]:
    for raw in file:
        yield raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8").strip(" \t\r\n")
