"""Reads how a chat template writes tools, and says whether Ollama's can write the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tanren.export.ollama.probe import Look, Prompts, common_prefix, look_at
from tanren.export.ollama.shape import Shape, ToolShape

Message = dict[str, Any]

_QUESTION, _SYSTEM, _REPLY = "Oneclover", "Twolantern", "Threeotter"
_RESULTS = ("Fourwillow", "Fivepebble")
_NAMES = ("count_stars", "weigh_stone")
_ARGUMENTS = ({"upto": 13}, {"exact": True, "stone": "水"})


def _tool(name: str, properties: Mapping[str, Any], required: list[str]) -> Message:
    """A tool with its keys in the order in which everybody writes them."""
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": f"About {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS: list[Message] = [
    _tool(_NAMES[0], {"upto": {"type": "integer", "description": "The last."}}, ["upto"]),
    _tool(
        _NAMES[1],
        {
            "exact": {"type": "boolean", "description": "To the gram?"},
            "stone": {"type": "string", "description": "Which 石?", "enum": ["a", "b"]},
        },
        ["exact", "stone"],
    ),
]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def calling(content: str, *numbers: int) -> Message:
    """An assistant's message that calls tools by their numbers."""
    calls = [
        {
            "id": f"call0000{number}",
            "type": "function",
            "function": {
                "name": _NAMES[number],
                "arguments": json.dumps(_ARGUMENTS[number], ensure_ascii=False),
            },
        }
        for number in numbers
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(content: str, number: int) -> Message:
    return {
        "role": "tool",
        "content": content,
        "name": _NAMES[number],
        "tool_call_id": f"call0000{number}",
    }


def conversations() -> list[list[Message]]:
    """What a person does with tools; a translation has to write all of them right."""
    system = {"role": "system", "content": "Be exact."}
    first = [user("How many?"), calling("", 0), result("9", 0)]
    both = [user("Both."), calling("I look.", 0, 1), result("9", 0), result('{"g": 3}', 1)]
    reply = {"role": "assistant", "content": "Nine."}
    return [
        [user("Hello")],
        [system, user("Hello")],
        [user("Hello"), reply, user("Again")],
        first,
        [*first, reply, user("And now?")],
        [system, *both],
        [system, *both, calling("", 1), result("5", 1), reply, *first],
    ]


class ToolProbe:
    def __init__(self, prompts: Prompts, shape: Shape) -> None:
        self._prompts = prompts
        self._shape = shape

    def shape(self) -> ToolShape | None:
        """The form, or None where the template has another one."""
        listed = self._listed()
        called = self._called()
        return None if listed is None or called is None else ToolShape(**listed, **called)

    def _look(self, messages: list[Message], words: list[str], *, tools: bool) -> Look | None:
        return look_at(self._prompts.text(messages, TOOLS if tools else None), words)

    # --- the list ---

    def _listed(self) -> dict[str, Any] | None:
        written = [json.dumps(tool, ensure_ascii=False) for tool in TOOLS]
        system = {"role": "system", "content": _SYSTEM}
        alone = self._look([user(_QUESTION)], [*written, _QUESTION], tools=True)
        beside = self._look([system, user(_QUESTION)], [_SYSTEM, *written, _QUESTION], tools=True)
        if alone is None or alone.order != (0, 1, 2):
            return None
        if beside is not None and beside.order == (0, 1, 2, 3):
            return self._in_system(alone, beside)
        return self._in_front(alone)

    def _in_system(self, alone: Look, beside: Look) -> dict[str, Any] | None:
        before = self._shape.user.before
        tail = alone.gaps[2].removesuffix(before)
        same = beside.gaps[2:4] == (alone.gaps[1], alone.gaps[2])
        if not same or not alone.gaps[2].endswith(before) or self._shape.system.place != "turn":
            return None
        return {
            "place": "system",
            "lead": beside.gaps[0],
            "with_system": beside.gaps[1],
            "alone": alone.gaps[0],
            "between": alone.gaps[1],
            "tail": tail,
        }

    def _in_front(self, alone: Look) -> dict[str, Any] | None:
        usual = self._shape.opening + self._shape.user.before
        if not alone.gaps[2].endswith(usual):
            return None
        return {
            "place": "front",
            "lead": alone.gaps[0],
            "with_system": "",
            "alone": "",
            "between": alone.gaps[1],
            "tail": alone.gaps[2].removesuffix(usual),
        }

    # --- calls and results ---

    def _called(self) -> dict[str, Any] | None:
        arguments = [json.dumps(each, ensure_ascii=False) for each in _ARGUMENTS]
        words = [_NAMES[0], arguments[0], _NAMES[1], arguments[1], *_RESULTS]
        results = [result(text, number) for number, text in enumerate(_RESULTS)]
        bare = self._look(
            [user(_QUESTION), calling("", 0, 1), *results], [_QUESTION, *words], tools=False
        )
        full = self._look(
            [user(_QUESTION), calling(_REPLY, 0, 1), *results],
            [_QUESTION, _REPLY, *words],
            tools=False,
        )
        if bare is None or full is None:
            return None
        if bare.order != tuple(range(7)) or full.order != tuple(range(8)):
            return None
        return self._call_texts(bare, full)

    def _call_texts(self, bare: Look, full: Look) -> dict[str, Any] | None:
        opening = self._shape.user.after + self._shape.assistant.before
        _, first, middle, next_call, _, after_calls, between, last = bare.gaps
        opened = first.removeprefix(opening)
        if full.gaps[1] != opening or first == opened or not next_call.endswith(opened):
            return None
        if not full.gaps[2].endswith(opened) or not last.endswith(self._shape.prompt):
            return None
        separated = next_call.removesuffix(opened)
        close = self._call_close(separated, after_calls)
        if close is None:
            return None
        end = last.removesuffix(self._shape.prompt)
        result_close = common_prefix(between, end)
        return {
            "call_join": full.gaps[2].removesuffix(opened),
            "call_open": opened,
            "call_middle": middle,
            "call_close": close,
            "call_between": separated.removeprefix(close),
            "result_first": after_calls.removeprefix(close + self._shape.assistant.after),
            "result_next": between.removeprefix(result_close),
            "result_close": result_close,
            "result_end": end.removeprefix(result_close),
        }

    def _call_close(self, separated: str, after_calls: str) -> str | None:
        """What ends a call, whether another one follows or the turn ends."""
        longest = common_prefix(separated, after_calls)
        for length in range(len(longest), -1, -1):
            if after_calls[length:].startswith(self._shape.assistant.after):
                return longest[:length]
        return None
