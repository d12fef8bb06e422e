"""Laws of what Ollama does to a conversation before its template."""

from __future__ import annotations

from typing import Any

import pytest

from tanren.export.ollama.go_template import GoTemplate
from tanren.export.ollama.server import collated, prompt, system_text

TURNS = "{{ range .Messages }}[{{ .Role }}:{{ .Content }}]{{ end }}"
EXCHANGES = (
    "{{ if .System }}<s>{{ .System }}{{ end }}{{ if .Prompt }}<u>{{ .Prompt }}{{ end }}"
    "<a>{{ .Response }}</a>"
)


def talk(*turns: str) -> list[dict[str, Any]]:
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[1:]} for turn in turns]


def test_neighbours_of_one_role_are_joined_by_an_empty_line() -> None:
    messages = talk("u1", "u2", "a3", "a4", "u5")
    assert prompt(GoTemplate(TURNS), messages) == "[user:1\n\n2][assistant:3\n\n4][user:5]"
    assert messages == talk("u1", "u2", "a3", "a4", "u5"), "the caller's messages stay as they are"


def test_tool_results_are_never_joined() -> None:
    assert [each["content"] for each in collated(talk("t1", "t2"))] == ["1", "2"]


def test_system_is_every_system_message_wherever_it_stands() -> None:
    assert system_text(talk("s1", "u2", "s3")) == "1\n\n3"
    template = "{{ .System }}|{{ range .Messages }}{{ .Role }} {{ end }}"
    text = prompt(GoTemplate(template), talk("s1", "u2", "s3"))
    assert text == "1\n\n3|system user system "


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        (["u1"], "<u>1<a>"),
        (["s0", "u1", "a2", "u3"], "<s>0<u>1<a>2</a><u>3<a>"),
        (["u1", "a2"], "<u>1<a>2"),
        (["u1", "s9", "u2"], "<u>1<a></a><s>9<u>2<a>"),
    ],
)
def test_a_template_without_messages_runs_once_for_each_exchange(
    turns: list[str], text: str
) -> None:
    """Its last run ends behind the reply: what follows is for the model to write."""
    assert prompt(GoTemplate(EXCHANGES), talk(*turns)) == text


def test_a_template_that_names_no_response_gets_one_at_its_end() -> None:
    assert prompt(GoTemplate("<{{ .Prompt }}>"), talk("u1", "a2", "u3")) == "<1>2<3>"


def test_the_switch_for_reasoning_reaches_the_template() -> None:
    template = GoTemplate("{{ range .Messages }}{{ end }}{{ .Think }} {{ .IsThinkSet }}")
    seen = [prompt(template, talk("u1"), think=think) for think in (None, False, True)]
    assert seen == ["false false", "false true", "true true"]


def test_tools_and_calls_have_ollamas_fields() -> None:
    template = GoTemplate(
        "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Name }}{{ .Function.Arguments }}"
        "{{ end }}{{ end }}{{ .Tools }}"
    )
    call = {"id": "1", "function": {"name": "add", "arguments": '{"b": 2, "a": "<"}'}}
    parameters = {"type": "object", "properties": {"n": {"type": "number", "description": "N."}}}
    tool = {"type": "function", "function": {"name": "add", "parameters": parameters}}
    messages = [*talk("u1"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert prompt(template, messages, [tool]) == (
        'add{"a":"\\u003c","b":2}[{"type":"function","function":{"name":"add","description":"",'
        '"parameters":{"type":"object","properties":{"n":{"type":"number","description":"N."}}}}}]'
    )
