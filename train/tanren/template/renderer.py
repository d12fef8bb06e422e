"""The one renderer: training, evaluation, chat, service and export all get their text from here."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jinja2

from tanren.errors import ConfigError, DataError, Fault, ModelError
from tanren.template.engine import (
    DEFAULT_TEMPLATE,
    DEFAULT_TEMPLATE_WITH_BOS,
    RENDER_ERRORS,
    CompiledTemplate,
)
from tanren.template.facts import Message, TemplateFacts, probe
from tanren.template.tokens import AddedTokens, backend_of
from tanren.template.turns import Rendered, TrainOn, reply_of, training_sequences
from tanren.template.writer import TemplateWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tanren.chat import Example

TANREN_DEFAULT = "tanren default"


class ChatRenderer:
    """A tokenizer's chat template with its open questions (reasoning, date, no template) answered.

    `thinking` is passed to templates that can switch reasoning off; None keeps the template's own
    default. Training data without any reasoning wants False: then the empty reasoning block belongs
    to the prompt, in training and in inference. `date` (ISO, as in "2026-01-31") is what templates
    tell as today's date; None means the day of construction. `template` replaces the tokenizer's
    own. `facts` says what was found out.

    Raises ModelError where tokenizer or template cannot be used, ConfigError for a wrong date.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        thinking: bool | None = None,
        date: str | None = None,
        template: str | None = None,
    ) -> None:
        backend_of(tokenizer)
        self.tokenizer = tokenizer
        self._day = _parsed_date(date)
        source, origin = _template_source(tokenizer, template)
        compiled = self._compiled(source, origin, self._day)
        added = AddedTokens(tokenizer)
        self.facts: TemplateFacts = probe(
            compiled,
            added,
            origin=origin,
            thinking=thinking,
            eos=_required_eos(tokenizer),
            bos=tokenizer.bos_token,
            tokenizer_adds_bos=_adds_bos(tokenizer),
            date=self._day.isoformat(),
        )
        self._writer = TemplateWriter(compiled, self.facts, added, _variables(self.facts))
        _refuse_unusable(self._writer)

    @property
    def template(self) -> str:
        """Source of the template, without what `artefact_template` sets in front of it."""
        return self._writer.template.source

    @property
    def added_tokens(self) -> AddedTokens:
        return self._writer.added

    def prompt(self, messages: Sequence[Message], tools: Sequence[Message] | None = None) -> str:
        """Text for inference: the conversation and the opening of the assistant's next turn.

        Takes messages as `tanren.chat` normalises them, or plain OpenAI ones. Raises DataError
        where the template refuses the conversation.
        """
        return self._writer.prompt(
            self._writer.shape.ready(messages), list(tools or ()) or None, "messages"
        )

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[Message] | None = None
    ) -> list[int]:
        """Token ids of `prompt`. No special tokens are added: the template has written them."""
        return self.token_ids(self.prompt(messages, tools))

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a rendered text."""
        return list(backend_of(self.tokenizer).encode(text, add_special_tokens=False).ids)

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Message] | None = None
    ) -> str:
        """Text of a whole conversation, as the template writes it."""
        ready = self._writer.shape.ready(messages)
        return self._writer.conversation(ready, list(tools or ()) or None, "messages")

    def turns(
        self, example: Example, train_on: TrainOn = "all", *, split: bool = False
    ) -> list[Rendered]:
        """The training sequences of one row: one, or one per reply where earlier ones change.

        `train_on="last"` trains the last reply whose weight is not 0. `split` asks for one sequence
        per reply anyway. Messages after the last trained reply are left away: they teach nothing.
        Raises DataError with file and line where the template refuses the row or would train what
        inference never sees.
        """
        return training_sequences(self._writer, example, train_on, split=split)

    def artefact_template(self) -> str:
        """The template to save beside the weights: any program's defaults render the same prompt.

        It is the template itself, where needed preceded by the pinned date and by the default of
        the reasoning switch. Raises ModelError where setting those in front changes anything else.
        """
        prefix = _date_prefix(self._writer.template.date_formats) + _thinking_prefix(self.facts)
        if not prefix:
            return self.template
        # The second form keeps Jinja from taking white space that the template begins with for the
        # prefix's own.
        for shield in ("", "{{- '' }}"):
            source = prefix + shield + self.template
            if self._renders_alike(source):
                return source
        raise ModelError.of(
            Fault(
                where=f"chat template ({self.facts.origin})",
                found="a template whose text changes when defaults are set in front of it",
                expected="a template that other programs can render without arguments",
                remedy="set model.chat_template to one with the wanted defaults written in",
            )
        )

    def _compiled(self, source: str, origin: str, day: datetime.date) -> CompiledTemplate:
        # The names that transformers passes; the same dictionary for every row.
        constants: dict[str, object] = dict(self.tokenizer.special_tokens_map)
        try:
            return CompiledTemplate(source, day=day, constants=constants)
        except jinja2.TemplateSyntaxError as error:
            raise ModelError.of(
                Fault(
                    where=f"chat template ({origin}) line {error.lineno}",
                    found=f"{error.message}",
                    expected="a Jinja template",
                    remedy="correct the template",
                )
            ) from error

    def _renders_alike(self, source: str) -> bool:
        """Does `source`, without arguments and on another day, render the same?"""
        other = self._compiled(source, "artefact", self._day + datetime.timedelta(days=400))
        ours = self._writer.template
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        for messages, prompt in (
            ([question], True),
            ([question, answer], False),
            ([question, answer, question], True),
        ):
            try:
                wanted = ours.render(
                    messages, None, add_generation_prompt=prompt, variables=self._writer.variables
                )
            except RENDER_ERRORS:
                continue
            if wanted != other.render(messages, None, add_generation_prompt=prompt, variables={}):
                return False
        return True


def _parsed_date(date: str | None) -> datetime.date:
    if date is None:
        return datetime.date.today()
    try:
        return datetime.date.fromisoformat(date)
    except ValueError as error:
        raise ConfigError.of(
            Fault(
                "data.date", repr(date), "a day such as 2026-01-31", "correct it or leave it away"
            )
        ) from error


def _template_source(tokenizer: PreTrainedTokenizerFast, template: str | None) -> tuple[str, str]:
    """(source, where it came from)."""
    if template is not None:
        return template, "given"
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if own:
        return own, "tokenizer"
    return DEFAULT_TEMPLATE_WITH_BOS if _adds_bos(tokenizer) else DEFAULT_TEMPLATE, TANREN_DEFAULT


def _adds_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    if tokenizer.bos_token_id is None:
        return False
    ids = backend_of(tokenizer).encode("a", add_special_tokens=True).ids
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _required_eos(tokenizer: PreTrainedTokenizerFast) -> tuple[str, int]:
    token, number = tokenizer.eos_token, tokenizer.eos_token_id
    if token is None or number is None:
        raise ModelError.of(
            Fault(
                where=f"tokenizer {tokenizer.name_or_path or ''}".rstrip(),
                found="no end-of-sequence token",
                expected="an eos_token: without one a reply never ends",
                remedy="set eos_token in the model's tokenizer_config.json",
            )
        )
    return str(token), int(number)


def _variables(facts: TemplateFacts) -> Mapping[str, object]:
    if facts.thinking_switch is None or facts.thinking_on is None:
        return {}
    return {facts.thinking_switch: facts.thinking_on}


def _refuse_unusable(writer: TemplateWriter) -> None:
    """Finds a template whose prompt no reply can continue before any row is read."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        reply_of(writer, messages, None, 1, "one question and one answer:")
    except DataError as error:
        raise ModelError("the chat template cannot be used for training", error.faults) from error


def _date_prefix(told: Mapping[str, str]) -> str:
    if not told:
        return ""
    branches = "".join(
        f"{{%- if format == {format!r} %}}{{{{- {text!r} }}}}{{%- endif %}}"
        for format, text in sorted(told.items())
    )
    return f"{{%- macro strftime_now(format) %}}{branches}{{%- endmacro %}}"


def _thinking_prefix(facts: TemplateFacts) -> str:
    name, value = facts.thinking_switch, facts.thinking_on
    if name is None or value is None or value == facts.thinking_default:
        return ""
    return (
        f"{{%- if {name} is not defined %}}{{%- set {name} = {str(value).lower()} %}}{{%- endif %}}"
    )
