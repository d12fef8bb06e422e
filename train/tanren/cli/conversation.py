"""A conversation with a model and, beside it, the same conversation with its base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tanren.generate import AnswerStream, Decoding
    from tanren.session import BaseStream, Session

Side = Literal["tuned", "base"]
TUNED: Side = "tuned"
BASE: Side = "base"


class Conversation:
    """Turns so far. Each side remembers its own answers: neither reads what the other said."""

    def __init__(self, system: str | None = None) -> None:
        self._system = system
        self._turns: list[Mapping[str, str]] = []

    @property
    def turns(self) -> int:
        return len(self._turns)

    def messages(self, side: Side, question: str) -> list[dict[str, Any]]:
        """What the model reads, in the chat format; of the turns those that this side answered."""
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
        given: dict[str, str] = {s: answers[s] for s in (TUNED, BASE) if answers.get(s)}
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

    def __init__(self, session: Session, decoding: Decoding) -> None:
        self.session = session
        self._decoding = decoding

    def pieces(
        self, conversation: Conversation, question: str, side: Side
    ) -> AnswerStream | BaseStream:
        """The stream of one side's answer; use it in `with`, so that stopping ends the work."""
        return self.session.stream(conversation.messages(side, question), self._decoding, side=side)

    def ask(self, conversation: Conversation, question: str, side: Side) -> str:
        """The whole answer."""
        with self.pieces(conversation, question, side) as stream:
            return "".join(stream)
