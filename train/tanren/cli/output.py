"""What a command gives back: a page for people or one JSON document, and an exit code.

Exit codes: 0 done, 1 the work failed, 2 the user's mistake, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import typer
from rich.console import Console

from tanren.cli.display import show_faults, text
from tanren.cli.streams import console, stdout_for_document
from tanren.errors import Fault, Interrupted, TanrenError, UserError

DEBUG = "TANREN_DEBUG"


def rank() -> int:
    """This process's number under torchrun; 0 elsewhere."""
    number = os.environ.get("RANK", "0")
    return int(number) if number.isdigit() else 0


@dataclass
class Output:
    """Where a command writes. `console` is for people: stdout, or stderr beside a document."""

    console: Console
    errors: Console
    document_stream: BinaryIO | None
    max_faults: int = 20
    """How many faults a person is shown; a document has all."""

    @property
    def json(self) -> bool:
        return self.document_stream is not None

    def give(self, document: Mapping[str, Any], show: Callable[[Console], None]) -> None:
        """The command's answer: the document with `--json`, else the page."""
        if self.document_stream is None:
            show(self.console)
        else:
            self._write(document)

    def fail(self, error: TanrenError) -> int:
        """Say what went wrong; returns the exit code."""
        debugging = bool(os.environ.get(DEBUG))
        if rank() == 0 or error.exit_code == 1 or debugging:
            self._show(error)
            if debugging:
                self.errors.print(text("".join(traceback.format_exception(error))))
        self._write_error(error.message, error.faults, error.exit_code)
        return error.exit_code

    def fail_with_bug(self, error: Exception) -> int:
        """An exception that nobody foresaw: ours to mend, so every process shows it whole."""
        trace = "".join(traceback.format_exception(error))
        message = f"a bug in tanren: {type(error).__name__}: {error}"
        self.errors.print(text(trace), soft_wrap=True)
        self.errors.print(text(f"error: {message}", "bold red"), soft_wrap=True)
        self.errors.print(
            text("This is not your mistake. Please report it with the lines above."),
            soft_wrap=True,
        )
        self._write_error(message, (), 1, trace)
        return 1

    def _show(self, error: TanrenError) -> None:
        stopped = isinstance(error, Interrupted)
        style = "bold yellow" if stopped else "bold red"
        who = f"[process {rank()}] " if rank() else ""
        message = error.message if stopped else f"error: {error.message}"
        self.errors.print(text(who + message, style), soft_wrap=True)
        show_faults(self.errors, error.faults, limit=self.max_faults)

    def _write_error(
        self, message: str, faults: Sequence[Fault], code: int, trace: str | None = None
    ) -> None:
        error: dict[str, Any] = {
            "message": message,
            "faults": [fault.as_dict() for fault in faults],
            "exit_code": code,
        }
        if trace is not None:
            error["traceback"] = trace
        self._write({"error": error})

    def _write(self, document: Mapping[str, Any]) -> None:
        if self.document_stream is None or rank() != 0:
            return
        with contextlib.suppress(BrokenPipeError):  # the reader left; the work is done all the same
            self.document_stream.write(encode(document))
            self.document_stream.flush()


def encode(document: Mapping[str, Any]) -> bytes:
    """A JSON document in UTF-8 and a newline. Numbers that JSON lacks (NaN) become null."""
    value = plain(document)
    shown = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    try:
        return shown.encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # half a character, from an undecodable file name
        return json.dumps(value, indent=2, allow_nan=False).encode("ascii") + b"\n"


def plain(value: Any) -> Any:
    """Values as JSON has them. Raises TypeError for what is no data."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


@contextlib.contextmanager
def opened(*, as_json: bool) -> Iterator[Output]:
    """The output of one command. Of torchrun's processes the first alone tells of its work."""
    silent = rank() != 0
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(stdout_for_document()) if as_json else None
        yield Output(
            console=console(stderr=as_json, quiet=silent),
            errors=console(stderr=True),
            document_stream=stream,
        )


def of(context: typer.Context) -> Output:
    """The output that `main` opened for this command."""
    output = context.obj
    assert isinstance(output, Output), "commands are started by tanren.cli.main"
    return output


def mistake(where: str, found: str, expected: str, remedy: str) -> UserError:
    """A user's mistake with one fault, which is most of them."""
    return UserError(
        "the command cannot be carried out as written", [Fault(where, found, expected, remedy)]
    )
