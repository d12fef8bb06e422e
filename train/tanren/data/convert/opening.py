"""Inputs as files that can be read from the start more than once, packed or not."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tanren.data.convert.encodings import encoding_of
from tanren.data.files import open_data, shown_path
from tanren.errors import DataError, Fault

HEAD_BYTES = 1 << 20
"""As much is looked at to find out what a file is."""
MAX_LINE_CHARACTERS = 64 << 20
"""A longer line is no row, and reading it whole could take all memory."""

_EXPECTED = "rows as CSV, TSV, Excel (.xlsx), Parquet, JSON or JSONL"
_FOREIGN = (
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it: unzstd FILE"),
    (b"BZh", "a bzip2 file", "unpack it: bunzip2 -k FILE"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it: unxz -k FILE"),
    (b"ARROW1", "an Arrow file", "name the folder that `datasets` saved, or write Parquet"),
    (b"\xd0\xcf\x11\xe0", "an old or locked Excel file", "save it as .xlsx without a password"),
)


class Input:
    """One file that the user named. `name` is how it is shown, `path` where it can be read."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self._raw: io.FileIO | None = None
        with self.opened() as file, unpacking(name):
            self.head = file.read(HEAD_BYTES)
        if not self.head:
            fault = Fault(name, "an empty file", _EXPECTED, "write the rows or correct the path")
            raise DataError.of(fault)
        for mark, found, remedy in _FOREIGN:
            if self.head.startswith(mark):
                raise DataError.of(Fault(name, found, _EXPECTED, remedy.replace("FILE", name)))

    @property
    def suffix(self) -> str:
        """The last suffix in small letters; that before `.gz`."""
        return Path(self.name.lower().removesuffix(".gz")).suffix

    @property
    def total_bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def whole(self) -> bool:
        """Whether the head is all there is."""
        return len(self.head) < HEAD_BYTES

    def done_bytes(self) -> int:
        """Bytes of the file on disk that were read in the latest pass."""
        return 0 if self._raw is None or self._raw.closed else self._raw.tell()

    def opened(self) -> BinaryIO:
        self._raw = raw = _open(self.path)
        file = io.BufferedReader(raw, HEAD_BYTES)
        if file.peek(2)[:2] == b"\x1f\x8b":
            return io.BufferedReader(_Unpacked(file), HEAD_BYTES)
        return file

    def encoding(self, told: str | None, command: str) -> str:
        return encoding_of(self.head, self.name, told, command)

    @contextlib.contextmanager
    def text(self, encoding: str, newline: str) -> Iterator[io.TextIOWrapper]:
        """Decoded; bytes that cannot be are kept as lone surrogates, for a fault of their row."""
        with (
            self.opened() as file,
            io.TextIOWrapper(
                file, encoding=encoding, errors="surrogateescape", newline=newline
            ) as text,
            unpacking(self.name),
        ):
            yield text

    def lines(self, encoding: str, newline: str) -> Iterator[str]:
        """Lines with their ends, without a byte order mark."""
        with self.text(encoding, newline) as text:
            readline = text.readline
            line = readline(MAX_LINE_CHARACTERS).removeprefix("\ufeff")
            number = 1
            while line:
                if len(line) == MAX_LINE_CHARACTERS:
                    raise DataError.of(self._too_long(number))
                yield line
                line = readline(MAX_LINE_CHARACTERS)
                number += 1

    def _too_long(self, number: int) -> Fault:
        found = f"a line of more than {MAX_LINE_CHARACTERS >> 20} million characters"
        return Fault(f"{self.name}:{number}", found, "rows on lines", "check the format (--format)")


class _Unpacked(gzip.GzipFile):
    """A gzip file that closes the file it reads from."""

    def __init__(self, packed: BinaryIO) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


def _open(path: Path) -> io.FileIO:
    try:
        return io.FileIO(path)
    except (OSError, ValueError):
        with _as_rows():
            open_data(path).close()  # it knows what to say of every path that cannot be opened
        raise


@contextlib.contextmanager
def _as_rows() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        faults = (dataclasses.replace(fault, expected=_EXPECTED) for fault in error.faults)
        raise DataError.of(*faults) from None


@contextlib.contextmanager
def unpacking(name: str) -> Iterator[None]:
    """Faults of a damaged gzip file, and of an encoding that cannot go on after an error."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        fault = Fault(name, f"damaged gzip data ({error})", "a whole file", "fetch it again")
        raise DataError.of(fault) from None
    except UnicodeDecodeError as error:  # UTF-16 does not know where the next row begins
        found = f"bytes that are not {error.encoding} ({error.object[error.start :][:4].hex(' ')})"
        where = f"{name}, byte {error.start + 1} of the block read last"
        remedy = "name the right --encoding, or mend the file there"
        raise DataError.of(Fault(where, found, f"text in {error.encoding}", remedy)) from None
    except UnicodeError as error:
        fault = Fault(name, str(error), "text as named", "name the right --encoding")
        raise DataError.of(fault) from None


def named_input(word: str, stack: contextlib.ExitStack) -> Input:
    """The input of one word of the command line; `-` is standard input.

    What can be read only once (a pipe) is kept in a temporary file until `stack` is closed.
    """
    if word == "-":
        if sys.stdin is None:
            fault = Fault("-", "standard input closed", _EXPECTED, "pipe the rows in")
            raise DataError.of(fault)
        return Input("standard input", _kept(sys.stdin.buffer, stack))
    path = Path(word)
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        regular = True  # cannot be opened: that is told when it is
    if regular or path.is_dir():
        return Input(shown_path(path), path)
    with open(path, "rb") as pipe:
        return Input(shown_path(path), _kept(pipe, stack))


def _kept(pipe: BinaryIO, stack: contextlib.ExitStack) -> Path:
    kept = stack.enter_context(tempfile.NamedTemporaryFile(prefix="tanren-input-"))  # noqa: SIM115 - the stack closes it
    shutil.copyfileobj(pipe, kept)
    kept.flush()
    return Path(kept.name)
