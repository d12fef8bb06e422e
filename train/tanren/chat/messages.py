"""The messages of one row: keys, roles and weights, in order."""

from __future__ import annotations

from typing import Any

from tanren.chat.calls import OpenCalls
from tanren.chat.content import REASONING_KEYS, is_plain_text, read_content, read_reasoning
from tanren.chat.findings import Findings
from tanren.chat.wording import EXPECTED_ROLES, KEYS, MESSAGE_KEY_ALIASES, intended_role
from tanren.strict_json import child, quoted, shown

# Looked up instead of kept from the row: a million rows then share four strings.
_PLAIN_ROLES = {role: role for role in ("system", "developer", "user", "assistant")}
_ROLES = {**_PLAIN_ROLES, "tool": "tool", "function": "function"}

_LEGACY_KEYS = ("function_call", "reasoning", "thinking")
# Servers write these into every reply; empty they mean nothing, filled they hold what is no text.
_EMPTY_REPLY_KEYS = ("audio", "annotations")
_ASSISTANT_ONLY = ("weight", "tool_calls", "function_call", "refusal", *REASONING_KEYS)


def read_messages(
    value: object, tool_names: frozenset[str], findings: Findings
) -> tuple[dict[str, Any], ...]:
    """The normalised messages; complete only when `findings` has no fault."""
    if not isinstance(value, list) or not value:
        remedy = 'write a list of {"role": ..., "content": ...}'
        findings.fault("messages", shown(value), "a list of at least one message", remedy)
        return ()
    conversation = _Conversation(tool_names, findings)
    messages = [conversation.read(message, index) for index, message in enumerate(value)]
    conversation.check_trained()
    return tuple(messages)


class _Conversation:
    """Reads messages in order, remembering what later ones and the whole depend on."""

    def __init__(self, tool_names: frozenset[str], findings: Findings) -> None:
        self._findings = findings
        self._calls = OpenCalls(tool_names, findings)
        self._assistants = 0
        self._trained = 0
        self._roles_unclear = False
        self._last_role: str | None = None

    def read(self, message: object, index: int) -> dict[str, Any]:
        if type(message) is dict and len(message) == 2 and not self._calls:
            role, content = message.get("role"), message.get("content")
            if type(role) is str and role in _PLAIN_ROLES and is_plain_text(content):
                self._count(role, trained=True)
                return {"role": _PLAIN_ROLES[role], "content": content}
        return self._read_any(message, f"messages[{index}]")

    def _read_any(self, message: object, path: str) -> dict[str, Any]:
        if not isinstance(message, dict):
            remedy = 'write {"role": "user", "content": ...}'
            self._findings.fault(path, shown(message), "an object", remedy)
            self._roles_unclear = self._calls.unclear = True
            return {}
        self._check_keys(message, path)
        role = self._role(message, path)
        if role not in ("tool", "function", None):
            self._calls.close(path, role)
        read: dict[str, Any] = {"role": "tool" if role == "function" else role}
        if role is not None:
            self._check_owners(message, path, role)
        calls = self._calls.read(message, path) if role in ("assistant", None) else []
        read["content"] = read_content(message, path, role, self._findings, has_calls=bool(calls))
        read.update(read_reasoning(message, path, self._findings))
        read.update(self._name(message, path))
        if role in ("tool", "function"):
            read.update(self._calls.answer(message, path, role))
        if calls:
            read["tool_calls"] = calls
        if role == "assistant":
            read.update(self._weight(message, path))
        self._count(role, trained=read.get("weight") != 0)
        return read

    def _count(self, role: str | None, *, trained: bool) -> None:
        self._last_role = role
        if role == "assistant":
            self._assistants += 1
            self._trained += trained
        elif role is None:
            self._roles_unclear = True

    def check_trained(self) -> None:
        """At least one assistant message must teach; what follows the last one does not."""
        if self._roles_unclear:
            return
        if not self._assistants:
            remedy = "add the answer that the model should learn"
            self._findings.fault("messages", "no assistant message", "at least one", remedy)
        elif not self._trained:
            found, expected = (
                'only assistant messages of "weight" 0',
                "at least one that is trained",
            )
            remedy = 'set "weight" to 1 where the model should learn, or delete the row'
            self._findings.fault("messages", found, expected, remedy)
        elif self._last_role != "assistant":
            found = f"a {self._last_role} message at the end"
            remedy = "add the assistant's answer or remove what follows its last one"
            self._findings.warn("messages", found, "an assistant message at the end", remedy)

    def _check_keys(self, message: dict[str, Any], path: str) -> None:
        for key, value in message.items():
            if key in KEYS or key in _LEGACY_KEYS:
                continue
            if key in _EMPTY_REPLY_KEYS:
                if value not in (None, []):
                    remedy = "remove it: only text is trained"
                    self._findings.fault(child(path, key), shown(value), "nothing", remedy)
                continue
            meant = MESSAGE_KEY_ALIASES.get(key)
            if meant and meant not in message:
                remedy = f'rename it to "{meant}"'
                role = intended_role(value) if meant == "role" else None
                if role and role != value:
                    remedy += f' and {shown(value)} to "{role}"'
                found = f"the unknown key {quoted(str(key))}"
                self._findings.fault(path, found, "|".join(KEYS), remedy)
            else:
                self._findings.unknown_key(path, key, KEYS, "remove it")

    def _role(self, message: dict[str, Any], path: str) -> str | None:
        place, role = child(path, "role"), message.get("role")
        if isinstance(role, str) and role in _ROLES:
            return _ROLES[role]
        self._calls.unclear = True
        if "role" in message:
            meant = intended_role(role)
            remedy = f'rename it to "{meant}"' if meant else "use one of these"
            self._findings.fault(place, shown(role), EXPECTED_ROLES, remedy)
        elif not any(MESSAGE_KEY_ALIASES.get(key) == "role" for key in message):
            self._findings.fault(place, "nothing", EXPECTED_ROLES, 'add "role"')
        return None

    def _check_owners(self, message: dict[str, Any], path: str, role: str) -> None:
        """Keys that belong to another role."""
        foreign = () if role == "assistant" else _ASSISTANT_ONLY
        for key in (*foreign, *(() if role == "tool" else ("tool_call_id",))):
            if message.get(key) in (None, []):
                continue
            owner = "tool" if key == "tool_call_id" else "assistant"
            remedy = "remove it"
            if key == "weight":
                remedy = "remove it: only assistant messages are trained"
            found, expected = f"{quoted(key)} on a {role} message", f"it only on {owner} messages"
            self._findings.fault(child(path, key), found, expected, remedy)

    def _name(self, message: dict[str, Any], path: str) -> dict[str, str]:
        name = message.get("name")
        if name is None:
            return {}
        if not isinstance(name, str) or not name.strip():
            remedy = "write a name as text or remove it"
            self._findings.fault(child(path, "name"), shown(name), "a name", remedy)
            return {}
        return {"name": name}

    def _weight(self, message: dict[str, Any], path: str) -> dict[str, int]:
        weight = message.get("weight")
        if weight is None:
            return {}
        if type(weight) is not int or weight not in (0, 1):
            remedy = "write 1 to train this message, 0 to leave it out"
            self._findings.fault(child(path, "weight"), shown(weight), "0|1", remedy)
            return {}
        return {"weight": weight}
