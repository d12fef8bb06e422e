"""Answers that are written at random under a constraint, and the forms that calls are tried in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from templates import families, real_template
from tiny import TINY_CHAT, build_tokenizer
from transformers import PreTrainedTokenizerFast

from tanren.engine.structure import Matcher, ToolFormat, Vocabulary
from tanren.template import ChatRenderer

Message = dict[str, Any]


class Spoken(NamedTuple):
    """A tokenizer with its vocabulary for grammars."""

    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary


@cache
def spoken(name: str) -> Spoken:
    """ "tiny", "tiny-chat" or a family of templates.py."""
    if name == "tiny-chat":
        tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY_CHAT)
    else:
        tokenizer = build_tokenizer() if name == "tiny" else families()[name].tokenizer()
    return Spoken(tokenizer, Vocabulary.of(tokenizer, [tokenizer.eos_token_id]))


class Written(NamedTuple):
    """`ended`: by a stop token or because nothing can follow; otherwise a limit cut it."""

    ids: list[int]
    ended: bool


def write(
    matcher: Matcher,
    vocabulary: Vocabulary,
    seed: int,
    limit: int = 300,
    closing: Sequence[int] = (),
) -> Written:
    """Follows random likings for tokens, with a liking for stopping where that is allowed.

    `closing` are tokens in a row that are tried now and then: no chance alone would end a free
    text that only a certain word ends.
    """
    dice = np.random.default_rng(seed)
    likings = dice.normal(size=vocabulary.size) * 2
    likings[list(vocabulary.stop_ids)] += 6
    ids: list[int] = []
    meant: list[int] = []
    while len(ids) < limit:
        if matcher.finished:
            return Written(ids, True)
        allowed = np.flatnonzero(matcher.allowed())
        assert allowed.size
        if not meant and dice.random() < 0.1:
            meant = list(closing)
        token = int(allowed[(likings[allowed] + dice.normal(size=allowed.size) * 3).argmax()])
        if meant and meant[0] in allowed:
            token = meant.pop(0)
        else:
            meant = []
        if token in vocabulary.stop_ids:
            return Written(ids, True)
        matcher.accept(token)
        ids.append(token)
    return Written(ids, False)


class Style(NamedTuple):
    """A model that writes calls its own way."""

    renderer: ChatRenderer
    form: ToolFormat
    vocabulary: Vocabulary


# The form's name: a family of templates.py, or a stock template on the tokenizer of qwen3.
OWN = ("llama3.1", "qwen2.5", "qwen3", "mistral-tools", "no-template", "no-template-bytes")
STOCK = ("deepseekv3", "gptoss", "glm4moe", "qwen3_5_nothink", "qwen3_5_think", "nemotron_3_nano")
AS_FIELDS = ("glm4moe", "qwen3_5_nothink", "qwen3_5_think", "nemotron_3_nano")
AS_JSON = tuple(name for name in (*OWN, *STOCK) if name not in AS_FIELDS)


def renderer_of(name: str) -> ChatRenderer:
    own = name in families()
    tokenizer = families()[name if own else "qwen3"].tokenizer()
    return ChatRenderer(tokenizer, template=None if own else real_template(name), date="2026-01-31")


@cache
def style(name: str) -> Style:
    renderer = renderer_of(name)
    form = ToolFormat.of(renderer)
    assert form is not None
    return Style(renderer, form, Vocabulary.of(renderer.tokenizer, renderer.facts.stop_ids))


def tool(name: str, properties: Message | None = None, **more: Any) -> Message:
    function: Message = {"name": name, "description": f"About {name}."}
    if properties is not None:
        function["parameters"] = {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            **more,
        }
    return {"type": "function", "function": function}


TOOLS = [
    tool(
        "get_weather",
        {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        required=["city"],
    ),
    tool(
        "add",
        {
            "a": {"type": "number"},
            "unit": {"enum": ["m", "square m", "米"]},
            "exact": {"type": "boolean"},
            "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
            "thing": {
                "type": "object",
                "properties": {"x": {"type": "null"}},
                "required": ["x"],
                "additionalProperties": False,
            },
        },
        required=["a", "unit"],
    ),
    tool("now"),
]


def calls_text(given: Style, content: str, calls: list[tuple[str, str]]) -> str:
    """The answer that the template writes for these calls: no opening, no end of turn."""
    turn = {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {
                "id": f"call0000{number}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for number, (name, arguments) in enumerate(calls)
        ],
    }
    question = {"role": "user", "content": "Question?"}
    text = given.renderer.conversation([question, turn], TOOLS)
    answer = text[text.rindex("Question?") + len("Question?") :]
    prompt = given.renderer.prompt([question], TOOLS)
    opening = prompt[prompt.rindex("Question?") + len("Question?") :]
    answer = answer.removeprefix(opening.removesuffix("<think>\n"))
    if "</think>" in answer:
        answer = answer.partition("</think>")[2].lstrip()
    stops = given.renderer.tokenizer.convert_ids_to_tokens(list(given.renderer.facts.stop_ids))
    for end in (given.renderer.facts.reply_suffix.strip(), *map(str, stops)):
        answer = answer.rstrip().removesuffix(end)
    return answer.rstrip()


def cut(text: str, dice: random.Random) -> list[str]:
    """`text` in pieces of one to seven characters."""
    pieces = []
    while text:
        length = dice.randint(1, 7)
        pieces.append(text[:length])
        text = text[length:]
    return pieces
