"""Texts, settings and files of the tests of distilling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tanren.distill.distillation import Distilled


def write_texts(folder: Path, count: int, *marks: str) -> Path:
    """Texts of different lengths; the first ones bear `marks`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        mark = marks[number] if number < len(marks) else ""
        text = f"{mark}文章{number:03d} about the number {number}. " * (1 + number % 4)
        (folder / f"{number:03d}.txt").write_text(text + "\n", encoding="utf-8")
    return folder


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def answers(file: Path) -> list[str]:
    """The accepted answers of a train.jsonl."""
    return [row["messages"][-1]["content"] for row in lines(file)]


def settings(url: str, source: Path | None = None, **changes: Any) -> dict[str, Any]:
    """Summaries of 100 characters +- 5 from the teacher at `url`."""
    teacher = {
        "base_url": url,
        "model": "t",
        "first_wait_seconds": 0.01,
        "timeout_seconds": 0.6,
        "max_tokens": 300,
        "temperature": 0.7,  # by chance: nothing is kept by content, so the journal has to serve
        **changes.pop("teacher", {}),
    }
    return {
        **({"source": str(source)} if source else {}),
        "teacher": teacher,
        "constraints": [{"length": {"target": 100, "tolerance": 5}}],
        "repairs": 6,
        **changes,
    }


def write_settings(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


Carry = Callable[..., Distilled]
