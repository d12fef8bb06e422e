"""How each arm is drawn: the same colour, dash and mark in every drawing of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tanren.compare.data import Arm, Comparison
from tanren.evaluate.report.plots import MUTED, SERIES

Dash = Literal["solid"] | tuple[float, tuple[float, ...]]
MOST_NAMED = 12
"""Arms with a colour and a name of their own; more could not be told apart."""
_DASHES: tuple[Dash, ...] = ("solid", (0, (5, 2)), (0, (1.2, 1.6)), (0, (7, 2, 1.5, 2)))
_MARKS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True, slots=True)
class Look:
    """`named`: has a label; the others are thin and grey."""

    colour: str
    dash: Dash
    mark: str
    named: bool = True

    @property
    def alpha(self) -> float:
        return 1.0 if self.named else 0.45

    @property
    def width(self) -> float:
        return 1.9 if self.named else 1.0

    @property
    def layer(self) -> float:
        """Named ones lie above."""
        return 3.0 if self.named else 2.0


_OTHER = Look(MUTED, "solid", "o", named=False)
Looks = Mapping[str, Look]


def looks(comparison: Comparison) -> dict[str, Look]:
    """Of more than twelve arms the reference, the recommended one and the best ones are named."""
    kept = _most_wanted(comparison)
    named = [arm.name for arm in comparison.arms if arm.name in kept]
    own = {name: _look(place) for place, name in enumerate(named)}
    return {arm.name: own.get(arm.name, _OTHER) for arm in comparison.arms}


def _look(place: int) -> Look:
    turn = place // len(SERIES)
    mark = _MARKS[(place + turn) % len(_MARKS)]
    return Look(SERIES[place % len(SERIES)], _DASHES[turn % len(_DASHES)], mark)


def _most_wanted(comparison: Comparison) -> set[str]:
    first = [comparison.reference]
    if comparison.recommendation is not None:
        first.append(comparison.recommendation.arm)
    order = [*first, *(arm.name for arm in ranked(comparison))]
    return set(list(dict.fromkeys(order))[:MOST_NAMED])


def ranked(comparison: Comparison) -> list[Arm]:
    """By the main measure, the best first; arms without it last, in their own order."""
    measure = comparison.measure(comparison.main)
    sign = -1 if measure is not None and measure.higher_is_better else 1

    def place(arm: Arm) -> tuple[bool, float]:
        estimate = arm.measures.get(comparison.main)
        mean = None if estimate is None else estimate.mean
        return mean is None, 0.0 if mean is None else sign * mean

    return sorted(comparison.arms, key=place)


def unnamed(comparison: Comparison, drawn: Looks) -> str:
    """What a caption says of arms that have no colour of their own; empty where all have."""
    grey = sum(not look.named for look in drawn.values())
    if not grey:
        return ""
    return f" {grey} of the {len(drawn)} arms are grey and without a name, the weakest ones."
