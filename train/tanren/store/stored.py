"""Bytes that arrive: written aside, counted, hashed, flushed, and only then under their name.

While a receiver lives it holds the system's lock on its file, which ends with its process. So
`discard_leftovers` knows what a killed process left from what a living one writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from tanren.rundir import storage_errors
from tanren.store.errors import TooLarge

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_INCOMING = ".incoming"
_WITHOUT_LOCKS_SECONDS = 24 * 3600
"""Where the system has no such locks, what was not written to for so long is left over."""


class Incoming:
    """One file on its way in, as a context: what `keep` did not place is removed."""

    def __init__(self, root: Path, *, limit: int, what: str, with_md5: bool = False) -> None:
        """`root`: the folder whose `.incoming/` it waits in. More than `limit` bytes: TooLarge.
        `with_md5`: take that too, which some clients send to compare.
        """
        self.received = 0
        self._limit = limit
        self._what = what
        self._hashes = [hashlib.sha256()]
        if with_md5:
            self._hashes.append(hashlib.md5(usedforsecurity=False))
        self._path = root / _INCOMING / secrets.token_hex(12)
        self._kept: Path | None = None
        with storage_errors(self._path):
            make_private_folder(root)
            make_private_folder(self._path.parent)
            self._file = _open_locked(self._path)

    @property
    def sha256(self) -> str:
        return self._hashes[0].hexdigest()

    @property
    def md5(self) -> str:
        return self._hashes[1].hexdigest()

    def write(self, content: bytes) -> None:
        self.received += len(content)
        if self.received > self._limit:
            raise TooLarge(f"{self._what} may have {self._limit:,} bytes at most.")
        for each in self._hashes:
            each.update(content)
        with storage_errors(self._path):
            self._file.write(content)

    def keep(self, place: Path) -> None:
        """Flush to disk and put under its name. Until `settle` the end of the context removes it
        again.
        """
        with storage_errors(place):
            self._file.flush()
            os.fsync(self._file.fileno())
            make_private_folder(place.parent)
            os.rename(self._path, place)
            self._kept = place
            _flush_folder(place.parent)

    def settle(self) -> None:
        """It is known to the database: it stays."""
        self._kept = None

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for path in (self._path, self._kept):
            if path is not None:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a full disk: what could not be written is unwanted
            self._file.close()


class Receiver:
    """Bytes on their way in, as a context: `write` them, then have them kept. Without that nothing
    stays.
    """

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    def write(self, content: bytes) -> None:
        """Raises TooLarge, StorageError."""
        self._incoming.write(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._incoming.__exit__(kind, error, trace)


def make_private_folder(folder: Path) -> None:
    """For the owner's eyes alone: uploads are other people's words."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def discard_leftovers(root: Path, known: Callable[[], Container[str]]) -> int:
    """Remove what killed processes left below `root`: half-written files, and whole ones whose
    name is not among `known()`, the names that the database has. Returns how many.
    """
    names = known()
    left = [p for p in _files_below(root) if p.parent.name == _INCOMING or p.name not in names]
    removed = 0
    for path in left:
        with _held_by_nobody(path) as free:
            # asked again: its writer may have told the database before it let go of the lock
            if free and (path.parent.name == _INCOMING or path.name not in known()):
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _files_below(root: Path) -> list[Path]:
    return sorted(Path(f, name) for f, _, names in os.walk(root) for name in names)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _flush_folder(folder: Path) -> None:
    """So that a name outlives a power failure; Windows has no such thing."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- the system's locks ---------------------------------------------------------------------------


def _open_locked(path: Path) -> BinaryIO:
    """A new file that no other process takes for a leftover."""
    while True:
        file = open(path, "xb", opener=_private)  # noqa: SIM115 - its user closes it
        if fcntl is None:
            return file
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        if path.exists():
            return file
        file.close()  # removed as a leftover before it was locked


@contextlib.contextmanager
def _held_by_nobody(path: Path) -> Iterator[bool]:
    """Whether no living process writes it; meanwhile none begins to."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock_now(descriptor)
    finally:
        os.close(descriptor)


def _lock_now(descriptor: int) -> bool:
    if fcntl is None:
        return time.time() - os.fstat(descriptor).st_mtime > _WITHOUT_LOCKS_SECONDS
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
