"""A request that is being answered, and one of its answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from tanren.engine.choose import Chosen, Wishes
from tanren.engine.served import Served
from tanren.engine.structure.tool_reader import Call, Text
from tanren.engine.text import AnswerText
from tanren.engine.wire import (
    ChatRequest,
    Finished,
    FinishReason,
    Piece,
    Reply,
    TokenLogprob,
    ToolCall,
)
from tanren.errors import WorkError

NOT_FINITE = "The model's numbers are not finite (NaN or infinite); its weights may be damaged."
LEAST_LOGPROB = -9999.0
"""Stands for a probability of 0: minus infinity is no JSON."""


@dataclass(eq=False)
class Question:
    """A request that was rendered. `room`: tokens that each answer may have."""

    request: ChatRequest
    served: Served
    prompt: list[int]
    room: int
    arrived: int
    """Its place in the order of arrival."""
    open_choices: list[int] = field(default_factory=list)
    """Choices that have no place yet, in order."""
    unfinished: int = 0
    """Choices that are not complete."""
    ended: bool = False
    """Failed or cancelled: nothing more is said about it."""

    @property
    def positions(self) -> int:
        return len(self.prompt) + self.room

    @property
    def tools(self) -> tuple[dict[str, object], ...] | None:
        """Those whose calls are to be read out of the answers."""
        return self.request.tools if self.request.read_tools else None


class Answer:
    """Choice `index` of a question, while it is written."""

    def __init__(self, question: Question, index: int, wishes: Wishes, started: int) -> None:
        self.question = question
        self.index = index
        self.wishes = wishes
        self.started = started
        self.token_ids: list[int] = []
        self.finished = False
        self.has_shown = False
        self._text = AnswerText(question.served, question.request.stop, question.tools)
        self._logprobs: list[TokenLogprob] = []
        self._calls = 0

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.question.prompt) + len(self.token_ids)

    @property
    def last_token(self) -> int:
        return self.token_ids[-1]

    def accept(self, chosen: Chosen) -> list[Reply]:
        """Takes the next token; what may be said now. Raises WorkError where there is none, or the
        answer's constraint forbids it.
        """
        token_id = chosen.token_id
        if token_id < 0:
            matcher = self.wishes.matcher
            raise WorkError((matcher and matcher.complaint) or NOT_FINITE)
        if token_id in self.question.served.stop_ids:
            return self._finish("stop")
        self.wishes.take(token_id)
        self.token_ids.append(token_id)
        if chosen.logprob is not None:
            self._logprobs.append(self._told(chosen))
        said = self._said(self._text.push(token_id))
        if self._text.stopped or (self.wishes.matcher and self.wishes.matcher.finished):
            return said + self._finish("stop")
        if len(self.token_ids) >= self.question.room:
            return said + self._finish("length")
        return said

    def _finish(self, reason: FinishReason) -> list[Reply]:
        self.finished = True
        self.question.unfinished -= 1
        said = self._said(self._text.end(cut=reason == "length"), last=True)
        if self._calls and reason == "stop":
            reason = "tool_calls"
        name = self.question.request.id
        return [*said, Finished(name, self.index, reason, len(self.token_ids))]

    def _said(self, parts: list[Text | Call], *, last: bool = False) -> list[Reply]:
        name, said = self.question.request.id, list[Reply]()
        for part in parts:
            if isinstance(part, Text):
                said.append(Piece(name, self.index, part.text, self._take_logprobs()))
            else:
                call = ToolCall(name, self.index, self._calls, part.name, part.arguments)
                said.append(call)
                self._calls += 1
        if last and self._logprobs:  # of tokens without a text, or of a call
            said.append(Piece(name, self.index, "", self._take_logprobs()))
        self.has_shown = self.has_shown or bool(said)
        return said

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        taken, self._logprobs = tuple(self._logprobs), []
        return taken

    def _told(self, chosen: Chosen) -> TokenLogprob:
        assert chosen.logprob is not None
        tokens = self.question.served.bytes_of
        return TokenLogprob(
            tokens.text(chosen.token_id),
            max(chosen.logprob, LEAST_LOGPROB),
            tuple(tokens.of(chosen.token_id)),
            tuple(
                (tokens.text(other), max(logprob, LEAST_LOGPROB), tuple(tokens.of(other)))
                for other, logprob in chosen.top
            ),
        )
