"""What a request's values are told by OpenAI's API when they cannot be, from pydantic's errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import PydanticCustomError

MOST_SAID = 20
"""Faults in one message; how many more there are is said as well."""

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "an integer",
    "float_type": "a decimal",
    "float_parsing": "a decimal",
    "bool_type": "a boolean",
    "bool_parsing": "a boolean",
    "list_type": "an array",
    "tuple_type": "an array",
    "dict_type": "an object",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "below minimum", "below_min_value", ">="),
    "greater_than": ("gt", "below minimum", "below_min_value", ">"),
    "less_than_equal": ("le", "above maximum", "above_max_value", "<="),
    "less_than": ("lt", "above maximum", "above_max_value", "<"),
}

Said = tuple[str, str | None, str | None]
"""Message, param, code."""


def fault(message: str, code: str, param: str | None = None) -> PydanticCustomError:
    """For a validator: an error in words of its own. `param` where it is not the field itself."""
    facts = {"openai_message": message, "openai_code": code, "openai_param": param}
    return PydanticCustomError("openai", "{openai_message}", facts)


def said(errors: Sequence[Any]) -> Said:
    """What pydantic found, as one message."""
    return joined([_one(error) for error in errors])


def each(errors: Sequence[Any]) -> list[Said]:
    return [_one(error) for error in errors]


def joined(each: Sequence[Said]) -> Said:
    """All faults in one message; param and code are the first one's, as clients expect."""
    message = " ".join(unique(text for text, _, _ in each[:MOST_SAID]))
    if len(each) > MOST_SAID:
        message += f" (and {len(each) - MOST_SAID} more)"
    return message, each[0][1], each[0][2]


def unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def path(location: Sequence[int | str]) -> str:
    """`("messages", 2, "role")` -> `messages[2].role`; what frameworks put in front is left out."""
    shown = ""
    for part in location[1:] if location[:1] in (("body",), ("query",), ("path",)) else location:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += f".{part}" if shown else str(part)
    return shown


def kind(value: object) -> str:
    """How OpenAI names the type of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a decimal"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, Sequence):
        return "an array"
    return "an object" if isinstance(value, Mapping) else "something else"


def wrong_type(param: str, expected: str, value: object) -> str:
    if not param:
        return f"Invalid request: expected {expected}, but got {kind(value)} instead."
    return f"Invalid type for '{param}': expected {expected}, but got {kind(value)} instead."


def missing(param: str) -> str:
    return f"Missing required parameter: '{param}'."


def _one(error: Mapping[str, Any]) -> Said:
    param, value, context = path(error["loc"]), error.get("input"), error.get("ctx") or {}
    name = error["type"]
    if name == "missing":
        return missing(param), param, "missing_required_parameter"
    if name in _EXPECTED:
        return wrong_type(param, _EXPECTED[name], value), param or None, "invalid_type"
    if name in _BOUNDS:
        return _bound(name, param, value, context)
    if name in ("literal_error", "enum"):
        return _choice(param, value, context), param, "invalid_value"
    if name in ("too_short", "too_long", "string_too_short", "string_too_long"):
        return _length(name, param, value, context)
    if name == "extra_forbidden":
        return f"Unknown parameter: '{param}'.", param, "unknown_parameter"
    if "openai_code" in context:
        return context["openai_message"], context.get("openai_param") or param, _code(context)
    words = error.get("msg", "invalid value").removeprefix("Value error, ")
    where = f"Invalid value for '{param}': " if param else ""
    return f"{where}{words.rstrip('.')}.", param or None, "invalid_value"


def _code(context: Mapping[str, Any]) -> str:
    return str(context["openai_code"])


def _bound(name: str, param: str, value: object, context: Mapping[str, Any]) -> Said:
    key, words, code, sign = _BOUNDS[name]
    number = "integer" if isinstance(context[key], int) else "decimal"
    message = (
        f"Invalid '{param}': {number} {words} value. Expected a value {sign} {context[key]:g}, "
        f"but got {value} instead."
    )
    return message, param, f"{number}_{code}"


def _choice(param: str, value: object, context: Mapping[str, Any]) -> str:
    found = f"'{_short(value)}'" if isinstance(value, str) else kind(value)
    wanted = str(context.get("expected", "")).replace(" or ", ", ")
    return f"Invalid value for '{param}': {found}. Supported values are: {wanted}."


def _length(name: str, param: str, value: object, context: Mapping[str, Any]) -> Said:
    thing = "string" if name.startswith("string") else kind(value).split()[-1]
    article = "an" if thing[0] in "aeiou" else "a"
    long = name.endswith("long")
    bound = context.get("max_length" if long else "min_length")
    size = len(value) if isinstance(value, Sequence | Mapping) else 0
    if not size:
        message = (
            f"Invalid '{param}': empty {thing}. Expected {article} {thing} with minimum length "
            f"{bound}, but got an empty {thing} instead."
        )
        return message, param, f"empty_{thing}"
    message = (
        f"Invalid '{param}': {thing} too {'long' if long else 'short'}. Expected {article} {thing} "
        f"with {'maximum' if long else 'minimum'} length {bound}, but got {article} {thing} with "
        f"length {size} instead."
    )
    return message, param, f"{thing}_{'above_max' if long else 'below_min'}_length"


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "..."
