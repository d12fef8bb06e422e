"""What all shapes have in common: a sentence on how rows are read, and rows -> conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tanren.chat.wording import ROLE_ALIASES
from tanren.data.convert.cells import Cells
from tanren.data.convert.mapping import Text, system_text
from tanren.data.convert.records import Broken, LeftOut, Record, Source, Tally
from tanren.data.convert.settings import Settings
from tanren.errors import Fault
from tanren.strict_json import quoted

EMPTY_ANSWER = "empty answer"
EMPTY_QUESTION = "empty question"
NO_OBJECT = "a row that is no object"
OTHER_SHAPE = "a row of another shape"
OWN_SYSTEM = "rows that kept a system message of their own"

Messages = list[dict[str, Any]]
Answer = dict[str, Any] | str
"""A chat row; or a line of the chat format as it was read, already found sound."""


class Made(NamedTuple):
    """A conversation of `rows` source rows that begin at `line`."""

    line: int
    row: Answer
    rows: int = 1


class NotMade(NamedTuple):
    """`rows` source rows that give nothing. Without faults there is nothing wrong with them."""

    line: int
    reason: str
    faults: tuple[Fault, ...] = ()
    rows: int = 1


class Shape(Protocol):
    said: str
    """`Alpaca: instruction, input and output`."""
    columns: frozenset[str] | None
    """Those that are used; None when a template may use any."""

    def rows(self, source: Source) -> Iterator[Made | NotMade]: ...


@dataclass(frozen=True)
class Kit:
    """What shapes are made with."""

    settings: Settings
    tally: Tally
    name: str
    """The source, as faults show it."""
    columns: tuple[str, ...]
    """Of a table, or the keys of the first rows."""
    fixed: bool
    """Whether every row has these columns and no others."""

    @property
    def cells(self) -> Cells:
        return Cells(self.tally, keep_whitespace=self.settings.keep_whitespace)

    def system(self) -> Text | None:
        written = self.settings.system
        return None if written is None else system_text(written, self.columns, self.cells)

    def system_said(self) -> str:
        """The column of system messages, found or asked for."""
        written = self.settings.system or ""
        return f", system {quoted(written[1:])}" if written.startswith("@") else ""

    def empty_question_is_left_out(self) -> bool:
        return not self.settings.keep_empty


class RowShape:
    """A shape in which every row is a conversation. Subclasses say how in `read`."""

    said = ""

    def __init__(self, kit: Kit, columns: frozenset[str] | None) -> None:
        self._kit = kit
        self._tally = kit.tally
        self._cells = kit.cells
        self._system = kit.system()
        used = self._system.columns if self._system is not None else frozenset[str]()
        self.columns = None if columns is None or used is None else columns | used

    def read(self, value: dict[str, Any], record: Record) -> Answer:
        """The chat row; raises LeftOut where there is none."""
        raise NotImplementedError

    def rows(self, source: Source) -> Iterator[Made | NotMade]:
        read, name = self.read, source.name
        for record in source:
            if type(record) is Broken:
                yield NotMade(*record)
                continue
            line, value = record[0], record[1]
            try:
                if type(value) is not dict:
                    raise no_object(value)
                yield Made(line, read(value, record))  # type: ignore[arg-type]
            except LeftOut as left:
                yield not_made(left, name, line)

    def begun(self, row: dict[str, Any]) -> Messages:
        """The conversation's first messages: the system message that was asked for, or none."""
        if self._system is None:
            return []
        text = self._system(row)
        return [{"role": "system", "content": text}] if text and not text.isspace() else []

    def with_system(self, messages: Messages, row: dict[str, Any]) -> Messages:
        """The same for messages that may have a system message of their own, which then stays."""
        if self._system is None:
            return messages
        first = messages[0] if messages else None
        if isinstance(first, dict) and first.get("role") in ("system", "developer"):
            self._tally[OWN_SYSTEM] += 1
            return messages
        return self.begun(row) + messages

    def asked(self, text: str) -> dict[str, str]:
        if (not text or text.isspace()) and self._kit.empty_question_is_left_out():
            raise LeftOut(EMPTY_QUESTION)
        return {"role": "user", "content": text}


def answered(text: str) -> dict[str, str]:
    if not text or text.isspace():
        raise LeftOut(EMPTY_ANSWER)
    return {"role": "assistant", "content": text}


def no_object(value: object) -> LeftOut:
    kind = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    found = kind.get(type(value), "a number")
    remedy = "write each row as an object: {column: value}"
    return LeftOut(NO_OBJECT, ("", found, "an object", remedy))


def not_made(left: LeftOut, name: str, line: int, *, rows: int = 1) -> NotMade:
    if left.fault is None:
        return NotMade(line, left.reason, (), rows)
    path, found, expected, remedy = left.fault
    where = f"{name}:{line} {path}" if path else f"{name}:{line}"
    return NotMade(line, left.reason, (Fault(where, found, expected, remedy),), rows)


# --- roles ---

_ROLES: Mapping[str, str] = {
    **ROLE_ALIASES,
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    "bard": "assistant",
    "bing": "assistant",
    "claude": "assistant",
    "回答者": "assistant",
    "質問者": "user",
    "利用者": "user",
    "function_response": "tool",
    "function": "tool",
    "function_call": "function_call",
    "tool_call": "function_call",
}


def role_of(name: object, path: str, own: Mapping[str, str]) -> str:
    """The role that a name in the data means; `function_call` beside the chat format's own."""
    if isinstance(name, str):
        found = own.get(name) or own.get(name.strip()) or _ROLES.get(name.strip().casefold())
        if found is not None:
            return found
    shown = quoted(name) if isinstance(name, str) else "no name"
    written = name.strip() if isinstance(name, str) and name.strip() else "NAME"
    remedy = f"say who that is: --roles {written}=user (or system, assistant, tool)"
    raise LeftOut("an unknown role", (path, f"the role {shown}", "a known role", remedy))
