"""JSON schemas as grammars, and the place in a schema that cannot be enforced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tanren.engine.structure.vocabulary import Vocabulary
from tanren.errors import Fault, UserError

Schema = dict[str, Any]

# At most one space behind a comma and a colon: what people's JSON has, and what models learned.
COMPACT = (", ?", ": ?")

# Where a schema holds schemas: by name, in a list, or one.
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")


class UnsupportedSchema(UserError):
    """A schema asks for what cannot be enforced while an answer is written."""


def with_options(schema: Schema, separators: tuple[str, str] = COMPACT) -> Schema:
    """`schema` with our white space. What it says itself in `x-guidance` never counts.

    `separators`: regular expressions of what stands between items, and between key and value.
    """
    options = {
        "whitespace_flexible": False,
        "item_separator": separators[0],
        "key_separator": separators[1],
        "coerce_one_of": False,
        "lenient": False,
    }
    return {**schema, "x-guidance": options}


def check(schema: object, vocabulary: Vocabulary, *, where: str) -> Schema:
    """`schema` itself, if each completed answer is sure to fulfil it.

    Raises UnsupportedSchema with the path of the smallest part that is not.
    """
    if not isinstance(schema, dict):
        raise UnsupportedSchema.of(
            Fault(where, json.dumps(schema)[:60], "a JSON schema (an object)", "write it as one")
        )
    said = _error(schema, vocabulary)
    if said:
        path, said = _smallest(schema, vocabulary, where, said)
        raise UnsupportedSchema.of(_fault(path, said))
    faults = [_fault(path, said) for path, said in _unenforced(schema, where)]
    if faults:
        raise UnsupportedSchema.of(*faults)
    return schema


def _fault(path: str, said: str) -> Fault:
    return Fault(
        where=path,
        found=said,
        expected="a schema that can be enforced token by token",
        remedy="remove or change this part, and check it in your own code",
    )


def _error(schema: Schema, vocabulary: Vocabulary) -> str:
    alone = {"grammars": [{"json_schema": with_options(schema)}]}
    return _one_line(vocabulary.error_of(json.dumps(alone, ensure_ascii=False)))


def json_rule(schema: Schema, separators: tuple[str, str] = COMPACT) -> str:
    """JSON texts of `schema`, as a part of a grammar's rule."""
    return "%json " + json.dumps(with_options(schema, separators), ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _smallest(root: Schema, vocabulary: Vocabulary, where: str, said: str) -> tuple[str, str]:
    """The path of the innermost schema that fails alone with the definitions of the root."""
    definitions: Schema = {key: root[key] for key in ("$defs", "definitions") if key in root}
    schema, path, seen = root, where, set()
    while path not in seen:
        seen.add(path)
        for name, part in _reached(schema, definitions):
            alone: Schema = {**definitions, **part}
            complaint = _error(alone, vocabulary)
            if complaint and not _CUT_AWAY.search(complaint):
                schema, said = part, complaint
                path = f"{where if name in _definition_names(definitions) else path}.{name}"
                break
    return path, said


# A reference into what was cut away fails when a part is tried alone, and not in its place.
_CUT_AWAY = re.compile(r"Pointer '/(?!\$defs/|definitions/).*does not exist")


def _definition_names(definitions: Schema) -> set[str]:
    return {f"{key}.{name}" for key, named in definitions.items() for name in named}


def _reached(schema: Schema, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """The parts of `schema` that hold for it: what it refers to, and what stands inside."""
    for name, part in _parts({key: each for key, each in schema.items() if key not in definitions}):
        yield name, part
    key, _, name = str(schema.get("$ref")).removeprefix("#/").partition("/")
    target = definitions.get(key, {}).get(name)
    if isinstance(target, dict):
        yield f"{key}.{name}", target


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Schema]]:
    """The schemas directly inside `schema`, each with its path from there."""
    for key in _NAMED:
        if isinstance(schema.get(key), dict):
            for name, part in schema[key].items():
                if isinstance(part, dict):
                    yield f"{key}.{name}", part
    for key in _LISTED:
        if isinstance(schema.get(key), list):
            for index, part in enumerate(schema[key]):
                if isinstance(part, dict):
                    yield f"{key}[{index}]", part
    for key in _SINGLE:
        if isinstance(schema.get(key), dict):
            yield key, schema[key]


def _unenforced(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    """What the library takes and does not hold: it never counts a repeated key, and older drafts
    are not read.
    """
    needed, required = schema.get("minProperties"), schema.get("required")
    count = len(set(required)) if isinstance(required, list) else 0
    if isinstance(needed, int) and needed > count + 1:
        yield path, f"minProperties {needed} with {count} required keys: a key may be repeated"
    if isinstance(schema.get("items"), list):
        yield f"{path}.items", "a list of schemas: since draft 2020-12 that is prefixItems"
    for name, part in _parts(schema):
        yield from _unenforced(part, f"{path}.{name}")
