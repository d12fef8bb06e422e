"""The form of calls is what the template writes, found by rendering it."""

from __future__ import annotations

import json

import pytest
from engine.structure.structured import (
    AS_FIELDS,
    OWN,
    STOCK,
    TOOLS,
    calls_text,
    renderer_of,
    style,
)
from templates import families

from tanren.engine.structure import Call, Text, ToolFormat, ToolReader
from tanren.engine.structure.tool_format import CALL_ID
from tanren.template import ChatRenderer

HERMES = ("", '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n", "")
PARTS = {
    "qwen2.5": HERMES,
    "qwen3": HERMES,
    "llama3.1": ("", '{"name": "', '", "parameters": ', "}", "", ""),
    "mistral-tools": (
        "[TOOL_CALLS] [",
        '{"name": "',
        '", "arguments": ',
        f', "id": "{CALL_ID}"}}',
        ", ",
        "]",
    ),
    "no-template": ("", 'Call: {"name": "', '", "arguments": ', "}", "\n", ""),
    "deepseekv3": (
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "\n```json\n",
        "\n```<｜tool▁call▁end｜>",
        "\n",
        "<｜tool▁calls▁end｜>",
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_the_parts_of_known_families(name: str) -> None:
    form = style(name).form
    parts = (form.begin, form.open, form.middle, form.close, form.between, form.end)
    assert parts == PARTS[name]
    assert form.arguments == "json"
    assert form.separators == (", ", ": ")
    assert form.several == (name != "llama3.1")


@pytest.mark.parametrize("name", AS_FIELDS)
def test_forms_without_json_are_fields(name: str) -> None:
    form = style(name).form
    assert form.arguments == "fields"
    assert form.fields is not None
    assert form.several


@pytest.mark.parametrize("name", ["gemma3", "mistral", "phi3", "chatml", "llama3", "plain"])
def test_a_template_that_leaves_calls_out_has_no_form(name: str) -> None:
    assert ToolFormat.of(renderer_of(name)) is None


@pytest.mark.parametrize("name", ["gemma4", "lfm2_v2", "muse_glimmer"])
def test_a_form_that_cannot_be_taken_apart_is_none(name: str) -> None:
    renderer = renderer_of(name)
    assert renderer.facts.tool_calls == "written"
    assert ToolFormat.of(renderer) is None


def test_special_tokens_of_the_form_are_named_and_ordinary_ones_are_not() -> None:
    mistral = style("mistral-tools")
    mark = mistral.renderer.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
    assert mistral.form.visible_ids == {mark}
    assert style("qwen3").form.visible_ids == frozenset()  # <tool_call> is added, but not special


@pytest.mark.parametrize("name", [*OWN, *STOCK])
def test_decoding_an_answer_with_the_named_tokens_shown_keeps_its_calls(name: str) -> None:
    given = style(name)
    text = calls_text(given, "", [("get_weather", '{"city": "東京"}')])
    tokenizer = given.renderer.tokenizer
    special = set(tokenizer.all_special_ids) - given.form.visible_ids
    ids = [each for each in given.renderer.token_ids(text) if each not in special]
    reader = ToolReader(given.form, TOOLS)
    read = [*reader.push(tokenizer.decode(ids, skip_special_tokens=False)), *reader.rest()]
    assert read == [Call("get_weather", '{"city": "東京"}')]


def _template(call: str) -> str:
    """A template that writes calls as the Jinja expression `call`."""
    return (
        "{%- if tools %}{{ tools | tojson }}{% endif %}"
        "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{{ m.content or '' }}"
        "{%- for call in m.tool_calls or [] %}{{ " + call + " }}{% endfor %}"
        "{{ '<|im_end|>\\n' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


ODD = {
    "other keys": (
        "'\\n!' + {'function': call.function.name, 'input': call.function.arguments} | tojson",
        "json",
    ),
    "arguments first": (
        "'\\n!' + {'parameters': call.function.arguments, 'name': call.function.name} | tojson",
        None,
    ),
    "arguments as text": (
        "'\\n!' + {'name': call.function.name, 'arguments': call.function.arguments | tojson} "
        "| tojson",
        "json text",
    ),
    "name in front": (
        "'[CALL]' + call.function.name + '[ARGS]' + call.function.arguments | tojson",
        "json",
    ),
    "compact": (
        "'!' + {'name': call.function.name, 'arguments': call.function.arguments} "
        "| tojson(separators=(',', ':'))",
        "json",
    ),
    "something else for no arguments": (
        "'!' + {'name': call.function.name, 'arguments': call.function.arguments or 'none'} "
        "| tojson",
        None,
    ),
    "name alone": ("call.function.name + call.function.arguments | tojson", None),
    "twice": (
        "'!' + call.function.name + '!' + {'name': call.function.name, 'arguments': "
        "call.function.arguments} | tojson",
        None,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_other_forms_are_found_or_declined(name: str) -> None:
    expression, arguments = ODD[name]
    tokenizer = families()["chatml"].tokenizer()
    renderer = ChatRenderer(tokenizer, template=_template(expression))
    form = ToolFormat.of(renderer)
    assert (form.arguments if form else None) == arguments
    if form is None:
        return
    call = {"name": "add", "arguments": json.dumps({"a": 1.5, "unit": "米", "exact": True})}
    turn = {
        "role": "assistant",
        "content": "Yes.",
        "tool_calls": [{"id": "call_0", "type": "function", "function": call}] * 2,
    }
    text = renderer.conversation([{"role": "user", "content": "Q"}, turn], TOOLS)
    answer = text.rpartition("assistant\n")[2].removesuffix("<|im_end|>\n")
    reader = ToolReader(form, TOOLS)
    wanted = '{"a": 1.5, "unit": "米", "exact": true}'
    assert [*reader.push(answer), *reader.rest()] == [Text("Yes."), *[Call("add", wanted)] * 2]
