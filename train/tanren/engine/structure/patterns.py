"""Matching the texts of a form of calls inside an answer that is still arriving.

Every match says one of three things: it ends here, it cannot be, or more text decides. What is said
never changes when more text arrives; so the result does not depend on how an answer is cut.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from tanren.engine.structure.tool_format import CALL_ID


class Undecided(Enum):
    NO = "no"
    MORE = "more"


NO: Final = Undecided.NO
MORE: Final = Undecided.MORE

_NAME = re.compile(r"[^\s<>{}\[\]()\"'|]+")
_CALL_ID = re.compile(r"[A-Za-z0-9_.:-]+")


def behind_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


class Marker:
    """A text of the form. White space in it may be more, less, or missing."""

    def __init__(self, text: str) -> None:
        chunks: list[str] = []
        for index, part in enumerate(text.split(CALL_ID)):
            chunks += [CALL_ID] if index else []
            chunks += part.split()
        self.chunks = tuple(chunks)

    def __bool__(self) -> bool:
        return bool(self.chunks)

    def end(self, text: str, at: int) -> int | Undecided:
        """The index behind the marker that begins at `at`, or behind white space from there."""
        for chunk in self.chunks:
            at = behind_space(text, at)
            if chunk == CALL_ID:
                run = _run_end(_CALL_ID, text, at)
                if isinstance(run, Undecided):
                    return run
                at = run
            elif text.startswith(chunk, at):
                at += len(chunk)
            else:
                return MORE if chunk.startswith(text[at:]) else NO
        return at

    def start(self, text: str, at: int) -> int | None:
        """Where the first chunk stands, or may stand once more text arrives, from `at` on."""
        first = self.chunks[0]
        found = text.find(first, at)
        if found >= 0:
            return found
        for length in range(min(len(first) - 1, len(text) - at), 0, -1):
            if text.endswith(first[:length]):
                return len(text) - length
        return None


def name_end(text: str, at: int) -> int | Undecided:
    """The index behind a function's name that begins at `at`."""
    return _run_end(_NAME, text, at)


def _run_end(pattern: re.Pattern[str], text: str, at: int) -> int | Undecided:
    """The end of the run of characters; only what follows it says that it is over."""
    if at >= len(text):
        return MORE
    found = pattern.match(text, at)
    if found is None:
        return NO
    return MORE if found.end() == len(text) else found.end()
