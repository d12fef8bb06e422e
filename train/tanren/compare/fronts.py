"""Pareto fronts: the arms that no other one beats on quality and on cost at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tanren.compare.data import Front
from tanren.compare.measures import BYTES, MEMORY, SECONDS, Column

COSTS = (MEMORY, SECONDS, BYTES)


def front(
    quality: Mapping[str, float], cost: Mapping[str, float], *, higher_is_better: bool
) -> tuple[str, ...]:
    """Cheapest first. An arm is beaten by one that is at least as good on both and better on one;
    arms that are equal on both stand side by side. Arms without a value on a side are left out.
    """
    way = -1 if higher_is_better else 1
    arms = [arm for arm in quality if arm in cost]
    ranked = sorted(arms, key=lambda arm: (cost[arm], way * quality[arm]))
    found: list[str] = []
    for arm in ranked:
        if (
            not found
            or way * quality[arm] < way * quality[found[-1]]
            or _tie(arm, found[-1], quality, cost)
        ):
            found.append(arm)
    return tuple(found)


def _tie(arm: str, other: str, quality: Mapping[str, float], cost: Mapping[str, float]) -> bool:
    return (quality[arm], cost[arm]) == (quality[other], cost[other])


def fronts(columns: Sequence[Column], arms: Sequence[str], main: str) -> tuple[Front, ...]:
    """Of the main quality against memory, time and size, where both were measured; by the means
    over seeds.
    """
    named = {column.name: column for column in columns}
    quality = named.get(main)
    if quality is None or quality.measure.higher_is_better is None:
        return ()
    found = []
    for cost in COSTS:
        if cost not in named or cost == main:
            continue
        best = front(
            _means(quality, arms),
            _means(named[cost], arms),
            higher_is_better=quality.measure.higher_is_better,
        )
        if best:
            found.append(Front(main, cost, best))
    return tuple(found)


def _means(column: Column, arms: Sequence[str]) -> dict[str, float]:
    means = {arm: column.estimate(arm).mean for arm in arms}
    return {arm: mean for arm, mean in means.items() if mean is not None}
