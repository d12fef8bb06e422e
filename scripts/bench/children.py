"""A command as a process of its own, with what it cost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report import REPOSITORY, SILENT


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds by the clock, CPU seconds of all its threads, highest resident bytes, its output."""

    wall: float
    cpu: float
    peak_rss_bytes: int
    output: str


def measured(command: Sequence[str], *, threads: int) -> Measured:
    """Run `python COMMAND...`. Raises RuntimeError with the end of its error output when it
    fails.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command], stdout=output, stderr=errors, env=environment(threads)
        )
        # wait4 tells this child's own cost; `Popen.wait` would take it unseen.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            end = errors.read().decode("utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"{' '.join(command[:4])} ended with {process.returncode}:\n{end}")
        unit = 1 if sys.platform == "darwin" else 1024
        text = output.read().decode("utf-8")
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, text)


def environment(threads: int) -> dict[str, str]:
    """For every measured process: this checkout's code, the CPU alone, no network, no chatter, and
    threads that wait without spinning (a waiting one must cost nothing).
    """
    path = [str(REPOSITORY / "scripts"), str(REPOSITORY / "train")]
    return {
        **os.environ,
        **SILENT,
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "TANREN_DEVICE": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
