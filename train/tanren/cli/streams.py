"""Standard streams: readable on any locale, alone for a document, calm when the reader leaves."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from typing import BinaryIO

from rich.console import Console

PIPED_WIDTH = 160
"""Columns of a table that is not on a terminal, where `COLUMNS` says nothing."""

_SAMPLE = "日本語 é … ━ ▇"


def prepare() -> None:
    """Make stdin, stdout and stderr exist and carry any text (T26).

    An encoding that cannot hold Japanese (ASCII, Latin-1) becomes UTF-8 unless PYTHONIOENCODING
    asks for it. Whatever still cannot be encoded, such as half of a damaged file name, is written
    as `\\udce6`, never raised.
    """
    _open_closed_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=_encoding(stream), errors="backslashreplace")


def _open_closed_descriptors() -> None:
    """`tanren ... >&-`: a closed descriptor would be given to the next file that is opened."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _encoding(stream: TextIOWrapper) -> str:
    if os.environ.get("PYTHONIOENCODING"):
        return stream.encoding
    try:
        _SAMPLE.encode(stream.encoding)
    except UnicodeEncodeError:
        return "utf-8"
    return stream.encoding


@contextlib.contextmanager
def stdout_for_document() -> Iterator[BinaryIO]:
    """The real stdout as bytes; all else that is written there, by C code too, is on stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    stream = os.fdopen(kept, "wb", closefd=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield stream
    finally:
        with contextlib.suppress(BrokenPipeError):
            stream.close()
        os.dup2(kept, 1)
        os.close(kept)


class CalmConsole(Console):
    """A console that takes text as it is (no markup) and falls silent when its reader has left.

    `tanren train ... | head` ends the output, not the training.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2 if self.stderr else 1)
        os.close(nowhere)


def console(*, stderr: bool = False, quiet: bool = False) -> CalmConsole:
    """The console for stdout or stderr. Off a terminal its tables are wide enough not to be cut."""
    stream = sys.stderr if stderr else sys.stdout
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    return CalmConsole(
        stderr=stderr,
        quiet=quiet,
        markup=False,
        highlight=False,
        emoji=False,
        width=PIPED_WIDTH if wide else None,
    )
