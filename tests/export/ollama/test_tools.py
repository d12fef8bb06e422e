"""Laws of tools: carried where every conversation with them comes out as in training, else said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from export.ollama.stock import stock_families
from export.ollama.test_go_template import disagreements, go_case, with_go

from tanren.export.ollama import server, translate
from tanren.export.ollama.go_syntax import Action, Branch, Field, Include, Node, Text
from tanren.export.ollama.go_template import GoTemplate
from tanren.export.ollama.probe_tools import TOOLS, conversations
from tanren.template import ChatRenderer

CARRIED = ("qwen2.5", "qwen3", "qwen3-2507", "no-template", "no-template-bytes")
LEFT_OUT = ("llama3.1", "mistral-tools", "gpt-oss", "glm4")


def renderer_of(name: str) -> ChatRenderer:
    return ChatRenderer(stock_families()[name].tokenizer(), date="2026-01-31")


@pytest.mark.parametrize("name", CARRIED)
def test_tools_calls_and_results_are_written_as_in_training(name: str) -> None:
    renderer = renderer_of(name)
    translation = translate(renderer)
    assert any(note.startswith("Tools are carried over") for note in translation.notes)
    template = GoTemplate(translation.text)
    for messages in conversations():
        wanted = renderer.prompt(messages, TOOLS).removeprefix("<s>")
        assert server.prompt(template, messages, TOOLS) == wanted


@pytest.mark.parametrize("name", LEFT_OUT)
def test_tools_that_cannot_be_written_are_left_out_and_named(name: str) -> None:
    """Ollama looks for `.Tools` in the template: without it, it refuses requests with tools."""
    translation = translate(renderer_of(name))
    assert any(note.startswith("Tools are not carried over") for note in translation.notes)
    assert "tools" not in server.variables(GoTemplate(translation.text).tree)


def test_tools_that_come_out_right_only_in_short_conversations_are_left_out() -> None:
    """What the probes see is not enough: whole conversations with tools decide."""
    tokenizer = stock_families()["qwen2.5"].tokenizer()
    late = "{%- if tools and messages | length > 6 %}{{- 'Many.' }}{%- endif %}"
    tokenizer.chat_template = late + str(tokenizer.chat_template)
    translation = translate(ChatRenderer(tokenizer))
    assert any(note.startswith("Tools are not carried over") for note in translation.notes)
    assert translation.proof.passed


def test_a_template_without_tools_has_nothing_to_say_of_them() -> None:
    translation = translate(renderer_of("chatml"))
    assert not any("Tools" in note for note in translation.notes)
    assert ".Tool" not in translation.text


# --- what Ollama reads out of the template --------------------------------------------------------


def branches(nodes: tuple[Node, ...]) -> Iterator[Branch]:
    for node in nodes:
        if isinstance(node, Branch):
            yield node
            yield from branches(node.body)
            yield from branches(node.otherwise)


def fields(node: Branch | Action | Include) -> set[str]:
    """Names of the fields that are arguments themselves, not inside parentheses."""
    commands = node.pipeline.commands if node.pipeline else ()
    arguments = [argument for command in commands for argument in command.arguments]
    return {name for each in arguments if isinstance(each, Field) for name in each.names}


def first_text(nodes: tuple[Node, ...]) -> str:
    """The text that comes first, if no action comes before it."""
    for node in nodes:
        if isinstance(node, Text):
            return node.text.decode()
        if isinstance(node, Branch):
            return first_text(node.body) or first_text(node.otherwise)
        return ""
    return ""


@pytest.mark.parametrize(("name", "tag"), [("qwen2.5", "<tool_call>"), ("no-template", "Call:")])
def test_ollama_finds_the_words_that_begin_a_call(name: str, tag: str) -> None:
    tree = GoTemplate(translate(renderer_of(name)).text).tree
    first = next(each for each in branches(tree.nodes)
                 if each.kind == "if" and "ToolCalls" in fields(each))  # fmt: skip
    assert first_text(first.body).strip().split("{")[0].strip() == tag


def test_ollama_finds_the_tags_of_reasoning() -> None:
    """The first and last texts beside `.Thinking` in the loop over messages."""
    tree = GoTemplate(translate(renderer_of("qwen3")).text).tree
    beside: list[Any] = [
        each.body
        for each in branches(tree.nodes)
        if any(isinstance(node, Action | Include) and "Thinking" in fields(node)
               for node in each.body)
    ]  # fmt: skip
    assert beside
    for body in beside:
        assert (body[0].text.strip(), body[-1].text.strip()) == (b"<think>", b"</think>")


# --- the real Go ----------------------------------------------------------------------------------


@with_go
def test_go_says_the_same_of_tools(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = []
    ours: list[str | None] = []
    for name in CARRIED:
        text = translate(renderer_of(name)).text
        for messages in conversations():
            ours.append(server.prompt(GoTemplate(text), messages, TOOLS))
            turns = server.collated(messages)
            case = go_case(text, [{**each, "content": each["content"]} for each in turns], None)
            for given, turn in zip(case["Messages"], turns, strict=True):
                given["ToolCalls"] = [go_call(call) for call in turn.get("tool_calls", ())]
            cases.append({**case, "Tools": TOOLS})
    assert disagreements(cases, ours, tmp_path) == []


def go_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.loads(function["arguments"])
    return {"ID": call["id"], "Function": {"Name": function["name"], "Arguments": arguments}}
