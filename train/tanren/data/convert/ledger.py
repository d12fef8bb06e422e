"""Where every source row went: into the output, or out of it for a reason that is written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tanren.errors import Fault

SHOWN_PLACES = 20
"""Places kept of each reason; the side file has all."""
KEPT_FAULTS = 10_000
"""Faults kept for the error; the number of faulty rows has no bound."""


@dataclass(slots=True)
class Reason:
    rows: int = 0
    places: list[str] = field(default_factory=list)
    is_fault: bool = False


class Ledger:
    """rows_in == rows_used + rows_left_out, at any moment."""

    def __init__(self, opened: Callable[[], BinaryIO] | None = None) -> None:
        """`opened` gives the side file, at the first row that is left out."""
        self.rows_used = 0
        self.rows_left_out = 0
        self.faulty_rows = 0
        self.fault_count = 0
        self.reasons: dict[str, Reason] = {}
        self.faults: list[Fault] = []
        self._opened = opened
        self._file: BinaryIO | None = None

    @property
    def rows_in(self) -> int:
        return self.rows_used + self.rows_left_out

    def leave_out(
        self, name: str, line: int, reason: str, faults: Sequence[Fault] = (), *, rows: int = 1
    ) -> None:
        """`rows` source rows, the first of them at `line`, give nothing."""
        self.rows_left_out += rows
        entry = self.reasons.setdefault(reason, Reason())
        entry.rows += rows
        if len(entry.places) < SHOWN_PLACES:
            entry.places.append(f"{name}:{line}")
        if faults:
            entry.is_fault = True
            self.faulty_rows += rows
            self.fault_count += len(faults)
            self.faults += faults[: max(0, KEPT_FAULTS - len(self.faults))]
        self._write(name, line, reason, faults, rows)

    def _write(self, name: str, line: int, reason: str, faults: Sequence[Fault], rows: int) -> None:
        if self._opened is None:
            return
        if self._file is None:
            self._file = self._opened()
        entry: dict[str, Any] = {"source": name, "line": line, "rows": rows, "reason": reason}
        if faults:
            entry["faults"] = [fault.as_dict() for fault in faults]
        self._file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows_in": self.rows_in,
            "rows_used": self.rows_used,
            "rows_left_out": self.rows_left_out,
            "reasons": {
                name: {"rows": reason.rows, "faulty": reason.is_fault, "places": reason.places}
                for name, reason in self.reasons.items()
            },
        }
