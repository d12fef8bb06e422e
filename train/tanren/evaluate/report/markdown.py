"""A report as Markdown: text, tables and quotations that no answer can break out of."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from tanren.evaluate.report.document import (
    Advice,
    Alarm,
    Block,
    Code,
    Document,
    Example,
    Figure,
    Folded,
    Section,
    Table,
    Text,
)
from tanren.evaluate.report.looks import LONGEST_TEXT, shortened

_OPENING = re.compile(r"<(?! )")
"""What may open a tag; a `<` before a space is a sign that people read, as in p < 0.05."""
_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def markdown(document: Document, *, drawings: str = "") -> str:
    """`drawings`: folder where figures that have a name lie as `<name>.svg`; empty: none are."""
    parts = [f"# {plain(document.title)}", plain(document.subtitle)]
    for part in document.sections:
        parts.extend(_section(part, drawings))
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """On one line, with nothing that Markdown or HTML would act on."""
    line = " ".join(text.split()).replace("&", "&amp;").replace(">", "&gt;")
    line = _OPENING.sub("&lt;", line)
    return _SPECIAL.sub(r"\\\1", line)


def _section(of: Section, drawings: str) -> Iterator[str]:
    yield f"## {plain(of.title)}"
    for block in of.blocks:
        yield from _block(block, drawings)


def _block(block: Block, drawings: str) -> Iterator[str]:
    match block:
        case Text():
            yield plain(block.words)
        case Table():
            yield from _table(block)
        case Figure():
            if drawings and block.name:
                yield f"![{plain(block.caption)}]({drawings}/{block.name}.svg)"
                yield plain(block.caption)
            if block.table is not None:
                yield from _table(block.table)
        case Alarm():
            yield _alarm(block)
        case Code():
            yield _fenced(block.text, block.language)
        case Folded():
            yield f"### {plain(block.title)}"
            for inner in block.blocks:
                yield from _block(inner, drawings)
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
    for place, row in enumerate(table.rows):
        lines.append(_line(row, _bold(table, place)))
    if table.caption:
        yield plain(table.caption)
    yield "\n".join(lines)


def _bold(table: Table, row: int) -> set[int]:
    return {column for line, column in table.best | table.alarming if line == row}


def _line(cells: tuple[str, ...], bold: Collection[int] = ()) -> str:
    shown = (f"**{plain(c)}**" if i in bold else plain(c) for i, c in enumerate(cells))
    return "| " + " | ".join(shown) + " |"


def _rule(column: int, table: Table) -> str:
    return " --- " if column < table.words else " ---: "


def _alarm(alarm: Alarm) -> str:
    """A quotation that GitHub shows as a red box, and every other reader as a quotation."""
    points = [f"> - {plain(point)}" for point in alarm.points]
    return "\n".join(["> [!CAUTION]", f"> **{plain(alarm.title)}**", ">", *points])


def _example(example: Example) -> Iterator[str]:
    yield f"### {plain(example.title)}"
    for voice in example.voices:
        note = f" ({plain(voice.note)})" if voice.note else ""
        yield f"**{plain(voice.who)}**{note}"
        yield _fenced(shortened(voice.text, LONGEST_TEXT))


def _fenced(text: str, language: str = "text") -> str:
    """In a fence longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
