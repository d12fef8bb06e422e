"""Speed that was measured: here a moment ago, or by a run that has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tanren.errors import Fault, RunError
from tanren.gate import Gate
from tanren.quote.amounts import Mark
from tanren.rundir import RunDirectory, read_json

_SPEED_DEPENDS_ON = ("model.dtype", "training.packing", "training.gradient_checkpointing")


@dataclass(frozen=True, slots=True)
class Measured:
    """`where`: what was measured and on what, in words. `device`: its name. `watts`: the mean draw
    if `watts_mark` is measured, else the board's limit, an upper bound; None where neither is
    known.
    """

    tokens_per_second: float
    where: str
    device: str
    watts: float | None
    watts_mark: Mark
    warnings: tuple[str, ...] = ()


def measured_here(gate: Gate, measured: Mapping[str, Any]) -> Measured:
    """What a few steps showed (the figures of `tanren check --measure`)."""
    return Measured(
        tokens_per_second=measured["tokens_per_second"],
        where=f"{measured['steps']} steps on {gate.device.name}",
        device=gate.device.name,
        watts=measured["watts"],
        watts_mark="estimated",
    )


def measured_by(run: RunDirectory, gate: Gate) -> Measured:
    """A run's speed, if it is that of the training that is quoted.

    Raises RunError for a run without a speed, or one of another model or method.
    """
    result = read_json(run.result_file) if run.result_file.is_file() else {}
    rate = result.get("tokens_per_second")
    name = str(run.path)
    if not isinstance(rate, int | float) or rate <= 0:
        remedy = "name a run that has ended and made more than one step, or use --measure"
        fault = Fault(f"--measured {name}", "no measured speed", "a finished run", remedy)
        raise RunError.of(fault)
    _require_same_work(run, gate)
    joules, seconds = result.get("energy_joules"), result.get("train_seconds")
    watts = joules / seconds if joules and seconds else None
    device = _device_of(run)
    return Measured(
        tokens_per_second=float(rate),
        where=f"run {run.name} on {device}",
        device=device,
        watts=watts,
        watts_mark="estimated" if watts is None else "measured",
        warnings=tuple(_differences(run, gate)),
    )


def _require_same_work(run: RunDirectory, gate: Gate) -> None:
    config = run.config()
    faults = []
    base = read_json(run.data_file).get("base")
    if base != gate.source.fingerprint:
        found = f"a run of {config.model.name}"
        faults.append(_other(run, found, f"one of {gate.source.name}"))
    if config.method.name != gate.config.method.name:
        found = f"a run with {config.method.name}"
        faults.append(_other(run, found, f"one with {gate.config.method.name}"))
    if faults:
        raise RunError.of(*faults)


def _other(run: RunDirectory, found: str, expected: str) -> Fault:
    remedy = "name another run, or use --measure"
    return Fault(f"--measured {run.path}", found, expected, remedy)


def _device_of(run: RunDirectory) -> str:
    if not run.environment_file.is_file():
        return "an unknown device"
    return str(read_json(run.environment_file).get("device") or "an unknown device")


def _differences(run: RunDirectory, gate: Gate) -> list[str]:
    """Settings that speed depends on and that are not the run's."""
    theirs = run.config().model_dump(mode="json")
    ours = gate.config.model_dump(mode="json")
    said = []
    for path in _SPEED_DEPENDS_ON:
        part, key = path.split(".")
        if theirs[part][key] != ours[part][key]:
            found, wanted = theirs[part][key], ours[part][key]
            said.append(f"run {run.name} was measured with {path}={found}, here it is {wanted}")
    then, now = theirs["method"].get("rank"), ours["method"].get("rank")
    if then != now:
        said.append(f"run {run.name} was measured with method.rank={then}, here it is {now}")
    return said
