"""A report as Markdown: text, tables and quotations that no answer can break out of."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tanren.evaluate.report.document import (
    Advice,
    Block,
    Document,
    Example,
    Figure,
    Section,
    Table,
    Text,
)
from tanren.evaluate.report.looks import LONGEST_TEXT, shortened

_OPENING = re.compile(r"<(?! )")
"""What may open a tag; a `<` before a space is a sign that people read, as in p < 0.05."""
_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def markdown(document: Document) -> str:
    parts = [f"# {plain(document.title)}", plain(document.subtitle)]
    for part in document.sections:
        parts.extend(_section(part))
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """On one line, with nothing that Markdown or HTML would act on."""
    line = " ".join(text.split()).replace("&", "&amp;").replace(">", "&gt;")
    line = _OPENING.sub("&lt;", line)
    return _SPECIAL.sub(r"\\\1", line)


def _section(of: Section) -> Iterator[str]:
    yield f"## {plain(of.title)}"
    for block in of.blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Text():
            yield plain(block.words)
        case Table():
            yield from _table(block)
        case Figure(table=Table() as table):
            yield from _table(table)
        case Advice():
            model = f"{plain(block.model)}, " if block.model else ""
            yield f"- **{model}{block.area}**: {plain(block.finding)} {plain(block.action)}"
        case Example():
            yield from _example(block)


def _table(table: Table) -> Iterator[str]:
    lines = [
        _line(table.head),
        "|" + "|".join(_rule(i, table) for i in range(len(table.head))) + "|",
    ]
    lines.extend(_line(row) for row in table.rows)
    if table.caption:
        yield plain(table.caption)
    yield "\n".join(lines)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(plain(cell) for cell in cells) + " |"


def _rule(column: int, table: Table) -> str:
    return " --- " if column < table.words else " ---: "


def _example(example: Example) -> Iterator[str]:
    yield f"### {plain(example.title)}"
    for voice in example.voices:
        note = f" ({plain(voice.note)})" if voice.note else ""
        yield f"**{plain(voice.who)}**{note}"
        yield _fenced(shortened(voice.text, LONGEST_TEXT))


def _fenced(text: str) -> str:
    """In a fence longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
