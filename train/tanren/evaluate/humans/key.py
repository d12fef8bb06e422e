"""The key of a sheet: which item is which row, and who gave which answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.errors import DataError, Fault
from tanren.evaluate.humans.sheet import FORMAT_VERSION, KEY_FORMAT
from tanren.evaluate.judges.scale import Mode
from tanren.rundir import read_json


@dataclass(frozen=True, slots=True)
class Key:
    """`places`: by item, its row and its models in the order in which they were shown. `model` and
    `against` are the models of pairs, else empty.
    """

    sheet: str
    mode: Mode
    criteria: tuple[str, ...]
    model: str
    against: str
    places: Mapping[str, tuple[int, tuple[str, ...]]]


def read_key(path: Path) -> Key:
    """The `key.json` that was written with a sheet. DataError if it is none."""
    values: Any = read_json(path)
    found = values.get("format") if isinstance(values, dict) else None
    if found != KEY_FORMAT or values.get("version") != FORMAT_VERSION:
        remedy = "name the key.json that was written beside for-raters/"
        raise DataError.of(
            Fault(
                str(path), "no key of a rating sheet", f"a key of version {FORMAT_VERSION}", remedy
            )
        )
    return Key(
        sheet=values["sheet"],
        mode=values["mode"],
        criteria=tuple(criterion["name"] for criterion in values["criteria"]),
        model=values["model"],
        against=values["against"],
        places={
            item: (place["row"], tuple(place["models"])) for item, place in values["items"].items()
        },
    )
