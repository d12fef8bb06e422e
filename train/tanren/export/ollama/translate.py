"""From a chat template in Jinja to a template for Ollama, with its proof and what it cannot do."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from tanren.export.ollama import server
from tanren.export.ollama.probe import Prompts, ShapeProbe, marked
from tanren.export.ollama.probe_tools import TOOLS, ToolProbe, conversations
from tanren.export.ollama.shape import Shape
from tanren.export.ollama.template_proof import Comparison, TemplateProof, prove
from tanren.export.ollama.writing import go_template
from tanren.template import ChatRenderer

_THOUGHT = "Sixthought"

_TOOLS_CARRIED = (
    "Tools are carried over. They are written as in training where their properties stand in "
    "alphabetical order with type, description, enum and items: Ollama passes nothing else on, "
    "sorts the names, and escapes <, > and & inside JSON."
)
_TOOLS_LEFT_OUT = (
    "Tools are not carried over: the chat template writes them in a form that an Ollama template "
    "cannot, and Ollama refuses requests with tools."
)


@dataclass(frozen=True, slots=True)
class OllamaTemplate:
    """A Go template for a Modelfile.

    `notes` are sentences for the user: what differs from the chat template and why. `adds_bos` is
    what the GGUF file must tell the server (`tokenizer.ggml.add_bos_token`) for the prompt ids to
    be those of training. `takes_system`: does a system message reach the prompt?
    """

    text: str
    notes: tuple[str, ...]
    proof: TemplateProof
    adds_bos: bool
    takes_system: bool


def translate(renderer: ChatRenderer, *, server_adds_bos: bool | None = None) -> OllamaTemplate:
    """Writes and proves the template. `server_adds_bos` as in `prove`.

    The proof may have failed: the caller asks `proof.require`. Raises ModelError where the chat
    template has a form that no Ollama template can have.
    """
    adds_bos = renderer.facts.adds_bos if server_adds_bos is None else server_adds_bos
    shape = ShapeProbe(renderer, server_adds_bos=adds_bos).shape()
    text, about_tools = _with_tools(renderer, shape, adds_bos)
    comparison = Comparison(text, renderer, server_adds_bos=adds_bos)
    notes = [
        *_about_shape(renderer, shape),
        *about_tools,
        *_about_reasoning(renderer, comparison),
        *_about_orders(comparison),
        *_about_joining(renderer),
    ]
    proof = prove(text, renderer, server_adds_bos=adds_bos)
    takes_system = shape.system.place not in ("refused", "left out")
    return OllamaTemplate(text, tuple(notes), proof, adds_bos, takes_system)


def _with_tools(renderer: ChatRenderer, shape: Shape, adds_bos: bool) -> tuple[str, list[str]]:
    """(the template, what is to be said about tools): with tools only where they come out right."""
    plain = go_template(shape)
    if renderer.facts.tools != "written":
        return plain, []
    prompts = Prompts(renderer, server_adds_bos=True)
    tools = ToolProbe(prompts, shape).shape()
    if tools is not None:
        text = go_template(shape, tools)
        comparison = Comparison(text, renderer, server_adds_bos=adds_bos)
        if all(comparison.agrees(messages, TOOLS) for messages in conversations()):
            return text, [_TOOLS_CARRIED]
    return plain, [_TOOLS_LEFT_OUT]


def _about_shape(renderer: ChatRenderer, shape: Shape) -> list[str]:
    notes = []
    facts = renderer.facts
    if facts.uses_date:
        notes.append(
            f"Today's date in the prompt stays {facts.date}, as in training: Ollama's own date has "
            "another form."
        )
    if shape.system.place == "refused":
        notes.append(
            "The chat template refuses system messages; Ollama answers requests that bring one "
            "with an error."
        )
    if shape.system.place == "left out":
        notes.append("The chat template leaves system messages out, and so does Ollama's.")
    return notes


def _about_reasoning(renderer: ChatRenderer, comparison: Comparison) -> list[str]:
    notes = []
    inside = marked("uau")
    inside[1]["content"] = f"<think>\n{_THOUGHT}\n</think>\n\n{inside[1]['content']}"
    if comparison.agrees(inside) is False:
        notes.append(
            "The chat template takes the reasoning (<think>...</think>) out of earlier replies; "
            "Ollama's templates cannot cut text (the server does, but only for GGUF files of the "
            "architecture qwen3). Send earlier replies without it, or in the field thinking."
        )
    apart = [marked("uau"), marked("ua")]
    for messages in apart:
        messages[1]["reasoning_content"] = _THOUGHT
    if renderer.facts.thinking_on is not False and any(
        comparison.agrees(messages) is False for messages in apart
    ):
        notes.append("Reasoning that a client sends back in the field thinking is left out.")
    return notes


def _about_orders(comparison: Comparison) -> list[str]:
    """Orders of roles beyond the ten conversations."""
    different: list[str] = []
    refused: list[str] = []
    lenient: list[str] = []
    for roles in _orders():
        messages = marked(roles)
        agrees, writes = comparison.agrees(messages), comparison.writes(messages)
        if agrees is False:
            (different if writes else refused).append(roles)
        elif agrees is None and writes:
            lenient.append(roles)
    says = (
        (different, "get another prompt than the chat template's"),
        (refused, "are answered with an error by Ollama, though the chat template writes them"),
        (lenient, "are refused by the chat template, but written by Ollama"),
    )
    return [
        f"Messages in the order {_named(_shortest(orders))} {what} "
        f"({len(orders)} of {len(_orders())} orders tried)."
        for orders, what in says
        if orders
    ]


def _orders() -> list[str]:
    """Up to five messages that a person would send: a question first, behind a system message or
    not, at the end a question or a reply, and no two neighbours alike."""
    every = (product("sua", repeat=length) for length in range(1, 6))
    orders = ("".join(roles) for some in every for roles in some)
    return [
        order
        for order in orders
        if order.removeprefix("s").startswith("u")
        and not order.endswith("s")
        and all(one != other for one, other in pairwise(order))
    ]


def _shortest(orders: list[str]) -> str:
    return min(orders, key=len)


def _named(roles: str) -> str:
    names = {"s": "system", "u": "user", "a": "assistant"}
    return ", ".join(names[role] for role in roles)


def _about_joining(renderer: ChatRenderer) -> list[str]:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "One."},
        {"role": "user", "content": "Two."},
    ]
    prompts = Prompts(renderer, server_adds_bos=False)
    apart = prompts.text(messages)
    if apart is None or apart == prompts.text(server.collated(messages)):
        return []
    return [
        "Ollama joins neighbouring messages of one role with an empty line before any template "
        "sees them; the chat template would write them apart."
    ]
