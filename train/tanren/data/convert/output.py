"""Files that appear under their name whole or not at all, the output and its ledger together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tanren.data.files import shown_path
from tanren.errors import ConfigError, Fault
from tanren.rundir import storage_errors

_BUFFER_BYTES = 1 << 20


def ledger_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.ledger.jsonl")


def require_free(out: Path, inputs: Sequence[str], *, overwrite: bool) -> None:
    """ConfigError where writing would destroy something, or cannot begin."""
    shown = shown_path(out)
    if out.is_dir():
        raise ConfigError.of(Fault(shown, "a folder", "a file", "write --out FOLDER/NAME.jsonl"))
    if any(_same_file(word, out) for word in inputs):
        remedy = "choose another --out"
        raise ConfigError.of(Fault(shown, "the input itself", "a new file", remedy))
    if not out.parent.is_dir():
        remedy = f"make it: mkdir -p {shown_path(out.parent)}"
        raise ConfigError.of(Fault(shown, "no such folder", "a file in a folder", remedy))
    if out.exists() and not overwrite:
        remedy = "add --overwrite, or choose another --out"
        raise ConfigError.of(Fault(shown, "a file there already", "a new file", remedy))


def _same_file(word: str, out: Path) -> bool:
    try:
        return os.path.samefile(word, out)
    except (OSError, ValueError):  # one of them is not there, or no path at all
        return False


class StagedFiles:
    """The output and, once a row is left out, its ledger, written beside their places."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.ledger: Path | None = None
        self._staged: list[tuple[BinaryIO, Path, Path]] = []
        self.main = self._open(out)

    def open_ledger(self) -> BinaryIO:
        self.ledger = ledger_path(self.out)
        return self._open(self.ledger)

    def _open(self, final: Path) -> BinaryIO:
        final = Path(os.path.realpath(final))
        staged = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        with storage_errors(final):
            file = open(staged, "wb", buffering=_BUFFER_BYTES)  # noqa: SIM115 - closed by `staged_files`
        self._staged.append((file, staged, final))
        return file

    def put_in_place(self) -> None:
        """Both at once; a ledger of an earlier output goes."""
        with storage_errors(self.out):
            for file, _, _ in self._staged:
                file.flush()
                os.fsync(file.fileno())
                file.close()
            for _, staged, final in self._staged[::-1]:  # the output last: it vouches for the rest
                os.replace(staged, final)
            if self.ledger is None:
                ledger_path(self.out).unlink(missing_ok=True)

    def discard(self) -> None:
        for file, staged, _ in self._staged:
            with contextlib.suppress(OSError):  # a full disk refuses what is still in the buffer
                file.close()
            staged.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_files(out: Path) -> Iterator[StagedFiles]:
    """Put in place at the end; after an error nothing of it is left."""
    files = StagedFiles(out)
    try:
        with storage_errors(out):
            yield files
        files.put_in_place()
    except BaseException:
        files.discard()
        raise
