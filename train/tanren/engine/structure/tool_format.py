"""How a model writes calls of tools: read from renderings of its chat template, never guessed.

A turn with calls is taken apart into

    begin | open NAME middle ARGUMENTS close | between | open NAME middle ARGUMENTS close | end

where ARGUMENTS is a JSON object, the same as JSON text inside a JSON string, or one field after the
other (`Fields`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tanren.template.tokens import AddedTokens

if TYPE_CHECKING:
    from tanren.template import ChatRenderer

CALL_ID = "qcallident"
"""Stands where a template writes the id of a call."""

ArgumentsForm = Literal["json", "json text", "fields"]


@dataclass(frozen=True, slots=True)
class Fields:
    """ARGUMENTS as fields: open KEY middle VALUE close | open KEY middle VALUE close ...

    Text values stand as they are, all others as JSON. `python_words`: a value that is true, false
    or null is written True, False or None.
    """

    open: str
    middle: str
    close: str
    python_words: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """NAME and ARGUMENTS are values of one JSON object: `{"name": NAME, "arguments": ARGUMENTS}`.

    `head` and `tail`: what of the format's `open` and `close` lies outside the object.
    """

    name: str
    arguments: str
    head: str
    tail: str


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The parts above, white space included.

    `CALL_ID` inside `close` stands for nine letters or digits. `envelope` is None where name and
    arguments lie in no common JSON object. `several`: may a turn hold more than one call?
    `separators`: between items, and between key and value, in the JSON that the template writes.
    `visible_ids`: tokens of the form that decoders leave out as special; an answer that is read for
    calls is decoded with these tokens shown.
    """

    begin: str
    open: str
    middle: str
    close: str
    between: str
    end: str
    arguments: ArgumentsForm
    several: bool
    envelope: Envelope | None = None
    fields: Fields | None = None
    separators: tuple[str, str] = (", ", ": ")
    visible_ids: frozenset[int] = frozenset()

    @classmethod
    def of(cls, renderer: ChatRenderer) -> ToolFormat | None:
        """The form of the renderer's template, or None where it writes none that is known here."""
        from tanren.engine.structure.tool_probe import probe

        return probe(renderer)

    @property
    def markers(self) -> tuple[str, ...]:
        """All texts of the form, without those that are empty."""
        parts = [self.begin, self.open, self.middle, self.close, self.between, self.end]
        if self.fields:
            parts += [self.fields.open, self.fields.middle, self.fields.close]
        return tuple(dict.fromkeys(part for part in parts if part))


def added_tokens_in(markers: Iterable[str], added: AddedTokens) -> set[int]:
    """The added tokens that the markers hold."""
    found: set[int] = set()
    for text in markers:
        rest = text
        while (token := added.first(rest)) is not None:
            found.add(token.id)
            rest = rest[token.end :]
    return found
