"""Question/answer pairs in a teacher's reply: JSON objects, one a line, and what it writes around
them.

Code fences, numbering, bullets, a list around the objects and objects over several lines are read;
what is no whole pair is counted, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder()
_FRAME = re.compile(r"^\s*(?:```\w*|[\[\]]|,|(?:\d{1,3}[.):．）]|[-*•・])?)[\s,]*$")
"""What may stand around an object: fences, brackets of a list, commas, numbers and bullets."""


@dataclass(frozen=True, slots=True)
class Pair:
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A piece of a reply that is no pair. `why` is for people."""

    text: str
    why: str


def read_pairs(reply: str) -> list[Pair | Unreadable]:
    """In order of appearance."""
    return list(_pieces(reply))


def _pieces(reply: str) -> Iterator[Pair | Unreadable]:
    place = 0
    while place < len(reply):
        start = reply.find("{", place)
        between = reply[place:] if start < 0 else reply[place:start]
        yield from _prose(between)
        if start < 0:
            return
        try:
            value, place = _DECODER.raw_decode(reply, start)
        except (ValueError, RecursionError):
            line_end = reply.find("\n", start)
            place = len(reply) if line_end < 0 else line_end
            yield Unreadable(reply[start:place].strip(), "no whole JSON object")
            continue
        yield _pair(value, reply[start:place])


def _prose(text: str) -> Iterator[Unreadable]:
    for line in text.split("\n"):
        if not _FRAME.match(line):
            yield Unreadable(line.strip(), "words beside the pairs")


def _pair(value: dict[str, Any], text: str) -> Pair | Unreadable:
    for key in ("question", "answer"):
        if key not in value:
            return Unreadable(text, f'no "{key}"')
        if not isinstance(value[key], str) or not value[key].strip():
            return Unreadable(text, f'a "{key}" that is no text')
    question, answer = (_whole(value[key].strip()) for key in ("question", "answer"))
    return Pair(question, answer)


def _whole(text: str) -> str:
    """Half of an emoji, which JSON can say and UTF-8 cannot, becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
