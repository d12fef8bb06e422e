"""A conversation with a model and, beside it, the same conversation with its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from tanren.generate import Decoding

Side = Literal["tuned", "base"]
TUNED: Side = "tuned"
BASE: Side = "base"


class Stream(Iterator[str], AbstractContextManager["Stream", None], Protocol):
    """An answer in pieces; leaving it ends the work."""


class Talker(Protocol):
    """The part of `session.Session` that talking needs."""

    @property
    def name(self) -> str: ...

    @property
    def has_base(self) -> bool: ...

    def stream(
        self, messages: list[dict[str, Any]], decoding: Decoding, *, side: Side = "tuned"
    ) -> Any: ...


class Conversation:
    """Turns so far. Each side remembers its own answers: neither reads what the other said."""

    def __init__(self, system: str | None = None) -> None:
        self._system = system
        self._turns: list[Mapping[str, str]] = []

    @property
    def turns(self) -> int:
        return len(self._turns)

    def messages(self, side: Side, question: str) -> list[dict[str, Any]]:
        """What the model reads, in the chat format. Turns that a side did not answer are not in its memory."""
        messages: list[dict[str, Any]] = []
        if self._system is not None:
            messages.append({"role": "system", "content": self._system})
        for turn in self._turns:
            if side in turn:
                messages.append({"role": "user", "content": turn["message"]})
                messages.append({"role": "assistant", "content": turn[side]})
        return [*messages, {"role": "user", "content": question}]

    def add(self, message: str, answers: Mapping[str, str]) -> None:
        """Remember a turn with the answers of the sides that gave one."""
        given = {side: answers[side] for side in (TUNED, BASE) if answers.get(side)}
        if given:
            self._turns.append({"message": message, **given})

    def reset(self, system: str | None) -> None:
        self._system = system
        self._turns = []

    @property
    def system(self) -> str | None:
        return self._system


class Asker:
    """A loaded model with the way it is to answer."""

    def __init__(self, session: Talker, decoding: Decoding) -> None:
        self.session = session
        self._decoding = decoding

    def pieces(self, conversation: Conversation, question: str, side: Side) -> Any:
        """The stream of one side's answer; use it in `with`, so that stopping ends the work."""
        return self.session.stream(conversation.messages(side, question), self._decoding, side=side)

    def ask(self, conversation: Conversation, question: str, side: Side) -> str:
        """The whole answer."""
        with self.pieces(conversation, question, side) as stream:
            return "".join(stream)
