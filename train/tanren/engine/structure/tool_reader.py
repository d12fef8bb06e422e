"""Reads tool calls out of an answer while it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tanren.engine.structure.call_body import Body, Found, body_of
from tanren.engine.structure.patterns import MORE, NO, Marker, Undecided, behind_space
from tanren.engine.structure.tool_format import ToolFormat


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the answer that belongs to no call."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call; `arguments` is the text of a JSON object, every character as itself."""

    name: str
    arguments: str


class ToolReader:
    """One answer. `tools` are those of the request: a call of any other function is text.

    What may begin a call is held back until it is known to be one or not. White space in front of
    a call, between calls and behind the last one belongs to the form and is in no text. Whatever
    the pieces an answer comes in, texts and calls are the same.
    """

    def __init__(self, form: ToolFormat, tools: Sequence[Mapping[str, Any]]) -> None:
        self._body: Body = body_of(form, tools)
        head = form.envelope.head if form.envelope else form.open
        self._opening = Marker(form.begin + head)
        self._next = Marker(form.between + head)
        self._end = Marker(form.end)
        self._held = ""
        self._tried = 0  # no call begins before this index of what is held
        self._behind_call = False  # where only another call or the form's end may follow
        self._ends_with_call = False
        self._nothing_yet = True

    def push(self, text: str) -> list[Text | Call]:
        self._held += text
        return self._read(last=False)

    def rest(self) -> list[Text | Call]:
        """What was held back, at the end of the answer."""
        return self._read(last=True)

    def _read(self, *, last: bool) -> list[Text | Call]:
        read: list[Text | Call] = []
        while self._held:
            found = self._after_call(last) if self._behind_call else self._outside(last)
            if found is None:
                break
            read += found
        return _joined(read)

    def _outside(self, last: bool) -> list[Text | Call] | None:
        at = self._candidate()
        if at is None:
            return self._plain(len(self._held), last)
        match = self._call(self._opening, at, last)
        if match is NO:
            self._tried = at + 1
            return []
        if match is MORE:
            return self._plain(at, last=False)
        return self._taken(match, at)

    def _after_call(self, last: bool) -> list[Text | Call] | None:
        at = behind_space(self._held, 0)
        if at == len(self._held):
            self._cut(at if last else 0)
            return None
        match = self._call(self._next, at, last) if self._next else NO
        if isinstance(match, Found):
            return self._taken(match, at)
        end = self._end.end(self._held, at) if self._end and match is NO else NO
        if match is MORE or (end is MORE and not last):
            return None
        self._behind_call = False
        if isinstance(end, int):
            self._cut(end)
        return []

    def _candidate(self) -> int | None:
        """Where a call may begin. A form without any marker has calls only at the very start."""
        if self._opening:
            return self._opening.start(self._held, self._tried)
        at = behind_space(self._held, 0)
        if self._nothing_yet and at >= self._tried and self._held.startswith("{", at):
            return at
        return None

    def _call(self, marker: Marker, at: int, last: bool) -> Found | Undecided:
        start = marker.end(self._held, at)
        match = self._body.match(self._held, start, last) if isinstance(start, int) else start
        return NO if match is MORE and last else match

    def _plain(self, end: int, last: bool) -> list[Text | Call] | None:
        """Gives out the text before `end`; white space at its end may belong to a call."""
        text = self._held[:end]
        if not last:
            text = text.rstrip()
        elif self._ends_with_call and not text.strip():
            self._cut(end)
            return None
        if not text:
            return None
        self._cut(len(text))
        self._ends_with_call = self._nothing_yet = False
        return [Text(text)]

    def _taken(self, match: Found, at: int) -> list[Text | Call]:
        before = self._held[:at].rstrip()
        self._cut(match.end)
        self._behind_call = self._ends_with_call = True
        self._nothing_yet = False
        call = Call(match.name, match.arguments)
        return [Text(before), call] if before else [call]

    def _cut(self, length: int) -> None:
        self._held = self._held[length:]
        self._tried = max(0, self._tried - length)
        if length:
            self._body.forget()


def _joined(read: list[Text | Call]) -> list[Text | Call]:
    """Neighbouring texts as one."""
    joined: list[Text | Call] = []
    for each in read:
        before = joined[-1] if joined else None
        if isinstance(each, Text) and isinstance(before, Text):
            joined[-1] = Text(before.text + each.text)
        else:
            joined.append(each)
    return joined
