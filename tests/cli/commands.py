"""Running the command line: in this process, or as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.config import RunConfig, validate
from tanren.rundir import RunDirectory, write_json

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; fails where anything else stands beside it."""
        return json.loads(self.out)

    @property
    def faults(self) -> list[dict[str, str]]:
        return self.document["error"]["faults"]


def start(*words: str, **environment: str | None) -> subprocess.Popen[bytes]:
    """`python -P -m tanren ...` with changes to the environment; None takes a variable out."""
    wanted = {**os.environ, "PYTHONPATH": str(ROOT / "train"), **environment}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tanren", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in wanted.items() if value is not None},
    )


def run(*words: str, **environment: str | None) -> Ended:
    process = start(*words, **environment)
    out, err = process.communicate(timeout=120)
    return Ended(process.returncode, out.decode("utf-8"), err.decode("utf-8"))


def settings(**changes: Mapping[str, Any]) -> RunConfig:
    values: dict[str, Any] = {"model": {"name": "tiny"}, "data": {"train": "a.jsonl"}, **changes}
    return validate(values, source="test")


def chat_line(question: str, answer: str) -> str:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def make_run(path: Path, config: RunConfig | None = None, **result: Any) -> RunDirectory:
    """A run that looks as if it had been carried out."""
    made = RunDirectory.create(path, config or settings())
    made.event("started", device="cpu", world_size=1, resumed_from=None)
    made.event("step", step=1, steps=2, epoch=0.5, loss=3.5, learning_rate=1e-3)
    made.event("step", step=2, steps=2, epoch=1.0, loss=2.25, learning_rate=1e-3)
    outcome = {
        "run": str(path),
        "state": "succeeded",
        "steps": 2,
        "loss": {"first": 3.5, "last": 2.25},
        "answers": [{"prompt": "[red]日本語", "before": "い", "after": "ろ", "stopped": True}],
        "proof": {"passed": True, "tensors": 4},
        **result,
    }
    write_json(made.result_file, outcome)
    write_json(made.data_file, {"train": {"path": "a.jsonl", "sha256": "aa"}, "validation": None})
    write_json(made.environment_file, {"versions": {"torch": "2"}, "command": ["tanren"]})
    made.event("succeeded", result=outcome)
    return made
