"""What a chat request may hold, what it means to the engine, and what is said where not."""

from __future__ import annotations

from typing import Any

import pytest

from tanren.api.chat_body import engine_request, read_chat
from tanren.engine.wire import ChatRequest, Constraint, Target
from tanren.store.errors import InvalidRequest

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "あ"]}'}}


def meant(*messages: Any, **body: Any) -> ChatRequest:
    raw = {"model": "m", "messages": list(messages) or [USER], **body}
    read, normal = read_chat(raw)
    return engine_request("id", read, normal, Target("m", None, None))


def refused(*messages: Any, **body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        meant(*messages, **body)
    return caught.value


def test_nothing_given_means_openais_defaults() -> None:
    request = meant()
    assert (request.temperature, request.top_p, request.choices) == (1.0, 1.0, 1)
    assert request.max_tokens is None and request.seed is None and request.stop == ()
    assert request.logprobs is None and request.constraint is None and request.tools is None


def test_nulls_mean_absent() -> None:
    """The official clients send them (acceptance 15)."""
    names = (
        "temperature",
        "top_p",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "response_format",
        "stream",
        "stream_options",
        "user",
        "metadata",
        "store",
    )
    assert meant(**dict.fromkeys(names)) == meant()


def test_every_value_arrives() -> None:
    request = meant(
        temperature=0, top_p=0.5, n=3, max_completion_tokens=9, stop=["a", "b"], seed=-5,
        presence_penalty=-2, frequency_penalty=1.5, logit_bias={"7": -100}, logprobs=True,
    )  # fmt: skip
    assert (request.temperature, request.top_p, request.choices) == (0.0, 0.5, 3)
    assert (request.max_tokens, request.stop, request.seed) == (9, ("a", "b"), -5)
    assert (request.presence_penalty, request.frequency_penalty) == (-2.0, 1.5)
    assert request.logit_bias == {7: -100.0} and request.logprobs == 0
    assert meant(stop="x").stop == ("x",) and meant(max_tokens=4).max_tokens == 4


REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"temperature": 2.1}, "temperature", "decimal_above_max_value", "<= 2"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value", ">= 0"),
    ({"temperature": "hot"}, "temperature", "invalid_type", "expected a decimal, but got a string"),
    ({"top_p": 1.01}, "top_p", "decimal_above_max_value", "<= 1"),
    ({"n": 0}, "n", "integer_below_min_value", ">= 1"),
    ({"n": 129}, "n", "integer_above_max_value", "<= 128"),
    ({"n": True}, "n", "invalid_type", "a boolean"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value", ">= 1"),
    (
        {"max_tokens": 1, "max_completion_tokens": 1},
        "max_tokens",
        "invalid_parameter_combination",
        "same time",
    ),
    ({"stop": ["a"] * 5}, "stop", "array_above_max_length", "maximum length 4"),
    ({"stop": [1]}, "stop", "invalid_type", "array of strings"),
    ({"presence_penalty": 2.5}, "presence_penalty", "decimal_above_max_value", "<= 2"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "decimal_below_min_value", ">= -2"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value", "token ids"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value", "-100 to 100"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_parameter_combination", "'logprobs' is enabled"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value", "<= 20"),
    (
        {"stream_options": {}},
        "stream_options",
        "invalid_parameter_combination",
        "'stream' is enabled",
    ),
    ({"tools": [{"type": "custom"}]}, "tools[0].type", "invalid_value", "'function'"),
    (
        {"tools": [{"type": "function", "function": {}}]},
        "tools[0].function.name",
        "missing_required_parameter",
        "Missing",
    ),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value", "only allowed when 'tools'"),
    ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", "invalid_value", "'required'"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
        "invalid_value",
        "not found",
    ),
    (
        {"tools": [TOOL], "functions": [{"name": "f"}]},
        "functions",
        "invalid_parameter_combination",
        "Only one",
    ),
    (
        {"response_format": {"type": "yaml"}},
        "response_format.type",
        "invalid_value",
        "'json_object'",
    ),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
        "Missing",
    ),
    (
        {"tools": [TOOL], "response_format": {"type": "json_object"}},
        "response_format",
        "invalid_parameter_combination",
        "tool_choice 'none'",
    ),
    ({"model": None}, "model", "invalid_type", "expected a string, but got null"),
    ({"messages": []}, "messages", "empty_array", "minimum length 1"),
    ({"messages": "hi"}, "messages", "invalid_type", "expected an array, but got a string"),
    ({"seed": 2**63}, "seed", "integer_above_max_value", "<"),
]


@pytest.mark.parametrize(("body", "param", "code", "words"), REFUSED)
def test_what_cannot_be_is_told_in_openais_words(
    body: dict[str, Any], param: str, code: str, words: str
) -> None:
    error = refused(**body)
    assert (error.param, error.code) == (param, code)
    assert words in str(error) and param.split(".")[0].split("[")[0] in str(error)


WRONG_MESSAGES: list[tuple[list[Any], str, str]] = [
    ([{"role": "bot", "content": "x"}], "messages[0].role", "'bot'"),
    ([{"content": "x"}], "messages[0].role", "Missing required parameter"),
    (["hi"], "messages[0]", "expected an object, but got a string"),
    ([{"role": "user"}], "messages[0].content", "Missing required parameter"),
    ([{"role": "user", "content": None}], "messages[0].content", "expected a string, got null"),
    ([{"role": "user", "content": 5}], "messages[0].content", "got an integer"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "messages[0].content[0].type",
        "read text alone",
    ),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "Missing"),
    ([{"role": "assistant"}], "messages[0].content", "Missing"),
    (
        [USER, {"role": "tool", "tool_call_id": "c9", "content": "x"}],
        "messages[1]",
        "must be a response",
    ),
    ([{"role": "assistant", "tool_calls": [CALL]}, USER], "messages[0]", "c1"),
    ([{"role": "assistant", "tool_calls": [CALL]}], "messages[0]", "the end of 'messages'"),
    (
        [{"role": "assistant", "tool_calls": [{**CALL, "id": 5}]}],
        "messages[0].tool_calls[0].id",
        "a string",
    ),
    (
        [
            {
                "role": "assistant",
                "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}],
            }
        ],
        "messages[0].tool_calls[0].function.arguments",
        "JSON text of an object",
    ),
    ([{"role": "function", "name": "f", "content": "x"}], "messages[0]", "'function_call'"),
]


@pytest.mark.parametrize(("messages", "param", "words"), WRONG_MESSAGES)
def test_what_messages_cannot_be(messages: list[Any], param: str, words: str) -> None:
    error = refused(*messages)
    assert error.param == param and words in str(error), str(error)


def test_all_faults_come_at_once_and_the_first_one_is_named() -> None:
    """T7."""
    error = refused({"role": "bot"}, {"role": "user"}, temperature=9, n=0)
    assert error.param == "temperature"
    for words in ("'temperature'", "'n'", "messages[0].role", "messages[1].content"):
        assert words in str(error)


def test_messages_reach_templates_in_one_form() -> None:
    """T1: parts joined, calls as objects, legacy spellings gone."""
    request = meant(
        {
            "role": "developer",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {**USER, "name": "太郎"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "晴れ"},
        {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": ""}},
        {"role": "function", "name": "g", "content": "{}"},
        {"role": "assistant", "content": "", "refusal": "いいえ", "annotations": [], "audio": None},
    )
    function = {"name": "f", "arguments": {"a": [1, "あ"]}}
    assert request.messages == (
        {"role": "developer", "content": "ab"},
        {"role": "user", "content": "hi", "name": "太郎"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "晴れ", "tool_call_id": "c1"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": {}}}
            ],
        },
        {"role": "tool", "content": "{}", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "いいえ"},
    )


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"tools": [TOOL]}, None),
        ({"tools": [TOOL], "tool_choice": "auto"}, None),
        ({"tools": [TOOL], "tool_choice": "required"}, Constraint("tools", tools=("f",))),
        (
            {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
            Constraint("tools", tools=("f",), parallel=False),
        ),
        (
            {"tools": [TOOL], "tool_choice": NAMED},
            Constraint("tools", tools=("f",), parallel=False),
        ),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json")),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA},
                }
            },
            Constraint("json", schema=SCHEMA),
        ),
        (
            {"tools": [TOOL], "tool_choice": "none", "response_format": {"type": "json_object"}},
            Constraint("json"),
        ),
    ],
)
def test_what_an_answer_must_be(body: dict[str, Any], expected: Constraint | None) -> None:
    assert meant(**body).constraint == expected


def test_without_tools_nobody_reads_calls() -> None:
    assert meant(tools=[TOOL]).tools == (TOOL,) and meant(tools=[TOOL]).read_tools
    none = meant(tools=[TOOL], tool_choice="none")
    assert none.tools is None and not none.read_tools
    assert meant(tools=[]).tools is None
