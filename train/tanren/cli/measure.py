"""`--measure`: a few real steps, and what they say about the whole run."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tanren.cli.display import duration, facts, heading, number, size
from tanren.cli.progress import Observer

if TYPE_CHECKING:
    from tanren.config import RunConfig
    from tanren.gate import Gate

MEASURED_STEPS = 6
"""The first step warms caches up and is left out of the rate."""


def measure(gate: Gate, observer: Observer) -> dict[str, Any]:
    """Train a few steps in a folder that is thrown away; what they say about the whole run.

    The device's power is its board's limit, so energy is an upper bound; None where the limit is
    not known.
    """
    from tanren import pipeline
    from tanren.estimate import Speed, training_energy, training_time
    from tanren.rundir import RunDirectory

    with tempfile.TemporaryDirectory(prefix="tanren-measure-") as folder:
        run = RunDirectory.create(Path(folder) / "run", short_config(gate.config))
        result = pipeline.execute(run, observer=observer)
    plan = gate.plan
    rate = result["tokens_per_second"]
    time = training_time(
        plan.tokens_per_epoch, plan.steps / plan.steps_per_epoch, Speed(rate, "measured")
    )
    watts = gate.device.watts
    energy = training_energy(time, watts, "estimated") if watts is not None else None
    return {
        "steps": result["steps"],
        "tokens_per_second": rate,
        "seconds": time.seconds,
        "watt_hours": energy.watt_hours if energy else None,
        "watts": watts,
        "peak_memory_bytes": result["peak_memory_bytes"],
    }


def short_config(config: RunConfig) -> RunConfig:
    """The same work for a few steps: same passes, no validation, no answers, no trackers."""
    epochs = max(config.training.num_epochs, math.ceil(MEASURED_STEPS))
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"validation": None}),
            "training": config.training.model_copy(
                update={"max_steps": MEASURED_STEPS, "num_epochs": epochs, "log_every": 1}
            ),
            "evaluation": config.evaluation.model_copy(
                update={"samples": 0, "every": None, "early_stopping_patience": None}
            ),
            "tracking": config.tracking.model_copy(update={"trackers": ()}),
        }
    )


def show_measured(console: Console, measured: dict[str, Any]) -> None:
    hours = measured["watt_hours"]
    heading(console, f"Measured over {measured['steps']} steps")
    console.print(
        facts(
            [
                ("speed", f"{number(measured['tokens_per_second'], ',.0f')} tokens/s"),
                ("training takes", duration(measured["seconds"])),
                (
                    "energy",
                    "not known for this device"
                    if hours is None
                    else f"at most {number(hours, ',.1f')} Wh ({measured['watts']} W)",
                ),
                ("peak memory", size(measured["peak_memory_bytes"])),
            ]
        )
    )
