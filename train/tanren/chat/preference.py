"""One preference line -> a validated `Preference`, or a list of all its faults.

The format is the one that OpenAI's preference fine-tuning (DPO) accepts: `input` with messages and
tools, `preferred_output` and `non_preferred_output` with one assistant message each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tanren.chat.example import Example
from tanren.chat.findings import Findings
from tanren.chat.messages import read_messages
from tanren.chat.row import (
    IGNORED_KEYS,
    parallel_tool_calls,
    tool_names,
    warn_of_parallel_calls,
)
from tanren.chat.tools import read_tools
from tanren.chat.wording import intended_role, not_a_preference
from tanren.errors import Fault
from tanren.strict_json import child, quoted, read_json, shown, value_faults

PREFERRED, REJECTED = "preferred_output", "non_preferred_output"
_KEYS = ("input", PREFERRED, REJECTED)
_INPUT_KEYS = ("messages", "tools", "parallel_tool_calls", "functions")
_MESSAGE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)
_ANSWER = '[{"role": "assistant", "content": ...}]'

# Stands for an answer that has faults of its own, so that the prompt is read all the same.
_ANY_ANSWER = {"role": "assistant", "content": "-"}


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with the answer that is preferred to another one.

    Both examples hold the same messages and tools up to their last message, which is the answer.
    """

    preferred: Example
    rejected: Example
    warnings: tuple[Fault, ...] = field(default=(), compare=False)
    ignored_keys: tuple[str, ...] = field(default=(), compare=False)

    @property
    def source(self) -> str:
        return self.preferred.source

    @property
    def line(self) -> int:
        """1-based."""
        return self.preferred.line


def parse_preference(text: str, *, source: str, line: int) -> Preference | list[Fault]:
    """One line of a preference file, or all its faults. `source` and `line` only name the place."""
    row, faults = read_json(text, f"{source}:{line}")
    if faults and row is None:
        return faults
    return _read(row, faults, source, line)


def parse_preference_object(obj: object, *, source: str, line: int) -> Preference | list[Fault]:
    """The same for a row that is a Python value already."""
    return _read(obj, value_faults(obj, f"{source}:{line}"), source, line)


class _Placed(Findings):
    """Findings of a conversation that is put together of `input` and one answer, told where they
    stand in the row.
    """

    __slots__ = ("_answer", "_prompt")

    def __init__(self, where: str, faults: list[Fault], prompt: int, answer: str) -> None:
        """`prompt`: how many messages the input has; what comes after them is in `answer`."""
        super().__init__(where, faults)
        self._prompt, self._answer = prompt, answer

    def at(self, path: str) -> str:
        found = _MESSAGE.match(path)
        if found and int(found[1]) >= self._prompt:
            return f"{self.where} {self._answer}[0]{found[2]}"
        return f"{self.where} input.{path}" if path else f"{self.where} input"


def _read(row: object, faults: list[Fault], source: str, line: int) -> Preference | list[Fault]:
    findings = Findings(f"{source}:{line}", faults)
    if not isinstance(row, dict) or not (PREFERRED in row or REJECTED in row):
        findings.fault("", *not_a_preference(row))
        return findings.faults
    for key in row:
        if key not in _KEYS and key not in IGNORED_KEYS:
            findings.unknown_key("", key, _KEYS, 'remove it or move it into "metadata"')
    given = _input(row, findings)
    answers = {name: _answer(row, name, findings) for name in (PREFERRED, REJECTED)}
    if given is None:
        return findings.faults
    examples = [
        _example(given, answer, name, findings, source, line) for name, answer in answers.items()
    ]
    if findings.faults:
        return list(dict.fromkeys(findings.faults))
    preferred, rejected = examples
    if preferred.sha256 == rejected.sha256:
        remedy = "write another answer, or remove the row"
        findings.fault("", "the same answer twice", "two answers, one of them better", remedy)
        return findings.faults
    ignored = tuple(key for key in row if key in IGNORED_KEYS)
    return Preference(preferred, rejected, tuple(dict.fromkeys(findings.warnings)), ignored)


def _input(row: dict[str, Any], findings: Findings) -> dict[str, Any] | None:
    given = row.get("input")
    if not isinstance(given, dict):
        found = "nothing" if "input" not in row else shown(given)
        remedy = 'write "input": {"messages": [...]}'
        if isinstance(given, list):
            remedy = 'wrap the list: "input": {"messages": [...]}'
        findings.fault("input", found, "an object with the prompt's messages", remedy)
        return None
    for key in given:
        if key not in _INPUT_KEYS:
            findings.unknown_key("input", key, _INPUT_KEYS, "remove it: it trains nothing")
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        found = "nothing" if messages is None else shown(messages)
        remedy = 'write a list of {"role": ..., "content": ...}'
        findings.fault("input.messages", found, "a list of at least one message", remedy)
        return None
    return given


def _answer(row: dict[str, Any], name: str, findings: Findings) -> dict[str, Any]:
    """The one message, without a weight; a stand-in where there is none that can be read."""
    value = row.get(name)
    if not isinstance(value, list) or len(value) != 1:
        found = "nothing" if name not in row else shown(value)
        if isinstance(value, list):
            found = f"{len(value)} messages"
        remedy = f"write {_ANSWER}"
        if isinstance(value, dict):
            remedy = f"wrap the message in a list: {_ANSWER}"
        elif isinstance(value, list) and value:
            remedy = 'keep the last one here and move the others into "input"'
        findings.fault(name, found, "a list of one assistant message", remedy)
        return _ANY_ANSWER
    (message,) = value
    place = f"{name}[0]"
    if not isinstance(message, dict):
        remedy = 'write {"role": "assistant", "content": ...}'
        findings.fault(place, shown(message), "an object", remedy)
        return _ANY_ANSWER
    role = message.get("role")
    if role != "assistant":
        found = "nothing" if "role" not in message else shown(role)
        wrong = intended_role(role) not in ("assistant", None)
        remedy = "write the assistant's answer here" if wrong else 'set it to "assistant"'
        findings.fault(child(place, "role"), found, '"assistant"', remedy)
        return _ANY_ANSWER
    if message.get("weight") not in (None, 1):
        remedy = "remove it: both answers are compared whole"
        findings.fault(child(place, "weight"), shown(message["weight"]), "no weight", remedy)
    return {key: part for key, part in message.items() if key != "weight"}


def _example(
    given: dict[str, Any],
    answer: dict[str, Any],
    name: str,
    findings: Findings,
    source: str,
    line: int,
) -> Example:
    """The prompt with one of the answers. What is wrong in the prompt is said once for both."""
    prompt = [_without_weight(m, i, findings) for i, m in enumerate(given["messages"])]
    placed = _Placed(findings.where, findings.faults, len(prompt), name)
    parallel = parallel_tool_calls(given.get("parallel_tool_calls"), placed)
    tools = read_tools(given, placed)
    messages = read_messages([*prompt, answer], tool_names(tools), placed)
    if parallel is False and not findings.faults:
        warn_of_parallel_calls(messages, placed)
    findings.warnings += placed.warnings
    return Example(source, line, messages, tools, parallel)


def _without_weight(message: Any, index: int, findings: Findings) -> Any:
    if not isinstance(message, dict) or "weight" not in message:
        return message
    place = f"input.messages[{index}].weight"
    remedy = "remove it: the two answers are what is trained"
    findings.warn(place, quoted(str(message["weight"])), "no weight in a prompt", remedy)
    return {key: part for key, part in message.items() if key != "weight"}
