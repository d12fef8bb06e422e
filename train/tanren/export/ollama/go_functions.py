"""The functions that templates call in Ollama: Go's own, and the four that Ollama adds.

Values are Python's: bytes for strings, int for every integer type, float, bool, None for nil, list,
dict, and `Record` for Go's structs. What Go prints for them is what `shown` gives.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from tanren.export.ollama.go_tokens import GoTemplateError

# bytes | int | float | bool | None | list | dict | Record
Value = Any


@dataclass(frozen=True, slots=True)
class Record:
    """A Go struct: `fields` in the order of its declaration.

    `json_names` maps a field to its name in JSON; a name ending in `,omitempty` leaves empty values
    out, an unnamed field keeps its own name.
    """

    type_name: str
    fields: dict[str, Value]
    json_names: dict[str, str]


class JsonList(list[Value]):
    """A slice that prints as its JSON."""


class JsonDict(dict[str, Value]):
    """A map that prints as its JSON."""


def is_true(value: Value) -> bool:
    """Go's truth: not zero, not empty, not nil. Structs are always true."""
    return isinstance(value, Record) or bool(value)


# --- printing -------------------------------------------------------------------------------------


def shown(value: Value, nil: bytes = b"<nil>") -> bytes:
    """What `%v` prints."""
    if value is None:
        return nil
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return str(value).encode()
    if isinstance(value, float):
        return _shown_float(value)
    if isinstance(value, JsonList | JsonDict):
        return to_json(value)
    if isinstance(value, list):
        return b"[" + b" ".join(shown(each) for each in value) + b"]"
    if isinstance(value, dict):
        pairs = (name.encode() + b":" + shown(value[name]) for name in sorted(value))
        return b"map[" + b" ".join(pairs) + b"]"
    return b"{" + b" ".join(shown(each) for each in value.fields.values()) + b"}"


def _shown_float(value: float) -> bytes:
    """Shortest digits that read back the same; an exponent below 1e-4 and from 1e21 on."""
    if math.isinf(value) or math.isnan(value):
        return {"inf": b"+Inf", "-inf": b"-Inf"}.get(str(value), b"NaN")
    size = abs(value)
    if size and (size < 1e-4 or size >= 1e21):
        digits, _, exponent = f"{value!r}".partition("e")
        if not exponent:
            digits, _, exponent = f"{value:e}".partition("e")
            digits = digits.rstrip("0").rstrip(".")
        number = int(exponent)
        return f"{digits.removesuffix('.0')}e{'-' if number < 0 else '+'}{abs(number):02d}".encode()
    text = repr(value) if "e" not in repr(value) else f"{value:.0f}"
    return text.removesuffix(".0").encode()


_HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_UNSAFE = re.compile("[<>&\u2028\u2029]")


def to_json(value: Value) -> bytes:
    """What `json.Marshal` writes: no spaces, maps by key, `<`, `>` and `&` escaped."""
    return _json(value).encode("utf-8")


def _json(value: Value) -> str:
    if isinstance(value, bytes):
        text = json.dumps(value.decode("utf-8", "replace"), ensure_ascii=False)
        return _UNSAFE.sub(lambda found: _HTML[found.group()], text)
    if isinstance(value, list):
        return "[" + ",".join(_json(each) for each in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{_json(name.encode())}:{_json(value[name])}" for name in sorted(value))
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, Record):
        return "{" + ",".join(_json_fields(value)) + "}"
    if isinstance(value, float):
        return _json_float(value)
    return json.dumps(value)


def _json_fields(record: Record) -> list[str]:
    pairs = []
    for name, value in record.fields.items():
        label, _, option = record.json_names.get(name, name).partition(",")
        empty = value is None or (not isinstance(value, Record) and not value)
        if not (option == "omitempty" and empty):
            pairs.append(f"{_json(label.encode())}:{_json(value)}")
    return pairs


def _json_float(value: float) -> str:
    size = abs(value)
    if size and (size < 1e-6 or size >= 1e21):
        digits, _, exponent = f"{value!r}".partition("e")
        sign = "-" if exponent.startswith("-") else "+"
        # Go writes e-9 where C writes e-09, but e+21 as it is.
        number = exponent.lstrip("+-").lstrip("0") if sign == "-" else exponent.lstrip("+")
        return f"{digits.removesuffix('.0')}e{sign}{number}"
    text = repr(value)
    if "e" in text:
        text = f"{value:.17f}".rstrip("0") if size < 1 else f"{value:.0f}"
    return text.removesuffix(".0")


def printed(values: Sequence[Value]) -> bytes:
    """`print`: a space between two neighbours of which neither is a string."""
    parts: list[bytes] = []
    for index, value in enumerate(values):
        neighbours = (values[index - 1], value)
        if index and not any(isinstance(each, bytes) for each in neighbours):
            parts.append(b" ")
        parts.append(shown(value))
    return b"".join(parts)


_VERB = re.compile(rb"%(-?)(\d*)(?:\.(\d+))?([a-zA-Z%])")


def formatted(values: Sequence[Value]) -> bytes:
    """`printf` with the verbs %v %s %d %q %t %f %x %c, a width and `-`."""
    if not values or not isinstance(values[0], bytes):
        raise GoTemplateError("error calling printf: its first argument is a string")
    waiting = list(values[1:])

    def replaced(match: re.Match[bytes]) -> bytes:
        left, width, precision, verb = match.groups()
        if verb == b"%":
            return b"%"
        if not waiting:
            raise GoTemplateError(f"printf: no argument for %{verb.decode()}")
        text = _verb(verb.decode(), waiting.pop(0), precision)
        missing = b" " * (int(width or 0) - len(text.decode("utf-8", "replace")))
        return text + missing if left else missing + text

    text = _VERB.sub(replaced, values[0])
    if waiting:
        raise GoTemplateError(f"printf: {len(waiting)} arguments too many")
    return text


def _verb(verb: str, value: Value, precision: bytes | None) -> bytes:
    number = isinstance(value, int) and not isinstance(value, bool)
    if precision is not None and verb not in "fs":
        raise GoTemplateError(f"printf: a precision with %{verb} is not supported here")
    if verb == "v" or (verb == "s" and isinstance(value, bytes | JsonList | JsonDict)):
        text = shown(value)
        if precision is None:
            return text
        return text.decode("utf-8", "replace")[: int(precision)].encode()
    if (verb == "d" and number) or (verb == "t" and isinstance(value, bool)):
        return shown(value)
    if verb == "q" and isinstance(value, bytes):
        return _quoted(value)
    if verb == "f" and isinstance(value, float):
        return f"{value:.{int(precision or 6)}f}".encode()
    if verb == "x" and (number or isinstance(value, bytes)):
        return value.hex().encode() if isinstance(value, bytes) else f"{value:x}".encode()
    if verb == "c" and number:
        return chr(value).encode()
    raise GoTemplateError(f"printf: %{verb} with {type(value).__name__} is not supported here")


def _quoted(text: bytes) -> bytes:
    """`%q`: as Go source. Printable characters stay."""
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", '"': '\\"', "\a": "\\a",
             "\b": "\\b", "\f": "\\f", "\v": "\\v"}  # fmt: skip
    return ('"' + "".join(names.get(c, c) for c in text.decode("utf-8", "replace")) + '"').encode()


# --- comparing ------------------------------------------------------------------------------------


def _kind(value: Value) -> str:
    for kind, types in (("bool", bool), ("int", int), ("float", float), ("string", bytes)):
        if isinstance(value, types):
            return kind
    return "none"


def equal(first: Value, *others: Value) -> bool:
    """`eq`: is the first equal to any of the others?"""
    if not others:
        raise GoTemplateError("error calling eq: missing argument for comparison")
    for other in others:
        if _kind(first) != _kind(other) and first is not None and other is not None:
            raise GoTemplateError("error calling eq: incompatible types for comparison")
        if _kind(first) == "none" and not (first is None or other is None):
            raise GoTemplateError("error calling eq: non-comparable types")
        if _kind(first) == _kind(other) and first == other:
            return True
    return False


def less(one: Value, other: Value) -> bool:
    if _kind(one) in ("bool", "none") or _kind(other) in ("bool", "none"):
        raise GoTemplateError("error calling lt: invalid type for comparison")
    if _kind(one) != _kind(other):
        raise GoTemplateError("error calling lt: incompatible types for comparison")
    return bool(one < other)


def less_or_equal(one: Value, other: Value) -> bool:
    return less(one, other) or equal(one, other)


# --- taking apart ---------------------------------------------------------------------------------


def length(value: Value) -> int:
    if not isinstance(value, bytes | list | dict):
        raise GoTemplateError(f"error calling len: len of {type(value).__name__}")
    return len(value)


def indexed(value: Value, *indexes: Value) -> Value:
    """`index`: bytes of a string as numbers, elements of a list, values of a map (nil if none)."""
    for index in indexes:
        if isinstance(value, dict) and isinstance(index, bytes):
            value = value.get(index.decode("utf-8", "replace"))
        elif isinstance(value, bytes | list) and _kind(index) == "int":
            if not 0 <= index < len(value):
                raise GoTemplateError(f"error calling index: index out of range: {index}")
            value = value[index]
        else:
            raise GoTemplateError(f"error calling index: cannot index {type(value).__name__}")
    if value is None and not indexes:
        raise GoTemplateError("error calling index: index of untyped nil")
    return value


def sliced(value: Value, *indexes: Value) -> Value:
    if not isinstance(value, bytes | list) or len(indexes) > 2:
        raise GoTemplateError(f"error calling slice: cannot slice {type(value).__name__}")
    if any(_kind(index) != "int" or not 0 <= index <= len(value) for index in indexes):
        raise GoTemplateError("error calling slice: index out of range")
    start = indexes[0] if indexes else 0
    end = indexes[1] if len(indexes) == 2 else len(value)
    if start > end:
        raise GoTemplateError(f"error calling slice: invalid slice index: {start} > {end}")
    part = value[start:end]
    return type(value)(part) if isinstance(value, list) else part


def _called(value: Value, *_: Value) -> Value:
    """`call` takes functions, and no value of a template is one: it always refuses."""
    said = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    raise GoTemplateError(f"error calling call: non-function {said!r}")


def functions(today: date) -> dict[str, Callable[..., Value]]:
    """Everything but `and` and `or`, which do not evaluate all their arguments."""
    return {
        "not": lambda value: not is_true(value),
        "eq": equal,
        "ne": lambda one, other: not equal(one, other),
        "lt": less,
        "le": less_or_equal,
        "gt": lambda one, other: not less_or_equal(one, other),
        "ge": lambda one, other: not less(one, other),
        "len": length,
        "index": indexed,
        "slice": sliced,
        "print": lambda *values: printed(values),
        "println": lambda *values: b" ".join(shown(value) for value in values) + b"\n",
        "printf": lambda *values: formatted(values),
        "call": _called,
        "json": to_json,
        "currentDate": lambda *_: today.isoformat().encode(),
        "yesterdayDate": lambda *_: (today - timedelta(days=1)).isoformat().encode(),
    }
