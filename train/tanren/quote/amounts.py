"""Figures that say how they are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

Mark = Literal["counted", "measured", "estimated"]
"""counted: exact, from the data and the settings. measured: from steps that were made. estimated:
from formulas and data sheets, or from anything that is estimated itself.
"""

_WEAKEST_FIRST: tuple[Mark, ...] = ("estimated", "measured", "counted")


def weakest(marks: Iterable[Mark]) -> Mark:
    """What a figure is that was made of others: no surer than the least sure of them."""
    return min(marks, key=_WEAKEST_FIRST.index)


@dataclass(frozen=True, slots=True)
class Amount:
    value: int | float
    mark: Mark

    def as_dict(self) -> dict[str, Any]:
        return {"value": self.value, "mark": self.mark}


@dataclass(frozen=True, slots=True)
class Money:
    """`value` is exact for the figures it was made of; nothing is rounded."""

    value: Decimal
    currency: str
    mark: Mark

    def as_dict(self) -> dict[str, Any]:
        """The amount as text: JSON's numbers would round it."""
        return {"value": plain(self.value), "currency": self.currency, "mark": self.mark}


def plain(value: Decimal) -> str:
    """Digits without an exponent and without idle zeros: 0.3, 120."""
    words = format(value, "f")
    return words.rstrip("0").rstrip(".") if "." in words else words
