"""The chat format: every fault with its exact words (T7), and the laws of a validated example."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tanren
from tanren.chat import ROLES, Example, parse_line, parse_object, render_ready
from tanren.errors import Fault

USER = {"role": "user", "content": "hi"}
REPLY = {"role": "assistant", "content": "yo"}
MESSAGE_KEYS = "role|content|name|tool_calls|tool_call_id|weight|reasoning_content|refusal"


def row(*messages: object, **more: object) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def call(identity: str = "c1", name: str = "f", arguments: object = "{}") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": identity, "type": "function", "function": function}


def calling(*calls: object) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def tool(identity: object = "c1", content: object = "r") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def function_tool(**function: object) -> dict[str, Any]:
    return {"type": "function", "function": function}


def legacy_call(name: str = "f", arguments: object = "{}") -> dict[str, Any]:
    return {"role": "assistant", "function_call": {"name": name, "arguments": arguments}}


def read(obj: object) -> Example | list[Fault]:
    text = obj if isinstance(obj, str) else json.dumps(obj, ensure_ascii=False)
    return parse_line(text, source="data/chat.jsonl", line=17)


def accepted(obj: object) -> Example:
    example = read(obj)
    assert isinstance(example, Example), [str(fault) for fault in example]
    return example


def faults_of(obj: object) -> list[str]:
    faults = read(obj)
    assert isinstance(faults, list), faults
    prefix = "data/chat.jsonl:17"
    assert all(str(fault).startswith(prefix) for fault in faults)
    return [str(fault).removeprefix(prefix).removeprefix(" ") for fault in faults]


CHAT_ROW = 'expected an object with "messages"'
NEED_MESSAGES = (
    'expected a list of at least one message; write a list of {"role": ..., "content": ...}'
)
A_ROLE = "expected system|user|assistant|tool"
ARGUMENTS = "messages[1].tool_calls[0].function.arguments"
OBJECT_ARGUMENTS = "expected a JSON object, as text or as it is"
WEIGHT = "expected 0|1; write 1 to train this message, 0 to leave it out"

# One broken row each: the row and all that is said about it.
BROKEN: list[tuple[object, list[str]]] = [
    # what is not a conversation at all
    ([1, 2], [f': found a list of 2, {CHAT_ROW}; write the row as {{"messages": [...]}}']),
    ([USER], [f': found a bare list of 1, {CHAT_ROW}; wrap the list: {{"messages": [...]}}']),
    ("3", [f': found a number, {CHAT_ROW}; write the row as {{"messages": [...]}}']),
    ("null", [f': found null, {CHAT_ROW}; write the row as {{"messages": [...]}}']),
    (
        '"{\\"messages\\": []}"',
        [
            f": found a string that holds an object, {CHAT_ROW}; "
            "remove the outer quotes: the row was encoded twice"
        ],
    ),
    ({}, [f": found an empty object, {CHAT_ROW}; delete the line or write the conversation"]),
    (
        {"conversations": [{"from": "human", "value": "x"}]},
        [
            ': found the key "conversations", expected "messages"; this looks like ShareGPT: '
            'rename "conversations" to "messages", "from" to "role", "value" to "content", and the '
            'roles "human" to "user", "gpt" to "assistant"'
        ],
    ),
    (
        {"conversation": [USER, REPLY]},
        [
            ': found the key "conversation", expected "messages"; rename "conversation" to '
            '"messages"'
        ],
    ),
    (
        {"instruction": "a", "input": "b", "output": "c"},
        [
            f': found keys "instruction", "input", "output", {CHAT_ROW}; this looks like an Alpaca '
            'row: write {"messages": [{"role": "user", "content": <instruction and input>}, '
            '{"role": "assistant", "content": <output>}]}'
        ],
    ),
    (
        {"prompt": "a", "completion": "b"},
        [
            f': found keys "prompt", "completion", {CHAT_ROW}; this looks like a prompt/completion '
            'row: write {"messages": [{"role": "user", "content": <prompt>}, '
            '{"role": "assistant", "content": <completion>}]}'
        ],
    ),
    (
        {"prompt": [USER], "completion": [REPLY]},
        [
            f': found keys "prompt", "completion", {CHAT_ROW}; this looks like a prompt/completion '
            'row of messages: join both lists, in order, under "messages"'
        ],
    ),
    (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        [
            f': found keys "prompt", "chosen", "rejected", {CHAT_ROW}; this is a preference pair '
            "(DPO): train it with objective=dpo, or keep the preferred answer as an assistant "
            "message"
        ],
    ),
    (
        {"mesages": [USER, REPLY]},
        [f': found key "mesages", {CHAT_ROW}; rename "mesages" to "messages"'],
    ),
    (
        {"custom_id": "1", "body": row(USER, REPLY)},
        [
            f': found keys "custom_id", "body", {CHAT_ROW}; this looks like a batch request: keep '
            'only the "messages" and "tools" of "body"'
        ],
    ),
    (
        {"text": "x"},
        [
            f': found key "text", {CHAT_ROW}; this looks like plain text: split it into turns '
            f"under "
            '"messages"'
        ],
    ),
    # messages as a whole
    (row(), [f"messages: found an empty list, {NEED_MESSAGES}"]),
    ({"messages": "x"}, [f'messages: found "x", {NEED_MESSAGES}']),
    ({"messages": None}, [f"messages: found null, {NEED_MESSAGES}"]),
    (
        row(USER),
        [
            "messages: found no assistant message, expected at least one; "
            "add the answer that the model should learn"
        ],
    ),
    (
        row(USER, {**REPLY, "weight": 0}),
        [
            'messages: found only assistant messages of "weight" 0, expected at least one that is '
            'trained; set "weight" to 1 where the model should learn, or delete the row'
        ],
    ),
    (
        row("hi", REPLY),
        ['messages[0]: found "hi", expected an object; write {"role": "user", "content": ...}'],
    ),
    # roles
    (
        row(USER, REPLY, {"role": "bot", "content": "x"}),
        [f'messages[2].role: found "bot", {A_ROLE}; rename it to "assistant"'],
    ),
    (
        row({"role": "Human", "content": "x"}, REPLY),
        [f'messages[0].role: found "Human", {A_ROLE}; rename it to "user"'],
    ),
    (
        row(USER, {"role": "asistant", "content": "x"}),
        [f'messages[1].role: found "asistant", {A_ROLE}; rename it to "assistant"'],
    ),
    (
        row({"role": "narrator", "content": "x"}, REPLY),
        [f'messages[0].role: found "narrator", {A_ROLE}; use one of these'],
    ),
    (
        row({"role": 3, "content": "x"}, REPLY),
        [f"messages[0].role: found 3, {A_ROLE}; use one of these"],
    ),
    (row({"content": "x"}, REPLY), [f'messages[0].role: found nothing, {A_ROLE}; add "role"']),
    (
        row({"from": "human", "value": "x"}, REPLY),
        [
            f'messages[0]: found the unknown key "from", expected {MESSAGE_KEYS}; '
            'rename it to "role" and "human" to "user"',
            f'messages[0]: found the unknown key "value", expected {MESSAGE_KEYS}; '
            'rename it to "content"',
        ],
    ),
    # content
    (
        row(USER, {"role": "assistant", "contnet": "x"}),
        [
            f'messages[1]: found the unknown key "contnet", expected {MESSAGE_KEYS}; '
            'rename it to "content"'
        ],
    ),
    (
        row(USER, {"role": "assistant", "content": 3}),
        [
            "messages[1].content: found 3, expected text or a list of text parts; "
            "write it as text in double quotes"
        ],
    ),
    (
        row(USER, {"role": "assistant", "content": {"a": 1}}),
        [
            'messages[1].content: found an object with key "a", expected text or a list of text '
            "parts; write the object as JSON text in a string"
        ],
    ),
    (
        row(USER, {"role": "assistant", "content": " \n"}),
        [
            "messages[1].content: found empty text, expected the text to learn, or tool calls; "
            "write the answer, or remove the message"
        ],
    ),
    (
        row(USER, {"role": "assistant", "content": None}),
        [
            "messages[1].content: found null, expected text; "
            "write the answer, or the tool calls if there is none"
        ],
    ),
    (
        row({"role": "user"}, REPLY),
        ["messages[0].content: found nothing, expected text; write the text"],
    ),
    (
        row({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, REPLY),
        [
            'messages[0].content[0].type: found "image_url", expected "text"; '
            "remove the part or the row: only text is trained"
        ],
    ),
    (
        row({"role": "user", "content": [{"type": "input_text", "text": "x"}]}, REPLY),
        ['messages[0].content[0].type: found "input_text", expected "text"; rename it to "text"'],
    ),
    (
        row({"role": "user", "content": ["x", {"type": "text"}]}, REPLY),
        [
            'messages[0].content[0]: found "x", expected {"type": "text", "text": ...}; '
            "write the part as an object",
            "messages[0].content[1].text: found nothing, expected text; "
            "write the part's text as a string",
        ],
    ),
    (
        row(USER, {**REPLY, "refusal": "no"}),
        [
            'messages[1].refusal: found a refusal beside other "content", expected one of the two; '
            "keep what the model should say"
        ],
    ),
    (
        row(USER, {**REPLY, "reasoning": "a", "thinking": "b"}),
        [
            'messages[1]: found both "reasoning" and "thinking", expected one of them; '
            'keep "reasoning_content"'
        ],
    ),
    (
        row(USER, {**REPLY, "audio": {"id": "x"}}),
        [
            'messages[1].audio: found an object with key "id", expected nothing; '
            "remove it: only text is trained"
        ],
    ),
    # weight and keys of other roles
    (row(USER, {**REPLY, "weight": True}), [f"messages[1].weight: found true, {WEIGHT}"]),
    (row(USER, {**REPLY, "weight": 0.5}), [f"messages[1].weight: found 0.5, {WEIGHT}"]),
    (row(USER, {**REPLY, "weight": "0"}), [f'messages[1].weight: found "0", {WEIGHT}']),
    (
        '{"messages": [{"role": "user", "content": "a"}, '
        '{"role": "assistant", "content": "b", "weight": NaN}]}',
        [
            "messages[1].weight: found NaN, expected a finite number; "
            "write null or leave the key out: JSON has no NaN"
        ],
    ),
    (
        row({**USER, "weight": 1}, REPLY),
        [
            'messages[0].weight: found "weight" on a user message, expected it only on assistant '
            "messages; remove it: only assistant messages are trained"
        ],
    ),
    (
        row({**USER, "tool_call_id": "x"}, REPLY),
        [
            'messages[0].tool_call_id: found "tool_call_id" on a user message, expected it only on '
            "tool messages; remove it"
        ],
    ),
    (
        row(USER, {**REPLY, "wieght": 0}),
        [
            f'messages[1]: found the unknown key "wieght", expected {MESSAGE_KEYS}; '
            'rename it to "weight"'
        ],
    ),
    # calls and answers
    (
        row(USER, calling(call()), USER, REPLY),
        [
            'messages[1].tool_calls: found no answer to the call "c1" before messages[2] (user), '
            'expected a tool message with "tool_call_id": "c1"; '
            "add the tool message after the call, or remove the call"
        ],
    ),
    (
        row(USER, calling(call("call_1")), tool("call1"), REPLY),
        [
            'messages[2].tool_call_id: found "call1", expected the id of an open call in the '
            'assistant message before; rename it to "call_1"'
        ],
    ),
    (
        row(USER, REPLY, tool(), REPLY),
        [
            'messages[2].tool_call_id: found "c1", expected the id of an open call in the '
            "assistant "
            'message before; add the call as "tool_calls" to the assistant message before'
        ],
    ),
    (
        row(USER, calling(call()), tool(), tool(), REPLY),
        [
            'messages[3].tool_call_id: found "c1" answered before, expected one answer for each '
            "call; join both answers or remove one"
        ],
    ),
    (
        row(USER, calling(call()), tool(None), REPLY),
        [
            "messages[2].tool_call_id: found nothing, expected the id of the call it answers; "
            'use "c1"'
        ],
    ),
    (
        row(USER, calling(call(), call())),
        [
            'messages[1].tool_calls: found the id "c1" twice, expected each id once; '
            "give every call of a message an id of its own"
        ],
    ),
    (
        row(USER, calling(call(arguments="{a: 1}"))),
        [f'{ARGUMENTS} column 2: found "a: 1}}", expected a key in double quotes; write "a"'],
    ),
    (
        row(USER, calling(call(arguments="[1]"))),
        [
            f"{ARGUMENTS}: found JSON text that holds a list of 1, {OBJECT_ARGUMENTS}; "
            'name each argument: {"<name>": <value>}'
        ],
    ),
    (
        row(USER, calling(call(arguments=json.dumps('{"a": 1}')))),
        [
            f'{ARGUMENTS}: found JSON text that holds "{{\\"a\\": 1}}", {OBJECT_ARGUMENTS}; '
            "it was encoded twice: decode it once"
        ],
    ),
    (
        row(USER, calling(call(arguments=""))),
        [
            f"{ARGUMENTS}: found empty text, {OBJECT_ARGUMENTS}; "
            'write "{}" for a call without arguments'
        ],
    ),
    (
        row(USER, calling(call(arguments='{"a": 1, "a": 2}'))),
        [
            f'{ARGUMENTS}: found the key "a" more than once, expected each key once; '
            "remove all but one (the last would silently win)"
        ],
    ),
    (
        row(USER, calling({"name": "f", "arguments": {}})),
        [
            'messages[1].tool_calls[0]: found a "name" outside "function", expected {"id", "type", '
            '"function"}; put name and arguments inside "function", beside "id" and "type": '
            '"function"'
        ],
    ),
    (
        row(USER, calling({"function": {"name": "f", "arguments": "{}"}})),
        [
            "messages[1].tool_calls[0].id: found nothing, expected the call's id as text; name the "
            'call, for example "call_0", and give the same "tool_call_id" to its answer',
            'messages[1].tool_calls[0].type: found nothing, expected "function"; '
            'add "type": "function"',
        ],
    ),
    (
        row(
            USER,
            legacy_call("look_up"),
            {"role": "function", "name": "lookup", "content": "x"},
            REPLY,
        ),
        [
            'messages[2].name: found "lookup", expected the function called just before; '
            'rename it to "look_up"'
        ],
    ),
    (
        row(USER, {**legacy_call(), "tool_calls": [call()]}),
        [
            'messages[1].function_call: found both "tool_calls" and the legacy "function_call", '
            'expected one of them; move the call into "tool_calls"'
        ],
    ),
    # tools
    (
        row(USER, REPLY, tools="f"),
        ['tools: found "f", expected a list; write the functions as a list'],
    ),
    (
        row(USER, REPLY, tools=[{"name": "f"}]),
        [
            'tools[0]: found a "name" outside "function", expected {"type": "function", '
            '"function": '
            '{...}}; put name, description and parameters inside "function", beside "type": '
            '"function"'
        ],
    ),
    (
        row(USER, REPLY, tools=[function_tool(name="f", parameters=[])]),
        [
            "tools[0].function.parameters: found an empty list, expected a JSON schema (an "
            "object); "
            'write {"type": "object", "properties": {...}}'
        ],
    ),
    (
        row(USER, REPLY, tools=[function_tool(parameters={"type": "dict"})]),
        [
            "tools[0].function.name: found nothing, expected the function's name; name the "
            "function",
            'tools[0].function.parameters.type: found "dict", expected "object"; '
            'write "object": arguments are always one',
        ],
    ),
    (
        row(USER, REPLY, tools=[{"type": "retrieval", "function": {"name": "f"}}]),
        [
            'tools[0].type: found "retrieval", expected "function"; '
            "only functions can be called: remove it or write it as a function"
        ],
    ),
    (
        row(USER, REPLY, functions=[{"name": "f"}], tools=[function_tool(name="f")]),
        [
            'functions: found both "tools" and the legacy "functions", expected one of them; '
            'move every function into "tools"'
        ],
    ),
    (
        row(USER, REPLY, parallel_tool_calls="true"),
        [
            'parallel_tool_calls: found "true", expected true|false; '
            "write true or false without quotes"
        ],
    ),
    # keys of the row
    (
        row(USER, REPLY, tool=[]),
        [
            ': found the unknown key "tool", expected '
            "messages|tools|parallel_tool_calls|functions; "
            'rename it to "tools"'
        ],
    ),
    (
        row(USER, REPLY, temperature=1),
        [
            ': found the unknown key "temperature", expected messages|tools|parallel_tool_calls|'
            "functions; remove it: it belongs to a request and trains nothing"
        ],
    ),
    (
        row(USER, REPLY, source="web"),
        [
            ': found the unknown key "source", expected messages|tools|parallel_tool_calls|'
            'functions; remove it or move it into "metadata", which is ignored'
        ],
    ),
]


@pytest.mark.parametrize("index", range(len(BROKEN)))
def test_t7_each_broken_row_gets_exactly_these_faults(index: int) -> None:
    broken, expected = BROKEN[index]
    assert faults_of(broken) == expected


def test_t7_the_house_example_word_for_word() -> None:
    faults = read(row(USER, REPLY, {"role": "bot", "content": "x"}))
    assert isinstance(faults, list)
    assert str(faults[0]) == (
        'data/chat.jsonl:17 messages[2].role: found "bot", '
        'expected system|user|assistant|tool; rename it to "assistant"'
    )


def test_t7_all_faults_of_a_row_at_once() -> None:
    broken = row(
        {"role": "bot", "content": 3, "x": 1},
        {"role": "assistant", "content": "", "weight": 5},
        colour=1,
        tools={},
    )
    where = [fault.split(": found")[0] for fault in faults_of(broken)]
    assert where == [
        "",
        "tools",
        "messages[0]",
        "messages[0].role",
        "messages[0].content",
        "messages[1].content",
        "messages[1].weight",
    ]


def test_one_mistake_is_one_fault() -> None:
    """An answer to a faulty call, and a reply under a misspelled role, are not faults as well."""
    assert len(faults_of(row(USER, calling(call(arguments="oops")), tool(), REPLY))) == 1
    assert len(faults_of(row(USER, {"role": "bot", "content": "x"}))) == 1


WARNINGS: list[tuple[object, str]] = [
    (
        row(USER, REPLY, USER),
        "messages: found a user message at the end, expected an assistant message at the end; "
        "add the assistant's answer or remove what follows its last one",
    ),
    (
        row({"role": "system", "content": ""}, USER, REPLY),
        "messages[0].content: found empty text, expected some text; "
        "write the text or remove the message",
    ),
    (
        row(USER, {"role": "assistant", "content": "a\ufffdb"}),
        "messages[1].content: found 1 replacement character(s) U+FFFD, expected readable text; "
        "look at the source: text was decoded with the wrong encoding somewhere",
    ),
    (
        row({"role": "user", "content": "a\0\0"}, REPLY),
        "messages[0].content: found 2 NUL character(s), expected readable text; "
        "remove them: many tools end text there",
    ),
    (
        row(USER, calling(call(name="get_wether")), tools=[function_tool(name="get_weather")]),
        'messages[1].tool_calls: found a call of "get_wether", expected a declared tool; '
        'rename it to "get_weather"',
    ),
    (
        row(USER, calling(call("a"), call("b")), parallel_tool_calls=False),
        "messages[1].tool_calls: found 2 calls in one message although parallel_tool_calls is "
        "false, expected one call; set parallel_tool_calls to true or split the message",
    ),
    (
        row(
            USER,
            REPLY,
            tools=[
                function_tool(
                    name="f", parameters={"properties": {"city": {}}, "required": ["ctiy"]}
                )
            ],
        ),
        'tools[0].function.parameters.required[0]: found "ctiy", expected a name from properties; '
        'rename it to "city"',
    ),
    (
        row(USER, REPLY, tools=[function_tool(name="f"), function_tool(name="f")]),
        'tools[1]: found a second function "f", expected each name once; remove one of the two',
    ),
]


@pytest.mark.parametrize("index", range(len(WARNINGS)))
def test_what_is_legal_and_probably_not_meant_is_a_warning(index: int) -> None:
    odd, expected = WARNINGS[index]
    assert [str(warning) for warning in accepted(odd).warnings] == [
        f"data/chat.jsonl:17 {expected}"
    ]


# Everything the format allows, in the form in which people write it.
WHOLE = row(
    {
        "role": "developer",
        "content": [{"type": "text", "text": "答えは"}, {"type": "text", "text": "短く"}],
    },
    {"role": "user", "content": "大阪の天気は？", "name": "taro"},
    {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": [call("c1", "weather", {"city": "大阪", "unit": None}), call("c2", "clock")],
        "weight": 0,
    },
    tool("c2", "12:00"),
    tool("c1", [{"type": "text", "text": "晴れ"}]),
    {"role": "assistant", "content": "晴れです", "thinking": "道具によると", "weight": 1},
    tools=[
        function_tool(
            name="weather", description="天気", parameters={"type": "object"}, strict=None
        ),
        function_tool(name="clock"),
    ],
    parallel_tool_calls=True,
    metadata={"from": "hand"},
    id=7,
)
LEGACY = row(
    USER,
    legacy_call("f", '{"a":1}'),
    {"role": "function", "name": "f", "content": "1"},
    legacy_call("g"),
    functions=[{"name": "f", "parameters": {}}, {"name": "g"}],
)


def test_the_whole_format_is_normalised() -> None:
    example = accepted(WHOLE)
    assert example.messages == (
        {"role": "developer", "content": "答えは短く"},
        {"role": "user", "content": "大阪の天気は？", "name": "taro"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                call("c1", "weather", '{"city": "大阪", "unit": null}'),
                call("c2", "clock", "{}"),
            ],
            "weight": 0,
        },
        {"role": "tool", "content": "12:00", "tool_call_id": "c2"},
        {"role": "tool", "content": "晴れ", "tool_call_id": "c1"},
        {
            "role": "assistant",
            "content": "晴れです",
            "reasoning_content": "道具によると",
            "weight": 1,
        },
    )
    assert example.tools == (
        function_tool(name="weather", description="天気", parameters={"type": "object"}),
        function_tool(name="clock"),
    )
    assert example.parallel_tool_calls is True
    assert example.ignored_keys == ("metadata", "id")
    assert example.warnings == ()


def test_legacy_functions_become_tools() -> None:
    example = accepted(LEGACY)
    assert example.tools == (function_tool(name="f", parameters={}), function_tool(name="g"))
    assert example.messages[1]["tool_calls"] == [call("call_0", "f", '{"a":1}')]
    assert example.messages[2] == {
        "role": "tool",
        "content": "1",
        "name": "f",
        "tool_call_id": "call_0",
    }
    assert example.messages[3]["tool_calls"] == [call("call_1", "g")]
    assert "function_call" not in example.messages[1]


def test_a_refusal_is_the_content_that_the_assistant_says() -> None:
    refusing = {"role": "assistant", "content": None, "refusal": "できません"}
    part = {"role": "assistant", "content": [{"type": "refusal", "refusal": "できません"}]}
    expected = {"role": "assistant", "content": "できません"}
    assert accepted(row(USER, refusing)).messages[1] == expected
    assert accepted(row(USER, part)).messages[1] == expected


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_every_role_without_calls_is_accepted(role: str) -> None:
    assert role in ROLES
    assert accepted(row({"role": role, "content": "x"}, REPLY)).messages[0]["role"] == role


def test_calls_may_stay_open_only_at_the_end() -> None:
    assert accepted(row(USER, calling(call())))
    assert len(faults_of(row(USER, calling(call()), REPLY))) == 1


def test_a_call_id_may_be_used_again_in_a_later_turn() -> None:
    turn = [USER, calling(call()), tool(), REPLY]
    assert len(accepted(row(*turn, *turn)).messages) == 8


def as_row(example: Example) -> dict[str, Any]:
    whole: dict[str, Any] = {"messages": list(example.messages)}
    if example.tools:
        whole["tools"] = list(example.tools)
    if example.parallel_tool_calls is not None:
        whole["parallel_tool_calls"] = example.parallel_tool_calls
    return whole


@pytest.mark.parametrize("written", [row(USER, REPLY), WHOLE, LEGACY])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_reading_a_normalised_example_is_identity(written: object, ensure_ascii: bool) -> None:
    example = accepted(written)
    text = json.dumps(as_row(example), ensure_ascii=ensure_ascii)
    again = parse_line(text, source="data/chat.jsonl", line=17)
    assert again == example
    assert isinstance(again, Example) and again.sha256 == example.sha256


def shuffled(value: Any, draw: random.Random) -> Any:
    """`value` with the keys of every object in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        draw.shuffle(items)
        return {key: shuffled(entry, draw) for key, entry in items}
    if isinstance(value, list):
        return [shuffled(entry, draw) for entry in value]
    return value


def test_sha256_depends_on_what_is_said_and_on_nothing_else() -> None:
    example = accepted(WHOLE)
    assert len(example.sha256) == 32
    for seed in range(20):
        other = parse_object(shuffled(WHOLE, random.Random(seed)), source="b", line=seed + 1)
        assert isinstance(other, Example) and other.sha256 == example.sha256
    plain, weighted = row(USER, REPLY), row(USER, {**REPLY, "weight": 1})
    assert accepted(plain).sha256 == accepted(weighted).sha256
    with_tools = row(USER, REPLY, tools=[function_tool(name="f")])
    changed = [
        plain,
        with_tools,
        row(USER, {**REPLY, "content": "yo "}),
        row(USER, {**REPLY, "name": "x"}),
        row(USER, REPLY, {**REPLY, "weight": 0}),
        row({"role": "system", "content": "hi"}, REPLY),
    ]
    assert len({accepted(each).sha256 for each in changed}) == len(changed)


def test_t27_trained_turns_honour_weight_0() -> None:
    example = accepted(
        row(USER, {**REPLY, "weight": 0}, USER, REPLY, USER, {**REPLY, "weight": 1}, USER)
    )
    assert example.trained_turns == (3, 5)
    ready, _ = render_ready(example)
    assert all("weight" not in message for message in ready)
    assert len(ready) == 7


def test_t21_arguments_stay_text_and_gain_no_keys() -> None:
    """Two tools with different arguments: neither gains the other's as null."""
    text = '{ "n" : 1.50, "列": "東京" }'
    calls = calling(call("a", "f", {"city": "大阪"}), call("b", "g", text))
    example = accepted(row(USER, calls))
    first, second = example.messages[1]["tool_calls"]
    assert first["function"]["arguments"] == '{"city": "大阪"}'
    assert second["function"]["arguments"] == text
    ready, tools = render_ready(example)
    assert [c["function"]["arguments"] for c in ready[1]["tool_calls"]] == [
        {"city": "大阪"},
        {"n": 1.5, "列": "東京"},
    ]
    assert tools is None
    ready[0]["content"] = ready[1]["tool_calls"][0]["function"]["name"] = "changed"
    assert example.messages[0]["content"] == "hi"
    assert example.messages[1]["tool_calls"][0]["function"]["name"] == "f"


ODDITIES: list[Any] = [
    None,
    True,
    -1,
    1.5,
    float("nan"),
    10**5000,
    "",
    "x\x1b\ud800\0",
    "{}",
    [],
    [[]],
    {},
    {"role": "assistant"},
    {"a": {"b": []}},
    {3: b"x"},
    "y" * 10_000,
]


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside `value`."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, entry in entries:
        found.append((value, key))
        if isinstance(entry, (dict, list)):
            found += places_in(entry)
    return found


def test_t7_no_value_anywhere_escapes_as_an_exception_or_a_control_character() -> None:
    """Every place of two whole rows takes every oddity: an example or printable faults."""
    checked = 0
    for whole in (WHOLE, LEGACY):
        for place in range(len(places_in(whole))):
            for oddity in ODDITIES:
                copy = json.loads(json.dumps(whole))
                container, key = places_in(copy)[place]
                container[key] = oddity
                result = parse_object(copy, source="s", line=1)
                checked += 1
                if isinstance(result, Example):
                    again = parse_object(as_row(result), source="s", line=1)
                    assert isinstance(again, Example) and again.sha256 == result.sha256
                    continue
                assert result
                for fault in result:
                    assert str(fault).isprintable()
                    assert len(fault.found) < 600
    assert checked > 1000


def test_missing_and_unknown_keys_anywhere_never_raise() -> None:
    for whole in (WHOLE, LEGACY):
        for place in range(len(places_in(whole))):
            copy = json.loads(json.dumps(whole))
            container, key = places_in(copy)[place]
            if isinstance(container, dict):
                container["unheard of"] = container.pop(key)
            else:
                del container[key]
            parse_object(copy, source="s", line=1)


def test_importing_is_light() -> None:
    """The gate answers at once: neither torch nor numpy nor datasketch is imported."""
    code = (
        "import sys, tanren.chat, tanren.data.read, tanren.data.duplicates\n"
        "heavy = {'torch', 'numpy', 'datasketch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    root = Path(tanren.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
