"""Tool calls matched with their answers, across the messages of one conversation."""

from __future__ import annotations

from typing import Any

from tanren.chat.findings import Findings
from tanren.chat.tools import read_call, read_called_function
from tanren.strict_json import child, close_match, quoted, shown


class OpenCalls:
    """The calls that wait for their answer, in order.

    `unclear` is set once a faulty call, answer or role makes matching guesswork: then nothing more
    is said about answers, so that one mistake is one fault.
    """

    def __init__(self, tool_names: frozenset[str], findings: Findings) -> None:
        self.unclear = False
        self._findings = findings
        self._tool_names = tool_names
        self._open: dict[str, tuple[str, str]] = {}  # id -> name of the function, path of the call
        self._answered: set[str] = set()
        self._legacy_calls = 0

    def __bool__(self) -> bool:
        return bool(self._open)

    def read(self, message: dict[str, Any], path: str) -> list[dict[str, Any]]:
        """The calls of an assistant message; a legacy `function_call` becomes one of them."""
        before = len(self._findings.faults)
        calls = self._tool_calls(message.get("tool_calls"), child(path, "tool_calls"))
        if message.get("function_call") is not None:
            calls += self._legacy(message["function_call"], child(path, "function_call"), calls)
        if len(self._findings.faults) > before:
            self.unclear = True
        for call in calls:
            self._add(call, child(path, "tool_calls"))
        return calls

    def _tool_calls(self, value: object, path: str) -> list[dict[str, Any]]:
        if value is None:
            return []
        if not isinstance(value, list):
            remedy = "write the calls as a list"
            self._findings.fault(path, shown(value), "a list of calls", remedy)
            return []
        calls = [read_call(call, child(path, i), self._findings) for i, call in enumerate(value)]
        return [call for call in calls if call is not None]

    def _legacy(
        self, value: object, path: str, calls: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        if calls:
            found = 'both "tool_calls" and the legacy "function_call"'
            self._findings.fault(path, found, "one of them", 'move the call into "tool_calls"')
        function = read_called_function(value, path, self._findings)
        if function is None:
            return []
        identity = f"call_{self._legacy_calls}"
        self._legacy_calls += 1
        return [{"id": identity, "type": "function", "function": function}]

    def _add(self, call: dict[str, Any], path: str) -> None:
        identity, name = call["id"], call["function"]["name"]
        if not isinstance(identity, str):
            return  # has a fault
        if identity in self._open:
            remedy = "give every call of a message an id of its own"
            found = f"the id {quoted(identity)} twice"
            self._findings.fault(path, found, "each id once", remedy)
        if self._tool_names and name not in self._tool_names:
            meant = close_match(name, self._tool_names)
            remedy = f"rename it to {quoted(meant)}" if meant else 'declare it in "tools"'
            self._findings.warn(path, f"a call of {quoted(name)}", "a declared tool", remedy)
        self._open[identity] = (name, path)
        self._answered.discard(identity)

    def close(self, path: str, role: str) -> None:
        """Another turn begins at `path`: every call must have its answer by now.

        Calls at the very end of a conversation may stay open, so nobody asks there.
        """
        for identity, (_, place) in self._open.items():
            if not self.unclear:
                found = f"no answer to the call {quoted(identity)} before {path} ({role})"
                expected = f'a tool message with "tool_call_id": {quoted(identity)}'
                remedy = "add the tool message after the call, or remove the call"
                self._findings.fault(place, found, expected, remedy)
        self._open.clear()

    def answer(self, message: dict[str, Any], path: str, role: str) -> dict[str, str]:
        """`{"tool_call_id": id}` of the call that a tool (or legacy function) message answers."""
        if role == "function":
            return self._answer_by_name(message.get("name"), child(path, "name"))
        return self._answer_by_id(message.get("tool_call_id"), child(path, "tool_call_id"))

    def _answer_by_id(self, identity: object, path: str) -> dict[str, str]:
        if not isinstance(identity, str) or not identity:
            found = "nothing" if identity is None else shown(identity)
            expected = "the id of the call it answers"
            self._findings.fault(path, found, expected, self._open_ids_remedy())
            self.unclear = True
            return {}
        if identity in self._open:
            del self._open[identity]
            self._answered.add(identity)
        elif identity in self._answered:
            found, remedy = f"{quoted(identity)} answered before", "join both answers or remove one"
            self._findings.fault(path, found, "one answer for each call", remedy)
        elif not self.unclear:
            meant = close_match(identity, self._open)
            remedy = f"rename it to {quoted(meant)}" if meant else self._open_ids_remedy()
            expected = "the id of an open call in the assistant message before"
            self._findings.fault(path, quoted(identity), expected, remedy)
            self.unclear = True
        return {"tool_call_id": identity}

    def _open_ids_remedy(self) -> str:
        if not self._open:
            return 'add the call as "tool_calls" to the assistant message before'
        return "use " + " or ".join(quoted(identity) for identity in list(self._open)[:3])

    def _answer_by_name(self, name: object, path: str) -> dict[str, str]:
        if not isinstance(name, str) or not name:
            if name is None:
                remedy = "add the name of the function that was called"
                self._findings.fault(path, "nothing", "the function's name", remedy)
            self.unclear = True
            return {}
        for identity, (called, _) in self._open.items():
            if called == name:
                del self._open[identity]
                return {"tool_call_id": identity}
        if not self.unclear:
            names = [called for called, _ in self._open.values()]
            meant = close_match(name, names) or (names[0] if names else None)
            remedy = 'add "function_call" to the assistant message before'
            if meant:
                remedy = f"rename it to {quoted(meant)}"
            self._findings.fault(path, quoted(name), "the function called just before", remedy)
            self.unclear = True
        return {}
