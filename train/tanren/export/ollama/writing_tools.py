"""Writes tools, calls and results into a Go template, in the JSON that Python writes.

Go's own JSON has no spaces, and none has been seen in training. Ollama gives a tool's name,
description, parameters and their type, description, enum and items; nothing else arrives.
"""

from __future__ import annotations

from tanren.export.ollama.go_text import TemplateText
from tanren.export.ollama.shape import ToolShape


def tool_list(tools: ToolShape, body: TemplateText) -> None:
    """All tools of a request, with what stands between and behind them."""
    body.act("range $number, $tool := .Tools")
    body.act("if $number").write(tools.between).act("end")
    _tool(body)
    body.act("end").write(tools.tail)


def _tool(body: TemplateText) -> None:
    body.write('{"type": "function", "function": {"name": ').show("json .Function.Name")
    _optional(body, ".Function.Description", ', "description": ', "json .Function.Description")
    body.write(', "parameters": {"type": ').show("json .Function.Parameters.Type")
    body.write(', "properties": {').act('$comma := ""')
    body.act("range $name, $property := .Function.Parameters.Properties").show("$comma")
    body.show("json $name").write(': {"type": ').show("json .Type")
    _optional(body, ".Description", ', "description": ', "json .Description")
    body.act("if .Enum").write(', "enum": ')
    _array(".Enum", body)
    body.act("end")
    _optional(body, ".Items", ', "items": ', "json .Items")
    body.write("}").act('$comma = ", "').act("end").write("}")
    body.act("if .Function.Parameters.Required").write(', "required": ')
    _array(".Function.Parameters.Required", body)
    body.act("end").write("}}}")


def _optional(body: TemplateText, value: str, before: str, shown: str) -> None:
    body.act(f"if {value}").write(before).show(shown).act("end")


def _array(values: str, body: TemplateText) -> None:
    body.write("[").act(f"range $place, $value := {values}")
    body.act("if $place").write(", ").act("end").show("json $value").act("end").write("]")


def tool_calls(tools: ToolShape, body: TemplateText) -> None:
    """The calls of the message at hand.

    Ollama recognises a call in a reply by the first text behind the first condition on `.ToolCalls`
    itself. So what joins calls to content has another condition, no action comes before that text,
    and separators stand behind a call.
    """
    if tools.call_join:
        body.act("if and .Content (len .ToolCalls)").write(tools.call_join).act("end")
    if tools.call_between:
        body.act("$calls := .ToolCalls")
    body.act("if .ToolCalls").act("range $number, $call := .ToolCalls")
    body.write(tools.call_open).show(".Function.Name").write(tools.call_middle + "{")
    body.act('$comma := ""').act("range $name, $value := .Function.Arguments").show("$comma")
    body.show("json $name").write(": ").show("json $value").act('$comma = ", "').act("end")
    body.write("}" + tools.call_close)
    if tools.call_between:
        body.act("if ne (len (slice $calls $number)) 1").write(tools.call_between).act("end")
    body.act("end").act("end")


def tool_result(tools: ToolShape, body: TemplateText) -> None:
    """One result. Results behind each other may share a turn."""
    if tools.result_next != tools.result_first:
        body.act('if eq $before "tool"').write(tools.result_next)
        body.act("else").write(tools.result_first).act("end")
    else:
        body.write(tools.result_first)
    body.show(".Content").write(tools.result_close)
    if tools.result_end:
        body.act('if or $last (ne (index (slice $.Messages $i) 1).Role "tool")')
        body.write(tools.result_end).act("end")
