"""Functions that a conversation may call (`tools`, legacy `functions`) and the calls themselves."""

from __future__ import annotations

import json
from typing import Any

from tanren.chat.findings import Findings
from tanren.strict_json import child, close_match, quoted, read_json, shown

_TOOL_KEYS = ("type", "function")
_FUNCTION_KEYS = ("name", "description", "parameters", "strict", "return")
_CALL_KEYS = ("id", "type", "function")
_CALLED_KEYS = ("name", "arguments")
_COMBINING = frozenset(("allOf", "anyOf", "oneOf", "$ref", "patternProperties"))


def read_tools(row: dict[str, Any], findings: Findings) -> tuple[dict[str, Any], ...]:
    """The row's `tools`; legacy `functions` become tools."""
    tools, functions = row.get("tools"), row.get("functions")
    if tools and functions:
        found = 'both "tools" and the legacy "functions"'
        findings.fault("functions", found, "one of them", 'move every function into "tools"')
    read = [
        *_each(tools, "tools", _tool, findings),
        *_each(functions, "functions", _legacy_tool, findings),
    ]
    _warn_of_repeated_names(read, "tools" if tools else "functions", findings)
    return tuple(read)


def _each(value: object, path: str, read: Any, findings: Findings) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        findings.fault(path, shown(value), "a list", "write the functions as a list")
        return []
    read_each = [read(item, child(path, index), findings) for index, item in enumerate(value)]
    return [tool for tool in read_each if tool is not None]


def _tool(value: object, path: str, findings: Findings) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        remedy = 'write {"type": "function", "function": {"name": ..., "parameters": {...}}}'
        findings.fault(path, shown(value), "an object", remedy)
        return None
    if "function" not in value and "name" in value:
        remedy = 'put name, description and parameters inside "function", beside "type": "function"'
        findings.fault(
            path, 'a "name" outside "function"', '{"type": "function", "function": {...}}', remedy
        )
        return None
    _check_type(value, path, findings)
    for key in value:
        if key not in _TOOL_KEYS:
            findings.unknown_key(path, key, _TOOL_KEYS, "remove it")
    function = _function(value.get("function"), child(path, "function"), findings)
    return {"type": "function", "function": function} if function else None


def _legacy_tool(value: object, path: str, findings: Findings) -> dict[str, Any] | None:
    function = _function(value, path, findings)
    return {"type": "function", "function": function} if function else None


def _function(value: object, path: str, findings: Findings) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        found = "nothing" if value is None else shown(value)
        findings.fault(path, found, "an object", 'write {"name": ..., "parameters": {...}}')
        return None
    for key in value:
        if key not in _FUNCTION_KEYS:
            meant = {"input_schema": "parameters", "arguments": "parameters"}.get(key)
            otherwise = f'rename it to "{meant}"' if meant else "remove it"
            findings.unknown_key(path, key, _FUNCTION_KEYS, otherwise)
    _check_name(value.get("name"), child(path, "name"), findings)
    description = value.get("description")
    if description is not None and not isinstance(description, str):
        findings.fault(
            child(path, "description"), shown(description), "text", "write it as a string"
        )
    if not isinstance(value.get("strict"), (bool, type(None))):
        findings.fault(
            child(path, "strict"), shown(value["strict"]), "true|false", "write true or false"
        )
    _check_parameters(value.get("parameters"), child(path, "parameters"), findings)
    return {key: entry for key, entry in value.items() if entry is not None}


def _check_parameters(schema: object, path: str, findings: Findings) -> None:
    """The sanity of a schema that describes arguments; not the whole of JSON Schema."""
    if schema is None:
        return
    if not isinstance(schema, dict):
        remedy = 'write {"type": "object", "properties": {...}}'
        findings.fault(path, shown(schema), "a JSON schema (an object)", remedy)
        return
    kind = schema.get("type")
    # A parameter that is itself called "type" has an object here: then this is no schema keyword.
    if kind not in (None, "object") and not isinstance(kind, dict):
        findings.fault(
            child(path, "type"), shown(kind), '"object"', 'write "object": arguments are always one'
        )
    properties, required = schema.get("properties"), schema.get("required")
    if properties is not None and not isinstance(properties, dict):
        remedy = 'write {"<parameter>": {"type": ...}}'
        findings.fault(child(path, "properties"), shown(properties), "an object", remedy)
    if isinstance(required, (str, bool, int)):
        remedy = "list the names of the required parameters"
        findings.fault(child(path, "required"), shown(required), "a list of names", remedy)
    if (
        isinstance(required, list)
        and isinstance(properties, dict)
        and not _COMBINING & schema.keys()
    ):
        _check_required(required, properties, child(path, "required"), findings)


def _check_required(
    names: list[Any], properties: dict[str, Any], path: str, findings: Findings
) -> None:
    for index, name in enumerate(names):
        if not isinstance(name, str):
            findings.fault(
                child(path, index), shown(name), "the name of a property", "write it as a string"
            )
        elif name not in properties:
            meant = close_match(name, properties)
            remedy = (
                f"rename it to {quoted(meant)}"
                if meant
                else 'add it to "properties" or remove it here'
            )
            findings.warn(child(path, index), quoted(name), "a name from properties", remedy)


def _check_name(name: object, path: str, findings: Findings) -> None:
    if not isinstance(name, str) or not name.strip():
        found = "nothing" if name is None else shown(name)
        findings.fault(path, found, "the function's name", "name the function")


def _check_type(value: dict[str, Any], path: str, findings: Findings) -> None:
    if "type" not in value:
        findings.fault(child(path, "type"), "nothing", '"function"', 'add "type": "function"')
    elif value["type"] != "function":
        remedy = "only functions can be called: remove it or write it as a function"
        findings.fault(child(path, "type"), shown(value["type"]), '"function"', remedy)


def _warn_of_repeated_names(tools: list[dict[str, Any]], path: str, findings: Findings) -> None:
    seen: dict[str, int] = {}
    for index, tool in enumerate(tools):
        name = tool["function"].get("name")
        if isinstance(name, str) and seen.setdefault(name, index) != index:
            expected, remedy = "each name once", "remove one of the two"
            findings.warn(child(path, index), f"a second function {quoted(name)}", expected, remedy)


# --- calls ---


def read_call(value: object, path: str, findings: Findings) -> dict[str, Any] | None:
    """One entry of `tool_calls`, its arguments as JSON text; None when faults leave no call."""
    if not isinstance(value, dict):
        remedy = (
            'write {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}'
        )
        findings.fault(path, shown(value), "an object", remedy)
        return None
    if "function" not in value and "name" in value:
        remedy = 'put name and arguments inside "function", beside "id" and "type": "function"'
        findings.fault(path, 'a "name" outside "function"', '{"id", "type", "function"}', remedy)
        return None
    for key in value:
        if key not in _CALL_KEYS:
            findings.unknown_key(path, key, _CALL_KEYS, "remove it")
    identity = value.get("id")
    if not isinstance(identity, str) or not identity:
        found = "nothing" if identity is None else shown(identity)
        remedy = (
            'name the call, for example "call_0", and give the same "tool_call_id" to its answer'
        )
        findings.fault(child(path, "id"), found, "the call's id as text", remedy)
    _check_type(value, path, findings)
    function = read_called_function(value.get("function"), child(path, "function"), findings)
    return {"id": identity, "type": "function", "function": function} if function else None


def read_called_function(value: object, path: str, findings: Findings) -> dict[str, str] | None:
    """`{"name", "arguments"}` of a tool call or of the legacy `function_call`."""
    if not isinstance(value, dict):
        found = "nothing" if value is None else shown(value)
        findings.fault(path, found, "an object", 'write {"name": ..., "arguments": "{...}"}')
        return None
    for key in value:
        if key not in _CALLED_KEYS:
            meant = {"parameters": "arguments", "input": "arguments"}.get(key)
            otherwise = f'rename it to "{meant}"' if meant else "remove it"
            findings.unknown_key(path, key, _CALLED_KEYS, otherwise)
    name = value.get("name")
    _check_name(name, child(path, "name"), findings)
    arguments = _arguments(value.get("arguments"), child(path, "arguments"), findings)
    return {"name": name, "arguments": arguments} if isinstance(name, str) else None


def _arguments(value: object, path: str, findings: Findings) -> str:
    """Arguments as the user's own JSON text; an object becomes text. Returns "" beside a fault."""
    if isinstance(value, dict):
        # With faults the row is refused anyway, and the object may hold what JSON cannot.
        return "" if findings.faults else json.dumps(value, ensure_ascii=False)
    expected = "a JSON object, as text or as it is"
    if not isinstance(value, str):
        found, remedy = shown(value), 'name each argument: {"<name>": <value>}'
        if value is None:
            found, remedy = "nothing", 'write "{}" for a call without arguments'
        findings.fault(path, found, expected, remedy)
        return ""
    if not value.strip():
        findings.fault(path, "empty text", expected, 'write "{}" for a call without arguments')
        return ""
    parsed, faults = read_json(value, findings.at(path))
    findings.faults.extend(faults)
    if not faults and not isinstance(parsed, dict):
        twice = isinstance(parsed, str) and parsed.lstrip().startswith("{")
        remedy = (
            "it was encoded twice: decode it once"
            if twice
            else 'name each argument: {"<name>": <value>}'
        )
        findings.fault(path, f"JSON text that holds {shown(parsed)}", expected, remedy)
    return value
