"""A compiled template with its facts: renders messages, and turns what a template refuses into a
fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tanren.errors import DataError, Fault
from tanren.template.engine import RENDER_ERRORS, CompiledTemplate
from tanren.template.facts import Message, TemplateFacts
from tanren.template.shape import MessageShape
from tanren.template.tokens import AddedTokens

Spans = list[tuple[int, int]]


class TemplateWriter:
    """What the renderer and the cutting of turns share. `messages` here are always shaped
    already."""

    def __init__(
        self,
        template: CompiledTemplate,
        facts: TemplateFacts,
        added: AddedTokens,
        variables: Mapping[str, object],
    ) -> None:
        self.template = template
        self.facts = facts
        self.added = added
        self.variables = variables
        self.shape = MessageShape(facts)

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, where: str
    ) -> str:
        return self._written(messages, tools, where, add_generation_prompt=True)

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, where: str
    ) -> str:
        return self._written(messages, tools, where, add_generation_prompt=False)

    def marked(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, where: str
    ) -> tuple[str, Spans | None]:
        """The conversation and its `{% generation %}` spans; None without such blocks."""
        if not self.template.has_markers:
            return self.conversation(messages, tools, where), None
        try:
            return self.template.render_marked(messages, tools, variables=self.variables)
        except RENDER_ERRORS as error:
            raise DataError.of(_refusal(error, messages, tools, where)) from error

    def _written(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None,
        where: str,
        *,
        add_generation_prompt: bool,
    ) -> str:
        try:
            return self.template.render(
                messages,
                tools,
                add_generation_prompt=add_generation_prompt,
                variables=self.variables,
            )
        except RENDER_ERRORS as error:
            raise DataError.of(_refusal(error, messages, tools, where)) from error


def _refusal(
    error: Exception, messages: Sequence[Message], tools: Sequence[Message] | None, where: str
) -> Fault:
    said = str(error) or type(error).__name__
    roles = ", ".join(message["role"] for message in messages) or "none"
    with_tools = "; with tools" if tools else ""
    return Fault(
        where=where,
        found=f'messages that the chat template refuses: "{said}" (roles: {roles}{with_tools})',
        expected="a conversation that the model's template can write",
        remedy="change the row's messages as the template asks, or set model.chat_template",
    )
