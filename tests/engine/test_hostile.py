"""What one client sends is never another one's trouble."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from engine.answering import Asking, alone, request, target
from engine.structure.structured import spoken

from tanren.engine.structure import ToolFormat
from tanren.engine.structure.tool_reader import Call, Text, ToolReader
from tanren.engine.wire import ChatRequest, Constraint
from tanren.template import ChatRenderer

Ask = Callable[..., Asking]
TO = target(tiny.TINY_CHAT)
ENDLESS = {"max_tokens": 60, "logit_bias": {2: -100.0}}
PARTS = "|".join(f"(.*[{chr(97 + i)}-z].{{{2 + i}}})+" for i in range(26))
TOO_LARGE_LATER = {"type": "string", "pattern": f"^({PARTS})$"}
"""Compiles, and becomes too large for the grammar library a few tokens on, between two masks."""
TOO_LARGE_AT_ONCE = {
    "anyOf": [
        {"type": "object", "properties": {f"k{i} {j}": {"type": "string"} for j in range(4)}}
        for i in range(800)
    ]
}
"""The first token that is chosen makes it too large."""


@pytest.mark.parametrize("schema", [TOO_LARGE_LATER, TOO_LARGE_AT_ONCE], ids=["later", "at once"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_schema_that_grows_too_large_ends_its_own_answer_alone(
    ask: Ask, schema: dict[str, object], temperature: float
) -> None:
    asking = ask()
    kept = Constraint("json", {"type": "object", "properties": {"a": {"type": "string"}}})
    asking.submit(
        request("plain", TO, **ENDLESS),
        request("also a form", TO, constraint=kept),
        request(
            "bad",
            TO,
            constraint=Constraint("json", schema),
            temperature=temperature,
            seed=3,
            max_tokens=100,
        ),
    )
    told = asking.finish()
    failed = told["bad"].failed
    assert failed is not None
    assert (failed.kind, failed.param) == ("request", "response_format")
    assert "cannot be followed further" in failed.message
    assert told["plain"].ends[0].completion_tokens == 60 and told["also a form"].ends
    assert asking.engine.idle


@pytest.mark.parametrize("place", ["text", "arguments"])
def test_half_a_character_is_refused_and_the_engine_lives(ask: Ask, place: str) -> None:
    """Arguments are JSON inside of JSON: what reads a request's body does not see into them."""
    half = "\ud800"
    messages = ({"role": "user", "content": half if place == "text" else "a"},)
    if place == "arguments":
        function = {"name": "f", "arguments": {"a": half}}
        calls = [{"id": "call_1", "type": "function", "function": function}]
        messages += (
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_1", "content": "b"},
        )
    asking = ask()
    asking.submit(request("good", TO), ChatRequest("bad", TO, messages))
    told = asking.finish()
    failed = told["bad"].failed
    assert failed is not None and (failed.kind, failed.param) == ("request", "messages")
    assert told["good"].text == alone(TO, "Who are you?")


@pytest.mark.parametrize("depth", [100, 500, 5000])
def test_a_call_with_arguments_of_any_depth_is_read_or_is_text(depth: int) -> None:
    """A model can be talked into writing it."""
    form = ToolFormat.of(ChatRenderer(spoken("tiny-chat").tokenizer))
    assert form is not None
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    reader = ToolReader(form, tools)
    call = f'{form.open}f{form.middle}{{"a": {"[" * depth}{"]" * depth}}}{form.close}'
    (read,) = reader.push(call) + reader.rest()
    assert isinstance(read, Call if depth == 100 else Text)


@pytest.mark.parametrize("depth", [300, 600, 900])
def test_arguments_of_any_depth_end_no_process(ask: Ask, depth: int) -> None:
    value: object = "<|im_end|>"
    for _ in range(depth):
        value = {"a": value}
    function = {"name": "f", "arguments": {"a": value}}
    calls = [{"id": "call_1", "type": "function", "function": function}]
    asking = ask()
    messages = ({"role": "assistant", "content": "", "tool_calls": calls},)
    asking.submit(request("good", TO), ChatRequest("bad", TO, messages, max_tokens=1))
    told = asking.finish()
    failed = told["bad"].failed
    assert failed is not None and failed.kind == "request"
    assert told["good"].text == alone(TO, "Who are you?")


def test_who_waits_for_a_base_reads_nothing_at_every_step(ask: Ask, tmp_path: Path) -> None:
    """Its tokenizer is a broken file: that is told when there is room for the base, not before.
    (Reading one at every step made everybody else's answers crawl.)
    """
    broken = tmp_path / "other"
    shutil.copytree(tiny.TINY_CHAT, broken)
    (broken / "tokenizer.json").write_text("{", encoding="utf-8")
    asking = ask(max_bases=1)
    asking.submit(request("first", TO, **ENDLESS))
    asking.step(3)
    asking.submit(request("waits", target(broken)))
    asking.step(20)
    assert asking.told["waits"].failed is None and asking.engine.state().waiting == 1
    told = asking.finish()
    failed = told["waits"].failed
    assert told["first"].ends and failed is not None and failed.kind == "model"
