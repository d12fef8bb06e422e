"""One row: JSON, top-level keys, messages and tools together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tanren.chat.example import Example
from tanren.chat.findings import Findings
from tanren.chat.messages import read_messages
from tanren.chat.tools import read_tools
from tanren.chat.wording import REQUEST_OPTIONS, not_an_object, without_messages
from tanren.errors import Fault
from tanren.strict_json import close_match, read_json, shown, value_faults

IGNORED_KEYS = ("metadata", "id")
"""Top-level keys that people keep beside a conversation. They train nothing; readers count them."""

_KEYS = ("messages", "tools", "parallel_tool_calls", "functions")


def parse_line(text: str, *, source: str, line: int) -> Example | list[Fault]:
    """One line of a chat-format file, or all its faults.

    `source` and `line` (1-based) only name the place.
    """
    row, faults = read_json(text, f"{source}:{line}")
    if faults and row is None:
        return faults
    return _read(row, faults, source, line)


def parse_object(obj: object, *, source: str, line: int) -> Example | list[Fault]:
    """The same for a row that is a Python value already."""
    faults = value_faults(obj, f"{source}:{line}")
    return _read(obj, faults, source, line)


def _read(row: object, faults: list[Fault], source: str, line: int) -> Example | list[Fault]:
    findings = Findings(f"{source}:{line}", faults)
    if not isinstance(row, dict):
        findings.fault("", *not_an_object(row))
        return findings.faults
    if "messages" not in row:
        findings.fault("", *without_messages(row))
        return findings.faults
    if len(row) == 1:
        messages = read_messages(row["messages"], frozenset(), findings)
        return findings.faults or Example(source, line, messages, warnings=tuple(findings.warnings))
    return _read_with_tools(row, findings, source, line)


def _read_with_tools(
    row: dict[str, Any], findings: Findings, source: str, line: int
) -> Example | list[Fault]:
    ignored = tuple(key for key in row if key in IGNORED_KEYS)
    _check_keys(row, findings)
    parallel = parallel_tool_calls(row.get("parallel_tool_calls"), findings)
    tools = read_tools(row, findings)
    messages = read_messages(row["messages"], tool_names(tools), findings)
    if parallel is False:
        warn_of_parallel_calls(messages, findings)
    if findings.faults:
        return findings.faults
    return Example(source, line, messages, tools, parallel, tuple(findings.warnings), ignored)


def _check_keys(row: dict[str, Any], findings: Findings) -> None:
    for key in row:
        if key in _KEYS or key in IGNORED_KEYS:
            continue
        if key in REQUEST_OPTIONS and not close_match(key, _KEYS):
            remedy = "remove it: it belongs to a request and trains nothing"
        else:
            remedy = 'remove it or move it into "metadata", which is ignored'
        findings.unknown_key("", key, _KEYS, remedy)


def tool_names(tools: Iterable[dict[str, Any]]) -> frozenset[str]:
    return frozenset(
        name for tool in tools if isinstance(name := tool["function"].get("name"), str)
    )


def parallel_tool_calls(value: object, findings: Findings) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    findings.fault(
        "parallel_tool_calls", shown(value), "true|false", "write true or false without quotes"
    )
    return None


def warn_of_parallel_calls(messages: tuple[dict[str, Any], ...], findings: Findings) -> None:
    for index, message in enumerate(messages):
        count = len(message.get("tool_calls", ()))
        if count > 1:
            remedy = "set parallel_tool_calls to true or split the message"
            found = f"{count} calls in one message although parallel_tool_calls is false"
            findings.warn(f"messages[{index}].tool_calls", found, "one call", remedy)
