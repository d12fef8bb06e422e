"""Conversations that templates and encoders are tried on."""

from __future__ import annotations

import random
from typing import Any

from templates import TOOLS

from tanren.chat import Example

Message = dict[str, Any]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def example(*messages: Message, tools: list[Message] | None = None, line: int = 1) -> Example:
    return Example("chat.jsonl", line, tuple(messages), tuple(tools or ()))


def call(name: str, arguments: str, number: int = 0) -> Message:
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def weather_talk() -> Example:
    """Asks a tool, gets its result, answers."""
    return example(
        user("How is the weather in 東京?"),
        answer("", tool_calls=[call("get_weather", '{"city": "東京"}')]),
        {"role": "tool", "content": "sunny", "tool_call_id": "call_0"},
        answer("It is sunny."),
        tools=TOOLS,
    )


def reasoned_talk() -> Example:
    return example(
        user("a"),
        answer("b", reasoning_content="first thought"),
        user("c"),
        answer("d", reasoning_content="second thought"),
    )


TALKS: dict[str, Example] = {
    "single": example(user("Why is the sky blue?"), answer("Because air scatters blue light.")),
    "multi": example(
        user("One?"), answer("First."), user("Two?"), answer("Second."), user("3?"), answer("3.")
    ),
    "system": example(
        system("Answer briefly."), user("Hello"), answer("Hi."), user("More?"), answer("No.")
    ),
    "japanese": example(
        user("空はなぜ青い？"),
        answer("青い光がよく散るからです。"),
        user("夕方は？"),
        answer("赤い。"),
    ),
    "emoji": example(
        user("👩‍👩‍👧 and 🇯🇵?"), answer("👍🏽 naïve — café ﷽ 𝄞"), user("🙂"), answer("🙃")
    ),
}
"""Without tools and developer messages; every family can write all but "system"."""

_PIECES = [
    "a", "Sky", " ", "  ", "\n", "\n\n", "\t", ".", "?", "42", "日本", "、", "🙂", "👩‍👧", "é",
    "e\u0301", "▁", "Ġ", "<", "|", "User:", "Assistant:", "\\n", '"', "{", "\u3000",
    "\u200b", "İ", "ß",
]  # fmt: skip


def hostile_text(dice: random.Random) -> str:
    """White space, joiners and half-tags in any order; never empty when trimmed."""
    pieces = [dice.choice(_PIECES) for _ in range(dice.randint(0, 8))]
    pieces.insert(dice.randint(0, len(pieces)), dice.choice(["x", "日", "7"]))
    return "".join(pieces)


def hostile_example(dice: random.Random, line: int) -> Example:
    messages: list[Message] = []
    for _ in range(dice.randint(1, 3)):
        messages.append(user(hostile_text(dice)))
        messages.append(answer(hostile_text(dice), weight=dice.choice([0, 1, 1])))
    messages[-1]["weight"] = 1
    return example(*messages, line=line)
