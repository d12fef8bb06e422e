"""Brings messages into the shape that a template wants, and asks whether it wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from tanren.template.facts import Message, TemplateFacts

_KEYS_TO_CHANGE = frozenset({"weight", "reasoning_content", "tool_calls", "tool_call_id"})


class MessageShape:
    """Rewrites messages for one template: unknown roles, tool calls, reasoning.

    Input is never changed.
    """

    def __init__(self, facts: TemplateFacts) -> None:
        self._facts = facts
        self._role_of = {"function": "tool"}
        if facts.developer == "as system":
            self._role_of["developer"] = "system"

    def ready(self, messages: Sequence[Message]) -> list[Message]:
        """Messages as the template wants them; those that need no change are passed on."""
        return [
            self._changed(message)
            if message["role"] in self._role_of
            or not _KEYS_TO_CHANGE.isdisjoint(message)
            or None in message.values()
            else message
            for message in messages
        ]

    def _changed(self, message: Message) -> Message:
        ready = {k: v for k, v in message.items() if k != "weight" and v is not None}
        ready["role"] = self._role_of.get(message["role"], message["role"])
        if message["role"] == "function":
            ready.setdefault("tool_call_id", "call_0")
        if "reasoning_content" in ready:
            # gpt-oss's template reads the second name; transformers passes both as well.
            ready.setdefault("thinking", ready["reasoning_content"])
        if "tool_calls" in ready:
            ready["tool_calls"] = [self._call(call) for call in ready["tool_calls"]]
        if "tool_call_id" in ready and self._facts.short_tool_ids:
            ready["tool_call_id"] = _short_id(ready["tool_call_id"])
        return ready

    def _call(self, call: Message) -> Message:
        """One tool call. Its arguments are JSON text up to here, safe from other rows' fields."""
        function = dict(call["function"])
        arguments = function.get("arguments", "{}")
        if self._facts.tool_arguments == "object" and isinstance(arguments, str):
            function["arguments"] = _parsed(arguments)
        elif self._facts.tool_arguments == "text" and not isinstance(arguments, str):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
        ready = {**call, "function": function}
        if self._facts.short_tool_ids and "id" in ready:
            ready["id"] = _short_id(ready["id"])
        return ready

    def is_written(self, message: Message, text: str) -> bool:
        """Is the message's content, but for reasoning, in the rendered text?"""
        role, content = message["role"], message.get("content") or ""
        if role == "developer" and self._facts.developer == "left out":
            return False
        if role == "tool":
            return self._facts.tool_results != "left out" and _holds(text, content)
        if role == "assistant":
            return self.calls_are_written(message, text) and _holds(
                text, without_reasoning(content)
            )
        return _holds(text, content)

    @staticmethod
    def calls_are_written(message: Message, text: str) -> bool:
        return all(call["function"]["name"] in text for call in message.get("tool_calls") or ())


def reasoning_of(message: Message) -> str:
    """The reasoning of a reply: its own field, or what stands before `</think>` in the content."""
    own = message.get("reasoning_content")
    if isinstance(own, str):
        return own.strip()
    content = message.get("content") or ""
    if "</think>" not in content:
        return ""
    return content.partition("</think>")[0].rpartition("<think>")[2].strip()


def all_reasoning(messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
    """(index, reasoning) of the assistant messages that have any."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and (reasoning := reasoning_of(message)):
            yield index, reasoning


def has_reasoning(messages: Sequence[Message]) -> bool:
    return next(all_reasoning(messages), None) is not None


def without_reasoning(content: str) -> str:
    return content.rpartition("</think>")[2] if "</think>" in content else content


def _holds(text: str, content: str) -> bool:
    trimmed = content.strip()
    if trimmed in text:
        return True
    # Some templates quote as JSON (Llama 3 the results of tools), some change white space.
    quoted = json.dumps(trimmed, ensure_ascii=False)[1:-1]
    return quoted in text or "".join(trimmed.split()) in "".join(text.split())


def _parsed(arguments: str) -> Any:
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    return value if isinstance(value, dict) else arguments


def _short_id(call_id: str) -> str:
    """Nine letters and digits, as Mistral's templates demand; equal ids stay equal."""
    if len(call_id) == 9 and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]
