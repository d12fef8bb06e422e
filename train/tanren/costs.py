"""What training has cost so far: time, energy, memory; and sums of what its steps measured.

It lies in every checkpoint, so that a resumed run goes on counting where that checkpoint was; what
a killed process did after it is done again and counts once.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.energy import EnergyCounter, no_counter

if TYPE_CHECKING:
    from torch import Tensor


class Costs:
    """A stopwatch over optimizer steps alone: evaluating and saving are left out.

    `measured_tokens` and `measured_seconds` are of the steps that speed is measured on.
    """

    def __init__(self, energy: EnergyCounter = no_counter) -> None:
        self.measured_tokens = 0
        self.measured_seconds = 0.0
        self.peak_memory_bytes = 0
        self.peak_host_bytes = 0
        self._energy = energy
        self._seconds: float | None = 0.0
        self._joules: float | None = 0.0
        self._since: tuple[float, float | None] | None = None
        self._elapsed = 0.0

    # --- the stopwatch ----------------------------------------------------------------------------

    def start(self) -> None:
        if self._since is None:
            self._since = time.monotonic(), self._energy()

    def stop(self) -> None:
        if self._since is None:
            return
        began, joules = self._since
        now = self._energy()
        self._elapsed += time.monotonic() - began
        spent = None if now is None or joules is None else max(now - joules, 0.0)
        self._joules = None if spent is None or self._joules is None else self._joules + spent
        self._since = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done here is no training; outside of training nothing changes."""
        running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()

    @property
    def elapsed(self) -> float:
        """Seconds of training in this process."""
        running = time.monotonic() - self._since[0] if self._since is not None else 0.0
        return self._elapsed + running

    @property
    def train_seconds(self) -> float | None:
        """Seconds of training since the run began; None where an earlier attempt kept none."""
        return None if self._seconds is None else round(self._seconds + self.elapsed, 3)

    @property
    def energy_joules(self) -> float | None:
        """Of the device in that time, up to the last stop."""
        return None if self._joules is None else round(self._joules, 1)

    # --- speed and memory -------------------------------------------------------------------------

    def measured(self, tokens: int, seconds: float) -> None:
        self.measured_tokens += tokens
        self.measured_seconds += seconds

    def tokens_per_second(self) -> float | None:
        """Over all measured steps; None where there are none."""
        if not self.measured_seconds:
            return None
        return round(self.measured_tokens / self.measured_seconds, 1)

    def saw_memory(self, device_bytes: int) -> None:
        """`device_bytes`: the largest that the device's allocator has held until now."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, device_bytes)
        self.peak_host_bytes = max(self.peak_host_bytes, peak_of_process())

    # --- over several attempts --------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        return {
            "train_seconds": self.train_seconds,
            "measured_tokens": self.measured_tokens,
            "measured_seconds": round(self.measured_seconds, 6),
            "energy_joules": self.energy_joules,
            "peak_memory_bytes": self.peak_memory_bytes,
            "peak_host_bytes": self.peak_host_bytes,
        }

    def go_on(self, saved: Mapping[str, Any]) -> None:
        """From what a checkpoint kept. One of an older version has none of it."""
        self._seconds = saved.get("train_seconds")
        self._joules = saved.get("energy_joules")
        self.measured_tokens = saved.get("measured_tokens", 0)
        self.measured_seconds = saved.get("measured_seconds", 0.0)
        self.peak_memory_bytes = saved.get("peak_memory_bytes", 0)
        self.peak_host_bytes = saved.get("peak_host_bytes", 0)


def peak_of_process(status: Path = Path("/proc/self/status")) -> int:
    """Most bytes of memory that this process has held; 0 where the system does not tell.

    Linux's own figure is asked first: `ru_maxrss` of a process may be its parent's, as a program
    that is started takes over what its starter had.
    """
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    if kilobytes is not None:
        return int(kilobytes) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


class Tally:
    """Sums over the steps since the last log line, kept on the device: reading one waits for it.

    `add` counts for a step that may yet be tried again; `keep` when it is made, `drop` when not.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}
        self._open: dict[str, Any] = {}

    def add(self, **sums: Tensor | float) -> None:
        for name, value in sums.items():
            self._open[name] = self._open.get(name, 0) + value

    def keep(self) -> None:
        for name, value in self._open.items():
            self._kept[name] = self._kept.get(name, 0) + value
        self._open = {}

    def drop(self) -> None:
        self._open = {}

    def take(self, processes: int = 1) -> dict[str, float]:
        """The sums, over all processes; they start at zero again. Each process asks at once."""
        sums = {name: float(value) for name, value in sorted(self._kept.items())}
        self._kept = {}
        if processes == 1:
            return sums
        import torch.distributed as dist

        everyone: list[dict[str, float]] = [{}] * processes
        dist.all_gather_object(everyone, sums)
        names = sorted({name for one in everyone for name in one})
        return {name: sum(one.get(name, 0.0) for one in everyone) for name in names}
