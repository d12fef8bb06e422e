"""A gate to quote from: the tiny chat model on the project's own rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tanren.config import RunConfig, load
from tanren.gate import Gate, examine

ROOT = Path(__file__).resolve().parents[2]
MODEL, DATA = ROOT / "data" / "tiny-chat", ROOT / "data" / "taro.jsonl"


def settings(*overrides: str) -> RunConfig:
    base = {"model": {"name": str(MODEL)}, "data": {"train": str(DATA)}}
    return load(None, overrides, base=base)


@cache
def gate_of(*overrides: str) -> Gate:
    return examine(settings(*overrides))


def unmarked(value: Any, path: str = "") -> Iterator[str]:
    """Paths of numbers that do not say how they are known. Truth values are no numbers."""
    if isinstance(value, Mapping):
        if value.get("mark") in ("counted", "measured", "estimated"):
            return
        for key, inner in value.items():
            yield from unmarked(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from unmarked(inner, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path
