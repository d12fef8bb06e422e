"""Fair turns: contestants live in processes of their own and step one at a time.

A turn is everything between two ends of a step: writing logs, fetching the next batch, forward,
backward, optimizer. The contestant waits at the end of its turn until the referee gives the next
one, so rounds A B C D A B C D ... share the machine's moods, and the processes' memory is their
own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil

from bench.children import environment


class Turns:
    """The contestant's side. Standard output belongs to the referee; prints go to standard
    error.
    """

    def __init__(self) -> None:
        self._channel: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._wall = self._cpu = 0.0

    def ready(self) -> None:
        """Call before the first step; returns when it may begin."""
        self._say({"ready": True, "rss_bytes": psutil.Process().memory_info().rss})
        self._wait()

    def lap(self, loss: float) -> None:
        """Call at the end of a step; returns when the next may begin."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._say({"wall": wall, "cpu": cpu, "loss": loss, "peak_rss_bytes": peak_rss()})
        self._wait()

    def done(self, **facts: Any) -> None:
        """Call at the end, with what there is to tell."""
        self._say({"done": True, **facts})

    def _say(self, message: dict[str, Any]) -> None:
        self._channel.write(json.dumps(message) + "\n")
        self._channel.flush()

    def _wait(self) -> None:
        sys.stdin.readline()
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def peak_rss() -> int:
    """Highest resident bytes of this process so far."""
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of one contestant. `wall` and `cpu` in seconds; `others`: share of all cores that
    everyone else used meanwhile.
    """

    wall: float
    cpu: float
    loss: float
    others: float


class Contestant:
    """The referee's side of one process."""

    def __init__(self, name: str, module: str, spec: dict[str, Any], *, threads: int) -> None:
        self.name = name
        self.turns: list[Turn] = []
        self.facts: dict[str, Any] = {}
        self._errors = Path(spec["work"]) / f"{name}.stderr"
        with self._errors.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(threads),
                encoding="utf-8",
            )

    def prepare(self) -> None:
        """Wait until it stands before its first step."""
        self.facts["ready_rss_bytes"] = self._hear()["rss_bytes"]

    def step(self) -> Turn:
        """Let it take one step."""
        before, began = _busy_seconds(), time.perf_counter()
        self._go()
        message = self._hear()
        seconds = time.perf_counter() - began
        busy = _busy_seconds() - before
        others = max(0.0, busy - message["cpu"]) / (seconds * (os.cpu_count() or 1))
        turn = Turn(message["wall"], message["cpu"], message["loss"], others)
        self.facts["peak_rss_bytes"] = message["peak_rss_bytes"]
        self.turns.append(turn)
        return turn

    def finish(self) -> None:
        """Let it end, and hear what it has to tell."""
        self._go()
        self.facts |= self._hear()
        self._process.communicate()

    def close(self) -> None:
        """End the process whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            end = self._errors.read_text(encoding="utf-8")[-3000:]
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{end}")
        return dict(json.loads(line))


def _busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used, and what its host took away."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)
