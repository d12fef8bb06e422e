"""Successive halving: arms that are behind after a part of the steps are ended early."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping


def rungs(steps: int, arms: int, eta: int, min_steps: int | None = None) -> tuple[int, ...]:
    """Optimizer steps after which arms are ranked, rising; the last one is `steps`, where those
    that are left are compared.

    One bracket of Hyperband (Li et al. 2018, JMLR 18, algorithm 1, after successive halving,
    Jamieson & Talwalkar 2016): with s rankings, ranking i = 0 .. s-1 stands at R * eta^(i - s) of R
    = `steps`, rounded down, and about arms * eta^-i arms reach it. Without `min_steps` s =
    floor(log_eta arms): as many as leave a whole arm, so that each rung costs about as much as any
    other. With `min_steps` (the paper's r) the rankings stand at r * eta^i below `steps`, no more
    of them than until one arm is left.

    Fewer than `eta` arms, or a `min_steps` that is no part of `steps`: no ranking before the end.
    """
    if steps < 1 or arms < 1 or eta < 2 or (min_steps is not None and min_steps < 1):
        raise ValueError(f"no rungs: {steps=}, {arms=}, {eta=}, {min_steps=}")
    if min_steps is None:
        rankings = _powers_within(arms, eta)
        found = [steps // eta ** (rankings - i) for i in range(rankings)]
    else:
        found = [min_steps * eta**i for i in range(_rankings_to_one(arms, eta))]
    return (*sorted({step for step in found if 0 < step < steps}), steps)


def survivors(
    losses: Mapping[str, float | None], eta: int, keep: Collection[str] = ()
) -> tuple[str, ...]:
    """The best ceil(n / eta) of n arms by their loss, in the order of `losses`; of equals the
    earlier one. Failed arms (None, or a loss that is no number) are behind all others and have
    nothing to go on with, so they never go on. `keep`, the reference, goes on in any case, and
    takes nobody's place.
    """
    if eta < 2:
        raise ValueError(f"no halving with {eta=}")
    places = math.ceil(len(losses) / eta)
    running = {arm: loss for arm, loss in losses.items() if loss is not None and loss == loss}
    best = set(sorted(running, key=lambda arm: running[arm])[:places])
    return tuple(arm for arm in losses if arm in best or arm in keep)


def _powers_within(arms: int, eta: int) -> int:
    """floor(log_eta arms), without the rounding of logarithms."""
    count = 0
    while eta ** (count + 1) <= arms:
        count += 1
    return count


def _rankings_to_one(arms: int, eta: int) -> int:
    """How many times ceil(n / eta) has to be taken until one arm is left."""
    count = 0
    while arms > 1:
        arms = math.ceil(arms / eta)
        count += 1
    return count
