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
    """Cells are text already. All columns but the first `words` hold numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    words: int = 1
    kind: Literal["table"] = "table"


@dataclass(frozen=True, slots=True)
class Figure:
    """`draw` makes the SVG, which is markup of our own; `table` holds the same numbers, for
    Markdown and for readers who cannot see the drawing; None where a table beside it does.
    """

    draw: Callable[[], str]
    caption: str
    table: Table | None = None
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


Block = Text | Table | Figure | Example | Advice


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
