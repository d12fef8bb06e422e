"""How values, keys and paths are shown in faults: short, on one line, all of it visible."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable
from typing import Any

SHOWN_CHARACTERS = 60
"""A value longer than this is cut when it is shown."""

# Python refuses to print integers of more than 4,300 digits, so nothing could write them again.
MAX_INTEGER_BITS = math.floor(4300 * math.log2(10))


class HugeInteger(str):
    """The digits of an integer that Python will not convert."""

    __slots__ = ()


def shown(value: object) -> str:
    """`value` in one short line: scalars as JSON, containers by their size."""
    if isinstance(value, HugeInteger):
        return f"an integer of {len(value)} digits"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return f"an object with {keys_shown(value)}" if value else "an empty object"
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return f"a Python {type(value).__name__}"


def quoted(text: str) -> str:
    """`text` in double quotes: cut after 60 characters, everything that does not print escaped."""
    escaped = escape(text[:SHOWN_CHARACTERS])
    return (
        f'"{escaped}"'
        if len(text) <= SHOWN_CHARACTERS
        else f'"{escaped}…" ({len(text)} characters)'
    )


def escape(text: str) -> str:
    return "".join(map(_visible, text))


def keys_shown(value: dict[Any, Any], *, limit: int = 6) -> str:
    """`keys "a", "b"` with at most `limit` names."""
    names = [
        key if isinstance(key, str) else str(type(key).__name__) for key in list(value)[:limit]
    ]
    more = f" and {len(value) - limit} more" if len(value) > limit else ""
    plural = "s" if len(value) != 1 else ""
    return f"key{plural} " + ", ".join(quoted(name) for name in names) + more


def _visible(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    # The ideographic space is ordinary Japanese text; what else is invisible is better seen.
    if character.isprintable() or character == "\u3000":
        return character
    return json.dumps(character)[1:-1]


def child(path: str, key: object) -> str:
    """The path of `key` below `path`: `messages[2]`, `tools[0].function`, `metadata["my key"]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    name = str(key)
    if re.fullmatch(r"[^\W\d][\w-]{0,59}", name):
        return f"{path}.{name}" if path else name
    return f"{path}[{quoted(name)}]"


def close_match(word: object, known: Iterable[str]) -> str | None:
    """The known word that a misspelling most likely meant."""
    if not isinstance(word, str) or len(word) > SHOWN_CHARACTERS:
        return None
    by_folded = {name.casefold(): name for name in known}
    matches = difflib.get_close_matches(word.casefold().strip(), by_folded, n=1, cutoff=0.7)
    return by_folded[matches[0]] if matches else None
