"""The files of a review, and the one that is reviewed, by lines."""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO

from tanren.data.files import is_regular, open_data, shown_path
from tanren.data.read import MAX_LINE_BYTES, ChatReader
from tanren.errors import ConfigError, DataError, Fault
from tanren.rundir import storage_errors

_BOM = b"\xef\xbb\xbf"
_FIRST_ROWS = 20


def journal_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.review.jsonl")


def rejected_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.rejected.jsonl")


def require_out(data: Path, out: Path, *, overwrite: bool) -> None:
    """ConfigError where writing would destroy what no review has made, or cannot begin."""
    if not out.parent.is_dir():
        remedy = f"make it: mkdir -p {shown_path(out.parent)}"
        fault = Fault(shown_path(out), "no such folder", "a file in a folder", remedy)
        raise ConfigError.of(fault)
    replaced = overwrite or journal_path(out).is_file()
    faults = []
    for path in (out, rejected_path(out), journal_path(out)):
        found = None
        remedy = "choose another --out"
        if path.is_dir():
            found = "a folder"
        elif path.exists() and data.exists() and path.samefile(data):
            found = "the input itself"
        elif path.exists() and not replaced:
            found, remedy = "a file that no review has made", f"add --overwrite, or {remedy}"
        if found:
            faults.append(Fault(shown_path(path), found, "a new file", remedy))
    if faults:
        raise ConfigError.of(*faults)


@contextlib.contextmanager
def staged_pair(out: Path, rejected_out: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Two files that appear whole, the output last, or not at all. An empty second one goes."""
    finals = [Path(os.path.realpath(path)) for path in (out, rejected_out)]
    staged = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in finals]
    with storage_errors(out):
        try:
            with open(staged[0], "wb") as accepted, open(staged[1], "wb") as rejected:
                yield accepted, rejected
                for file in (accepted, rejected):
                    file.flush()
                    os.fsync(file.fileno())
            if staged[1].stat().st_size:
                os.replace(staged[1], finals[1])
            else:
                finals[1].unlink(missing_ok=True)
            os.replace(staged[0], finals[0])
        finally:
            for path in staged:
                path.unlink(missing_ok=True)


def content_of(raw: bytes) -> bytes:
    """A line without what does not belong to its row: mark, line end, white space around it."""
    return raw.removeprefix(_BOM).strip(b" \t\r\n")


def hash_of(raw: bytes) -> str:
    return hashlib.sha256(content_of(raw)).hexdigest()


class DataLines:
    """The rows of a file by number: 24 bytes are kept of each."""

    def __init__(self, path: Path) -> None:
        """DataError for what is no chat file as a whole, and for a pipe: rows are read again."""
        self.path = path
        self.source = shown_path(path)
        self.lines = array("q")
        """1-based; blank lines are no rows."""
        self._offsets = array("q")
        self._digests = array("Q")
        for _ in ChatReader(path, limit=_FIRST_ROWS):
            pass
        self._file = open_data(path)
        if not is_regular(self._file):
            self._file.close()
            remedy = "save it first"
            raise DataError.of(Fault(self.source, "a pipe", "a file, read more than once", remedy))

        self.bytes = os.fstat(self._file.fileno()).st_size
        self.bytes_read = 0

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.lines)

    def scan(self) -> Iterator[tuple[int, str]]:
        """Every row's number and hash, while the file is read for the first time."""
        offset = 0
        for line, raw in enumerate(_lines(self._file, self.source), start=1):
            if content_of(raw):
                digest = hash_of(raw)
                self.lines.append(line)
                self._offsets.append(offset)
                self._digests.append(_short(digest))
                self.bytes_read = offset + len(raw)
                yield len(self.lines) - 1, digest
            offset += len(raw)

    def raw(self, index: int) -> bytes:
        """The line, its end included. DataError when the file was changed meanwhile."""
        self._file.seek(self._offsets[index])
        raw = self._file.readline()
        if _short(hash_of(raw)) != self._digests[index]:
            found = "another row than when the review began"
            remedy = "start the review again: what is decided is kept, changed rows are asked again"
            where = f"{self.source}:{self.lines[index]}"
            raise DataError.of(Fault(where, found, "the file unchanged", remedy))
        return raw

    def key(self, index: int) -> tuple[str, int]:
        """A row's hash, and how many equal rows stand before it."""
        return hash_of(self.raw(index)), self._digests[:index].count(self._digests[index])


def _short(digest: str) -> int:
    return int(digest[:16], 16)


def _lines(file: BufferedReader[FileIO], source: str) -> Iterator[bytes]:
    line = 0
    while raw := file.readline(MAX_LINE_BYTES):
        line += 1
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            found = f"a line of more than {MAX_LINE_BYTES >> 20} MiB"
            fault = Fault(f"{source}:{line}", found, "one row per line", "write one row per line")
            raise DataError.of(fault)
        yield raw
