"""One row screened: its findings, and how it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tanren.data.screen.actions import Action, Plan, Redactor, masked
from tanren.data.screen.detect import find
from tanren.data.screen.findings import Finding, without_overlaps
from tanren.data.screen.strings import dumped, rewrite, rewrite_json_text

Find = Callable[[str], list[Finding]]
_MOST_ROUNDS = 4
"""What is left after a redaction can be found where its neighbour hid it; once is the rule."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger. `start` and `end` are code points of the text at `path`; None for a
    finding about a whole message. `masked` shows two characters at each end, or none.
    """

    path: str
    kind: str
    rule: str
    action: Action
    start: int | None
    end: int | None
    masked: str
    scores: Mapping[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Screened:
    """`line` is the row as it leaves, without its newline; None: it is dropped. The very bytes that
    came in if nothing in it was redacted.
    """

    line: bytes | None
    entries: Sequence[Entry]


class _RowVisitor:
    """Finds, notes and redacts the texts of one row."""

    def __init__(self, plan: Plan, find_in: Find) -> None:
        self.entries: list[Entry] = []
        self._plan = plan
        self._find = find_in
        self._redactor = Redactor(plan)

    def visit(self, text: str, path: str) -> str:
        found = self._find(text)
        if not found:
            return text
        self.entries += [self._entry(one, text, path) for one in found]
        redacted = self._redact(text, found)
        if redacted != text and _is_json(text) and not _is_json(redacted):
            quiet = _Quiet(self._redactor, self._find)
            return rewrite_json_text(text, quiet) or redacted
        return redacted if redacted != text else text

    def shown(self, key: str) -> str:
        return "(a key that is hidden)" if self._find(key) else key

    def _redact(self, text: str, found: Sequence[Finding]) -> str:
        redacted = self._redactor.redact(text, found)
        for _ in range(_MOST_ROUNDS):
            again = self._redactor.redact(redacted, self._find(redacted))
            if again == redacted:
                break
            redacted = again
        return redacted

    def _entry(self, one: Finding, text: str, path: str) -> Entry:
        value = masked(text[one.start : one.end])
        return Entry(path, one.kind, one.rule, self._plan.of(one.kind), one.start, one.end, value)


@dataclass(frozen=True, slots=True)
class _Quiet:
    """Redacts the values of a JSON text whose findings are in the ledger already."""

    redactor: Redactor
    find_in: Find

    def visit(self, text: str, path: str) -> str:
        redacted = self.redactor.redact(text, self.find_in(text))
        return redacted if redacted != text else text

    def shown(self, key: str) -> str:
        return key


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def screen_row(line: bytes, plan: Plan, find_in: Find, unsafe: Sequence[Entry] = ()) -> Screened:
    """`line` holds one JSON object in UTF-8, without a byte order mark. `unsafe`: what a moderator
    said of the row's messages.
    """
    text = line.decode("utf-8")
    row = json.loads(text)
    visitor = _RowVisitor(plan, find_in)
    made = rewrite(row, visitor)
    entries = [*visitor.entries, *unsafe]
    if any(entry.action == "drop" for entry in entries):
        return Screened(None, entries)
    if made is row:
        return Screened(line, entries)
    return Screened(dumped(made, like=text.strip()).encode("utf-8"), entries)


def finder(words: Find | None) -> Find:
    """The rules, and a word list's beside them."""
    if words is None:
        return find
    listed = words

    def find_both(text: str) -> list[Finding]:
        return without_overlaps([*find(text), *listed(text)])

    return find_both
