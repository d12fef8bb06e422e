"""Calls under a constraint: the model's own form, each tool's arguments, whatever the logits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from engine.structure.structured import (
    AS_FIELDS,
    OWN,
    STOCK,
    TOOLS,
    Style,
    calls_text,
    style,
    tool,
    write,
)
from jsonschema import Draft202012Validator

from tanren.engine.structure import (
    Call,
    Matcher,
    Text,
    ToolReader,
    UnsupportedSchema,
    matcher_of,
)
from tanren.engine.wire import Constraint
from tanren.errors import UserError, WorkError

Message = dict[str, Any]
SCHEMAS = {each["function"]["name"]: each["function"].get("parameters") for each in TOOLS}


def matcher(
    given: Style, *names: str, parallel: bool = True, tools: list[Message] = TOOLS
) -> Matcher:
    asked = Constraint("tools", tools=names, parallel=parallel)
    return matcher_of(asked, given.vocabulary, tools=tools, form=given.form)


def answered(given: Style, made: Matcher, seed: int) -> tuple[str, bool]:
    fields = given.form.fields
    closing = given.renderer.token_ids(fields.close) if fields else []
    ids, ended = write(made, given.vocabulary, seed, limit=250, closing=closing)
    return given.renderer.tokenizer.decode(ids, skip_special_tokens=False), ended


def read(given: Style, answer: str, tools: list[Message] = TOOLS) -> list[Text | Call]:
    reader = ToolReader(given.form, tools)
    return [*reader.push(answer), *reader.rest()]


@pytest.mark.parametrize("name", [*OWN, *STOCK])
def test_every_completed_answer_is_calls_of_the_tools_and_nothing_else(name: str) -> None:
    given = style(name)
    counts, called = [], set()
    for seed in range(24):
        answer, ended = answered(given, matcher(given), seed)
        if not ended:
            continue
        calls = read(given, answer)
        assert calls, answer
        for call in calls:
            assert isinstance(call, Call), answer
            schema = SCHEMAS[call.name] or {"type": "object", "maxProperties": 0}
            assert Draft202012Validator(schema).is_valid(json.loads(call.arguments)), answer
            called.add(call.name)
        counts.append(len(calls))
    assert len(counts) >= 3
    assert len(called) >= 2
    assert given.form.several or set(counts) == {1}


@pytest.mark.parametrize("name", ["qwen3", "mistral-tools", "deepseekv3", "glm4moe"])
def test_several_calls_only_where_they_are_allowed(name: str) -> None:
    given = style(name)
    counts: dict[bool, set[int]] = {True: set(), False: set()}
    for parallel in counts:
        for seed in range(20):
            made = matcher(given, "now", parallel=parallel)
            answer, ended = answered(given, made, seed)
            if ended:
                counts[parallel].add(len(read(given, answer)))
    assert counts[False] == {1}
    assert len(counts[True]) > 1


@pytest.mark.parametrize("name", ["llama3.1", "qwen3", "no-template", "qwen3_5_nothink"])
def test_a_named_function_is_the_one_that_is_called(name: str) -> None:
    given = style(name)
    seen = 0
    for seed in range(12):
        answer, ended = answered(given, matcher(given, "get_weather"), seed)
        if ended:
            calls = read(given, answer)
            assert {call.name for call in calls if isinstance(call, Call)} == {"get_weather"}
            seen += 1
    assert seen


# Not mistral-tools: its tokenizer doubles the space behind a control token, in training too.
@pytest.mark.parametrize("name", [each for each in (*OWN, *STOCK) if each != "mistral-tools"])
def test_what_the_template_writes_is_what_the_grammar_allows(name: str) -> None:
    """Token by token: the form is the one that the model was trained on, special tokens too."""
    given = style(name)
    calls = [
        ("get_weather", '{"city": "東京 \\"x\\"", "days": 3}'),
        (
            "add",
            '{"a": 1.5, "unit": "square m", "exact": true, "list": [1, 2], "thing": {"x": null}}',
        ),
        ("now", "{}"),
    ]
    if not given.form.several:
        calls = calls[:1]
    if name in AS_FIELDS:
        calls[0] = ("get_weather", '{"city": "東京", "days": 3}')
    text = calls_text(given, "", calls)
    if name == "gptoss":
        text = f" {text.lstrip()}"
    made = matcher(given)
    before = given.renderer.token_ids("\n")
    for token in given.renderer.token_ids(f"\n{text}")[len(before) :]:
        assert made.allowed()[token], (text, given.renderer.tokenizer.decode([token]))
        made.accept(token)
    assert made.complete
    assert made.allowed()[list(given.vocabulary.stop_ids)].all()


def test_a_tool_that_is_not_there_is_refused() -> None:
    for asked, tools in (("fly", TOOLS), ("now", [])):
        with pytest.raises(UserError, match="tool_choice"):
            matcher(style("qwen3"), asked, tools=tools)


def test_a_model_without_a_form_of_calls_is_refused() -> None:
    given = style("qwen3")
    with pytest.raises(UserError, match="no form of calls"):
        matcher_of(Constraint("tools"), given.vocabulary, tools=TOOLS, form=None)


def test_parameters_that_cannot_be_enforced_are_refused_with_their_path() -> None:
    unique = tool("fly", {"to": {"type": "array", "uniqueItems": True}})
    with pytest.raises(UnsupportedSchema, match=r"tools\.fly\.parameters\.properties\.to"):
        matcher(style("qwen3"), tools=[unique])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string", "maxLength": 3},
        {"type": "string", "pattern": "a"},
        {"type": ["string", "integer"]},
        {"anyOf": [{"enum": ["a"]}, {"type": "null"}]},
        {"$ref": "#/$defs/short"},
        {},
    ],
    ids=str,
)
def test_texts_that_a_field_cannot_hold_to_their_rules_are_refused(part: Message) -> None:
    limited = tool("fly", {"to": part}, **{"$defs": {"short": {"type": "string", "maxLength": 3}}})
    with pytest.raises(UnsupportedSchema, match=r"tools\.fly\.parameters\.properties\.to"):
        matcher(style("qwen3_5_nothink"), tools=[limited])
    matcher(style("qwen3"), tools=[limited])


@pytest.mark.parametrize("name", ["glm4moe", "qwen3_5_nothink"])
def test_fields_of_referred_types(name: str) -> None:
    """As pydantic writes the parameters of a function."""
    paint = tool(
        "paint",
        {
            "colour": {"$ref": "#/$defs/Colour"},
            "at": {"$ref": "#/$defs/Point"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        required=["colour", "at"],
        **{
            "$defs": {
                "Colour": {"enum": ["赤", "dark blue"], "type": "string"},
                "Point": {
                    "type": "object",
                    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
                    "required": ["x"],
                    "additionalProperties": False,
                },
            }
        },
    )
    given, seen = style(name), 0
    for seed in range(16):
        answer, ended = answered(given, matcher(given, tools=[paint], parallel=False), seed)
        if ended:
            (call,) = read(given, answer, [paint])
            assert isinstance(call, Call), answer
            parameters = paint["function"]["parameters"]
            assert Draft202012Validator(parameters).is_valid(json.loads(call.arguments)), call
            seen += 1
    assert seen


def test_names_and_tags_never_break_out_of_the_grammar() -> None:
    """Names come from requests: quotes and rules in them are text."""
    odd = tool('x" | /.*/ | "\n<[0]> %json {}', {"a": {"type": "boolean"}}, required=["a"])
    given = style("qwen3")
    seen = 0
    for seed in range(8):
        answer, ended = answered(given, matcher(given, tools=[odd], parallel=False), seed)
        if ended:
            (call,) = read(given, answer, [odd])
            assert isinstance(call, Call)
            assert call.name == odd["function"]["name"]
            seen += 1
    assert seen


def test_plain_text_is_not_allowed_where_a_call_is_required() -> None:
    given = style("qwen3")
    made = matcher(given)
    with pytest.raises(WorkError):
        for token in given.renderer.token_ids("Sure"):
            made.accept(token)
