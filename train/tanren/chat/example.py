"""A validated conversation, its identity, and the form that chat templates want."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from tanren.errors import Fault

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Example:
    """One validated chat-format line.

    A normalised message has only the keys that are present: `role`; `content`, always text (text
    parts joined, null beside tool calls -> "", a refusal taken as content); `reasoning_content`;
    `name`; `tool_call_id`; `tool_calls` with each call's arguments as JSON *text* (so that no table
    format can add keys to them); `weight` 0 or 1. The legacy `function_call` and role `function`
    have become a tool call and its `tool` answer.
    """

    source: str
    """The file as the user wrote it."""
    line: int
    """1-based."""
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    parallel_tool_calls: bool | None = None
    warnings: tuple[Fault, ...] = field(default=(), compare=False)
    """What is legal and probably not meant; the row is used all the same."""
    ignored_keys: tuple[str, ...] = field(default=(), compare=False)
    """Top-level keys that carry no training text, such as `metadata`."""

    @property
    def sha256(self) -> bytes:
        """32 bytes: the same for the same conversation and tools.

        Independent of source, line, the order of keys (also inside tool-call arguments), and of a
        written-out `weight: 1`, which is the default.
        """
        messages = [_plain(message) for message in self.messages]
        text = _canonical({"messages": messages, "tools": self.tools})
        return hashlib.sha256(text.encode("utf-8")).digest()

    @property
    def trained_turns(self) -> tuple[int, ...]:
        """Indices of the assistant messages that are trained: all whose weight is not 0."""
        return tuple(
            index
            for index, message in enumerate(self.messages)
            if message["role"] == "assistant" and message.get("weight") != 0
        )


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """`message` with the parts that mean the same written the same."""
    if "tool_calls" not in message and message.get("weight") != 1:
        return message
    plain = {key: value for key, value in message.items() if (key, value) != ("weight", 1)}
    if "tool_calls" in plain:
        plain["tool_calls"] = [_with_parsed_arguments(call) for call in plain["tool_calls"]]
    return plain


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}


def render_ready(example: Example) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Messages and tools as chat templates want them.

    Arguments are objects, weights are gone, tools are None when there are none. The lists and the
    messages are copies, so that a caller may change them.
    """
    messages = []
    for message in example.messages:
        ready = {key: value for key, value in message.items() if key != "weight"}
        if "tool_calls" in ready:
            ready["tool_calls"] = [_with_parsed_arguments(call) for call in ready["tool_calls"]]
        messages.append(ready)
    return messages, [dict(tool) for tool in example.tools] or None
