"""Losses over the course of training: one line an arm, over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean, median_low

from tanren.compare.data import Arm, Comparison, TrainedRun

MOST_POINTS = 80
"""Of a line of training losses, which are logged far more often than a drawing can show."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean over `seeds` runs and their smallest and largest at steps that all of them have.
    `seconds` of training, mean too; empty where a run did not record them.
    """

    arm: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seconds: tuple[float, ...]
    seeds: int


Points = Mapping[int, tuple[float, float | None]]
"""Loss and training seconds by step."""


def validation_curves(comparison: Comparison) -> list[Curve]:
    return _curves(comparison, _checked)


def training_curves(comparison: Comparison) -> list[Curve]:
    """Running means: the loss of one step says more of its rows than of the model."""
    return _curves(comparison, _smoothed)


def _curves(comparison: Comparison, points: Callable[[TrainedRun], Points]) -> list[Curve]:
    found = (_curve(arm.name, [points(run) for run in drawn_runs(arm)]) for arm in comparison.arms)
    return [curve for curve in found if curve is not None]


def _checked(run: TrainedRun) -> Points:
    return {c.step: (c.loss, c.seconds) for c in run.checks if isfinite(c.loss)}


def drawn_runs(arm: Arm) -> Sequence[TrainedRun]:
    """The finished ones; where none is, whatever began."""
    return arm.finished or arm.runs


def _curve(arm: str, runs: Iterable[Points]) -> Curve | None:
    seeds = [run for run in runs if run]
    if not seeds:
        return None
    steps = sorted(set.intersection(*(set(run) for run in seeds)))
    if not steps:
        return None
    losses = [[run[step][0] for run in seeds] for step in steps]
    times = [[run[step][1] for run in seeds] for step in steps]
    known = [[t for t in at if t is not None] for at in times]
    complete = all(len(at) == len(seeds) for at in known)
    return Curve(
        arm,
        tuple(steps),
        tuple(mean(at) for at in losses),
        tuple(min(at) for at in losses),
        tuple(max(at) for at in losses),
        tuple(mean(at) for at in known) if complete else (),
        len(seeds),
    )


def window(count: int) -> int:
    """Logged steps that one point of a training curve stands for."""
    return max(1, -(-count // MOST_POINTS))


def _smoothed(run: TrainedRun) -> Points:
    """Mean loss of each window of logged steps, at its last one."""
    size = window(len(run.steps))
    logged = [step for step in run.steps if isfinite(step.loss)]
    pieces = [logged[at : at + size] for at in range(0, len(logged), size)]
    return {
        piece[-1].step: (mean(step.loss for step in piece), piece[-1].seconds) for piece in pieces
    }


def ceiling(curves: Iterable[Sequence[float]], *, share: float = 0.9) -> float | None:
    """Where to cut the axis so that one arm that came apart, or the first steps, do not press
    everything else flat; None where nothing sticks out that far.

    Of each arm's losses all but the highest ones count, `share` of them, and of the arms the
    middle one.
    """
    sorts = [sorted(values) for values in curves if values]
    if not sorts:
        return None
    low = min(values[0] for values in sorts)
    usual = median_low([values[int(share * (len(values) - 1))] for values in sorts])
    top = low + 2.0 * (usual - low)
    highest = max(values[-1] for values in sorts)
    return top if highest - low > 1.5 * (top - low) > 0 else None
