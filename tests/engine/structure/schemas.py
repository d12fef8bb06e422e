"""JSON schemas of every kind that can be enforced, and of kinds that cannot."""

from __future__ import annotations

import enum
from typing import Any, Literal

from pydantic import BaseModel, Field

Schema = dict[str, Any]


def closed(properties: Schema, *required: str, **more: Any) -> Schema:
    """An object of these properties alone."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


class Colour(enum.StrEnum):
    RED = "赤"
    BLUE = "青"


class Step(BaseModel):
    thought: str = Field(max_length=6)
    result: int | None
    colour: Colour


class Plan(BaseModel):
    """What `client.chat.completions.parse(response_format=Plan)` sends."""

    steps: list[Step] = Field(max_length=2)
    final: Literal["yes", "no"]
    score: float = Field(ge=0, le=1)


def strict(model: type[BaseModel]) -> Schema:
    """The schema as the official client sends it: strict."""
    from openai.lib._pydantic import to_strict_json_schema

    return to_strict_json_schema(model)


DIGIT: Schema = {"type": "integer", "minimum": 0, "maximum": 9}
CHAIN: Schema = {
    "$defs": {
        "link": closed(
            {"value": DIGIT, "next": {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "null"}]}},
            "value",
            "next",
        )
    },
    "$ref": "#/$defs/link",
}

ENFORCED: dict[str, Schema] = {
    "boolean": {"type": "boolean"},
    "integer bounds": {"type": "integer", "minimum": -3, "maximum": 120},
    "number bounds": {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    "enum": {"enum": ["a", "日本", 3, None, True, {"x": [1]}]},
    "const": {"const": {"a": 'é"\n'}},
    "short text": {"type": "string", "maxLength": 5},
    "text lengths": {"type": "string", "minLength": 2, "maxLength": 4},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"},
    "open pattern": {"type": "string", "pattern": "b+", "maxLength": 6},
    "escapes": {"type": "string", "pattern": '^["\\\\\n]{1,3}$'},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "nullable": {"type": ["string", "null"], "maxLength": 3},
    "array": {"type": "array", "items": DIGIT, "minItems": 1, "maxItems": 3},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, DIGIT],
        "items": False,
        "minItems": 2,
    },
    "nested": closed(
        {"a": closed({"b": {"type": "array", "items": CHAIN, "maxItems": 1}}, "b")}, "a"
    )
    | {"$defs": CHAIN["$defs"]},
    "any of": {"anyOf": [DIGIT, closed({"k": {"const": "v"}}, "k"), {"type": "null"}]},
    "one of": {"oneOf": [DIGIT, {"type": "null"}]},
    "all of": {
        "allOf": [closed({"a": DIGIT, "b": {"type": "boolean"}}, "a"), {"required": ["b"]}],
    },
    "chain": CHAIN,
    "itself": closed({"kids": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}}, "kids"),
    "optional keys": closed({"a": DIGIT, "b": DIGIT, "c": DIGIT}, "b"),
    "Japanese keys": closed({"名前": {"type": "string", "maxLength": 4}, "年齢": DIGIT}, "名前"),
    "map": {
        "type": "object",
        "patternProperties": {"^x_[ab]$": DIGIT},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "open object": {
        "type": "object",
        "properties": {"a": DIGIT},
        "required": ["a"],
        "additionalProperties": {"type": "null"},
        "maxProperties": 2,
    },
    "pydantic": strict(Plan),
}

# Path of the part that cannot be enforced, and the schema.
REFUSED: dict[str, tuple[str, Schema]] = {
    "unique": ("", {"type": "array", "uniqueItems": True}),
    "not": (".properties.a", closed({"a": {"not": {"type": "null"}}})),
    "if": (".items", {"type": "array", "items": {"if": {"type": "string"}, "then": {}}}),
    "format": (
        ".properties.a.anyOf[1]",
        closed({"a": {"anyOf": [DIGIT, {"type": "string", "format": "x"}]}}),
    ),
    "look-ahead": (
        ".prefixItems[1]",
        {"prefixItems": [DIGIT, {"type": "string", "pattern": "(?=a)b"}]},
    ),
    "behind a reference": (
        ".$defs.T",
        {
            "$defs": {"T": {"type": "array", "uniqueItems": True}},
            **closed({"t": {"$ref": "#/$defs/T"}}),
        },
    ),
    "missing reference": (".properties.t", closed({"t": {"$ref": "#/$defs/U"}})),
    "impossible": (
        ".properties.n",
        closed({"n": {"type": "integer", "minimum": 5, "maximum": 3}}, "n"),
    ),
    "overlapping": (".properties.n", closed({"n": {"oneOf": [DIGIT, {"type": "integer"}]}})),
    "old tuple": (".properties.p.items", closed({"p": {"type": "array", "items": [DIGIT]}})),
    "repeated keys": ("", {"type": "object", "minProperties": 2}),
    "lenient by itself": (
        ".properties.a",
        {"x-guidance": {"lenient": True}, **closed({"a": {"not": {}}})},
    ),
}
