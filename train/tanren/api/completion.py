"""The engine's replies as a chat completion, whole or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tanren.engine.wire import Accepted, Finished, Piece, TokenLogprob, ToolCall

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot write."""


@dataclass(slots=True)
class Head:
    """What every chunk of an answer repeats."""

    model: str
    legacy_calls: bool
    """Whether a call is told as `function_call`."""
    one_call: bool
    """Whether only the first call of an answer counts."""
    named_call: bool
    """Whether the call was demanded by name: then the answer ends with "stop"."""
    logprobs: bool
    id: str = field(default_factory=lambda: "chatcmpl-" + secrets.token_hex(14))
    created: int = field(default_factory=lambda: int(time.time()))
    fingerprint: str | None = None

    def reason(self, finished: Finished) -> str:
        if finished.reason != "tool_calls":
            return finished.reason
        if self.named_call:
            return "stop"
        return "function_call" if self.legacy_calls else "tool_calls"


@dataclass(slots=True)
class Used:
    """Tokens of a request: its prompt once, and all its answers."""

    prompt: int = 0
    completion: int = 0

    def accepted(self, reply: Accepted) -> None:
        self.prompt = reply.prompt_tokens

    def finished(self, reply: Finished) -> None:
        self.completion += reply.completion_tokens

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


# --- whole ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Answer:
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None


class Whole:
    """Collects an answer that is sent in one piece."""

    def __init__(self, head: Head, choices: int) -> None:
        self._head = head
        self._answers = [_Answer() for _ in range(choices)]

    def add(self, reply: Piece | ToolCall | Finished) -> None:
        answer = self._answers[reply.index]
        if isinstance(reply, Piece):
            answer.texts.append(reply.text)
            answer.tokens += [token(each) for each in reply.logprobs]
        elif isinstance(reply, ToolCall):
            if not (self._head.one_call and answer.calls):
                answer.calls.append(reply)
        else:
            answer.reason = self._head.reason(reply)

    def body(self, used: Used) -> dict[str, Any]:
        return {
            "id": self._head.id,
            "object": "chat.completion",
            "created": self._head.created,
            "model": self._head.model,
            "choices": [self._choice(at, answer) for at, answer in enumerate(self._answers)],
            "usage": used.as_dict(),
            "service_tier": "default",
            "system_fingerprint": self._head.fingerprint,
        }

    def _choice(self, index: int, answer: _Answer) -> dict[str, Any]:
        text = "".join(answer.texts)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        message["annotations"] = []
        if answer.calls:
            message["content"] = text or None
            if self._head.legacy_calls:
                message["function_call"] = called(answer.calls[0])
            else:
                message["tool_calls"] = [call(each) for each in answer.calls]
        logprobs = {"content": answer.tokens, "refusal": None} if self._head.logprobs else None
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": answer.reason,
        }


# --- in chunks ------------------------------------------------------------------------------------


class Chunks:
    """Turns each reply into the chunks that say it."""

    def __init__(self, head: Head, *, include_usage: bool) -> None:
        self._head = head
        self._include_usage = include_usage
        self._calls: dict[int, int] = {}  # calls told so far of each choice

    def roles(self, choices: int) -> Iterator[dict[str, Any]]:
        for index in range(choices):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def of(self, reply: Piece | ToolCall | Finished) -> Iterator[dict[str, Any]]:
        if isinstance(reply, Piece):
            if reply.text or reply.logprobs:
                tokens = [token(each) for each in reply.logprobs]
                yield self._chunk(reply.index, {"content": reply.text}, tokens=tokens)
        elif isinstance(reply, ToolCall):
            yield from self._called(reply)
        else:
            yield self._chunk(reply.index, {}, reason=self._head.reason(reply))

    def usage(self, used: Used) -> Iterator[dict[str, Any]]:
        if self._include_usage:
            yield {**self._frame(), "choices": [], "usage": used.as_dict()}

    def _called(self, reply: ToolCall) -> Iterator[dict[str, Any]]:
        """The name first, then the arguments: how streaming clients add them up."""
        at = self._calls.get(reply.index, 0)
        if at and self._head.one_call:
            return
        self._calls[reply.index] = at + 1
        if self._head.legacy_calls:
            begin: dict[str, Any] = {"function_call": {"name": reply.name, "arguments": ""}}
            rest: dict[str, Any] = {"function_call": {"arguments": reply.arguments}}
        else:
            full = call(reply)
            function = {"name": reply.name, "arguments": ""}
            begin = {"tool_calls": [{"index": at, **full, "function": function}]}
            rest = {"tool_calls": [{"index": at, "function": {"arguments": reply.arguments}}]}
        yield self._chunk(reply.index, begin)
        yield self._chunk(reply.index, rest)

    def _frame(self) -> dict[str, Any]:
        frame: dict[str, Any] = {
            "id": self._head.id,
            "object": "chat.completion.chunk",
            "created": self._head.created,
            "model": self._head.model,
            "service_tier": "default",
            "system_fingerprint": self._head.fingerprint,
        }
        if self._include_usage:
            frame["usage"] = None
        return frame

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        tokens: list[dict[str, Any]] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        told = tokens is not None and self._head.logprobs
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": {"content": tokens, "refusal": None} if told else None,
            "finish_reason": reason,
        }
        return {**self._frame(), "choices": [choice]}


# --- parts of both --------------------------------------------------------------------------------


def call(reply: ToolCall) -> dict[str, Any]:
    identity = "call_" + secrets.token_urlsafe(18).replace("-", "0").replace("_", "1")
    return {"id": identity, "type": "function", "function": called(reply)}


def called(reply: ToolCall) -> dict[str, str]:
    return {"name": reply.name, "arguments": reply.arguments}


def token(each: TokenLogprob) -> dict[str, Any]:
    chosen = _likely(each.token, each.logprob, each.bytes)
    return {**chosen, "top_logprobs": [_likely(*other) for other in each.top]}


def _likely(text: str, logprob: float, content: tuple[int, ...]) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(content)}
