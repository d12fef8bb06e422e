"""The axis "data size": files of fewer rows, the smaller ones among the larger."""

from __future__ import annotations

import hashlib
import os
import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path

from tanren.data.files import FileStamp, ensure_unchanged, is_regular, open_data, shown_path
from tanren.data.read import MAX_LINE_BYTES
from tanren.errors import DataError, Fault
from tanren.rundir import staging_path, storage_errors

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SubsetFacts:
    """`rows` of `of_rows` were written. Blank lines are no rows; rows with faults are."""

    rows: int
    of_rows: int
    seed: int
    source_sha256: str
    sha256: str
    """Of the file that was written."""


def subset(train: Path, rows: int, seed: int, out: Path) -> SubsetFacts:
    """Write the first `rows` of a seeded permutation of the rows of `train`, in file order.

    With the same seed more rows contain fewer. Lines stay byte for byte as they are, without byte
    order marks; the last one ends with a newline too. The file is read twice and needs 5 bytes of
    memory a row.

    DataError for a file that cannot be read twice, changes meanwhile, has too few rows, or is `out`
    itself.
    """
    if rows < 1:
        raise ValueError(f"no subset of {rows} rows")
    with open_data(train) as file:
        _refuse(file, train, out)
        stamp = FileStamp.of(os.fstat(file.fileno()))
        digest = hashlib.sha256()
        total = sum(1 for _ in _rows(file, train, digest))
    if total < rows:
        there = f"{total} row{'s' if total != 1 else ''}"
        remedy = f"ask for at most {total} (data.rows), or add rows"
        raise DataError.of(Fault(shown_path(train), there, f"at least {rows}", remedy))
    chosen = _chosen(total, rows, seed)
    written = _write(out, _taken(train, chosen, stamp))
    return SubsetFacts(rows, total, seed, digest.hexdigest(), written)


def _refuse(file: BufferedReader[FileIO], train: Path, out: Path) -> None:
    if not is_regular(file):
        remedy = "save it to a file first"
        raise DataError.of(
            Fault(shown_path(train), "a pipe", "a file that can be read twice", remedy)
        )
    if out.exists() and out.samefile(train):
        raise DataError.of(
            Fault(shown_path(out), "the training file itself", "another file", "choose another")
        )


def _rows(
    file: BufferedReader[FileIO], path: Path, digest: hashlib._Hash | None = None
) -> Iterator[bytes]:
    """Lines that are not blank, without byte order marks, each ending with a newline."""
    line = 0
    while raw := file.readline(MAX_LINE_BYTES):
        line += 1
        if digest is not None:
            digest.update(raw)
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            found = f"a line of more than {MAX_LINE_BYTES >> 20} MiB"
            where = f"{shown_path(path)}:{line}"
            remedy = "write one JSON object per line"
            raise DataError.of(Fault(where, found, "one row per line", remedy))
        raw = raw.removeprefix(_BOM)
        if raw.strip(b" \t\r\n"):
            yield raw if raw.endswith(b"\n") else raw + b"\n"


def _taken(train: Path, chosen: bytearray, stamp: FileStamp) -> Iterator[bytes]:
    """The chosen rows. DataError at the end where the file is no longer the one they were chosen
    of, so that nothing is put in place.
    """
    with open_data(train) as file:
        for row, taken in zip(_rows(file, train), chosen, strict=False):
            if taken:
                yield row
    ensure_unchanged(train, stamp)


def _chosen(total: int, rows: int, seed: int) -> bytearray:
    """1 for each of the first `rows` of a permutation of `total` row numbers, else 0.

    Fisher-Yates from the front: draw i decides place i, so a longer prefix only adds rows.
    `random()` is what Python promises to keep from version to version.
    """
    draw = random.Random(seed).random
    order = array("L", range(total)) if total >= 1 << 32 else array("I", range(total))
    marks = bytearray(total)
    for i in range(rows):
        j = i + int(draw() * (total - i))
        order[i], order[j] = order[j], order[i]
        marks[order[i]] = 1
    return marks


def _write(out: Path, lines: Iterator[bytes]) -> str:
    """The lines under their name, whole or not at all; returns the SHA-256 of the file."""
    digest = hashlib.sha256()
    staged = staging_path(out)
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(staged, "wb") as file:
                for line in lines:
                    digest.update(line)
                    file.write(line)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, out)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
    return digest.hexdigest()
