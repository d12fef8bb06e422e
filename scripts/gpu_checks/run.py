"""Runs sections on request: the process behind `gpu_check.py`.

Each line on standard input is a request, {"section": NAME, "seconds": N}; answers are lines on
standard output: {"row": {...}}, then {"done": true} or {"skipped": "reason"}. Where there is a GPU,
everything is imported before the first request, and the GPU is not touched until then.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from gpu_checks import answering, exporting, numerics, serving, speed, training
from gpu_checks.lab import Lab, Row, Skipped

SECTIONS: dict[str, Callable[[Lab], Iterator[Row]]] = {
    "environment": numerics.environment,
    "attention": numerics.attention,
    "nf4": numerics.nf4,
    "packed": numerics.packed,
    "merge": numerics.merge,
    "export": exporting.exporting,
    "answering": answering.answering,
    "serving": serving.serving,
    "preferences": serving.preferences,
    "methods": training.four_methods,
    "throughput": speed.throughput,
    "memory": training.memory,
    "out_of_memory": training.out_of_memory,
    "planning": training.planning,
    "ladder": speed.ladder,
}


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    def say(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message, default=str) + "\n")
        channel.flush()

    settings = json.loads(sys.argv[1])
    cuda = torch.cuda.is_available() and not settings["cpu"]
    if cuda:
        _import_libraries()
    say({"ready": True, "cuda": cuda})
    for line in sys.stdin:
        request = json.loads(line)
        lab = _lab(settings, request["seconds"])
        try:
            for row in SECTIONS[request["section"]](lab):
                say({"row": {name: _plain(value) for name, value in row.items()}})
        except Skipped as reason:
            say({"skipped": str(reason)})
        else:
            say({"done": True})
        lab.clear()


def _import_libraries() -> None:
    """What takes seconds to import, while another process still has the GPU."""
    import tanren.pipeline
    import tanren.sft  # noqa: F401


def _lab(settings: dict[str, Any], seconds: float) -> Lab:
    kind = "cpu" if settings["cpu"] or not torch.cuda.is_available() else "cuda"
    return Lab(
        device=torch.device(kind, 0) if kind == "cuda" else torch.device("cpu"),
        work=Path(settings["work"]),
        tiny=settings["tiny"],
        deadline=time.monotonic() + seconds,
        big=settings["big"],
    )


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


if __name__ == "__main__":
    main()
