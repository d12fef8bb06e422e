"""A report's content apart from its looks: the same sections become Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Text:
    words: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text already; what follows a line break in one stands small beneath it. All columns
    but the first `words` hold numbers.

    `keys`, of the shape of `rows`: what a cell is sorted by where its text does not begin with it,
    as with several units in one column; None comes last. `best`: (row, column) of the cells to
    mark, `alarming`: of those that warn. `marked`: rows that are set apart.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    words: int = 1
    keys: tuple[tuple[float | None, ...], ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    alarming: frozenset[tuple[int, int]] = frozenset()
    marked: frozenset[int] = frozenset()
    kind: Literal["table"] = "table"


@dataclass(frozen=True, slots=True)
class Figure:
    """`draw` makes the SVG, which is markup of our own; `table` holds the same numbers, for
    Markdown and for readers who cannot see the drawing; None where a table beside it does. `name`:
    of the file that the drawing may be written to.
    """

    draw: Callable[[], str]
    caption: str
    table: Table | None = None
    name: str = ""
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True, slots=True)
class Said:
    """One voice of an example: who, what, and what was measured of it."""

    who: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    title: str
    voices: tuple[Said, ...]
    kind: Literal["example"] = "example"


@dataclass(frozen=True, slots=True)
class Advice:
    """What the numbers say and what to do about it. `rule` names the rule that fired."""

    rule: str
    model: str
    area: Literal[
        "data", "data quality", "method", "hyperparameters", "model", "decoding", "measurement"
    ]
    finding: str
    action: str
    kind: Literal["advice"] = "advice"


@dataclass(frozen=True, slots=True)
class Alarm:
    """What nobody may overlook: why the numbers below cannot be trusted."""

    title: str
    points: tuple[str, ...]
    kind: Literal["alarm"] = "alarm"


@dataclass(frozen=True, slots=True)
class Code:
    """Text to copy as it is. `language`: what it is written in."""

    text: str
    language: str = "text"
    kind: Literal["code"] = "code"


@dataclass(frozen=True, slots=True)
class Folded:
    """Behind a title until a reader opens it; Markdown shows it open."""

    title: str
    blocks: tuple[Block, ...]
    kind: Literal["folded"] = "folded"


Block = Text | Table | Figure | Example | Advice | Alarm | Code | Folded


@dataclass(frozen=True, slots=True)
class Section:
    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    subtitle: str
    sections: tuple[Section, ...]

    def section(self, id: str) -> Section | None:
        return next((section for section in self.sections if section.id == id), None)


def section(id: str, title: str, blocks: Sequence[Block | None]) -> Section | None:
    """None where nothing is left to show."""
    present = tuple(block for block in blocks if block is not None)
    return Section(id, title, present) if present else None
