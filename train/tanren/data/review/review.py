"""A review: which row is next, what is decided of it, and what is written in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from tanren.chat import Example, parse_line, parse_object
from tanren.data.encoding import BROKEN_UTF8, Guess, encoding_fault, guess_encoding
from tanren.data.review.chosen import Choose, Chosen
from tanren.data.review.files import (
    DataLines,
    content_of,
    journal_path,
    rejected_path,
    require_out,
    staged_pair,
)
from tanren.data.review.journal import Decision, Entry, Journal, Key
from tanren.errors import DataError, Fault

_ROWS_A_TELL = 5_000


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the file. `example` is None where it has faults."""

    index: int
    """From 0, blank lines left out."""
    line: int
    raw: bytes
    example: Example | None
    faults: tuple[Fault, ...]
    why: tuple[str, ...]
    """Why it was chosen, where there is a reason."""
    entry: Entry

    @property
    def text(self) -> str:
        """The line as text; bytes that are none are shown as U+FFFD."""
        return content_of(self.raw).decode("utf-8", errors="replace")

    def value(self) -> Any:
        """What to edit: an earlier edit, or the row as JSON has it; its text if it is no JSON."""
        if self.entry.edited is not None:
            return dict(self.entry.edited)
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return self.text


@dataclass(frozen=True, slots=True)
class Progress:
    """accepted + edited + rejected + undecided == rows, at any moment."""

    rows: int
    chosen: int
    """Rows that this review shows; decisions on others count too."""
    accepted: int
    edited: int
    rejected: int
    undecided: int
    noted: int
    left: int
    """Undecided among the chosen."""

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Written:
    out: Path
    rejected_out: Path | None
    """None where no row is rejected."""
    kept_rows: int
    rejected_rows: int
    undecided_rows: int
    """In neither file, until they are decided."""

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Review:
    """Rows of `path`, decided one at a time. Every decision is on disk when the call returns.

    Used as a context manager, which lets go of the files. It never writes `out` by itself.
    """

    def __init__(
        self,
        path: Path,
        out: Path,
        *,
        choose: Chosen | Choose | None = None,
        overwrite: bool,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Goes on where a journal of `out` is; `overwrite` allows replacing an `out` that has none.

        `on_progress` is told bytes read and their number. Raises DataError, ConfigError or RunError
        before anything is written.
        """
        require_out(path, out, overwrite=overwrite)
        self.out = out
        self._entries: dict[int, Entry] = {}
        self._at = 0
        with ExitStack() as stack:
            self._data = stack.enter_context(closing(DataLines(path)))
            self.journal = stack.enter_context(closing(Journal(journal_path(out))))
            self._history = self._match(on_progress)
            """Rows decided or passed over, the last one last: what undo goes back through."""
            self._why = choose.why if isinstance(choose, Chosen) else {}
            self._rows = self._chosen(choose)
            self._open_files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._open_files.close()

    @property
    def source(self) -> str:
        return self._data.source

    # --- where we are -----------------------------------------------------------------------------

    def next(self) -> Row | None:
        """The first undecided chosen row from here on; None at the end."""
        while self._at < len(self._rows):
            index = self._rows[self._at]
            if self._entry(index).decision is None:
                return self.row(index)
            self._at += 1
        return None

    def row(self, index: int) -> Row:
        raw = self._data.raw(index)
        line = self._data.lines[index]
        parsed = _parsed(raw, self.source, line)
        return Row(
            index=index,
            line=line,
            raw=raw,
            example=parsed if isinstance(parsed, Example) else None,
            faults=() if isinstance(parsed, Example) else tuple(parsed),
            why=tuple(self._why.get(line, ())),
            entry=self._entry(index),
        )

    def position(self, row: Row) -> int:
        """Which of the chosen rows it is, from 1."""
        return self._rows.index(row.index) + 1

    @property
    def progress(self) -> Progress:
        found = Counter(entry.decision for entry in self._entries.values())
        decided = found["accept"] + found["edit"] + found["reject"]
        shown = self._rows if isinstance(self._rows, range) else set(self._rows)
        done = sum(1 for i, e in self._entries.items() if e.decision is not None and i in shown)
        return Progress(
            rows=len(self._data),
            chosen=len(self._rows),
            accepted=found["accept"],
            edited=found["edit"],
            rejected=found["reject"],
            undecided=len(self._data) - decided,
            noted=sum(1 for entry in self._entries.values() if entry.note),
            left=len(self._rows) - done,
        )

    # --- decisions --------------------------------------------------------------------------------

    def accept(self, row: Row) -> None:
        """DataError for a row with faults: what is written is to pass the check."""
        if row.faults:
            raise DataError("a row with faults cannot be accepted as it is", row.faults)
        self._decide(row, "accept")

    def reject(self, row: Row) -> None:
        self._decide(row, "reject")

    def edit(self, row: Row, edited: Mapping[str, Any]) -> None:
        """`edited` instead of the row. DataError with every fault of it."""
        faults = self.faults_of(row, edited)
        if faults:
            raise DataError("the edited row cannot be used", faults)
        self._decide(row, "edit", edited)

    def faults_of(self, row: Row, edited: object) -> list[Fault]:
        parsed = parse_object(edited, source=self.source, line=row.line)
        return parsed if isinstance(parsed, list) else []

    def note(self, row: Row, words: str) -> Row:
        """Instead of an earlier note. It decides nothing; returns the row as it is now."""
        key = self._data.key(row.index)
        self.journal.note(key, row.line, words.strip())
        self._entries[row.index] = self.journal.entries[key]
        return self.row(row.index)

    def skip(self, row: Row) -> None:
        """Leave it undecided and go on; the next review asks again."""
        self._go_on(row)

    def undo(self) -> Row | None:
        """Back to the row before: its decision, if there is one, is taken back. Beyond the start of
        this review to what was decided earlier; None when there is nothing.
        """
        if not self._history:
            return None
        index = self._history.pop()
        if self._entry(index).decision is not None:
            key = self._data.key(index)
            self.journal.undo(key, self._data.lines[index])
            self._entries[index] = self.journal.entries[key]
        if index not in self._rows:  # decided under another choice of rows
            self._rows = [*self._rows, index]
        self._at = self._rows.index(index)
        return self.row(index)

    def _decide(
        self, row: Row, decision: Decision, edited: Mapping[str, Any] | None = None
    ) -> None:
        key = self._data.key(row.index)
        self.journal.decide(key, row.line, decision, edited)
        self._entries[row.index] = self.journal.entries[key]
        self._go_on(row)

    def _go_on(self, row: Row) -> None:
        self._history.append(row.index)
        self._at = self._rows.index(row.index) + 1

    # --- the end ----------------------------------------------------------------------------------

    def write(self) -> Written | None:
        """Accepted and edited rows to `out`, rejected ones beside it, both in the file's order and
        whole or not at all. Lines that were not edited are copied byte for byte. None where nothing
        was ever decided: then nothing is written.
        """
        if not self.journal.entries:
            return None
        rejected_out = rejected_path(self.out)
        kept = refused = 0
        with staged_pair(self.out, rejected_out) as (accepted, rejected):
            for index, entry in sorted(self._entries.items(), key=lambda item: item[0]):
                if entry.decision == "reject":
                    refused += _copy(rejected, self._data.raw(index))
                elif entry.decision is not None:
                    kept += _copy(accepted, self._line(index, entry))
        undecided = len(self._data) - kept - refused
        return Written(self.out, rejected_out if refused else None, kept, refused, undecided)

    def _line(self, index: int, entry: Entry) -> bytes:
        if entry.edited is None:
            return self._data.raw(index)
        return json.dumps(entry.edited, ensure_ascii=False, allow_nan=False).encode("utf-8")

    # --- rows and the journal ---------------------------------------------------------------------

    def _match(self, on_progress: Callable[[int, int], None] | None) -> list[int]:
        """Which rows of the file the journal speaks of; returns the decided ones, latest last."""
        known = {row for row, _ in self.journal.entries}
        numbers: dict[Key, int] = {}
        seen: Counter[str] = Counter()
        for index, digest in self._data.scan():
            if on_progress is not None and index % _ROWS_A_TELL == 0:
                on_progress(self._data.bytes_read, self._data.bytes)
            if digest in known:
                key = (digest, seen[digest])
                seen[digest] += 1
                if key in self.journal.entries:
                    numbers[key] = index
                    self._entries[index] = self.journal.entries[key]
        return [numbers[key] for key in self.journal.order if key in numbers]

    def _chosen(self, choose: Chosen | Choose | None) -> list[int] | range:
        if choose is None:
            return range(len(self._data))
        find = choose.rows if isinstance(choose, Chosen) else choose
        return find(self._data.lines, self.source)

    def _entry(self, index: int) -> Entry:
        return self._entries.get(index, Entry())


def _copy(file: BinaryIO, line: bytes) -> int:
    file.write(line if line.endswith(b"\n") else line + b"\n")
    return 1


def _parsed(raw: bytes, source: str, line: int) -> Example | Sequence[Fault]:
    content = content_of(raw)
    try:
        words = content.decode("utf-8")
    except UnicodeDecodeError as error:
        guess = guess_encoding(content) or Guess(BROKEN_UTF8, BROKEN_UTF8)
        return [encoding_fault(f"{source}:{line}", guess, error)]
    return parse_line(words, source=source, line=line)
