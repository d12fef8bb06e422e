"""What an answer must be, as a `Matcher` for each answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tanren.engine.structure.matcher import Matcher
from tanren.engine.structure.schema import Schema, check, json_rule
from tanren.engine.structure.tool_format import ToolFormat
from tanren.engine.structure.tool_grammar import tools_grammar
from tanren.engine.structure.vocabulary import Vocabulary
from tanren.engine.wire import Constraint
from tanren.errors import Fault, UserError


def matcher_of(
    constraint: Constraint,
    vocabulary: Vocabulary,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    form: ToolFormat | None = None,
    lead: str = "",
) -> Matcher:
    """A new matcher for one answer; several answers of a request ask several times (it is cached).

    `tools` are those of the request, `form` the model's own form of calls, `lead` what the template
    writes between a prompt and its reply (`facts.reply_prefix`): where it is white space, JSON may
    begin with it, as the replies did that the model learned. Raises UnsupportedSchema
    for schemas that cannot be enforced, UserError where the model knows no form of calls or the
    constraint names a tool that the request does not have.
    """
    if constraint.kind == "json":
        grammar = _json_grammar(constraint.schema, vocabulary, lead)
    else:
        grammar = tools_grammar(
            _required_form(form), _chosen(constraint, tools), vocabulary, constraint.parallel
        )
    inner = vocabulary.compile(grammar)
    if inner.is_error():
        said = " ".join(str(inner.get_error()).split())[:300]
        raise UserError.of(
            Fault(
                where="response_format" if constraint.kind == "json" else "tools",
                found=said,
                expected="a form that can be enforced token by token",
                remedy="make it smaller or simpler",
            )
        )
    return Matcher(inner, vocabulary.size)


def _json_grammar(schema: Schema, vocabulary: Vocabulary, lead: str) -> str:
    asked = schema or {"type": "object"}
    space = f"{json.dumps(lead)}? " if lead.isspace() else ""
    grammar = f"start: {space}{json_rule(asked)}"
    if not vocabulary.knows(grammar):
        check(asked, vocabulary, where="response_format.json_schema.schema")
    return grammar


def _required_form(form: ToolFormat | None) -> ToolFormat:
    if form is None:
        raise UserError.of(
            Fault(
                where="tools",
                found="a model whose chat template has no form of calls that is known here",
                expected="a model that was made for tools",
                remedy='choose another model, or leave tools away ("tool_choice": "none")',
            )
        )
    return form


def _chosen(constraint: Constraint, tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    by_name = {str(tool["function"]["name"]): tool["function"] for tool in tools}
    missing = [name for name in constraint.tools if name not in by_name]
    if missing or not by_name:
        raise UserError.of(
            Fault(
                where="tool_choice",
                found=f"{', '.join(missing) or 'a call'} where tools are: "
                f"{', '.join(by_name) or 'none'}",
                expected="a function of tools",
                remedy="name one of them, or add it to tools",
            )
        )
    return [by_name[name] for name in constraint.tools or by_name]
