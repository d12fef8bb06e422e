"""A request's messages, checked as OpenAI checks them and brought into the one form that templates
are given: text content, calls with arguments as objects, no legacy spellings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tanren.api.wording import Said, kind, missing, wrong_type

ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_SUPPORTED = "Supported values are: 'system', 'assistant', 'user', 'function', 'tool', 'developer'."
_REASONING = ("reasoning_content", "reasoning")


def read_messages(value: Sequence[Any]) -> tuple[tuple[dict[str, Any], ...], list[Said]]:
    """The messages, and everything that is wrong with them; with faults they are incomplete."""
    reader = _Reader()
    messages = [reader.read(message, f"messages[{at}]") for at, message in enumerate(value)]
    reader.close("the end of 'messages'")
    return tuple(messages), reader.faults


class _Reader:
    def __init__(self) -> None:
        self.faults: list[Said] = []
        self._open: dict[str, str] = {}  # id of a call without its answer -> the function's name
        self._asked_at = ""
        self._legacy_calls = 0

    def _fault(self, message: str, param: str, code: str) -> None:
        self.faults.append((message, param, code))

    def read(self, value: Any, at: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fault(wrong_type(at, "an object", value), at, "invalid_type")
            return {}
        role = value.get("role")
        if role is None:
            self._fault(missing(f"{at}.role"), f"{at}.role", "missing_required_parameter")
            return {}
        if role not in ROLES:
            found = f"'{role[:50]}'" if isinstance(role, str) else kind(role)
            message = f"Invalid value for '{at}.role': {found}. {_SUPPORTED}"
            self._fault(message, f"{at}.role", "invalid_value")
            return {}
        if role not in ("tool", "function"):
            self.close(f"'{at}'")
        read = self._by_role(str(role), value, at)
        name = value.get("name")
        if isinstance(name, str) and name and role != "function":
            read["name"] = name
        elif name is not None and not isinstance(name, str):
            self._fault(wrong_type(f"{at}.name", "a string", name), f"{at}.name", "invalid_type")
        return read

    def _by_role(self, role: str, value: dict[str, Any], at: str) -> dict[str, Any]:
        if role == "assistant":
            return self._assistant(value, at)
        read = {"role": role, "content": self._content(value, at, needed=True)}
        if role == "tool":
            read["tool_call_id"] = self._answer(value.get("tool_call_id"), at)
        elif role == "function":
            read["role"] = "tool"
            read["tool_call_id"] = self._answer_by_name(value.get("name"), at)
        return read

    def _assistant(self, value: dict[str, Any], at: str) -> dict[str, Any]:
        calls = self._calls(value, at)
        told = value.get("refusal") if isinstance(value.get("refusal"), str) else None
        needed = not calls and told is None
        read: dict[str, Any] = {"role": "assistant"}
        read["content"] = self._content(value, at, needed=needed) or told or ""
        for key in _REASONING:
            if isinstance(value.get(key), str):
                read["reasoning_content"] = value[key]
                break
        if calls:
            read["tool_calls"] = calls
            self._open = {call["id"]: call["function"]["name"] for call in calls}
            self._asked_at = at
        return read

    # --- content ---

    def _content(self, value: dict[str, Any], at: str, *, needed: bool) -> str:
        content, place = value.get("content"), f"{at}.content"
        if isinstance(content, str):
            return content
        if content is None:
            if needed and "content" in value:
                message = f"Invalid value for '{place}': expected a string, got null."
                self._fault(message, place, "invalid_type")
            elif needed:
                self._fault(missing(place), place, "missing_required_parameter")
            return ""
        if not isinstance(content, list):
            expected = "one of a string or array of objects"
            self._fault(wrong_type(place, expected, content), place, "invalid_type")
            return ""
        return "".join(self._part(part, f"{place}[{i}]") for i, part in enumerate(content))

    def _part(self, part: Any, at: str) -> str:
        if not isinstance(part, dict):
            self._fault(wrong_type(at, "an object", part), at, "invalid_type")
            return ""
        form = part.get("type")
        if form not in ("text", "refusal"):
            found = f"'{form[:50]}'" if isinstance(form, str) else kind(form)
            message = (
                f"Invalid value for '{at}.type': {found}. Supported values are: 'text'. The models "
                "here read text alone: no images, audio or files."
            )
            self._fault(message, f"{at}.type", "invalid_value")
            return ""
        text = part.get(form)
        if not isinstance(text, str):
            place = f"{at}.{form}"
            told = missing(place) if text is None else wrong_type(place, "a string", text)
            self._fault(
                told, place, "missing_required_parameter" if text is None else "invalid_type"
            )
            return ""
        return text

    # --- calls and their answers ---

    def _calls(self, value: dict[str, Any], at: str) -> list[dict[str, Any]]:
        calls, legacy = value.get("tool_calls"), value.get("function_call")
        if legacy is not None:
            call = self._function(legacy, f"{at}.function_call")
            self._legacy_calls += 1
            identity = f"call_{self._legacy_calls}"
            return [{"id": identity, "type": "function", "function": call}] if call else []
        if calls is None:
            return []
        if not isinstance(calls, list):
            place = f"{at}.tool_calls"
            self._fault(wrong_type(place, "an array", calls), place, "invalid_type")
            return []
        read = [self._call(call, f"{at}.tool_calls[{i}]") for i, call in enumerate(calls)]
        return [call for call in read if call]

    def _call(self, call: Any, at: str) -> dict[str, Any] | None:
        if not isinstance(call, dict):
            self._fault(wrong_type(at, "an object", call), at, "invalid_type")
            return None
        if call.get("type", "function") != "function":
            message = f"Invalid value for '{at}.type'. Supported values are: 'function'."
            self._fault(message, f"{at}.type", "invalid_value")
            return None
        identity = call.get("id")
        if not isinstance(identity, str) or not identity:
            place = f"{at}.id"
            told = missing(place) if identity is None else wrong_type(place, "a string", identity)
            self._fault(told, place, "missing_required_parameter")
            return None
        function = self._function(call.get("function"), f"{at}.function")
        return {"id": identity, "type": "function", "function": function} if function else None

    def _function(self, value: Any, at: str) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            told = missing(at) if value is None else wrong_type(at, "an object", value)
            self._fault(told, at, "missing_required_parameter" if value is None else "invalid_type")
            return None
        name = value.get("name")
        if not isinstance(name, str) or not name:
            self._fault(missing(f"{at}.name"), f"{at}.name", "missing_required_parameter")
            return None
        return {
            "name": name,
            "arguments": self._arguments(value.get("arguments"), f"{at}.arguments"),
        }

    def _arguments(self, value: Any, at: str) -> Mapping[str, Any]:
        """Templates write arguments themselves, so their JSON text is read here."""
        if value is None or (isinstance(value, str) and not value.strip()):
            return {}
        if not isinstance(value, str):
            self._fault(wrong_type(at, "a string", value), at, "invalid_type")
            return {}
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            read = None
        if not isinstance(read, dict):
            message = f"Invalid value for '{at}': expected the JSON text of an object."
            self._fault(message, at, "invalid_value")
            return {}
        return read

    def _answer(self, identity: Any, at: str) -> str:
        place = f"{at}.tool_call_id"
        if identity is None:
            self._fault(missing(place), place, "missing_required_parameter")
        elif not isinstance(identity, str):
            self._fault(wrong_type(place, "a string", identity), place, "invalid_type")
        elif self._open.pop(identity, None) is None:
            message = (
                "Invalid parameter: messages with role 'tool' must be a response to a preceding "
                "message with 'tool_calls'."
            )
            self._fault(message, at, "invalid_value")
        return str(identity)

    def _answer_by_name(self, name: Any, at: str) -> str:
        if not isinstance(name, str) or not name:
            self._fault(missing(f"{at}.name"), f"{at}.name", "missing_required_parameter")
            return ""
        found = next((call for call, called in self._open.items() if called == name), None)
        if found is None:
            message = (
                "Invalid parameter: messages with role 'function' must be a response to a "
                "preceding message with a 'function_call' of that name."
            )
            self._fault(message, at, "invalid_value")
            return ""
        del self._open[found]
        return found

    def close(self, before: str) -> None:
        """Whatever was called must have been answered by now."""
        if self._open and not self.faults:
            waiting = ", ".join(self._open)
            message = (
                "An assistant message with 'tool_calls' must be followed by tool messages "
                f"responding to each 'tool_call_id'. Before {before} these did not have response "
                f"messages: {waiting[:200]}"
            )
            self._fault(message, self._asked_at, "invalid_value")
        self._open = {}
