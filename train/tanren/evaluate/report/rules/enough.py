"""How many rows it takes before anything is said of them."""

from __future__ import annotations

FEW = 3
"""Rows at least, whatever their share."""


def many(part: int, whole: int, share: float) -> bool:
    return part >= FEW and part >= share * whole
