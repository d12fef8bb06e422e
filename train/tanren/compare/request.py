"""From words on the command line to a comparison: `method.rank=8,16` is an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tanren.compare.settings import CompareConfig, load_comparison
from tanren.config import read_value, read_yaml
from tanren.errors import ConfigError, Fault

METHODS = ("lora", "qlora", "dora", "lora_plus")
"""What is compared where nothing else was named."""
COMPARISON = {"base", "arms", "grid", "seeds", "test"}
"""Keys that only a comparison's file has; any other is a run's."""
_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line says of the comparison itself."""

    source: Path
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `CompareConfig`; None where they were not given."""
    trials: int | None = None
    test: Mapping[str, Any] = field(default_factory=dict)
    default_methods: bool = True


def comparison(asked: Asked) -> CompareConfig:
    """ConfigError with every fault of the file and the words."""
    read = _read(asked.source)
    values: dict[str, Any] = {k: v for k, v in asked.settings.items() if v is not None}
    grid = {**(read.get("grid") or {}), **asked.axes}
    arms = read.get("arms") or {}
    clash = [key for key in asked.axes if any(_overlap(key, own) for own in arms.values())]
    if clash:
        raise ConfigError.of(
            *(
                Fault(
                    f"axis {key}",
                    f"arms in {asked.source} that set it",
                    "an axis that no arm decides on",
                    "leave the axis away, or remove `arms` from the file",
                )
                for key in clash
            )
        )
    if not grid and not arms and asked.default_methods:
        grid = {"method": METHODS}
    values["grid"] = grid
    if asked.trials is not None:
        values["search"] = {**(read.get("search") or {}), "trials": asked.trials}
    if asked.test:
        values["test"] = {**(read.get("test") or {}), **asked.test}
    return load_comparison({**read, **values}, source=str(asked.source))


def _overlap(axis: str, arm: Any) -> bool:
    """Whether an arm of a file decides on what an axis would."""
    keys = arm if isinstance(arm, Mapping) else {}
    return any(key == axis or f"{key}.".startswith(f"{axis}.") for key in keys)


def _read(source: Path) -> dict[str, Any]:
    """The file as settings of a comparison: it may be one, a run's settings, or data."""
    if source.suffix.lower() not in _YAML:
        return {"base": {"data": {"train": str(source)}}}
    read = read_yaml(source)
    return read if COMPARISON & read.keys() else {"base": str(source)}


def axis(word: str) -> tuple[str, tuple[Any, ...]]:
    """`key=v1,v2` as (key, values). ConfigError where there is none."""
    key, _, text = word.partition("=")
    pieces = split_values(text)
    if not key.strip() or not all(piece.strip() for piece in pieces):
        fault = Fault(repr(word), "no values", "key.path=value,value", "write method.rank=8,16")
        raise ConfigError.of(fault)
    return key.strip(), tuple(read_value(piece) for piece in pieces)


def split_values(text: str) -> list[str]:
    """At commas that stand in no brackets: `all-linear,[q_proj,v_proj]` has two values."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces
