"""One command of ours in a process of its own, followed to its end.

A child belongs to no terminal and outlives its starter: where that is killed, the child works on,
and who comes next waits for it instead of starting it again. What it prints lies in a file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from tanren.jobs.slots import Slot
from tanren.rundir import (
    RunDirectory,
    name_process,
    named_process,
    one_at_a_time,
    storage_errors,
)

EndState = Literal["succeeded", "failed", "interrupted", "killed", "refused", "created"]
GRACE_SECONDS = 120.0
"""For the step that is being made, and for saving a checkpoint."""
_POLL_SECONDS = 0.05
_TOLD_LINES = 3


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a command ended. `why` is empty where nothing went wrong.

    `refused`: turned away before any work. `created`: stopped before it began. `exit_code` is None
    where no process was started or another one's was waited for; below zero: the signal.
    `paused`: it stands where it was to stand.
    """

    state: EndState
    exit_code: int | None
    why: str
    seconds: float
    paused: bool = False

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"


class Stop(threading.Event):
    """Asks for an orderly end; `at_once` asks for one without delay."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = threading.Event()

    @contextlib.contextmanager
    def asked_by_signals(self) -> Iterator[None]:
        """In the main thread: Ctrl-C and SIGTERM ask for an orderly end, once more for one without
        delay.
        """

        def ask(number: int, frame: FrameType | None) -> None:
            if self.is_set():
                self.at_once.set()
            self.set()

        before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


# --- a run ----------------------------------------------------------------------------------------


def run_to_end(
    run: RunDirectory,
    slot: Slot,
    *,
    until_step: int | None = None,
    stop: threading.Event | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> RunEnd:
    """Bring a run to its end, or to `until_step`, from wherever it stands, and say how that went.

    A process that works on it already is waited for. A run that was stopped, killed or failed goes
    on from its last checkpoint, once; how that ends is told, not tried again.
    """
    stop = stop or Stop()
    began = time.monotonic()
    while True:
        while (owner := process_of(run)) is not None and not stop.is_set():
            _follow(_Adopted(owner, _file_of(run, owner)), stop, grace_seconds)
            end = _outcome(run, None, "", until_step, began)
            if end.paused or end.state in ("killed", "failed") or stop.is_set():
                return end
            if end.state == "interrupted" and not _was_planned(run):
                return end  # somebody stopped it: that is not ours to undo
        if owner is not None:  # stopped before it was adopted
            _follow(_Adopted(owner, _file_of(run, owner)), stop, grace_seconds)
        if _stands(run, until_step) or stop.is_set():
            return _outcome(run, None, "", until_step, began)
        words = ["run", str(run.path), *_how(run)]
        if until_step is not None:
            words += ["--until-step", str(until_step)]
        child = Child(words, run.output_file, slot)
        name_process(_starting(run), child.pid)
        try:
            code = _follow(child, stop, grace_seconds)
        finally:
            _starting(run).unlink(missing_ok=True)
        if code == 2 and run.owner() is not None:
            continue  # another one was quicker: that one is waited for
        return _outcome(run, code, child.said(), until_step, began)


def process_of(run: RunDirectory) -> int | None:
    """Process id of who works on the run, or was started to and has not come so far yet."""
    return run.owner() or named_process(_starting(run))


def _file_of(run: RunDirectory, owner: int) -> Path:
    return run.process_file if run.owner() == owner else _starting(run)


def _starting(run: RunDirectory) -> Path:
    """Names a process from its start; it names itself only when it has imported everything."""
    return run.path / "starting.json"


def _how(run: RunDirectory) -> list[str]:
    return [] if run.state() == "created" else ["--resume"]


def _stands(run: RunDirectory, until_step: int | None) -> bool:
    """Whether there is nothing to do."""
    if until_step is not None:
        return run.has_reached(until_step)
    return run.state() == "succeeded"


def _was_planned(run: RunDirectory) -> bool:
    last = run.last_event()
    return last is not None and last.get("planned") is True


def _outcome(
    run: RunDirectory, code: int | None, said: str, until_step: int | None, began: float
) -> RunEnd:
    """What became of the run, from its own words and its process's end."""
    seconds = round(time.monotonic() - began, 3)
    state = run.state()
    if state == "succeeded":
        return RunEnd("succeeded", code, "", seconds)
    reached = until_step is not None and run.has_reached(until_step)
    if reached and code in (None, 0):
        return RunEnd("interrupted", code, "", seconds, paused=True)
    last = run.last_event() or {}
    if last.get("event") == "refused":
        return RunEnd("refused", code, _told(last), seconds)
    if state in ("failed", "interrupted"):
        return RunEnd(state, code, _told(last), seconds)
    if code is not None and code > 0:  # it ended without a word in its events
        return RunEnd("failed", code, said or f"it ended with exit code {code}", seconds)
    if state == "created" and code is None:
        return RunEnd("created", None, "stopped before it began", seconds)
    return RunEnd("killed", code, _killed(code), seconds)


def _told(event: dict[str, object]) -> str:
    """One line: the error and its first fault."""
    error = str(event.get("error") or event.get("message") or "")
    faults = event.get("faults")
    if not isinstance(faults, list) or not faults:
        return error
    first = faults[0]
    words = f"{first.get('where')}: found {first.get('found')}, expected {first.get('expected')}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{error}: {words}{more}"


def _killed(code: int | None) -> str:
    if code is None or code >= 0:
        return "its process is gone without a word"
    words = f"killed by {_signal_name(-code)} (signal {-code})"
    if -code == signal.SIGKILL:
        words += "; where nobody did that, this machine may have run out of memory"
    return words


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a signal"


# --- any other command ----------------------------------------------------------------------------


def command_to_end(
    arguments: Sequence[str],
    folder_for_log: Path,
    slot: Slot,
    stop: threading.Event | None = None,
    *,
    grace_seconds: float = GRACE_SECONDS,
) -> RunEnd:
    """`tanren ARGUMENTS`, with what it prints in `output.log` of that folder.

    Where an earlier caller was killed and its command works on in that folder, its end is waited
    for first. Then the command is started all the same: it has to know what is done already.
    """
    stop = stop or Stop()
    began = time.monotonic()
    with storage_errors(folder_for_log):
        folder_for_log.mkdir(parents=True, exist_ok=True)
    file = folder_for_log / "process.json"
    child = None
    while child is None:
        owner = named_process(file)
        if owner is not None:
            _follow(_Adopted(owner, file), stop, grace_seconds)
        if stop.is_set():
            return RunEnd("created", None, "stopped before it began", _since(began))
        with one_at_a_time(folder_for_log):
            if named_process(file) is None:
                child = Child(arguments, folder_for_log / "output.log", slot)
                name_process(file, child.pid)
    try:
        code = _follow(child, stop, grace_seconds)
    finally:
        file.unlink(missing_ok=True)
    return _command_end(code, child.said(), stop, _since(began))


def _command_end(code: int, said: str, stop: threading.Event, seconds: float) -> RunEnd:
    if code == 0:
        return RunEnd("succeeded", code, "", seconds)
    if code == 130 or stop.is_set():
        return RunEnd("interrupted", code, "stopped before its end", seconds)
    if code < 0:
        return RunEnd("killed", code, _killed(code), seconds)
    state: EndState = "refused" if code == 2 else "failed"
    return RunEnd(state, code, said or f"it ended with exit code {code}", seconds)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)


# --- processes ------------------------------------------------------------------------------------


class Child:
    """`python -P -m tanren ...`, begun at once, in a session and process group of its own.

    `module` names another one of ours, for what is no command.

    As a context manager it leaves nothing behind.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, slot: Slot, *, module: str = "tanren"
    ) -> None:
        self.log = log
        self._begins_at = log.stat().st_size if log.exists() else 0
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **slot.environment}
        with storage_errors(log), open(log, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code; None while it works."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self._process.wait(timeout)

    def ask(self) -> None:
        """SIGTERM: a run saves a checkpoint and ends."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """The whole group, at once."""
        if self._process.poll() is None:  # until then nobody else can have its number
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def terminate(self, grace_seconds: float = GRACE_SECONDS) -> int:
        """Asked first, killed where that is not enough; its exit code."""
        self.ask()
        try:
            return self.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()

    def said(self) -> str:
        """The last lines that it printed, as one."""
        with open(self.log, "rb") as file:
            file.seek(max(self._begins_at, self.log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
        return " ".join([line.strip() for line in lines if line.strip()][-_TOLD_LINES:])

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()


class _Adopted:
    """A process that somebody else began, known by its number and its place."""

    def __init__(self, pid: int, file: Path) -> None:
        self.pid = pid
        self._file = file

    def poll(self) -> int | None:
        """None while it works; then 0, for nobody but its parent learns its exit code."""
        return None if named_process(self._file) == self.pid else 0

    def ask(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if number == signal.SIGKILL and os.getpgid(self.pid) == self.pid:
                    os.killpg(self.pid, number)
                else:
                    os.kill(self.pid, number)


def _follow(process: Child | _Adopted, stop: threading.Event, grace_seconds: float) -> int:
    """Wait for its end, or bring it about when `stop` is set; its exit code."""
    while (code := process.poll()) is None:
        if stop.wait(_POLL_SECONDS):
            return _end(process, stop, grace_seconds)
    return code


def _end(process: Child | _Adopted, stop: threading.Event, grace_seconds: float) -> int:
    process.ask()
    at_once = stop.at_once if isinstance(stop, Stop) else threading.Event()
    for _ in _until(time.monotonic() + grace_seconds):
        if (code := process.poll()) is not None:
            return code
        if at_once.wait(_POLL_SECONDS):
            break
    process.kill()
    while (code := process.poll()) is None:
        time.sleep(_POLL_SECONDS)
    return code


def _until(deadline: float) -> Iterator[None]:
    while time.monotonic() < deadline:
        yield
