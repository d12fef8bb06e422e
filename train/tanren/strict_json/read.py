"""Parsing, and what a parsed value may still hide."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from tanren.errors import Fault
from tanren.strict_json.showing import MAX_INTEGER_BITS, HugeInteger, child, quoted, shown
from tanren.strict_json.syntax import syntax_fault

MAX_DEPTH = 100
"""Levels of lists and objects: far beyond any conversation, far below the parser's own limit."""


class _RepeatedKeys(dict[str, Any]):
    """An object in which some key was written twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        times = Counter(name for name, _ in pairs)
        self.repeated = [name for name, count in times.items() if count > 1]


class _Unusual(ValueError):
    """The text is JSON, but something in it needs the slow parser, which knows where."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Unusual
    return value


def _refuse_constant(_: str) -> NoReturn:
    raise _Unusual


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _Unusual
    return value


def _marked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    return value if len(value) == len(pairs) else _RepeatedKeys(pairs)


def _integer(digits: str) -> int | HugeInteger:
    try:
        return int(digits)
    except ValueError:
        return HugeInteger(digits)


# The hook costs 0.8 microseconds on a row of three messages (1.3 -> 2.1) and is the only cheap
# moment at which a repeated key can be seen.
_parse = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
).decode
_parse_unusual = json.JSONDecoder(object_pairs_hook=_marked_object, parse_int=_integer).decode

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(text: str, where: str) -> tuple[Any, list[Fault]]:
    """The value of `text` and all faults in it; `where` leads the faults' paths.

    The value is None beside a fault when nothing further can be said about it (a syntax error, too
    deep). With other faults the value is returned, so that the caller can go on and find its own.
    """
    try:
        value = _parse(text)
        if _needs_a_closer_look(text):
            return _with_faults(value, where)
    except json.JSONDecodeError as error:
        return None, [syntax_fault(text, error, where)]
    except RecursionError:
        return None, [_depth_fault(where)]
    except ValueError:  # _Unusual, or an integer beyond Python's limit of digits
        return _read_unusual(text, where)
    return value, []


def _read_unusual(text: str, where: str) -> tuple[Any, list[Fault]]:
    """The slow parser's word; after what is unusual the text may break off all the same."""
    try:
        return _with_faults(_parse_unusual(text), where)
    except json.JSONDecodeError as error:
        return None, [syntax_fault(text, error, where)]
    except RecursionError:
        return None, [_depth_fault(where)]


def _needs_a_closer_look(text: str) -> bool:
    """Cheap signs, each a superset of what it looks for, so that ordinary rows are never walked."""
    if text.count("{") + text.count("[") > MAX_DEPTH:
        return True
    return not encodable(text) or ("\\u" in text and _SURROGATE_ESCAPE.search(text) is not None)


def _with_faults(value: Any, where: str) -> tuple[Any, list[Fault]]:
    faults = value_faults(value, where)
    return (None if any(fault.expected == _DEPTH_EXPECTED for fault in faults) else value), faults


# --- what a parsed value may still hide ---


def value_faults(value: object, where: str) -> list[Fault]:
    """What JSON in UTF-8 cannot hold: NaN, lone surrogates, repeated keys, other types, depth."""
    faults: list[Fault] = []
    stack: list[tuple[object, str, int]] = [(value, "", 1)]
    while stack:
        item, path, depth = stack.pop()
        place = f"{where} {path}" if path else where
        if isinstance(item, (dict, list)):
            if depth > MAX_DEPTH:
                faults.append(_depth_fault(where))
                return faults
            if isinstance(item, dict):
                faults.extend(_key_faults(item, place))
            entries = item.items() if isinstance(item, dict) else enumerate(item)
            children = [(entry, child(path, key), depth + 1) for key, entry in entries]
            stack.extend(reversed(children))
        else:
            fault = _scalar_fault(item, place)
            if fault:
                faults.append(fault)
    return faults


def _key_faults(value: dict[Any, Any], place: str) -> list[Fault]:
    faults = []
    if isinstance(value, _RepeatedKeys):
        for name in value.repeated:
            remedy = "remove all but one (the last would silently win)"
            faults.append(
                Fault(place, f"the key {quoted(name)} more than once", "each key once", remedy)
            )
    for key in value:
        if not isinstance(key, str):
            faults.append(
                Fault(place, f"the key {shown(key)}", "keys that are strings", "quote the key")
            )
        elif not encodable(key):
            faults.append(_surrogate_fault(place, f"the key {quoted(key)}"))
    return faults


def _scalar_fault(value: object, place: str) -> Fault | None:
    if isinstance(value, HugeInteger) or (
        isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS
    ):
        return Fault(
            place, shown(value), "at most 4300 digits", "write it as a string or shorten it"
        )
    if isinstance(value, str):
        return None if encodable(value) else _surrogate_fault(place, quoted(value))
    if isinstance(value, float) and not math.isfinite(value):
        return Fault(
            place,
            shown(value),
            "a finite number",
            "write null or leave the key out: JSON has no NaN",
        )
    if value is None or isinstance(value, (bool, int, float)):
        return None
    return Fault(
        place, shown(value), "a JSON value", "convert it to a string, number, list or object"
    )


def _surrogate_fault(place: str, found: str) -> Fault:
    remedy = "restore the other half of the pair or remove it (an emoji was cut in two)"
    return Fault(place, f"a lone surrogate in {found}", "text that UTF-8 can hold", remedy)


_DEPTH_EXPECTED = f"at most {MAX_DEPTH} levels"


def _depth_fault(where: str) -> Fault:
    found = f"lists and objects nested more than {MAX_DEPTH} deep"
    return Fault(where, found, _DEPTH_EXPECTED, "flatten the value or keep it as a string")


def encodable(text: str) -> bool:
    """False for half a surrogate pair, which UTF-8 has no bytes for."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
