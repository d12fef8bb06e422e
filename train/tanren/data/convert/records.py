"""What a source yields, row by row, and what is counted beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from tanren.errors import Fault

Tally = Counter[str]
"""How often something was done to the data that a person should know of."""


class Record(NamedTuple):
    """One source row."""

    line: int
    """1-based: the line where it begins in a text, the row in a sheet, Parquet or JSON array."""
    value: Any
    """A JSON value, nearly always an object: column -> cell."""
    raw: str | None = None
    """The line it was written on, in JSONL."""


class Broken(NamedTuple):
    """A source row that cannot be read."""

    line: int
    reason: str
    faults: tuple[Fault, ...]


class Source(Protocol):
    """One input. Every iteration begins at the first row again."""

    @property
    def name(self) -> str: ...

    @property
    def said(self) -> str:
        """How it is read: `CSV, comma-separated, 2 columns`."""
        ...

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns of a table; None where every row has keys of its own."""
        ...

    @property
    def blank(self) -> int:
        """Blank rows met in the last iteration; they are no rows."""
        ...

    @property
    def total_bytes(self) -> int | None: ...

    def done_bytes(self) -> int: ...

    def __iter__(self) -> Iterator[Record | Broken]: ...


class LeftOut(Exception):
    """A row gives no conversation. With a fault the row is wrong, without one it only has nothing
    to teach.
    """

    def __init__(self, reason: str, fault: tuple[str, str, str, str] | None = None) -> None:
        """`fault` is path within the row, found, expected, remedy."""
        super().__init__(reason)
        self.reason = reason
        self.fault = fault
