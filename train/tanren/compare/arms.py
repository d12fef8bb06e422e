"""From settings to arms: what each one changes, and the run's settings that this makes.

An arm's method keeps what the shared settings say of the method only where they differ from that
method's own defaults: a rank of 8 goes along from lora to dora, an `lr_ratio` of 1 that lora has
anyway does not become lora_plus's.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.compare.settings import CompareConfig
from tanren.config import RunConfig, flattened, lay, read_yaml, validate
from tanren.errors import ConfigError, Fault, TanrenError
from tanren.methods import METHODS

ROWS = "data.rows"
"""The one axis that is no setting of a run: train on so many rows of the file."""
RATE = "training.learning_rate"
LENGTHS = ("training.num_epochs", "training.max_steps")
METHOD = "method"
FIXED = ("seed", "training.data_seed")
"""What the comparison itself sets: an arm that changed it would see other rows or other luck."""


LONGEST_NAME = 45
NAME = re.compile(rf"[^/\\=:@\n]{{1,{LONGEST_NAME}}}")
"""Names become those of models in an evaluation, `NAME seed 1=FOLDER`."""


@dataclass(frozen=True, slots=True)
class Variant:
    """An arm before anything ran. `changes`: its overrides by dotted path, as they were written.

    `rows`: how many training rows it has, None for all. `gives_rate`: it names its own rate.
    """

    name: str
    changes: Mapping[str, Any]
    config: RunConfig
    rows: int | None

    @property
    def gives_rate(self) -> bool:
        return RATE in self.changes and self.changes[RATE] != "auto"


@dataclass(frozen=True, slots=True)
class Shared:
    """The settings that all arms start from, as plain values, and where they were read."""

    values: Mapping[str, Any]
    source: str


def shared_settings(config: CompareConfig, overrides: Mapping[str, Any]) -> Shared:
    """`base` with `overrides` (dotted path -> value) laid over it. ConfigError where it is no YAML
    file.
    """
    if isinstance(config.base, str):
        values, source = read_yaml(Path(config.base)), config.base
    else:
        values, source = dict(config.base), "base"
    for key, value in overrides.items():
        lay(values, key, value)
    return Shared(values, source)


def variants(config: CompareConfig, shared: Shared) -> tuple[Variant, ...]:
    """Every arm, in order. ConfigError with every fault of every arm."""
    faults: list[Fault] = []
    found = []
    for name, changes in _named_changes(config):
        faults += _forbidden(name, changes, config)
        try:
            found.append(_variant(name, changes, shared))
        except TanrenError as error:
            faults += error.faults
    faults = list(dict.fromkeys(faults))
    if not faults:
        faults = [*_twins(found), *_unusable(found, config)]
    if faults:
        raise ConfigError.of(*faults)
    return tuple(found)


def _named_changes(config: CompareConfig) -> list[tuple[str, dict[str, Any]]]:
    """(name, changes) of `arms` times `grid`."""
    named = list(config.arms.items()) or [("", {})]
    axes = [[(key, value) for value in values] for key, values in config.grid.items()]
    return [
        (_name(name, combination), {**changes, **dict(combination)})
        for name, changes in named
        for combination in itertools.product(*axes)
    ]


def _name(arm: str, combination: Sequence[tuple[str, Any]]) -> str:
    """`dora rank 8 rows 100`: what tells it apart, in the order of the grid."""
    words = [arm] if arm else []
    for key, value in combination:
        shown = _word(value)
        alone = key in (METHOD, "method.name")
        words.append(shown if alone else f"{key.rpartition('.')[2]} {shown}")
    words[bool(arm) :] = [re.sub(r"[/\\=:@\n]", "-", word) for word in words[bool(arm) :]]
    name = " ".join(words)
    if len(name) <= LONGEST_NAME or not combination:
        return name
    return f"{name[: LONGEST_NAME - 7]} {hashlib.sha256(name.encode('utf-8')).hexdigest()[:6]}"


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        name = value.get("name")
        rest = [f"{key}={_word(inner)}" for key, inner in value.items() if key != "name"]
        return " ".join([str(name)] * (name is not None) + rest)
    if isinstance(value, list | tuple):
        return "+".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _forbidden(arm: str, changes: Mapping[str, Any], config: CompareConfig) -> list[Fault]:
    faults = [
        Fault(
            f"arm {arm!r} {key}",
            f"{changes[key]!r}",
            "the same for all arms",
            "leave it to `seeds`: every seed is a run of every arm",
        )
        for key in FIXED
        if key in changes
    ]
    if not NAME.fullmatch(arm):
        faults.append(
            Fault(
                f"arm {arm!r}",
                "this name",
                f"1 to {LONGEST_NAME} characters without / \\ = : @",
                "rename it",
            )
        )
    if ROWS in changes and config.equal == "steps":
        faults += [
            Fault(
                f"arm {arm!r} {key}",
                f"{changes[key]!r} beside {ROWS}",
                "as many steps as all others have",
                "leave it away, or say `equal: epochs`",
            )
            for key in LENGTHS
            if key in changes
        ]
    rows = changes.get(ROWS)
    if ROWS in changes and not (isinstance(rows, int) and not isinstance(rows, bool) and rows > 0):
        faults.append(Fault(f"arm {arm!r} {ROWS}", repr(rows), "a number of rows", "change it"))
    return faults


def _variant(name: str, changes: Mapping[str, Any], shared: Shared) -> Variant:
    values = dict(shared.values)
    method = changes.get(METHOD, changes.get("method.name"))
    if method is not None:
        values[METHOD] = _method(values.get(METHOD), method)
    for key, value in changes.items():
        if key not in (METHOD, "method.name", ROWS):
            lay(values, key, list(value) if isinstance(value, tuple) else value)
    return Variant(
        name=name,
        changes=changes,
        config=validate(values, source=f"{shared.source} arm {name!r}"),
        rows=changes.get(ROWS),
    )


def _method(shared: Any, wanted: Any) -> Any:
    """The arm's method with what the shared method says beyond its own defaults."""
    chosen = {"name": wanted} if isinstance(wanted, str) else dict(wanted)
    told = {"name": shared} if isinstance(shared, str) else dict(shared or {"name": "lora"})
    own, target = METHODS.get(told.get("name", "lora")), METHODS.get(str(chosen.get("name")))
    if own is None or target is None:
        return chosen if target is not None or own is None else {**told, **chosen}
    kept = {
        key: value
        for key, value in told.items()
        if key in target.model_fields
        and key != "name"
        and (target is own or key not in own.model_fields or value != own.model_fields[key].default)
    }
    return {**kept, **chosen}


def _twins(found: Sequence[Variant]) -> list[Fault]:
    """Names that stand twice, and arms that are the same run under two names."""
    faults = []
    names: dict[str, str] = {}
    runs: dict[str, str] = {}
    for variant in found:
        if variant.name in names:
            faults.append(
                Fault(f"arm {variant.name!r}", "the name twice", "a name of its own", "rename one")
            )
        names[variant.name] = variant.name
        content = f"{variant.rows} {variant.config.model_dump_json()}"
        twin = runs.setdefault(content, variant.name)
        if twin != variant.name:
            faults.append(
                Fault(
                    f"arm {variant.name!r}",
                    f"the same settings as {twin!r}",
                    "arms that differ",
                    "remove one of them",
                )
            )
    return faults


def _unusable(found: Sequence[Variant], config: CompareConfig) -> list[Fault]:
    faults = []
    if len(found) < 2:
        faults.append(
            Fault(
                "arms", f"{len(found)} arm", "at least two", "add a method, or values to the grid"
            )
        )
    names = [variant.name for variant in found]
    if config.reference is not None and config.reference not in names:
        faults.append(
            Fault("reference", repr(config.reference), "one of " + ", ".join(names), "name one")
        )
    if any(not variant.config.data.validation for variant in found):
        faults.append(
            Fault(
                "data.validation",
                "nothing",
                "rows that no arm is trained on",
                "name a file; `tanren data split` makes one from the training file",
            )
        )
    return faults


def differences(configs: Mapping[str, RunConfig]) -> tuple[dict[str, Any], dict[str, dict]]:
    """(shared, by arm): settings that are equal everywhere, and each arm's where they are not.

    Resolved ones, defaults included, by dotted path; a setting that an arm's method does not have
    is left out there.
    """
    flat = {name: flattened(config.model_dump(mode="json")) for name, config in configs.items()}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    missing = object()
    equal = {
        key
        for key in keys
        if all(
            values.get(key, missing) == flat[next(iter(flat))].get(key, missing)
            for values in flat.values()
        )
    }
    first = next(iter(flat.values()))
    return (
        {key: first[key] for key in keys if key in equal},
        {
            name: {key: value for key, value in values.items() if key not in equal}
            for name, values in flat.items()
        },
    )
