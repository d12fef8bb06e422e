"""How far several judges, or people, agree."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, TypeVar

from tanren.evaluate.agreement import Level, krippendorff_alpha

Unit = TypeVar("Unit", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Krippendorff's alpha over `units`, what at least two raters rated: 1 is full agreement, 0 is
    chance; None where nobody used a second value. `same` is the share of pairs of ratings that are
    equal.
    """

    raters: int
    units: int
    level: Level
    alpha: float | None
    same: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def agreement(ratings: Sequence[Mapping[Unit, float]], level: Level) -> Agreement | None:
    """Agreement of raters, each a mapping from what was rated to its value. None for fewer than two
    raters.
    """
    if len(ratings) < 2:
        return None
    every = dict.fromkeys(unit for one in ratings for unit in one)
    units = [unit for unit in every if sum(unit in one for one in ratings) > 1]
    table = [[one.get(unit) for unit in units] for one in ratings]
    equal = [
        a == b
        for first, second in combinations(table, 2)
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    ]
    alpha = krippendorff_alpha(table, level) if units else None
    same = sum(equal) / len(equal) if equal else None
    return Agreement(len(ratings), len(units), level, alpha, same)
