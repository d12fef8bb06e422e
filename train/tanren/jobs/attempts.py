"""One job's run on its way to the end, in a thread of its own."""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path

from tanren.errors import TanrenError
from tanren.jobs.follow import Follower
from tanren.jobs.process import RunEnd, Stop, run_to_end
from tanren.jobs.slots import Slot
from tanren.rundir import RunDirectory


class Attempt:
    """Begins at once: adopts the run's process where one lives, else starts one.

    `slot_name` is the place it takes up; None: none, because nothing has to be computed.
    """

    def __init__(
        self, job: str, run: RunDirectory, slot: Slot, follower: Follower, *, takes_place: bool
    ) -> None:
        self.job = job
        self.run = run
        self.slot = slot
        self.follower = follower
        self.takes_place = takes_place
        self.stop = Stop()
        self.ended_at: float | None = None
        self.needed = 0
        self._kills_before = kernel_kills()
        self._end: RunEnd | None = None
        self._thread = threading.Thread(target=self._carry_out, name=f"job {job}", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def _carry_out(self) -> None:
        try:
            self._end = run_to_end(self.run, _private(self.slot), stop=self.stop)
        except TanrenError as error:
            self._end = RunEnd("failed", None, str(error), 0.0)
        except BaseException:  # a thread has nobody above it: the job tells of our bug
            self._end = RunEnd("failed", None, f"a bug in tanren: {traceback.format_exc()}", 0.0)
        finally:
            self.ended_at = time.monotonic()

    @property
    def end(self) -> RunEnd | None:
        """How it ended; None while it works."""
        return None if self._thread.is_alive() or self.ended_at is None else self._end

    def ask(self, *, at_once: bool) -> None:
        """For a checkpoint and an end; at once: for the end alone."""
        if at_once:
            self.stop.at_once.set()
        self.stop.set()

    @property
    def kernel_killed(self) -> bool:
        """Whether the kernel killed anything for lack of memory since this began."""
        return kernel_kills() > self._kills_before

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)


def _private(slot: Slot) -> Slot:
    """Whatever a client asked for, its job sends nothing anywhere."""
    return replace(slot, environment={**slot.environment, "WANDB_MODE": "offline"})


def kernel_kills() -> int:
    """How many processes the kernel has killed for lack of memory, in this container or machine."""
    container = _counter(Path("/sys/fs/cgroup/memory.events"), "oom_kill")
    return max(container, _counter(Path("/proc/vmstat"), "oom_kill"))


def _counter(file: Path, name: str) -> int:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0
    found = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
    return int(found[0]) if found else 0
