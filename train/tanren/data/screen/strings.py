"""Every text in a row: where it stands, and the row with some of them changed."""

from __future__ import annotations

import json
from typing import Any, Protocol

from tanren.strict_json import child

_STRUCTURE = frozenset({"role", "type", "tool_call_id"})
"""Their values join messages to each other; changing one would break the conversation."""
_FORMAT_KEYS = _STRUCTURE | {
    "messages", "content", "name", "tool_calls", "function", "arguments", "id", "weight", "tools",
    "reasoning_content", "metadata", "text", "description", "parameters", "properties",
}  # fmt: skip
"""Keys of the format itself, which are nobody's."""
_LONG_NUMBER = 9
"""Digits from which on a bare number in arguments is looked at: a card, a phone without its 0."""


class Visitor(Protocol):
    """Meets every text once, in order."""

    def visit(self, text: str, path: str) -> str:
        """The text that shall stand at `path` instead; the very same object to keep it."""
        ...

    def shown(self, key: str) -> str:
        """An object's key as a path may show it."""
        ...


def rewrite(row: Any, visitor: Visitor) -> Any:
    """The row with every text replaced by what `visit` returns; the same object if none changed.

    Visited are contents, reasoning, names, the strings, keys and long numbers inside tool calls'
    arguments (which stay JSON), tools' descriptions, metadata. Not visited: roles, types, the ids
    and function names that hold calls and tools together.
    """
    return _value(row, "", visitor, free=False)


def rewrite_json_text(text: str, visitor: Visitor, path: str = "") -> str | None:
    """A text that is a JSON object or list, changed inside its values; None for other texts."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    made = _value(value, path, visitor, free=True)
    return text if made is value else dumped(made, like=text)


def _value(value: Any, path: str, visitor: Visitor, *, free: bool) -> Any:
    """`free`: inside JSON of the user's own, where no key holds the row together and a number may
    be somebody's; one that is redacted becomes a string.
    """
    if isinstance(value, str):
        return visitor.visit(value, path)
    if isinstance(value, list):
        items = [_value(item, child(path, i), visitor, free=free) for i, item in enumerate(value)]
        return items if _differ(items, value) else value
    if isinstance(value, dict):
        return _object(value, path, visitor, free=free)
    if free and isinstance(value, int) and len(digits := str(value)) >= _LONG_NUMBER:
        shown = visitor.visit(digits, path)
        return value if shown == digits else shown
    return value


def _object(value: dict[str, Any], path: str, visitor: Visitor, *, free: bool) -> dict[str, Any]:
    made: dict[str, Any] = {}
    kept = () if free else _kept_keys(value)
    for key, item in value.items():
        name, place = key, child(path, key)
        if key not in _FORMAT_KEYS:
            name = _unused(visitor.visit(key, child(path, "(key)")), key, made)
            place = child(path, visitor.shown(key))
        if key in kept:
            made[name] = item
        elif key == "arguments" and isinstance(item, str):
            inside = rewrite_json_text(item, visitor, place)
            made[name] = visitor.visit(item, place) if inside is None else inside
        else:
            made[name] = _value(item, place, visitor, free=free)
    changed = list(made) != list(value) or _differ(list(made.values()), list(value.values()))
    return made if changed else value


def _kept_keys(value: dict[str, Any]) -> frozenset[str]:
    if "arguments" in value or "parameters" in value:
        return _STRUCTURE | {"name"}
    return _STRUCTURE | {"id"} if isinstance(value.get("function"), dict) else _STRUCTURE


def _unused(name: str, key: str, taken: dict[str, Any]) -> str:
    """Two keys that were redacted alike still are two."""
    count, free = 2, name
    while name != key and free in taken:
        free, count = f"{name} {count}", count + 1
    return free


def _differ(after: list[Any], before: list[Any]) -> bool:
    return any(one is not other for one, other in zip(after, before, strict=True))


def dumped(value: Any, *, like: str) -> str:
    """JSON written in the manner of the text that it replaces: spaces, lines and escapes."""
    compact = '": ' not in like
    lines = "\n" in like.strip()
    return json.dumps(
        value,
        ensure_ascii=like.isascii() and "\\u" in like,
        separators=(",", ":") if compact else (",", ": ") if lines else (", ", ": "),
        indent=2 if lines else None,
    )
