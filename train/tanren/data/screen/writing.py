"""Files that appear together, whole, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tanren.errors import ConfigError, Fault
from tanren.rundir import staging_path, storage_errors


@contextlib.contextmanager
def staged_files(finals: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Open files beside their places; all are renamed once the block ends well, none otherwise."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(storage_errors(finals[0]))
        staged = [staging_path(final) for final in finals]
        stack.callback(_remove, staged)
        files: list[BinaryIO] = []
        for path in staged:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(stack.enter_context(open(path, "wb", buffering=1 << 20)))
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        for path, final in zip(staged, finals, strict=True):
            os.replace(path, final)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def require_free(finals: Sequence[Path], sources: Sequence[Path], *, overwrite: bool) -> None:
    """ConfigError where a target is a source, is named twice, or is there already."""
    faults = []
    read = {os.path.realpath(source) for source in sources}
    seen: set[str] = set()
    for final in finals:
        real = os.path.realpath(final)
        if real in read:
            remedy = "choose another --out"
            faults.append(Fault(str(final), "a file that is read", "a new file", remedy))
        elif real in seen:
            remedy = "screen files of the same name one after another"
            faults.append(Fault(str(final), "two files of one name", "one", remedy))
        elif final.is_dir():
            faults.append(Fault(str(final), "a folder", "a file", "name a file in it as --out"))
        elif final.exists() and not overwrite:
            remedy = "choose another --out or add --overwrite"
            faults.append(Fault(str(final), "something there already", "a new file", remedy))
        seen.add(real)
    if faults:
        raise ConfigError.of(*faults)
