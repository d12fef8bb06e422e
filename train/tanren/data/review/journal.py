"""What was decided, in the order in which it was: a file that only grows.

One JSON object a line. A row is known by the hash of its line and by how many equal rows stand
before it, so that a row that has changed is nobody's any more, and a file that was sorted anew
keeps its decisions.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from tanren.data.files import shown_path
from tanren.errors import DataError, Fault, RunError
from tanren.rundir import storage_errors

Decision = Literal["accept", "edit", "reject"]
Key = tuple[str, int]
_DECISIONS = ("accept", "edit", "reject", "undo", "note")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row's decision; None: it has only a note. `edited` is the new row of an edit."""

    decision: Decision | None = None
    edited: Mapping[str, Any] | None = None
    note: str = ""


class Journal:
    """Entries by row, and every change on disk before it counts. One process at a time."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; of a last line that is only half there, as after a crash, nothing
        is kept. Raises RunError while another review writes here, DataError for a damaged line.
        """
        self.path = path
        self.entries: dict[Key, Entry] = {}
        self.order: dict[Key, None] = {}
        """Decided rows, the latest decision last."""
        with storage_errors(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - locked until `close`
        try:
            _lock(self._file, path)
            self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """A journal in which nothing was written is not left behind."""
        if self._file.closed:
            return
        empty = self._file.seek(0, os.SEEK_END) == 0
        if empty:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def decide(
        self, key: Key, line: int, decision: Decision, edited: Mapping[str, Any] | None = None
    ) -> None:
        self._append(key, line, {"do": decision, **({"edited": edited} if edited else {})})

    def undo(self, key: Key, line: int) -> None:
        self._append(key, line, {"do": "undo"})

    def note(self, key: Key, line: int, words: str) -> None:
        """Replaces the row's note; empty words remove it."""
        self._append(key, line, {"do": "note", "note": words})

    def _append(self, key: Key, line: int, change: dict[str, Any]) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"time": stamp, "row": key[0], "nth": key[1], "line": line, **change}
        written = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        with storage_errors(self.path):
            self._write(written)
        self._apply(entry)

    def _write(self, line: bytes) -> None:
        """The whole line or nothing of it, as far as a full disk lets us."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise

    def _read(self) -> None:
        whole = 0
        with open(self.path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    with storage_errors(self.path):
                        self._file.truncate(whole)
                    return
                whole += len(raw)
                entry = _entry(raw)
                if entry is None:
                    where = f"{shown_path(self.path)}:{number}"
                    remedy = "restore it, or move it away to begin anew"
                    fault = Fault(where, "no entry of a review", "the journal as written", remedy)
                    raise DataError.of(fault)
                self._apply(entry)

    def _apply(self, entry: Mapping[str, Any]) -> None:
        key: Key = (entry["row"], entry["nth"])
        old, do = self.entries.get(key, Entry()), entry["do"]
        if do == "note":
            new = Entry(old.decision, old.edited, entry["note"])
        else:
            self.order.pop(key, None)
            decision = None if do == "undo" else do
            new = Entry(decision, entry.get("edited"), old.note)
            if decision is not None:
                self.order[key] = None
        self.entries[key] = new


def _lock(file: FileIO, path: Path) -> None:
    """Two reviews into one journal would not know of each other's decisions."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        where, remedy = shown_path(path), "end the other review first"
        fault = Fault(where, "another review at work", "one at a time", remedy)
        raise RunError.of(fault) from None
    except OSError:  # a file system without locks
        return


def _entry(raw: bytes) -> dict[str, Any] | None:
    """The entry of a line; None where it is none."""
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(entry, dict) or entry.get("do") not in _DECISIONS:
        return None
    if not isinstance(entry.get("row"), str) or not isinstance(entry.get("nth"), int):
        return None
    if entry["do"] == "edit" and not isinstance(entry.get("edited"), dict):
        return None
    if entry["do"] == "note" and not isinstance(entry.get("note"), str):
        return None
    return entry
