"""Convert: sources -> shapes -> checked lines, with an account of every row."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tanren.data.convert.detect import shape_of
from tanren.data.convert.ledger import Ledger
from tanren.data.convert.output import require_free, staged_files
from tanren.data.convert.records import Broken, Record, Source, Tally
from tanren.data.convert.settings import Settings
from tanren.data.convert.shapes import NotMade, Shape
from tanren.data.convert.sources import open_sources
from tanren.data.convert.writing import checked_line, quick_line
from tanren.data.files import shown_path
from tanren.errors import DataError, UserError
from tanren.strict_json import read_json

PREVIEW_ROWS = 1_000
"""Source rows that a preview reads, over all inputs."""
SHOWN_CHATS = 3
REFUSED_BY_CHAT = "a chat that the format refuses"
_MAX_KEY_SETS = 10_000
_PROGRESS_EVERY = 4096

Progress = Callable[[int, int | None], None]


@dataclass(slots=True)
class Part:
    """One source and how it was read."""

    name: str
    format: str
    shape: str
    rows: int = 0
    blank: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    """Columns that no message uses -> rows that have them."""


@dataclass(slots=True)
class Conversion:
    """What was converted. rows_in == rows_used + rows_left_out of the ledger; a conversation may
    use several rows.
    """

    parts: list[Part]
    ledger: Ledger
    tally: Tally
    chats: int = 0
    warnings: int = 0
    """What the chat format finds legal and probably not meant; `tanren check` names each."""
    first: list[dict[str, Any]] = field(default_factory=list)
    """The first chats."""
    out: Path | None = None
    ledger_file: Path | None = None
    partial: bool = False
    """Whether only the first rows were read (a preview, or a limit)."""
    bytes: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "inputs": [
                {
                    "name": part.name,
                    "format": part.format,
                    "shape": part.shape,
                    "rows": part.rows,
                    "blank_rows": part.blank,
                    "unused_columns": dict(part.unused),
                }
                for part in self.parts
            ],
            **self.ledger.as_dict(),
            "chats": self.chats,
            "warnings": self.warnings,
            "notes": dict(self.tally),
            "first": self.first,
            "out": None if self.out is None else shown_path(self.out),
            "ledger": None if self.ledger_file is None else shown_path(self.ledger_file),
            "partial": self.partial,
            "bytes": self.bytes,
            "seconds": self.seconds,
        }


def convert(
    inputs: Sequence[str],
    out: Path,
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Conversion:
    """Write `inputs` (files, folders, names of data sets, `-`) as chat JSONL to `out`.

    Beside it `<out>.ledger.jsonl` names every row that gives nothing, if there is one. Raises
    DataError with the faults of all rows, and writes nothing, unless `settings.skip_faulty`.
    """
    require_free(out, inputs, overwrite=overwrite)
    with staged_files(out) as files:
        made = _run(inputs, settings or Settings(), files.main, files.open_ledger, on_progress)
        made.out, made.ledger_file = out, files.ledger
    return made


def convert_to(
    inputs: Sequence[str],
    stream: BinaryIO,
    settings: Settings | None = None,
    *,
    on_progress: Progress | None = None,
) -> Conversion:
    """The same into an open stream. Lines are written as they come, so after a DataError some may
    stand there.
    """
    return _run(inputs, settings or Settings(), stream, None, on_progress)


def preview(inputs: Sequence[str], settings: Settings | None = None) -> Conversion:
    """How the first rows would be read; writes nothing. Faulty rows are in the ledger."""
    settings = settings or Settings()
    limit = min(PREVIEW_ROWS, settings.limit or PREVIEW_ROWS)
    return _run(inputs, replace(settings, limit=limit, skip_faulty=True), None, None, None)


def _run(
    inputs: Sequence[str],
    settings: Settings,
    stream: BinaryIO | None,
    open_ledger: Callable[[], BinaryIO] | None,
    on_progress: Progress | None,
) -> Conversion:
    began = time.perf_counter()
    tally = Tally()
    made = Conversion([], Ledger(open_ledger), tally)
    with contextlib.ExitStack() as stack:
        sources = open_sources(inputs, settings, tally, stack)
        counted_before = dict(tally)
        shapes = _shapes(sources, settings, tally)
        tally.clear()  # rows were read to find the shapes: they are counted when they are used
        tally.update(counted_before)
        progress = _Progress(sources, on_progress)
        for source, shape in zip(sources, shapes, strict=True):
            _convert_source(_Watched(source, made, settings, progress), shape, made, stream)
    made.seconds = time.perf_counter() - began
    refused = refusal(made.ledger)
    if refused is not None and not settings.skip_faulty:
        raise refused
    return made


def _shapes(sources: Sequence[Source], settings: Settings, tally: Tally) -> list[Shape]:
    """The shape of each source; one error with the faults of all that have none."""
    shapes, errors = [], []
    for source in sources:
        try:
            shapes.append(shape_of(source, settings, tally))
        except UserError as error:
            errors.append(error)
    if len(errors) == 1 or (errors and len({str(e.faults) for e in errors}) == 1):
        raise errors[0]
    if errors:
        raise DataError("the rows cannot be read", [f for error in errors for f in error.faults])
    return shapes


def _convert_source(
    source: _Watched, shape: Shape, made: Conversion, stream: BinaryIO | None
) -> None:
    ledger, name = made.ledger, source.name
    write = None if stream is None else stream.write
    for result in shape.rows(source):
        if isinstance(result, NotMade):
            ledger.leave_out(name, result.line, result.reason, result.faults, rows=result.rows)
            continue
        line, row, rows = result
        encoded = quick_line(row) if type(row) is dict else None
        if encoded is None:
            checked = checked_line(row, source=name, line=line)
            if isinstance(checked, list):
                ledger.leave_out(name, line, REFUSED_BY_CHAT, checked, rows=rows)
                continue
            encoded, warnings = checked
            made.warnings += warnings
        ledger.rows_used += rows
        made.chats += 1
        made.bytes += len(encoded)
        if made.chats <= SHOWN_CHATS:
            made.first.append(read_json(encoded.decode("utf-8"), name)[0])
        if write is not None:
            write(encoded)
    source.finish(shape)


class _Progress:
    """Bytes read over all sources, told now and then."""

    def __init__(self, sources: Sequence[Source], tell: Progress | None) -> None:
        sizes = [source.total_bytes for source in sources]
        self._total = None if None in sizes else sum(size or 0 for size in sizes)
        self._before = 0
        self._tell = tell

    def show(self, source: Source) -> None:
        if self._tell is not None:
            self._tell(self._before + source.done_bytes(), self._total)

    def finish(self, source: Source) -> None:
        self._before += source.total_bytes or 0


class _Watched:
    """A source with its rows counted, up to the limit that all sources share."""

    def __init__(
        self, source: Source, made: Conversion, settings: Settings, progress: _Progress
    ) -> None:
        self.name = source.name
        self.said = source.said
        self.columns = source.columns
        self.total_bytes = source.total_bytes
        self._source = source
        self._made = made
        self._left = _rows_left(settings.limit, made)
        self._progress = progress
        self._rows = 0
        self._key_sets: Counter[tuple[str, ...]] = Counter()

    @property
    def blank(self) -> int:
        return self._source.blank

    def done_bytes(self) -> int:
        return self._source.done_bytes()

    def __iter__(self) -> Iterator[Record | Broken]:
        self._rows = 0
        self._key_sets.clear()
        key_sets, own_keys = self._key_sets, self.columns is None
        rows = iter(self._source)
        for record in rows if self._left is None else islice(rows, self._left):
            self._rows += 1
            if own_keys and type(record) is Record and type(record.value) is dict:
                keys = tuple(record.value)
                if keys in key_sets or len(key_sets) < _MAX_KEY_SETS:
                    key_sets[keys] += 1
            if not self._rows % _PROGRESS_EVERY:
                self._progress.show(self._source)
            yield record

    def finish(self, shape: Shape) -> None:
        made = self._made
        made.parts.append(
            Part(self.name, self.said, shape.said, self._rows, self.blank, self._unused(shape))
        )
        made.partial = made.partial or (self._left is not None and self._rows >= self._left)
        self._progress.finish(self._source)
        accounted = sum(part.rows for part in made.parts)
        assert made.ledger.rows_in == accounted, f"{accounted} rows, {made.ledger.rows_in} in all"

    def _unused(self, shape: Shape) -> Counter[str]:
        found: Counter[str] = Counter()
        if shape.columns is None:
            return found
        if self.columns is not None:
            found.update({c: self._rows for c in self.columns if c not in shape.columns})
        for keys, rows in self._key_sets.items():
            found.update({key: rows for key in keys if key not in shape.columns})
        return found


def _rows_left(limit: int | None, made: Conversion) -> int | None:
    return None if limit is None else max(0, limit - sum(part.rows for part in made.parts))


def refusal(ledger: Ledger) -> DataError | None:
    """The error of a conversion with faulty rows; None where there are none."""
    if not ledger.faulty_rows:
        return None
    hidden = ledger.fault_count - len(ledger.faults)
    words = f"{ledger.faulty_rows:,} of {ledger.rows_in:,} rows are faulty, so nothing is written"
    if hidden:
        words += f" ({hidden:,} more faults than are listed)"
    return DataError(f"{words}; mend them, or leave them out: --faulty skip", ledger.faults)
