"""How soon an arm is where the reference ends, and how far all are after equally many tokens.

Validation losses are known at evaluations only; between two of them a line is drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tanren.compare.data import Checked, Reach, TrainedRun
from tanren.compare.seeds import Ratio, ratio

SHARE = 0.9
"""Of a reference's drop in loss: where it is reached, the most of the learning is done."""
Runs = Mapping[int, TrainedRun]
"""The finished runs of an arm, by seed."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a loss was first reached. `seconds` of training; None where they were not recorded."""

    step: float
    seconds: float | None


def first_reached(checks: Sequence[Checked], target: float) -> Reached | None:
    """None where the loss stays above. Reached by the first evaluation already: there, as nothing
    is known of before.
    """
    before: Checked | None = None
    for check in sorted(checks, key=lambda check: check.step):
        if check.loss <= target:
            if before is None:
                return Reached(check.step, check.seconds)
            part = (before.loss - target) / (before.loss - check.loss)
            return Reached(
                _between(before.step, check.step, part),
                None
                if before.seconds is None or check.seconds is None
                else _between(before.seconds, check.seconds, part),
            )
        before = check
    return None


def target_of(run: TrainedRun | None) -> float | None:
    """The loss that a run has after `SHARE` of its drop from the first to the best evaluation.

    Not the best one itself: a run is at its own lowest loss by luck at one evaluation, and every
    other run that follows the same curve would seem to be there sooner or never.
    """
    if run is None or not run.checks:
        return None
    first = min(run.checks, key=lambda check: check.step).loss
    best = min(check.loss for check in run.checks)
    return first - SHARE * (first - best)


def reached_by_seed(arm: Runs, reference: Runs, seeds: Sequence[int]) -> list[Reached | None]:
    """Where each seed's run first has the loss that is the reference's target in that seed."""
    found: list[Reached | None] = []
    for seed in seeds:
        target = target_of(reference.get(seed))
        runs = arm.get(seed)
        found.append(None if target is None or runs is None else first_reached(runs.checks, target))
    return found


def reach(arm: str, reference: str, runs: Mapping[str, Runs], seeds: Sequence[int]) -> Reach:
    """`runs` by arm. Seeds are compared with themselves: ratio of steps, then the mean on the log
    scale. Seeds that never get there are counted and are in no mean.
    """
    own = reached_by_seed(runs[reference], runs[reference], seeds)
    other = reached_by_seed(runs[arm], runs[reference], seeds)
    pairs = [(a, b) for a, b in zip(other, own, strict=True) if a is not None and b is not None]
    steps = _ratio(pairs, lambda place: place.step)
    seconds = _ratio(pairs, lambda place: place.seconds)
    both = [seed for seed in seeds if seed in runs[arm] and seed in runs[reference]]
    targets = [target_of(runs[reference].get(seed)) for seed in seeds]
    return Reach(
        arm=arm,
        reference=reference,
        target=_mean(targets),
        reached=len(pairs),
        seeds=len(both),
        steps_ratio=steps.mean if steps else None,
        steps_low=steps.low if steps else None,
        steps_high=steps.high if steps else None,
        seconds_ratio=seconds.mean if seconds else None,
        seconds_low=seconds.low if seconds else None,
        seconds_high=seconds.high if seconds else None,
        seconds=_mean([place.seconds for place, _ in pairs]),
    )


def loss_at_tokens(checks: Sequence[Checked], tokens: float) -> float | None:
    """The validation loss after so many tokens; None where that lies outside the evaluations."""
    known = sorted(checks, key=lambda check: check.tokens)
    for before, check in itertools.pairwise(known):
        if before.tokens <= tokens <= check.tokens and before.tokens < check.tokens:
            part = (tokens - before.tokens) / (check.tokens - before.tokens)
            return _between(before.loss, check.loss, part)
    return next((check.loss for check in known if check.tokens == tokens), None)


def losses_at_equal_tokens(
    runs: Mapping[str, Runs], seeds: Sequence[int]
) -> dict[str, tuple[float | None, ...]]:
    """By arm: each seed's loss at the largest number of tokens that the runs of all arms reached in
    that seed.
    """
    found: dict[str, list[float | None]] = {arm: [] for arm in runs}
    for seed in seeds:
        ends = [
            max(check.tokens for check in arm[seed].checks)
            for arm in runs.values()
            if seed in arm and arm[seed].checks
        ]
        for name, arm in runs.items():
            run = arm.get(seed)
            found[name].append(loss_at_tokens(run.checks, min(ends)) if run and ends else None)
    return {arm: tuple(losses) for arm, losses in found.items()}


def _ratio(
    pairs: Sequence[tuple[Reached, Reached]], of: Callable[[Reached], float | None]
) -> Ratio | None:
    return ratio([of(a) for a, _ in pairs], [of(b) for _, b in pairs])


def _between(low: float, high: float, part: float) -> float:
    return low + part * (high - low)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
