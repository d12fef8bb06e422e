"""Seconds and memory of one export step, alone in a process.

python -m bench.export_speed STEP BASE ADAPTER OUT     STEP: merge, merge-nf4, gguf-TYPE

Imports and planning are not counted. Memory is what the step adds to the process's own (anonymous)
pages; what the system keeps of files is not the process's. Files are flushed to disk within the
time, as an export does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def main() -> None:
    step, base, adapter, out = sys.argv[1], *map(Path, sys.argv[2:5])
    print(json.dumps(measure(step, base, adapter, out)))


def measure(step: str, base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Seconds, bytes written, bytes of memory beyond what was there when the step began. The step
    runs twice: looking at memory all the time takes time itself.
    """
    out.mkdir(parents=True, exist_ok=True)
    work = _gguf(step, base, out) if step.startswith("gguf-") else _merge(step, base, adapter, out)
    with Watch() as watch:
        work()
    for file in out.iterdir():
        file.unlink()
    began = time.perf_counter()
    work()
    for file in out.iterdir():
        flush(file)
    seconds = time.perf_counter() - began
    written = sum(file.stat().st_size for file in out.iterdir())
    return {"seconds": seconds, "bytes": written, "memory": watch.peak - watch.start}


def _merge(step: str, base: Path, adapter: Path, out: Path) -> Callable[[], Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    from tanren.export.merge import merge, plan_merge
    from tanren.export.merge.adapter_file import AdapterFile
    from tanren.export.merge.checkpoint import Checkpoint
    from tanren.export.merge.nf4 import through_nf4

    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    plan = plan_merge(
        Checkpoint(base),
        AdapterFile.read(adapter),
        outline,
        nf4=step == "merge-nf4",
        compute_dtype=torch.bfloat16,
    )
    through_nf4(torch.ones(64, 64))  # its libraries are imported before the clock runs
    return lambda: merge(plan, out)


def _gguf(step: str, base: Path, out: Path) -> Callable[[], Any]:
    from tanren.export.gguf import GgufType, write_gguf

    kind = GgufType(step.removeprefix("gguf-"))
    return lambda: write_gguf(base, out / "model.gguf", type=kind)


def flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Watch:
    """Looks at the process's own memory every few milliseconds (Linux; zero elsewhere)."""

    def __enter__(self) -> Watch:
        self.start = self.peak = anonymous_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._stop.wait(0.004):
            self.peak = max(self.peak, anonymous_bytes())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def anonymous_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
