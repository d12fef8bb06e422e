"""The inside of one call: from behind its opening to its end, for the forms that models have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tanren.engine.structure.json_scan import JsonScan, json_text, read_json, read_object
from tanren.engine.structure.patterns import (
    MORE,
    NO,
    Marker,
    Undecided,
    behind_space,
    name_end,
)
from tanren.engine.structure.tool_format import Envelope, Fields, ToolFormat

LONGEST_KEY = 256


@dataclass(frozen=True, slots=True)
class Found:
    """A call of the name with these arguments, and the index behind it."""

    end: int
    name: str
    arguments: str


class Body(Protocol):
    def match(self, text: str, at: int, last: bool) -> Found | Undecided:
        """The call whose opening ends at `at`. `last`: no more text will come."""

    def forget(self) -> None:
        """The indexes of the text have moved."""


def body_of(form: ToolFormat, tools: Sequence[Mapping[str, Any]]) -> Body:
    schemas = {
        str(tool["function"]["name"]): tool["function"].get("parameters") or {} for tool in tools
    }
    if form.envelope is not None:
        marked = bool((form.begin + form.envelope.head).strip())
        return EnvelopeBody(form.envelope, frozenset(schemas), marked=marked)
    if form.fields is not None:
        return FieldsBody(form, form.fields, schemas)
    return SplitBody(form, frozenset(schemas))


class _JsonValue:
    """The end of a JSON value at a fixed place of the text, looked for while it arrives."""

    def __init__(self) -> None:
        self._scan: JsonScan | None = None

    def end(self, text: str, at: int) -> int | Undecided:
        if at >= len(text):
            return MORE
        if text[at] not in '{"':
            return NO
        if self._scan is None or self._scan.start != at:
            self._scan = JsonScan(at)
        end = self._scan.end(text)
        return MORE if end is None else end

    def forget(self) -> None:
        self._scan = None


def _closed(tail: Marker, text: str, at: int, last: bool) -> int | Undecided:
    """Behind what closes a call. A call that is complete but for that is one all the same."""
    end = tail.end(text, at)
    if end is MORE:
        return len(text) if last else MORE
    return at if end is NO else end


class EnvelopeBody:
    """One JSON object holds name and arguments.

    `marked` false: nothing stands in front of it, so that an answer that is JSON looks alike; then
    its first key decides.
    """

    def __init__(self, envelope: Envelope, names: frozenset[str], *, marked: bool) -> None:
        self._names = names
        self._keys = tuple(dict.fromkeys((envelope.arguments, "arguments", "parameters")))
        self._name = envelope.name
        self._tail = Marker(envelope.tail)
        self._value = _JsonValue()
        self._first_keys = () if marked else (self._name, *self._keys, "type", "id")

    def match(self, text: str, at: int, last: bool) -> Found | Undecided:
        at = behind_space(text, at)
        if self._first_keys and not _may_begin(text[at : at + 64], self._first_keys):
            return NO
        end = self._value.end(text, at)
        if isinstance(end, Undecided):
            return end
        call = self._read(text[at:end])
        if call is None:
            return NO
        close = _closed(self._tail, text, end, last)
        return close if isinstance(close, Undecided) else Found(close, *call)

    def forget(self) -> None:
        self._value.forget()

    def _read(self, text: str) -> tuple[str, str] | None:
        value = read_object(text)
        name = None if value is None else value.get(self._name)
        if value is None or not isinstance(name, str) or name not in self._names:
            return None
        given = next((value[key] for key in self._keys if key in value), None)
        arguments = read_object(given) if isinstance(given, str) else given
        return (name, json_text(arguments)) if isinstance(arguments, dict) else None


def _may_begin(text: str, keys: tuple[str, ...]) -> bool:
    """Can an object that begins with `text` have one of the keys first?"""
    inside = text[1:].lstrip()
    return any(f'"{key}"'.startswith(inside[: len(key) + 2]) for key in keys)


class SplitBody:
    """NAME middle ARGUMENTS close: the name stands outside of the JSON."""

    def __init__(self, form: ToolFormat, names: frozenset[str]) -> None:
        self._names = names
        self._middle = Marker(form.middle)
        self._close = Marker(form.close)
        self._value = _JsonValue()

    def match(self, text: str, at: int, last: bool) -> Found | Undecided:
        at = behind_space(text, at)
        name_stop = name_end(text, at)
        if isinstance(name_stop, Undecided):
            return name_stop
        name = text[at:name_stop]
        start = self._middle.end(text, name_stop) if name in self._names else NO
        if isinstance(start, Undecided):
            return start
        start = behind_space(text, start)
        end = self._value.end(text, start)
        if isinstance(end, Undecided):
            return end
        arguments = read_object(text[start:end])
        if arguments is None:
            return NO
        close = _closed(self._close, text, end, last)
        return close if isinstance(close, Undecided) else Found(close, name, json_text(arguments))

    def forget(self) -> None:
        self._value.forget()


class FieldsBody:
    """NAME, then fields, then close. The tool's schema says which values are texts."""

    def __init__(
        self, form: ToolFormat, fields: Fields, schemas: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._schemas = schemas
        self._fields = fields
        self._open = Marker(fields.open)
        self._close = Marker(form.close)
        self._middle = fields.middle.strip()
        self._value_end = fields.close.strip()

    def match(self, text: str, at: int, last: bool) -> Found | Undecided:
        at = behind_space(text, at)
        stop = name_end(text, at)
        if isinstance(stop, Undecided):
            return stop
        name = text[at:stop]
        if name not in self._schemas:
            return NO
        values: dict[str, Any] = {}
        at = stop
        while isinstance(start := self._open.end(text, at), int):
            field = self._field(text, start)
            if isinstance(field, Undecided):
                return field
            key, value, at = field
            values[key] = read_value(value, key, self._schemas[name])
        end = self._close.end(text, at)
        if isinstance(end, int):
            return Found(end, name, json_text(values))
        return MORE if MORE in (start, end) else NO

    def forget(self) -> None:
        """Nothing is kept."""

    def _field(self, text: str, at: int) -> tuple[str, str, int] | Undecided:
        """(key, value as text, index behind the field)."""
        middle = text.find(self._middle, at)
        key = text[at : middle if middle >= 0 else len(text)]
        if "\n" in key.strip() or len(key) > LONGEST_KEY:
            return NO
        if middle < 0:
            return MORE
        start = middle + len(self._middle)
        end = self._end_of_value(text, start)
        if isinstance(end, Undecided):
            return end
        value = text[start:end]
        value = value.removeprefix(_space_behind(self._fields.middle))
        value = value.removesuffix(_space_before(self._fields.close))
        return key.strip(), value, end + len(self._value_end)

    def _end_of_value(self, text: str, at: int) -> int | Undecided:
        """The first place where the field's close stands and another field or the call's close
        follows: values may hold such texts too.
        """
        while (found := text.find(self._value_end, at)) >= 0:
            behind = found + len(self._value_end)
            follows = (self._open.end(text, behind), self._close.end(text, behind))
            if any(isinstance(each, int) for each in follows):
                return found
            if MORE in follows:
                return MORE
            at = found + 1
        return MORE


def _space_behind(text: str) -> str:
    return text[len(text.rstrip()) :]


def _space_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


_PYTHON_WORDS = {"True": True, "False": False, "None": None}


def read_value(text: str, key: str, schema: Mapping[str, Any]) -> Any:
    """The value of a field: text where the schema wants text, else the JSON that it is."""
    kinds = kinds_of((schema.get("properties") or {}).get(key), schema)
    if kinds == {"string"}:
        return text
    stripped = text.strip()
    word = _PYTHON_WORDS.get(stripped, text)
    if word is not text and (kind_of(word) in kinds or "string" not in kinds):
        return word  # some templates print these as Python does
    try:
        value = read_json(stripped)
    except ValueError:
        return text
    fits = kind_of(value) in kinds or ("number" in kinds and kind_of(value) == "integer")
    return value if fits or "string" not in kinds else text


def kinds_of(part: object, root: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema allows; empty: it does not say."""
    if not isinstance(part, Mapping):
        return set()
    if "$ref" in part:
        return kinds_of(resolved(part, root), {key: root[key] for key in root if key != "$ref"})
    if isinstance(part.get("enum"), list):
        return {kind_of(each) for each in part["enum"]}
    if "const" in part:
        return {kind_of(part["const"])}
    for key in ("anyOf", "oneOf"):
        if isinstance(part.get(key), list):
            return set().union(*(kinds_of(each, root) for each in part[key]))
    kind = part.get("type")
    return {kind} if isinstance(kind, str) else set(kind) if isinstance(kind, list) else set()


_REFERENCE = re.compile(r"#/(\$defs|definitions)/([^/]+)")


def resolved(part: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The definition that `$ref` names; {} for what is not there."""
    found = _REFERENCE.fullmatch(str(part.get("$ref")))
    target = (root.get(found.group(1)) or {}).get(found.group(2)) if found else None
    return target if isinstance(target, Mapping) and "$ref" not in target else {}


def kind_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return next(name for kind, name in names.items() if isinstance(value, kind))
