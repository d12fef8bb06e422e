"""Writes a `Shape` as a Go template that a person can read and mend."""

from __future__ import annotations

from tanren.export.ollama.go_text import TemplateText, go_string, trim_definitions
from tanren.export.ollama.shape import Reasoning, Shape, ToolShape, Trim, Turn
from tanren.export.ollama.writing_tools import tool_calls, tool_list, tool_result

REFUSES_SYSTEM = "the chat template of this model refuses a system message here"
REFUSES_ROLE = "the chat template of this model does not carry a message of this role"

_FIRST = "(index .Messages 0)"
_FIRST_INSIDE = "(index $.Messages 0)"


def go_template(shape: Shape, tools: ToolShape | None = None) -> str:
    """The template of a shape. Without `tools` Ollama refuses requests that bring any."""
    turns = TemplateText()
    _turns(shape, tools, turns)
    last = _needs_last(shape) or "$last" in turns.text()
    body = TemplateText().write(shape.bos)
    _opening(shape, tools, body)
    before = "$before" in turns.text()
    if before:
        body.act('$before := ""')
    indexed = last or "$i" in turns.text()
    body.act("range $i, $message := .Messages" if indexed else "range .Messages")
    if last:
        body.act("$last := eq (len (slice $.Messages $i)) 1")
    body.append(turns)
    if before:
        body.act("$before = .Role")
    body.act("end")
    _prompt(shape, body)
    definitions, text = trim_definitions(_trims(shape)), body.text()
    # Only an action takes the line break in front of it away.
    return definitions + ("\n" if definitions and text.startswith("{{-") else "") + text


def _turns(shape: Shape, tools: ToolShape | None, body: TemplateText) -> None:
    body.act('if eq .Role "user"')
    _user(shape, body)
    body.act('else if eq .Role "assistant"')
    _assistant(shape, tools, body)
    body.act('else if eq .Role "system"')
    if tools is not None and tools.place == "system":
        # With tools the first system message is written already, together with them.
        body.act("if or $i (not $.Tools)")
        _system(shape, body)
        body.act("end")
    else:
        _system(shape, body)
    if tools is not None:
        body.act('else if eq .Role "tool"')
        tool_result(tools, body)
    body.act("else").act(f"call {go_string(REFUSES_ROLE)}")
    body.act("end")


def _trims(shape: Shape) -> set[Trim]:
    turns = [shape.user, shape.assistant, shape.last_assistant, shape.system.turn]
    trims = {turn.trim for turn in turns}
    if shape.system.place in ("first user", "last user"):
        trims.add(shape.system.question)
    if isinstance(shape.system.later, Turn):
        trims.add(shape.system.later.trim)
    return trims | {r.trim for r in (shape.reasoning, shape.last_reasoning) if r is not None}


def _needs_last(shape: Shape) -> bool:
    return (
        shape.system.place == "last user"
        or shape.last_assistant != shape.assistant
        or shape.reasoning != shape.last_reasoning
    )


def _no_system(shape: Shape, first: str) -> str:
    if shape.system.place != "turn" and shape.system.empty is not None:
        return f'or (ne {first}.Role "system") (not {first}.Content)'
    return f'ne {first}.Role "system"'


def _has_system(shape: Shape, first: str) -> str:
    content = f" {first}.Content" if shape.system.empty is not None else ""
    return f'(eq {first}.Role "system"){content}'


def _opening(shape: Shape, tools: ToolShape | None, body: TemplateText) -> None:
    if tools is None:
        _plain_opening(shape, body)
        return
    body.act("if .Tools")
    if tools.place == "system":
        body.act(f'if eq {_FIRST}.Role "system"').write(tools.lead)
        body.show(f"{_FIRST}.Content", shape.system.turn.trim).write(tools.with_system)
        body.act("else").write(tools.alone).act("end")
        tool_list(tools, body)
        plain = TemplateText()
        _plain_opening(shape, plain)
        if plain.text():
            body.act("else").append(plain)
        body.act("end")
    else:
        body.write(tools.lead)
        tool_list(tools, body)
        body.act("end")
        _plain_opening(shape, body)


def _plain_opening(shape: Shape, body: TemplateText) -> None:
    system = shape.system
    if system.place == "top":
        always = system.turn.before == shape.opening and not system.turn.after
        if not always:
            body.act(f"if {_any_system(system.empty, body)}")
        body.write(system.turn.before).show(".System", system.turn.trim).write(system.turn.after)
        if not always:
            if shape.opening:
                body.act("else").write(shape.opening)
            body.act("end")
    elif system.place in ("left out", "refused"):
        body.write(shape.opening)
    elif shape.opening:
        body.act(f"if {_no_system(shape, _FIRST)}").write(shape.opening).act("end")


def _any_system(empty: str | None, body: TemplateText) -> str:
    """A condition: is there a system message anywhere? An empty one counts where it is written."""
    if empty is not None:
        return ".System"
    body.act("$system := false").act("range .Messages")
    body.act('if eq .Role "system"').act("$system = true").act("end").act("end")
    return "$system"


def _user(shape: Shape, body: TemplateText) -> None:
    system, user = shape.system, shape.user
    if system.place not in ("first user", "last user"):
        _turn(user, body)
        return
    where = "(eq $i 1)" if system.place == "first user" else "$last"
    body.act(f"if and {where} {_has_system(shape, _FIRST_INSIDE)}")
    body.write(system.turn.before)
    body.show(f"{_FIRST_INSIDE}.Content", system.turn.trim).write(system.turn.after)
    if system.question != user.trim:
        body.show(".Content", system.question)
        body.act("else").write(user.before).show(".Content", user.trim)
        body.act("end").write(user.after)
    else:
        body.act("else").write(user.before).act("end")
        body.show(".Content", user.trim).write(user.after)


def _assistant(shape: Shape, tools: ToolShape | None, body: TemplateText) -> None:
    usual, last = (shape.assistant, shape.reasoning), (shape.last_assistant, shape.last_reasoning)
    if usual == last:
        _reply(shape, *usual, tools, body)
    else:
        body.act("if $last")
        _reply(shape, *last, None, body)
        body.act("else")
        _reply(shape, *usual, tools, body)
        body.act("end")


def _reply(
    shape: Shape,
    turn: Turn,
    reasoning: Reasoning | None,
    tools: ToolShape | None,
    body: TemplateText,
) -> None:
    before = turn.before
    if reasoning is not None:
        # Ollama takes the texts right before and behind `.Thinking` for the tags of reasoning, so
        # what stands in front of the tag is kept out of the condition.
        shared = shape.assistant.before
        if not (before.startswith(shared) and reasoning.before.startswith(shared)):
            shared = ""
        body.write(shared).act("if .Thinking").write(reasoning.before.removeprefix(shared))
        body.show(".Thinking", reasoning.trim).write(reasoning.after)
        if before != shared:
            body.act("else").write(before.removeprefix(shared))
        body.act("end")
    else:
        body.write(before)
    body.show(".Content", turn.trim)
    if tools is not None:
        tool_calls(tools, body)
    body.write(turn.after)


def _system(shape: Shape, body: TemplateText) -> None:
    system = shape.system
    if system.place == "refused":
        body.act(f"call {go_string(REFUSES_SYSTEM)}")
        return
    if system.place in ("top", "left out"):
        return
    leading = system.turn if system.place == "turn" else None
    if leading is not None and leading == system.later and system.empty is None:
        _turn(leading, body)
        return
    if leading is not None:
        body.act("if eq $i 0")
        _leading(leading, system.empty, body)
        if system.later != "left out":
            body.act("else")
    elif system.later != "left out":
        body.act("if ne $i 0")
    if isinstance(system.later, Turn):
        _turn(system.later, body)
    elif system.later is None:
        body.act(f"call {go_string(REFUSES_SYSTEM)}")
    if leading is not None or system.later != "left out":
        body.act("end")


def _leading(turn: Turn, empty: str | None, body: TemplateText) -> None:
    if empty is not None:
        body.act("if .Content")
    _turn(turn, body)
    if empty is not None:
        if empty:
            body.act("else").write(empty)
        body.act("end")


def _turn(turn: Turn, body: TemplateText) -> None:
    body.write(turn.before).show(".Content", turn.trim).write(turn.after)


def _prompt(shape: Shape, body: TemplateText) -> None:
    if shape.prompt == shape.prompt_after_reply:
        _opening_of_reply(shape.prompt, shape.prompt_no_thinking, body)
        return
    last = "(index .Messages (len (slice .Messages 1))).Role"
    if shape.prompt_after_reply:
        body.act(f'if eq {last} "assistant"').write(shape.prompt_after_reply).act("else")
    else:
        body.act(f'if ne {last} "assistant"')
    _opening_of_reply(shape.prompt, shape.prompt_no_thinking, body)
    body.act("end")


def _opening_of_reply(prompt: str, without: str | None, body: TemplateText) -> None:
    if without is None or without == prompt:
        body.write(prompt)
        return
    shared = prompt if without.startswith(prompt) else ""
    body.write(shared)
    body.act("if and .IsThinkSet (not .Think)").write(without.removeprefix(shared))
    if prompt != shared:
        body.act("else").write(prompt)
    body.act("end")
