"""What Ollama does with a template and a conversation before the model sees a token.

Read from `template/template.go`, `server/prompt.go` and `server/routes.go` of ollama/ollama:

* neighbours of one role are joined by an empty line (`collate`), tool results excepted, before the
  template sees them; the contents of all system messages, joined likewise, are `.System`;
* a template that names `.Messages` runs once over the conversation. One that does not runs once for
  each exchange with `.System`, `.Prompt` and `.Response`, and its last run is cut behind
  `.Response`;
* the Modelfile's SYSTEM becomes a system message in front where the request brings none;
* a conversation that ends with an assistant's message gets no treatment of its own: whether its
  reply is continued or followed by a new one is the template's affair.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from tanren.export.ollama.go_functions import JsonDict, JsonList, Record, Value
from tanren.export.ollama.go_syntax import (
    Action,
    Branch,
    Command,
    Field,
    Include,
    Node,
    Pipeline,
    Tree,
    Variable,
)
from tanren.export.ollama.go_template import GoTemplate, run
from tanren.export.ollama.go_tokens import GoTemplateError

Message = Mapping[str, Any]


def collated(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Neighbours of one role as one message, as Ollama hands them to the template."""
    joined: list[dict[str, Any]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"] != "tool":
            joined[-1]["content"] = _content(joined[-1]) + "\n\n" + _content(message)
        else:
            joined.append(dict(message))
    return joined


def system_text(messages: Sequence[Message]) -> str:
    """`.System`: the contents of all system messages, with an empty line between them."""
    return "\n\n".join(_content(each) for each in messages if each["role"] == "system")


def prompt(
    template: GoTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    think: bool | None = None,
    today: date | None = None,
) -> str:
    """The prompt that Ollama makes of a conversation. Raises GoTemplateError as Go would."""
    thinking = {"Think": think is True, "ThinkLevel": b"", "IsThinkSet": think is not None}
    turns = collated(messages)
    if "messages" in variables(template.tree):
        data = {
            "System": _string(system_text(messages)),
            "Messages": [_message(message) for message in turns],
            "Tools": JsonList(_tool(tool) for tool in tools),
            "Response": b"",
            **thinking,
        }
        return template.render(data, today=today)
    return "".join(_exchanges(template, turns, thinking, today))


def variables(tree: Tree) -> set[str]:
    """Names of all fields and variables that a template mentions, in small letters.

    As in Ollama, a field of something in parentheses is not seen.
    """
    names: set[str] = set()
    for nodes in (tree.nodes, *tree.defined.values()):
        names |= _names(nodes)
    return names


def _names(nodes: Sequence[Node]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, Action | Branch) or (isinstance(node, Include) and node.pipeline):
            names |= _names_of(node.pipeline)
        if isinstance(node, Include) and node.pipeline is None:
            raise GoTemplateError("undefined template specified")
        if isinstance(node, Branch):
            names |= _names(node.body) | _names(node.otherwise)
    return names


def _names_of(pipeline: Pipeline | None) -> set[str]:
    names: set[str] = set()
    for command in pipeline.commands if pipeline else ():
        for argument in command.arguments:
            if isinstance(argument, Field):
                names |= {name.lower() for name in argument.names}
            elif isinstance(argument, Variable):
                names |= {name.lower() for name in (argument.name, *argument.names)}
            elif isinstance(argument, Pipeline):
                names |= _names_of(argument)
    return names


# --- templates without .Messages ------------------------------------------------------------------

_RESPONSE = Field(("Response",))


def _exchanges(
    template: GoTemplate, turns: Sequence[Message], thinking: dict[str, Value], today: date | None
) -> Iterator[str]:
    tree = template.tree
    if "response" not in variables(tree):
        shown = Action(Pipeline((Command((_RESPONSE,)),)))
        tree = Tree((*tree.nodes, shown), tree.defined)
    kept = {"System": b"", "Prompt": b"", "Response": b""}
    for turn in turns:
        role, content = turn["role"], _string(_content(turn))
        ends = {"system": ("Prompt", "Response"), "user": ("Response",)}.get(role, ())
        if any(kept[name] for name in ends):
            yield run(tree, {**kept, **thinking}, today=today)
            kept = dict.fromkeys(kept, b"")
        name = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(role)
        if name is not None:
            kept[name] = content
    cut = Tree(_cut(tree.nodes)[0], tree.defined)
    yield run(cut, {**kept, **thinking}, today=today)


def _cut(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], bool]:
    """The nodes up to the one that writes `.Response`, and whether there was one."""
    kept: list[Node] = []
    for node in nodes:
        found = False
        if isinstance(node, Action):
            found = _writes_response(node.pipeline)
        elif isinstance(node, Branch):
            body, found = _cut(node.body)
            otherwise, also = ((), True) if found else _cut(node.otherwise)
            node, found = Branch(node.kind, node.pipeline, body, otherwise), found or also
        kept.append(node)
        if found:
            return tuple(kept), True
    return tuple(kept), False


def _writes_response(pipeline: Pipeline) -> bool:
    arguments = [argument for command in pipeline.commands for argument in command.arguments]
    return any("Response" in each.names for each in arguments if isinstance(each, Field))


# --- Ollama's structs -----------------------------------------------------------------------------


def _string(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _content(message: Message) -> str:
    return message.get("content") or ""


def _message(message: Message) -> Record:
    fields = {
        "Role": _string(message["role"]),
        "Content": _string(_content(message)),
        "Thinking": _string(message.get("reasoning_content") or ""),
        "Images": [],
        "ToolCalls": [_call(call) for call in message.get("tool_calls") or ()],
        "ToolName": _string(message.get("name") or ""),
        "ToolCallID": _string(message.get("tool_call_id") or ""),
    }
    return Record("*template.templateMessage", fields, {})


def _call(call: Mapping[str, Any]) -> Record:
    arguments = call["function"].get("arguments") or {}
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    function = {
        "Index": 0,
        "Name": _string(call["function"]["name"]),
        "Arguments": JsonDict({name: _value(each) for name, each in arguments.items()}),
    }
    fields = {
        "ID": _string(call.get("id") or ""),
        "Function": Record("template.templateToolCallFunction", function, {}),
    }
    return Record("template.templateToolCall", fields, {})


def _value(value: Any) -> Value:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return {name: _value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    return value


def _tool(tool: Mapping[str, Any]) -> Record:
    function = tool["function"]
    given = function.get("parameters") or {}
    parameters = {
        "Type": _string(given.get("type") or ""),
        "Defs": _value(given.get("$defs")),
        "Items": _value(given.get("items")),
        "Required": _value(given.get("required") or []),
        "Properties": JsonDict(
            {name: _property(each) for name, each in (given.get("properties") or {}).items()}
        ),
    }
    labels = {
        "Type": "type", "Defs": "$defs,omitempty", "Items": "items,omitempty",
        "Required": "required,omitempty", "Properties": "properties",
    }  # fmt: skip
    inner = {
        "Name": _string(function["name"]),
        "Description": _string(function.get("description") or ""),
        "Parameters": Record("template.templateToolFunctionParameters", parameters, labels),
    }
    names = {"Name": "name", "Description": "description", "Parameters": "parameters"}
    fields = {
        "Type": _string(tool.get("type") or ""),
        "Items": _value(tool.get("items")),
        "Function": Record("template.templateToolFunction", inner, names),
    }
    outer = {"Type": "type", "Items": "items,omitempty", "Function": "function"}
    return Record("template.templateTool", fields, outer)


def _property(given: Mapping[str, Any]) -> Record:
    kind = given.get("type")
    fields = {
        "AnyOf": [_property(each) for each in given.get("anyOf") or ()],
        "Type": _value(kind) if kind else None,
        "Items": _value(given.get("items")),
        "Description": _string(given.get("description") or ""),
        "Enum": _value(given.get("enum") or []),
    }
    labels = {
        "AnyOf": "anyOf,omitempty", "Type": "type,omitempty", "Items": "items,omitempty",
        "Description": "description,omitempty", "Enum": "enum,omitempty",
    }  # fmt: skip
    return Record("api.ToolProperty", fields, labels)
