"""How far raters agree beyond chance. Every coefficient is 1 for perfect agreement, about 0 for
chance, and None where there is nothing to disagree about (nobody used a second value).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

Level = Literal["nominal", "ordinal", "interval"]
Weights = Literal["linear", "quadratic"]


def cohen_kappa(
    first: Sequence[Hashable | None],
    second: Sequence[Hashable | None],
    *,
    order: Sequence[Hashable] | None = None,
    weights: Weights | None = None,
) -> float | None:
    """Two raters (Cohen 1960). Items that one of them left out (None) do not count.

    `weights` make a near miss cheaper and need the categories in their `order` (Cohen 1968).
    """
    if weights is not None and order is None:
        raise ValueError("weighted kappa needs the order of the categories")
    both = zip(first, second, strict=True)
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    if not pairs:
        return None
    place = {value: i for i, value in enumerate(order or ())}

    def cost(a: Hashable, b: Hashable) -> float:
        if weights is None:
            return float(a != b)
        away = abs(place[a] - place[b])
        return float(away if weights == "linear" else away**2)

    observed = sum(cost(a, b) for a, b in pairs) / len(pairs)
    of_first, of_second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    by_chance = sum(m * n * cost(a, b) for a, m in of_first.items() for b, n in of_second.items())
    expected = by_chance / len(pairs) ** 2
    return 1 - observed / expected if expected else None


def fleiss_kappa(ratings: Sequence[Sequence[Hashable]]) -> float | None:
    """Items x ratings, the same number (at least two) of each item; who gave which does not matter
    (Fleiss 1971). With ratings missing, Krippendorff's alpha is the one to use.
    """
    if not ratings:
        return None
    raters = len(ratings[0])
    if raters < 2 or any(len(item) != raters for item in ratings):
        raise ValueError(
            "Fleiss' kappa needs the same number of ratings, at least 2, of every item"
        )
    counts = [Counter(item) for item in ratings]
    pairs = raters * (raters - 1)
    observed = sum(n * (n - 1) for item in counts for n in item.values()) / (pairs * len(ratings))
    totals = sum(counts, Counter[Hashable]())
    expected = sum((n / (raters * len(ratings))) ** 2 for n in totals.values())
    return (observed - expected) / (1 - expected) if expected < 1 else None


def krippendorff_alpha(
    ratings: Sequence[Sequence[float | str | None]], level: Level = "nominal"
) -> float | None:
    """Raters x items, None where a rater gave nothing (Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability"). Items with fewer than two ratings do not count. `ordinal` and `interval`
    need numbers.
    """
    items = [[v for v in item if v is not None] for item in zip(*ratings, strict=True)]
    items = [item for item in items if len(item) > 1]
    totals = Counter(value for item in items for value in item)
    count = totals.total()
    cost = _difference(level, totals)
    observed = sum(_disagreement(Counter(item), cost) / (len(item) - 1) for item in items)
    expected = _disagreement(totals, cost) / (count - 1) if count > 1 else 0.0
    return 1 - observed / expected if expected else None


Cost = Callable[[float | str, float | str], float]


def _disagreement(counts: Counter[float | str], cost: Cost) -> float:
    """Over all ordered pairs of ratings."""
    return sum(m * n * cost(a, b) for a, m in counts.items() for b, n in counts.items() if a != b)


def _difference(level: Level, totals: Counter[float | str]) -> Cost:
    """What a pair of two different values costs."""
    if level == "nominal":
        return lambda a, b: 1.0
    if any(isinstance(value, str) for value in totals):
        raise ValueError(f"{level} ratings must be numbers")
    if level == "interval":
        return lambda a, b: (float(a) - float(b)) ** 2
    rank: dict[float | str, float] = {}
    below = 0
    for value in sorted(totals, key=float):  # the middle of the value's places in line
        rank[value] = below + totals[value] / 2
        below += totals[value]
    return lambda a, b: (rank[a] - rank[b]) ** 2
