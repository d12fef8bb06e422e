"""ShareGPT: a list of turns with `from` and `value` (or `role` and `content`), tools included."""

from __future__ import annotations

import json
from typing import Any

from tanren.data.convert.records import LeftOut, Record
from tanren.data.convert.shapes import OTHER_SHAPE, Kit, RowShape, role_of
from tanren.strict_json import quoted, read_json, shown

TURNS = ("conversations", "conversation", "messages", "dialogue", "dialog", "turns")
_ROLE_KEYS = ("from", "role", "speaker")
_TEXT_KEYS = ("value", "content", "text")
_OTHER_KEYS = ("weight", "loss", "train", "name", "tool_calls", "tool_call_id", "reasoning_content")
_TOOLS_FAULT = "tools that cannot be read"


def decoded_turns(value: Any) -> Any:
    """A list that tables keep as JSON text, as the list; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        found, faults = read_json(value.strip(), "")
        return value if faults else found
    return value


def turns_in(row: dict[str, Any]) -> str | None:
    """The key of the row's turns."""
    for key in TURNS:
        turns = decoded_turns(row.get(key))
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            first = turns[0]
            if any(r in first for r in _ROLE_KEYS) and any(t in first for t in _TEXT_KEYS):
                return key
    return None


class ShareGpt(RowShape):
    def __init__(self, kit: Kit, key: str, first: dict[str, Any]) -> None:
        super().__init__(kit, frozenset((key, "system", "tools")))
        self._key = key
        role = next((name for name in _ROLE_KEYS if name in first), "from")
        text = next((name for name in _TEXT_KEYS if name in first), "value")
        self.said = f"ShareGPT: {quoted(key)} with {role}/{text}"

    def read(self, value: dict[str, Any], record: Record) -> dict[str, Any]:
        turns = decoded_turns(value.get(self._key))
        if not isinstance(turns, list) or not turns:
            found = shown(turns) if self._key in value else "no turns"
            remedy = "write the turns or delete the row"
            raise LeftOut(OTHER_SHAPE, (self._key, found, "a list of turns", remedy))
        reader = _Turns(self._kit, self._cells)
        messages = [reader.message(t, f"{self._key}[{i}]") for i, t in enumerate(turns)]
        system = value.get("system")
        if system:
            text = self._cells.text(system, "system")
            if text.strip() and messages[0]["role"] != "system":
                messages.insert(0, {"role": "system", "content": text})
        row: dict[str, Any] = {"messages": self.with_system(messages, value)}
        if value.get("tools"):
            row["tools"] = read_tools(value["tools"])
        return row


class _Turns:
    """The turns of one row; calls are numbered, so that their answers can name them."""

    def __init__(self, kit: Kit, cells: Any) -> None:
        self._roles = kit.settings.roles
        self._text = cells.text
        self._calls = 0
        self._open: list[str] = []

    def message(self, turn: object, path: str) -> dict[str, Any]:
        if not isinstance(turn, dict):
            remedy = 'write {"from": ..., "value": ...}'
            raise LeftOut(OTHER_SHAPE, (path, shown(turn), "an object", remedy))
        role_key = next((k for k in _ROLE_KEYS if k in turn), None)
        text_key = next((k for k in _TEXT_KEYS if k in turn), None)
        unknown = [k for k in turn if k not in (role_key, text_key, *_OTHER_KEYS) and turn[k]]
        if unknown and unknown[0] in (*_ROLE_KEYS, *_TEXT_KEYS):
            found, remedy = f"the key {quoted(unknown[0])} as well", "keep one of them"
            raise LeftOut(OTHER_SHAPE, (path, found, "one role and one text", remedy))
        role = role_of(turn.get(role_key) if role_key else None, f"{path}", self._roles)
        value = turn.get(text_key) if text_key else None
        if role == "function_call":
            return self._call(value, path)
        text = self._text(value, f"{path}.{text_key}") if value is not None else None
        message: dict[str, Any] = {"role": role, "content": text}
        if role == "tool" and "tool_call_id" not in turn and self._open:
            message["tool_call_id"] = self._open.pop(0)
        message.update((k, turn[k]) for k in _KEPT if turn.get(k) is not None)
        if role == "assistant" and "weight" not in turn:
            message.update(_weight(turn))
        return message

    def _call(self, value: object, path: str) -> dict[str, Any]:
        """A turn that is the JSON text of a call, or of a list of calls."""
        if isinstance(value, str):
            value, faults = read_json(value, path)
            if faults:
                remedy = 'write {"name": ..., "arguments": {...}}'
                raise LeftOut(_TOOLS_FAULT, (path, faults[0].found, "the call as JSON", remedy))
        calls = []
        for call in value if isinstance(value, list) else [value]:
            name = call.get("name") if isinstance(call, dict) else None
            if not isinstance(call, dict) or not isinstance(name, str):
                remedy = 'write {"name": ..., "arguments": {...}}'
                raise LeftOut(_TOOLS_FAULT, (path, shown(call), "a call with its name", remedy))
            arguments = call.get("arguments", call.get("parameters", {}))
            text = arguments if isinstance(arguments, str) else _json(arguments)
            identity = f"call_{self._calls}"
            self._calls += 1
            self._open.append(identity)
            function = {"name": name, "arguments": text}
            calls.append({"id": identity, "type": "function", "function": function})
        return {"role": "assistant", "content": None, "tool_calls": calls}


_KEPT = ("name", "tool_calls", "tool_call_id", "reasoning_content", "weight")


def _weight(turn: dict[str, Any]) -> dict[str, int]:
    """`loss` or `train` false: not trained."""
    for key in ("loss", "train"):
        if turn.get(key) is False:
            return {"weight": 0}
    return {}


def read_tools(value: object) -> list[Any]:
    """Tools as the chat format has them; a JSON text and bare functions are understood."""
    if isinstance(value, str):
        text = value
        value, faults = read_json(text, "tools")
        if faults:
            remedy = "write the tools as JSON"
            raise LeftOut(_TOOLS_FAULT, ("tools", faults[0].found, "JSON", remedy))
    if not isinstance(value, list):
        raise LeftOut(_TOOLS_FAULT, ("tools", shown(value), "a list", "write a list of tools"))
    return [
        {"type": "function", "function": tool}
        if isinstance(tool, dict) and "name" in tool and "function" not in tool
        else tool
        for tool in value
    ]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
