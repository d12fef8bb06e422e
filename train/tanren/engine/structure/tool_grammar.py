"""Grammars of calls: exactly what the model's template writes, arguments by each tool's schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tanren.engine.structure.call_body import kinds_of, resolved
from tanren.engine.structure.schema import UnsupportedSchema, check, json_rule
from tanren.engine.structure.tool_format import CALL_ID, Fields, ToolFormat
from tanren.engine.structure.vocabulary import Vocabulary
from tanren.errors import Fault, TanrenError, UserError
from tanren.template.tokens import AddedTokens

Function = Mapping[str, Any]

# What the schema of an object may say where its arguments are fields, one after the other.
_FIELD_KEYS = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
_NOTES = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}
_TEXT_RULES = ("pattern", "minLength", "maxLength", "format")


def tools_grammar(
    form: ToolFormat, functions: Sequence[Function], vocabulary: Vocabulary, parallel: bool
) -> str:
    """At least one call of `functions`; more only where `parallel` and the form allow.

    Raises UnsupportedSchema for parameters that cannot be enforced, UserError for a form whose
    arguments are JSON inside of a JSON text.
    """
    if form.arguments == "json text":
        raise UserError.of(
            Fault(
                where="tool_choice",
                found="a model that writes arguments as JSON inside of a text",
                expected="a form of calls that can be enforced token by token",
                remedy='ask with "tool_choice": "auto"',
            )
        )
    literal = _Literals(vocabulary.added)
    names = [f"call_{number}" for number in range(len(functions))]
    more = f" ({literal(form.between)} call)*" if parallel and form.several else ""
    rules = [
        f"start: {literal(form.begin)} call{more} {literal(form.end)}",
        f"call: {' | '.join(names)}",
    ]
    for name, function in zip(names, functions, strict=True):
        rules += _call_rules(name, form, function, vocabulary, literal)
    return "\n".join(rules)


class _Literals:
    """Texts as the grammar library reads them: added tokens by id, the rest as quoted text."""

    def __init__(self, added: AddedTokens) -> None:
        self._added = added

    def __call__(self, text: str) -> str:
        parts: list[str] = []
        for index, piece in enumerate(text.split(CALL_ID)):
            parts += ["/[a-zA-Z0-9]{9}/"] if index else []
            parts += self._tokens(piece)
        return " ".join(parts)

    def _tokens(self, text: str) -> Iterator[str]:
        while (token := self._added.first(text)) is not None:
            if token.start:
                yield json.dumps(text[: token.start], ensure_ascii=False)
            yield f"<[{token.id}]>"
            text = text[token.end :]
        if text:
            yield json.dumps(text, ensure_ascii=False)

    def begins_with_token(self, text: str) -> bool:
        token = self._added.first(text)
        return token is not None and token.start == 0


def _call_rules(
    rule: str, form: ToolFormat, function: Function, vocabulary: Vocabulary, literal: _Literals
) -> list[str]:
    where = f"tools.{function['name']}.parameters"
    schema = function.get("parameters")
    if not schema:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
    checked = check({"type": "object", **schema}, vocabulary, where=where)
    name = str(function["name"])
    if form.envelope is not None:
        name = json.dumps(name, ensure_ascii=False)[1:-1]
    head, tail = literal(form.open + name + form.middle), literal(form.close)
    if form.fields is not None:
        body, rules = _fields(rule, form.fields, checked, where, literal)
        return [f"{rule}: {head} {body} {tail}", *rules]
    separators = tuple(re.escape(each) for each in form.separators)
    return [f"{rule}: {head} {json_rule(checked, (separators[0], separators[1]))} {tail}"]


# --- arguments as fields --------------------------------------------------------------------------


def _fields(
    rule: str, fields: Fields, schema: Mapping[str, Any], where: str, literal: _Literals
) -> tuple[str, list[str]]:
    """The body of the rule, and the rules of its values: each property once, in their order."""
    properties = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    wrong = [key for key in schema if key not in _FIELD_KEYS | _NOTES]
    if wrong or required - set(properties):
        raise _unsupported(where, ", ".join(wrong) or "a required key that is no property")
    body, rules = [], []
    for number, (key, part) in enumerate(properties.items()):
        value = f"{rule}_{number}"
        rules += _value_rules(value, fields, part, schema, f"{where}.properties.{key}", literal)
        body.append(f"{value}{'' if key in required else '?'}")
        rules[-1] = rules[-1].replace(_HEAD, literal(fields.open + key + fields.middle))
    return " ".join(body), rules


_HEAD = "FIELD_HEAD"


def _value_rules(
    rule: str,
    fields: Fields,
    part: object,
    root: Mapping[str, Any],
    where: str,
    literal: _Literals,
) -> list[str]:
    """Rules of one field; the last of them is the field itself."""
    close = literal(fields.close)
    kinds = kinds_of(part, root)
    if kinds in ({"boolean"}, {"null"}) and _is_plain(part):
        words = " | ".join(json.dumps(word) for word in _words(kinds, fields.python_words))
        return [f"{rule}: {_HEAD} ({words}) {close}"]
    if "string" not in kinds and kinds:
        assert isinstance(part, Mapping)
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return [f"{rule}: {_HEAD} {json_rule({**definitions, **part}, (', ', ': '))} {close}"]
    texts = _choices(part, root)
    if texts is not None and kinds == {"string"}:
        alternatives = " | ".join(literal(text) or '""' for text in texts)
        return [f"{rule}: {_HEAD} ({alternatives}) {close}"]
    if kinds - {"string", "null"} or not kinds or _has_text_rules(part, root):
        raise _unsupported(where, "text of a certain form, or text among other types, in a field")
    if literal.begins_with_token(fields.close):
        return [f"{rule}: {_HEAD} /(?s:.*)/ {close}"]
    return [
        f"{rule}_text[lazy]: /(?s:.*){_in_regex(fields.close)}/",
        f"{rule}: {_HEAD} {rule}_text",
    ]


def _is_plain(part: object) -> bool:
    return isinstance(part, Mapping) and "type" in part and not {"enum", "const"} & set(part)


def _words(kinds: set[str], python: bool) -> tuple[str, ...]:
    if kinds == {"null"}:
        return ("None",) if python else ("null",)
    return ("True", "False") if python else ("true", "false")


def _choices(part: object, root: Mapping[str, Any]) -> list[str] | None:
    """The texts of an enumeration or constant."""
    if not isinstance(part, Mapping):
        return None
    part = resolved(part, root) if "$ref" in part else part
    if "const" in part:
        return [str(part["const"])]
    enum = part.get("enum")
    return [str(each) for each in enum] if isinstance(enum, list) else None


def _has_text_rules(part: object, root: Mapping[str, Any]) -> bool:
    if not isinstance(part, Mapping):
        return False
    part = resolved(part, root) if "$ref" in part else part
    inner = [each for key in ("anyOf", "oneOf") for each in part.get(key) or ()]
    choices = "enum" in part or "const" in part or "allOf" in part
    rules = any(key in part for key in _TEXT_RULES)
    nested = any(_has_text_rules(each, root) or _choices(each, root) for each in inner)
    return rules or choices or nested


def _in_regex(text: str) -> str:
    """`text` inside of /.../; what re.escape writes for a line break is not read there."""
    return re.escape(text).replace("/", "\\/").replace("\\\n", "\\n")


def _unsupported(where: str, found: str) -> TanrenError:
    return UnsupportedSchema.of(
        Fault(
            where=where,
            found=found,
            expected="what can be enforced in this model's form of calls",
            remedy='change this part, or ask with "tool_choice": "auto"',
        )
    )
