"""What will be run: every arm past the gate, with its steps, its first rate and its settings.

Nothing is trained before every arm has passed, so that a mistake in the last one is not found after
hours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tanren.compare.arms import ROWS, Shared, Variant
from tanren.compare.data import Served
from tanren.compare.folder import ComparisonFolder
from tanren.compare.settings import CompareConfig
from tanren.compare.subsets import subset
from tanren.config import RunConfig
from tanren.encode import Encoded
from tanren.environment import versions
from tanren.errors import ConfigError, Fault, TanrenError, UserError
from tanren.gate import Gate, examine

Tell = Callable[..., None]
COMPUTING = ("tanren", "torch", "transformers", "peft", "trl", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class PlannedArm:
    """`base_config` has this arm's steps and evaluations, but not yet a rate and a seed of its own.

    `auto_rate`: the rate the gate plans, the arm's own or its method's. `steps`: of a whole run.
    """

    variant: Variant
    base_config: RunConfig
    hashes: Mapping[str, str | None]
    steps: int
    auto_rate: float
    served: tuple[Served, ...]
    warnings: tuple[str, ...]
    own_order: bool
    """The shared settings name a `training.data_seed`: the order is the same for all seeds."""

    @property
    def name(self) -> str:
        return self.variant.name

    def config(self, *, rate: float, seed: int, steps: int | None = None) -> RunConfig:
        """The settings of one run; `steps`: fewer than a whole run has (a trial)."""
        # the gate's rate has the factor in it, and rates that are searched are meant as they are
        training: dict[str, Any] = {"learning_rate": rate, "learning_rate_multiplier": 1.0}
        if not self.own_order:
            training["data_seed"] = seed
        if steps is not None and steps < self.steps:
            training["max_steps"] = steps
        config = self.base_config
        return config.model_copy(
            update={"seed": seed, "training": config.training.model_copy(update=training)}
        )


@dataclass(frozen=True, slots=True)
class Plan:
    config: CompareConfig
    arms: tuple[PlannedArm, ...]
    reference: str
    notes: tuple[str, ...]

    @property
    def searched(self) -> tuple[PlannedArm, ...]:
        """Arms whose rate is searched."""
        if self.config.search.trials == 0:
            return ()
        return tuple(arm for arm in self.arms if not arm.variant.gives_rate)

    @property
    def most_runs(self) -> int:
        trials = len(self.searched) * self.config.search.trials
        return trials + len(self.arms) * len(self.config.seeds)


def planned(
    config: CompareConfig,
    shared: Shared,
    found: tuple[Variant, ...],
    folder: ComparisonFolder,
    tell: Tell,
) -> Plan:
    """Every arm past the gate. UserError with the faults of all of them."""
    faults: list[Fault] = []
    gates: dict[str, _Passed] = {}
    for variant in found:
        tell("stage", name="gate", text=f"{variant.name}: reading data and model")
        try:
            gates[variant.name] = _passed(variant, config, shared, folder)
        except UserError as error:
            faults += _named(variant, error)
    if faults:
        raise UserError.of(*dict.fromkeys(faults))
    reference = config.reference or found[0].name
    common = gates[reference].steps
    arms = tuple(_arm(v, gates[v.name], common, config, shared) for v in found)
    return Plan(config, arms, reference, _notes(arms))


@dataclass(frozen=True, slots=True)
class _Passed:
    """What is kept of a gate; the encoded rows are not."""

    config: RunConfig
    steps: int
    steps_per_epoch: int
    rate: float
    hashes: Mapping[str, str | None]
    served: tuple[Served, ...]
    warnings: tuple[str, ...]


def _passed(
    variant: Variant, config: CompareConfig, shared: Shared, folder: ComparisonFolder
) -> _Passed:
    own = _fixed_date(variant.config, folder)
    if own.objective.name != "sft":
        remedy = "compare runs that learn answers; `tanren eval` compares finished runs of any kind"
        raise ConfigError.of(Fault("objective.name", repr(own.objective.name), "'sft'", remedy))
    if variant.rows is not None:
        out = folder.rows_file(variant.rows, Path(own.data.train))
        subset(Path(own.data.train), variant.rows, seed=0, out=out)
        own = own.model_copy(update={"data": own.data.model_copy(update={"train": str(out)})})
    gate = examine(own)
    record = gate.data_record()
    return _Passed(
        config=own,
        steps=gate.plan.steps,
        steps_per_epoch=gate.plan.steps_per_epoch,
        rate=gate.plan.learning_rate,
        hashes={
            "train": record["train"]["sha256"],
            "validation": record["validation"]["sha256"] if record["validation"] else None,
            "model": record["base"],
            "tokens": _tokens_sha256([gate.train, gate.validation]),
            "versions": _versions(),
        },
        served=_served(gate),
        warnings=tuple(gate.warnings),
    )


def _tokens_sha256(parts: Sequence[Encoded | None]) -> str:
    """Of what template and tokenizer make of the rows: two texts or settings that give the same
    tokens are the same training.
    """
    digest = hashlib.sha256()
    for part in parts:
        if part is not None:
            for array in (part.input_ids, part.offsets, part.trained):
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _versions() -> str:
    """Of what computes a run: numbers of one version are not kept beside those of another."""
    found = versions()
    return ", ".join(f"{name} {found.get(name)}" for name in COMPUTING)


def _fixed_date(config: RunConfig, folder: ComparisonFolder) -> RunConfig:
    """Templates that tell the day are told the same one in every arm, whenever it runs."""
    if config.data.date is not None:
        return config
    day = folder.created[:10]
    return config.model_copy(update={"data": config.data.model_copy(update={"date": day})})


def _served(gate: Gate) -> tuple[Served, ...]:
    return tuple(Served(found.server, found.unmerged != "no", found.why) for found in gate.serving)


def _named(variant: Variant, error: TanrenError) -> list[Fault]:
    """The faults of an arm's gate; those of the shared data are the same for all of them."""
    if error.faults:
        return list(error.faults)
    return [Fault(f"arm {variant.name!r}", error.message, "an arm that can be trained", "mend it")]


def _arm(
    variant: Variant, gate: _Passed, common: int, config: CompareConfig, shared: Shared
) -> PlannedArm:
    evaluation: Any = shared.values.get("evaluation") or {}
    training: Any = shared.values.get("training") or {}
    own = gate.config
    steps, changes = gate.steps, {}
    if config.equal == "steps" and ROWS in variant.changes:
        # as many passes as the common number of steps takes; the exact number is the limit
        steps = common
        epochs = common / gate.steps_per_epoch
        changes = {"num_epochs": min(10_000.0, epochs + 1.0), "max_steps": common}
    every = own.evaluation.every or max(1, steps // config.evaluations)
    kept = own.evaluation.model_copy(
        update={
            "every": every,
            "samples": own.evaluation.samples if "samples" in evaluation else 0,
        }
    )
    return PlannedArm(
        variant=variant,
        base_config=own.model_copy(
            update={"evaluation": kept, "training": own.training.model_copy(update=changes)}
        ),
        hashes=gate.hashes,
        steps=steps,
        auto_rate=gate.rate,
        served=gate.served,
        warnings=gate.warnings,
        own_order="data_seed" in training and training["data_seed"] is not None,
    )


def _notes(arms: tuple[PlannedArm, ...]) -> tuple[str, ...]:
    """What the gates warn of, once, with the arms that it concerns."""
    told: dict[str, list[str]] = {}
    for arm in arms:
        for warning in arm.warnings:
            told.setdefault(warning, []).append(arm.name)
    everywhere = len(arms)
    return tuple(
        text if len(names) == everywhere else f"{', '.join(names)}: {text}"
        for text, names in told.items()
    )


def without_limits(arm: PlannedArm, rate: float, seed: int) -> RunConfig:
    """An arm's settings as a run of its own, for a person to train with."""
    config = arm.config(rate=rate, seed=seed)
    data = config.data.model_copy(update={"date": arm.variant.config.data.date})
    evaluation = config.evaluation.model_copy(
        update={"samples": arm.variant.config.evaluation.samples}
    )
    return config.model_copy(update={"data": data, "evaluation": evaluation})
