"""Calls in text: what a template writes is read back, and nothing else is taken for a call."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from engine.structure.structured import (
    AS_FIELDS,
    AS_JSON,
    TOOLS,
    calls_text,
    cut,
    style,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tanren.engine.structure import Call, Text, ToolReader

# What forms are made of, inside of people's own texts.
TRAPS = ["</tool_call>", "<tool_call>", "[TOOL_CALLS]", "```", "}", '"}', "</parameter>", "{", "\\"]
texts = st.lists(
    st.one_of(st.text(max_size=6), st.sampled_from([*TRAPS, "日本", "\n"])), max_size=4
)
text = texts.map("".join)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
any_arguments = st.dictionaries(text, json_values, max_size=3)
field_arguments = st.fixed_dictionaries(
    {"a": st.integers() | st.floats(allow_nan=False, allow_infinity=False)},
    optional={
        "unit": st.sampled_from(["m", "square m", "米"]),
        "exact": st.booleans(),
        "list": st.lists(st.integers(), max_size=3),
        "thing": st.just({"x": None}),
    },
)
# Field forms cannot tell a text's own line breaks at its ends from theirs where a template trims.
plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1)


def read_whole(name: str, answer: str) -> list[Text | Call]:
    return read_pieces(name, [answer])


def read_pieces(name: str, pieces: list[str]) -> list[Text | Call]:
    """As one would show it: neighbouring texts together."""
    reader = ToolReader(style(name).form, TOOLS)
    read = [each for piece in pieces for each in reader.push(piece)] + reader.rest()
    joined: list[Text | Call] = []
    for each in read:
        if isinstance(each, Text) and joined and isinstance(joined[-1], Text):
            each = Text(joined.pop().text + each.text)  # type: ignore[union-attr]
        joined.append(each)
    return joined


def counted(name: str, calls: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return calls if style(name).form.several else calls[:1]


@pytest.mark.parametrize("name", AS_JSON)
@settings(max_examples=40, deadline=None)
@given(many=st.lists(any_arguments, min_size=1, max_size=3), seed=st.integers(0, 999))
def test_calls_that_a_template_writes_are_read_back(
    name: str, many: list[dict[str, Any]], seed: int
) -> None:
    names = [each["function"]["name"] for each in TOOLS]
    calls = counted(name, [(names[(seed + i) % 3], each) for i, each in enumerate(many)])
    written = [(called, json.dumps(each, ensure_ascii=False)) for called, each in calls]
    answer = calls_text(style(name), "", written)
    read = read_pieces(name, cut(answer, random.Random(seed)))
    assert all(isinstance(each, Call) for each in read)
    got = [(each.name, json.loads(each.arguments)) for each in read]  # type: ignore[union-attr]
    assert got == calls
    assert [each.arguments for each in read] == [one for _, one in written]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", AS_FIELDS)
@settings(max_examples=30, deadline=None)
@given(added=field_arguments, city=plain, note=st.none() | plain.filter(str.strip))
def test_calls_of_fields_are_read_back_by_their_schema(
    name: str, added: dict[str, Any], city: str, note: str | None
) -> None:
    if note is not None and note.strip() in ("null", "None"):
        note = "nothing"
    calls: list[tuple[str, Any]] = [
        ("get_weather", {"city": city, "note": note}),
        ("add", added),
        ("now", {}),
    ]
    written = [(called, json.dumps(each, ensure_ascii=False)) for called, each in calls]
    read = read_whole(name, calls_text(style(name), "", written))
    assert [(e.name, json.loads(e.arguments)) for e in read if isinstance(e, Call)] == calls
    assert len(read) == len(calls)


@pytest.mark.parametrize("name", AS_FIELDS)
@pytest.mark.parametrize(
    "city", ["3", "true", "null", '"quoted"', '{"a": 1}', "</parameter> 東京", "a\n\nb"]
)
def test_a_text_that_looks_like_something_else_stays_text(name: str, city: str) -> None:
    written = [("get_weather", json.dumps({"city": city, "days": 3}))]
    read = read_whole(name, calls_text(style(name), "", written))
    assert [json.loads(e.arguments) for e in read if isinstance(e, Call)] == [
        {"city": city, "days": 3}
    ]


WITH_TEXT = [name for name in (*AS_JSON, *AS_FIELDS) if not name.startswith(("llama", "mistral"))]


@pytest.mark.parametrize("name", [each for each in WITH_TEXT if each != "gptoss"])
@pytest.mark.parametrize("content", ["Let me see.", "東京を{調べ}ます", 'a "b" <c>\n\nd'])
def test_text_before_calls_comes_first_and_whole(name: str, content: str) -> None:
    calls = [("get_weather", '{"city": "東京"}'), ("now", "{}")]
    read = read_whole(name, calls_text(style(name), content, calls))
    assert read == [Text(content), *(Call(*call) for call in calls)]


PARTS = [
    *(
        "<tool_call>",
        "</tool_call>",
        "<function=now>",
        "</function>",
        "Call: ",
        "日本",
        "now",
        "\\",
    ),
    *("[TOOL_CALLS]", "[", "]", ",", "{", "}", "\n", " ", "```json", "```", " to=functions."),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
    ),
    *("<|channel|>commentary json<|message|>", '{"name": "now", ', '"arguments": {}}'),
    *('"parameters": {}}', '{"name": "now", "arguments": {}}', '{"name": "now", "parameters": {}}'),
]


@pytest.mark.parametrize("name", [*AS_JSON, *AS_FIELDS])
@settings(max_examples=120, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=9), seed=st.integers(0, 999))
def test_the_cuts_into_pieces_change_nothing(name: str, parts: list[str], seed: int) -> None:
    answer = "".join(parts)
    whole = read_whole(name, answer)
    assert read_pieces(name, cut(answer, random.Random(seed))) == whole
    assert read_pieces(name, list(answer)) == whole
    given_out = "".join(each.text for each in whole if isinstance(each, Text))
    if not any(isinstance(each, Call) for each in whole):
        assert given_out == answer
    _is_what_is_left(given_out, answer)


def _is_what_is_left(given_out: str, answer: str) -> None:
    """Texts are in the answer, in its order."""
    at = 0
    for character in given_out:
        at = answer.index(character, at) + 1


@pytest.mark.parametrize("name", [*AS_JSON, *AS_FIELDS])
@settings(max_examples=40, deadline=None)
@given(answer=st.text(max_size=60), seed=st.integers(0, 99))
def test_an_answer_without_calls_is_given_out_as_it_is(name: str, answer: str, seed: int) -> None:
    pieces = read_pieces(name, cut(answer, random.Random(seed)))
    assert pieces == ([Text(answer)] if answer else [])


HERMES_TEXTS = {
    "unknown function": '<tool_call>\n{"name": "fly", "arguments": {}}\n</tool_call>',
    "broken JSON": '<tool_call>\n{"name": "now", "arguments": {"a": }}\n</tool_call>',
    "no object": '<tool_call>\n{"name": "now", "arguments": [1]}\n</tool_call>',
    "no arguments": '<tool_call>\n{"name": "now"}\n</tool_call>',
    "name of another type": '<tool_call>\n{"name": ["now"], "arguments": {}}\n</tool_call>',
    "cut": '<tool_call>\n{"name": "now", "arguments": {"a": "b',
    "no number": '<tool_call>\n{"name": "now", "arguments": {"a": NaN}}\n</tool_call>',
    "too deep": '<tool_call>\n{"name": "now", "arguments": {"a": ' + "[" * 9000 + "]" * 9000 + "}}",
    "talk of the tag": "Write <tool_call> in front, and </tool_call> behind.",
}


@pytest.mark.parametrize("name", HERMES_TEXTS)
def test_a_broken_call_comes_out_as_text(name: str) -> None:
    answer = HERMES_TEXTS[name]
    assert read_whole("qwen3", answer) == [Text(answer)]


HERMES_CALLS = {
    "no white space": '<tool_call>{"name":"now","arguments":{"a":1}}</tool_call>',
    "other order": '<tool_call>\n{"arguments": {"a": 1}, "name": "now"}\n</tool_call>',
    "arguments as text": '<tool_call>\n{"name": "now", "arguments": "{\\"a\\": 1}"}\n</tool_call>',
    "the other key": '<tool_call>\n{"name": "now", "parameters": {"a": 1}}\n</tool_call>',
    "not closed at the end": '<tool_call>\n{"name": "now", "arguments": {"a": 1}}\n</tool_',
    "space behind": '<tool_call>\n{"name": "now", "arguments": {"a": 1}}\n</tool_call>\n\n',
}


@pytest.mark.parametrize("name", HERMES_CALLS)
def test_small_departures_from_the_form_are_calls_all_the_same(name: str) -> None:
    assert read_whole("qwen3", HERMES_CALLS[name]) == [Call("now", '{"a": 1}')]


def test_a_good_call_behind_a_broken_one_is_found() -> None:
    good = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    broken = '<tool_call>\n{"name": "fly", "arguments": {}}\n</tool_call>'
    assert read_whole("qwen3", f"{broken}\n{good}") == [Text(broken), Call("now", "{}")]
    assert read_whole("qwen3", f"{good}\n{broken}") == [Call("now", "{}"), Text(f"\n{broken}")]
    cut_off = '<tool_call>{"name": "now", "arguments": {"a":'
    assert read_whole("qwen3", cut_off + good) == [Text(cut_off), Call("now", "{}")]


def test_text_behind_a_call_is_kept() -> None:
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert read_whole("qwen3", f"A\n{call}\nB ") == [Text("A"), Call("now", "{}"), Text("\nB ")]


def test_a_call_is_given_out_as_soon_as_it_is_complete() -> None:
    reader = ToolReader(style("mistral-tools").form, TOOLS)
    assert reader.push('[TOOL_CALLS] [{"name": "now", "arguments": {}, "id": "a"') == []
    assert reader.push("}") == [Call("now", "{}")]
    assert reader.push(', {"name": "add", "arguments": {"a": 1}, "id": "b"}') == [
        Call("add", '{"a": 1}')
    ]
    assert reader.push("]\n") == []
    assert reader.rest() == []


def test_text_is_held_back_no_longer_than_it_may_begin_a_call() -> None:
    reader = ToolReader(style("qwen3").form, TOOLS)
    assert reader.push("See <tool") == [Text("See")]
    assert reader.push("box>") == [Text(" <toolbox>")]
    bare = ToolReader(style("llama3.1").form, TOOLS)
    assert bare.push('{"na') == []
    assert bare.push("ture") == [Text('{"nature')]
    assert bare.push('": {"name": "now", "parameters": {}}}') != []


def test_json_is_a_call_of_a_bare_form_only_at_the_start() -> None:
    call = '{"name": "now", "parameters": {}}'
    assert read_whole("llama3.1", call) == [Call("now", "{}")]
    assert read_whole("llama3.1", f"\n {call}\n") == [Call("now", "{}")]
    assert read_whole("llama3.1", f"Like {call}") == [Text(f"Like {call}")]


def test_numbers_and_characters_stay_as_they_were_written() -> None:
    arguments = '{"a": 1.10, "b": 1e400, "c": ' + "9" * 5000 + ', "d": "\\u6771\\ud800"}'
    read = read_whole("llama3.1", f'{{"name": "now", "parameters": {arguments}}}')
    assert isinstance(read[0], Call)
    assert read[0].arguments.startswith('{"a": 1.10, "b": 1e400, "c": 9999')
    assert read[0].arguments.endswith('"d": "\\u6771\\ud800"}')  # half a pair has no UTF-8
    read = read_whole("llama3.1", '{"name": "now", "parameters": {"d": "\\u6771\nx"}}')
    assert read == [Call("now", '{"d": "東\\nx"}')]


def test_a_long_call_is_looked_at_once() -> None:
    """Ten times the length takes about ten times as long, not a hundred times."""
    import time

    def seconds(length: int) -> float:
        answer = (
            '<tool_call>{"name": "now", "arguments": {"a": "' + 'x\\"{' * length + '"}}</tool_call>'
        )
        reader = ToolReader(style("qwen3").form, TOOLS)
        start = time.process_time()
        read = [
            each for at in range(0, len(answer), 4) for each in reader.push(answer[at : at + 4])
        ]
        assert len(read) == 1
        return time.process_time() - start

    seconds(100)
    assert seconds(10_000) < 40 * max(seconds(1_000), 0.005)
