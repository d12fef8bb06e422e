"""Rows that are single messages, put together by the id of their conversation.

Where the rows of each conversation stand together, only one conversation is held at a time (and 8
bytes for each id). Where they do not, all texts are, up to a stated size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

from tanren.data.convert.mapping import no_column
from tanren.data.convert.records import Broken, LeftOut, Record, Source
from tanren.data.convert.shapes import (
    Kit,
    Made,
    NotMade,
    RowShape,
    no_object,
    not_made,
    role_of,
)
from tanren.errors import ConfigError, DataError, Fault
from tanren.strict_json import shown

IDS = (
    "conversation_id", "conversation", "conv_id", "dialogue_id", "dialog_id", "session_id",
    "thread_id", "chat_id", "会話ID", "会話id", "会話番号", "対話ID",
)  # fmt: skip
ROLES = ("role", "speaker", "from", "author", "役割", "話者", "発言者", "発話者")
TEXTS = ("content", "text", "message", "utterance", "value", "発話", "発言", "内容", "本文")
ORDERS = ("turn", "turn_id", "turn_index", "order", "index", "順番", "順序", "ターン")

HELD_CHARACTERS = 100_000_000
"""Texts of conversations whose rows are scattered: 200 MB of Japanese, 400 MB with emoji."""
HELD_ROWS = 1_000_000

SPOILED = "the rest of a conversation that lost a row"

_Turn = tuple[int, str, str, Any]  # line, role, text, order


def turn_columns(columns: tuple[str, ...]) -> tuple[str, str, str] | None:
    """Conversation, role and text by their usual names."""
    found = [next((n for n in names if n in columns), None) for names in (IDS, ROLES, TEXTS)]
    return None if None in found else (found[0], found[1], found[2])  # type: ignore[return-value]


class Turns(RowShape):
    def __init__(self, kit: Kit, conversation: str, role: str, content: str) -> None:
        order = kit.settings.order
        named = {"--conversation": conversation, "--role": role, "--content": content}
        if order is not None:
            named["--order"] = order
        if (kit.settings.system or "").startswith("@"):
            remedy = "write the text itself, or give the messages of the system rows of their own"
            fault = Fault("--system", "a column", "a text, where rows are messages", remedy)
            raise ConfigError.of(fault)
        absent = [(option, name) for option, name in named.items() if name not in kit.columns]
        if absent:
            raise ConfigError.of(*(no_column(name, where, kit.columns) for where, name in absent))
        super().__init__(kit, frozenset(named.values()))
        self._conversation, self._role, self._content = conversation, role, content
        self._order = order
        self._base = (
            f"turns: rows of one {conversation!r} are a conversation, {role!r} speaks {content!r}, "
            f"in order of {order!r}" if order else
            f"turns: rows of one {conversation!r} are a conversation, {role!r} speaks {content!r}, "
            "in the order of the file"
        )  # fmt: skip
        self.said = self._base

    def rows(self, source: Source) -> Iterator[Made | NotMade]:
        if self._together(source):
            self.said = f"{self._base}; each stands together"
            yield from self._streamed(source)
        else:
            self.said = f"{self._base}; their rows are scattered"
            yield from self._collected(source)

    def _together(self, source: Source) -> bool:
        """Whether no id comes again after another one. DataError when there is too much to hold."""
        counted_before = dict(self._tally)
        closed: set[bytes] = set()
        last, together, characters, rows = b"", True, 0, 0
        for record in source:
            if isinstance(record, Broken) or not isinstance(record.value, dict):
                continue
            rows += 1
            key = _digest(record.value.get(self._conversation))
            if key != last:
                together = together and key not in closed
                closed.add(key)
                last = key
            text = record.value.get(self._content)
            characters += len(text) if isinstance(text, str) else 20
        self._tally.clear()  # the rows are read again, and counted then
        self._tally.update(counted_before)
        if not together and (characters > HELD_CHARACTERS or rows > HELD_ROWS):
            found = f"rows of conversations scattered over {rows:,} rows, {characters:,} characters"
            expected = f"each together, or at most {HELD_CHARACTERS:,} characters"
            remedy = f"sort the file by {self._conversation}"
            raise DataError.of(Fault(source.name, found, expected, remedy))
        return together

    def _streamed(self, source: Source) -> Iterator[Made | NotMade]:
        held, last = _Held(), ""
        for key, turn in self._turns(source):
            if key and key != last:
                yield from self._finished(held, source.name)
                held, last = _Held(), key
            yield from held.add(turn, known=bool(key))
        yield from self._finished(held, source.name)

    def _collected(self, source: Source) -> Iterator[Made | NotMade]:
        every: dict[str, _Held] = {}
        for key, turn in self._turns(source):
            held = every.setdefault(key, _Held())
            yield from held.add(turn, known=bool(key))
        for held in every.values():
            yield from self._finished(held, source.name)

    def _turns(self, source: Source) -> Iterator[tuple[str, _Turn | NotMade]]:
        """Conversation and turn of each row; "" where the conversation cannot be read."""
        for record in source:
            if isinstance(record, Broken):
                yield "", NotMade(*record)
                continue
            value, key = record.value, ""
            try:
                if not isinstance(value, dict):
                    raise no_object(value)
                key = _key(value.get(self._conversation))
                yield key, self._turn(record, key)
            except LeftOut as left:
                yield key, not_made(left, source.name, record.line)

    def _turn(self, record: Record, key: str) -> _Turn:
        value = record.value
        if not key:
            remedy = "write the conversation's id"
            raise LeftOut("no conversation", (self._conversation, "nothing", "an id", remedy))
        role = role_of(value.get(self._role), self._role, self._kit.settings.roles)
        if role == "function_call":
            raise LeftOut("an unknown role", (self._role, "a call", "text", "use ShareGPT's form"))
        text = self._cells.text(value.get(self._content), self._content)
        if not text or text.isspace():
            raise LeftOut("empty turn")
        return record.line, role, text, self._place(value)

    def _place(self, value: dict[str, Any]) -> float:
        if self._order is None:
            return 0.0
        written = value.get(self._order)
        try:
            place = float(written) if isinstance(written, int | float | str) else math.nan
        except (ValueError, OverflowError):
            place = math.nan
        if not math.isfinite(place):
            remedy = "number the turns of each conversation"
            raise LeftOut("no order", (self._order, shown(written), "a number", remedy))
        return place

    def _finished(self, held: _Held, name: str) -> Iterator[Made | NotMade]:
        turns = held.turns
        if not turns:
            return
        line = min(turn[0] for turn in turns)
        if held.spoiled:
            yield NotMade(line, SPOILED, (), len(turns))
            return
        if self._order is not None:
            turns = sorted(turns, key=lambda turn: turn[3])
        messages = [{"role": role, "content": text} for _, role, text, _ in turns]
        yield Made(line, {"messages": self.with_system(messages, {})}, len(turns))


class _Held:
    """The rows of one conversation so far. One that loses a row is spoiled: what follows would
    answer something else.
    """

    __slots__ = ("spoiled", "turns")

    def __init__(self) -> None:
        self.turns: list[_Turn] = []
        self.spoiled = False

    def add(self, turn: _Turn | NotMade, *, known: bool) -> Iterator[NotMade]:
        if isinstance(turn, NotMade):
            self.spoiled = self.spoiled or known
            yield turn
        else:
            self.turns.append(turn)


def _key(value: object) -> str:
    return "" if value is None else str(value).strip()


def _digest(value: object) -> bytes:
    return hashlib.blake2b(_key(value).encode("utf-8", "surrogatepass"), digest_size=8).digest()
