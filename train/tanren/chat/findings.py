"""Faults and warnings of one row, collected while it is read."""

from __future__ import annotations

from tanren.errors import Fault
from tanren.strict_json import close_match, quoted


class Findings:
    """Everything noticed in one row.

    Nothing is raised: a row is read to its end, so that all its faults come at once.
    """

    __slots__ = ("_said", "faults", "warnings", "where")

    def __init__(self, where: str, faults: list[Fault]) -> None:
        """`faults` are those that reading the JSON has found already."""
        self.where = where
        self._said = {(fault.where, fault.found) for fault in faults}
        self.faults = faults
        self.warnings: list[Fault] = []

    def at(self, path: str) -> str:
        return f"{self.where} {path}" if path else self.where

    def fault(self, path: str, found: str, expected: str, remedy: str) -> None:
        """What the JSON reader has said already is not said again in other words."""
        place = self.at(path)
        if (place, found) not in self._said:
            self.faults.append(Fault(place, found, expected, remedy))

    def warn(self, path: str, found: str, expected: str, remedy: str) -> None:
        self.warnings.append(Fault(self.at(path), found, expected, remedy))

    def unknown_key(self, path: str, key: object, known: tuple[str, ...], otherwise: str) -> None:
        """A key that is not in the format: the nearest known key as the remedy, or `otherwise`."""
        meant = close_match(key, known)
        remedy = f'rename it to "{meant}"' if meant else otherwise
        self.fault(path, f"the unknown key {quoted(str(key))}", "|".join(known), remedy)
