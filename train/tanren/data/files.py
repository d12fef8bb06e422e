"""Opening a data file: everything that makes a file as a whole unusable, each with its remedy."""

from __future__ import annotations

import difflib
import os
import shlex
import stat
import unicodedata
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path

from tanren.data.encoding import encoding_fault, marked_encoding
from tanren.errors import DataError, Fault
from tanren.strict_json import quoted

BUFFER_BYTES = 1 << 20

_EXPECTED = "a text file with one JSON object per line (JSONL)"
_CONTENT_MARKS = (
    (b"\x1f\x8b", "gzip", "unpack it: gunzip -k {path}"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unpack it: unzstd {path}"),
    (b"BZh", "bzip2", "unpack it: bunzip2 -k {path}"),
    (b"\xfd7zXZ\x00", "xz", "unpack it: unxz -k {path}"),
    (b"PAR1", "Parquet", "write its rows as JSONL, for example with pandas: {pandas_parquet}"),
    (b"ARROW1", "Arrow", "write its rows as JSONL"),
    (b"PK\x03\x04", "zip (or Excel)", "unpack it, or export the sheet and write its rows as JSONL"),
)
_TABLE_SUFFIXES = {".csv": "comma-separated", ".tsv": "tab-separated"}


def shown_path(path: Path) -> str:
    """The path as text that can always be printed and encoded.

    Under an ASCII locale Python carries the bytes of `日本語` as lone surrogates; their bytes are
    UTF-8 all the same.
    """
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What changes when somebody writes to a file or puts another in its place."""

    size: int
    """Bytes."""
    modified_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def ensure_unchanged(path: Path, before: FileStamp) -> None:
    """DataError when the file at `path` is not the one that `before` was taken of."""
    where, expected = shown_path(path), "the file unchanged while it is read"
    remedy = "wait until nothing writes to it and start again"
    try:
        after = FileStamp.of(os.stat(path))
    except FileNotFoundError:
        raise DataError.of(Fault(where, "no file any more", expected, remedy)) from None
    if after == before:
        return
    found = "the file rewritten"
    if after.size != before.size:
        found = f"{after.size} bytes after {before.size} bytes before"
    raise DataError.of(Fault(where, found, expected, remedy))


def open_data(path: Path) -> BufferedReader[FileIO]:
    """The file, at its first byte, buffered so that `peek` sees its head. DataError if unusable.

    Pipes such as `/dev/stdin` are welcome: nothing is read twice.
    """
    where = shown_path(path)
    try:
        file = BufferedReader(FileIO(path), BUFFER_BYTES)
    except FileNotFoundError:
        raise DataError.of(_missing(path)) from None
    except IsADirectoryError:
        raise DataError.of(_directory(path)) from None
    except NotADirectoryError:
        remedy = "correct the path: one of its folders is a file"
        raise DataError.of(Fault(where, "no such file", _EXPECTED, remedy)) from None
    except PermissionError:
        fault = Fault(where, "a file that may not be read", _EXPECTED, f"chmod +r {_quoted(path)}")
        raise DataError.of(fault) from None
    except OSError as error:  # a name too long, a device that fails, ...
        found = error.strerror or "a file that cannot be opened"
        raise DataError.of(Fault(where, found, _EXPECTED, "correct the path")) from error
    except ValueError:  # a zero byte in the path
        fault = Fault(quoted(where), "a path with a NUL character", _EXPECTED, "correct the path")
        raise DataError.of(fault) from None
    fault_of_head = _wrong_kind(path, file.peek(BUFFER_BYTES))
    if fault_of_head:
        file.close()
        raise DataError.of(fault_of_head)
    return file


def is_regular(file: BufferedReader[FileIO]) -> bool:
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def _wrong_kind(path: Path, head: bytes) -> Fault | None:
    where = shown_path(path)
    if not head:
        return Fault(where, "an empty file", _EXPECTED, "write the rows or correct the path")
    for mark, name, remedy in _CONTENT_MARKS:
        if head.startswith(mark):
            pandas = f"pd.read_parquet({where!r}).to_json(..., orient='records', lines=True)"
            how = remedy.format(path=_quoted(path), pandas_parquet=pandas)
            return Fault(where, f"a {name} file", _EXPECTED, how)
    guess = marked_encoding(head)
    if guess:
        return encoding_fault(f"{where}:1", guess, copy=copy_command(path, "utf8"))
    table = _TABLE_SUFFIXES.get(path.suffix.lower())
    if table and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        columns = head.split(b"\n", 1)[0].decode("utf-8", errors="replace").strip("\ufeff\r")
        remedy = 'write each row as {"messages": [...]} on a line of its own'
        return Fault(where, f"a {table} table ({quoted(columns)})", _EXPECTED, remedy)
    return None


def copy_command(path: Path, mark: str) -> str:
    """The end of a shell command that reads `a.jsonl` and writes `a.mark.jsonl` beside it."""
    copy = path.with_name(f"{path.stem}.{mark}{path.suffix}")
    return f"{_quoted(path)} > {_quoted(copy)}"


def _quoted(path: Path) -> str:
    return shlex.quote(shown_path(path))


def _directory(path: Path) -> Fault:
    names = sorted(_names(path, files_only=True), key=lambda name: (not _is_data(name), name))
    listed = ", ".join(shown_path(path / name) for name in names[:3])
    remedy = f"name a file in it, such as {listed}" if names else "name a file (it is empty)"
    return Fault(shown_path(path), "a folder", _EXPECTED, remedy)


def _missing(path: Path) -> Fault:
    """The nearest names in the folder; the first folder that is missing if there is none."""
    folder = path.parent
    if not folder.is_dir():
        while not folder.parent.is_dir():
            folder = folder.parent
        close = _close_names(folder.name, _names(folder.parent, files_only=False))
        found = f"no folder {shown_path(folder)}"
        return Fault(shown_path(path), found, _EXPECTED, _suggestion(folder.parent, close))
    close = _close_names(path.name, _names(folder, files_only=True))
    return Fault(shown_path(path), "no such file", _EXPECTED, _suggestion(folder, close))


def _suggestion(folder: Path, close: list[str]) -> str:
    if not close:
        return "correct the path"
    return "did you mean " + " or ".join(shown_path(folder / name) for name in close) + "?"


def _close_names(name: str, names: list[str]) -> list[str]:
    """At most three names, compared without case and across Unicode forms (が is one or two)."""
    by_folded = {_folded(other): other for other in sorted(names)}
    matches = difflib.get_close_matches(_folded(name), by_folded, n=3, cutoff=0.6)
    stem = _folded(Path(name).stem)
    same_stem = [folded for folded in by_folded if _folded(Path(folded).stem) == stem]
    return [by_folded[folded] for folded in dict.fromkeys([*same_stem, *matches])][:3]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _names(folder: Path, *, files_only: bool) -> list[str]:
    try:
        return [
            entry.name
            for entry in os.scandir(folder)
            if (entry.is_file() if files_only else entry.is_dir())
        ]
    except OSError:  # the suggestion is a courtesy; the fault itself stands without it
        return []


def _is_data(name: str) -> bool:
    return name.endswith((".jsonl", ".json"))
