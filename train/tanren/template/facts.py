"""Asks a chat template questions by rendering tiny conversations, and writes down the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tanren.errors import Fault, ModelError, TanrenError
from tanren.template.engine import RENDER_ERRORS, CompiledTemplate
from tanren.template.tokens import AddedTokens

Message = dict[str, Any]
Written = Literal["written", "left out", "refused"]

# Names under which templates take the switch for reasoning. Qwen3, GLM and SmolLM3 use the first,
# DeepSeek the second.
_THINKING_SWITCHES = ("enable_thinking", "thinking")

# What DeepSeek-R1 writes between its reasoning and its reply.
DEFAULT_CLOSER = "\n</think>\n\n"

# Words that no template writes itself and that trimming, case or JSON quoting leave alone.
_QUESTION, _REPLY, _ASIDE, _TOOL = "Fivequestion", "Sevenreply", "Nineaside", "eleven_tool"
_USER: Message = {"role": "user", "content": _QUESTION}
_ANSWER: Message = {"role": "assistant", "content": _REPLY}
_TOOLS: list[Message] = [
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "Counts.",
            "parameters": {
                "type": "object",
                "properties": {"upto": {"type": "integer", "description": "The last number."}},
                "required": ["upto"],
            },
        },
    }
]


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What the renderer found out about a template; recorded, so that surprises can be explained.

    origin                  where the template came from: "tokenizer", "given" or "tanren default"
    end_of_turn             text of the token that ends a reply; it is trained in every reply
    reply_prefix            what the template writes between a prompt and a reply's text
    reply_suffix            what it writes after a reply's text, up to the conversation's end
    end_of_turn_offset      where the end of turn ends inside `reply_suffix`; 0 where appended
    end_of_turn_appended    the template ends a reply with no special token: `eos_token` is appended
    stop_ids                token ids that end generation
    adds_bos                the template writes the tokenizer's BOS itself
    bos_left_out            the tokenizer adds a BOS to plain text, and the template writes none
    thinking                "switch": a variable turns reasoning off; "always": the prompt opens it
    thinking_switch         name of that variable
    thinking_on             what the renderer passes for it; None keeps `thinking_default`
    reasoning_opener        what the prompt opens and a conversation leaves out (DeepSeek-R1), or ""
    reasoning_closer        what stands between reasoning and reply where there is an opener
    date                    the pinned date, where the template tells today's date
    system, developer, tools, tool_calls, tool_results
                            does that part of the data reach the text
    tool_arguments          how a call's arguments are handed over: as an object or as JSON text
    short_tool_ids          call ids must be nine letters or digits (Mistral): they are rewritten
    """

    origin: str
    has_generation_markers: bool
    end_of_turn: str
    end_of_turn_id: int
    reply_prefix: str
    reply_suffix: str
    end_of_turn_offset: int
    end_of_turn_appended: bool
    stop_ids: tuple[int, ...]
    adds_bos: bool
    bos_left_out: bool
    thinking: Literal["none", "switch", "always"]
    thinking_switch: str | None
    thinking_on: bool | None
    thinking_default: bool | None
    reasoning_opener: str
    reasoning_closer: str
    uses_date: bool
    date: str | None
    system: Written
    developer: Written | Literal["as system"]
    tools: Written
    tool_calls: Written
    tool_results: Written
    tool_arguments: Literal["object", "text"]
    short_tool_ids: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class TemplateProbe:
    """Renders the tiny conversations. Each method answers one question of `TemplateFacts`."""

    def __init__(self, template: CompiledTemplate, added: AddedTokens, *, origin: str) -> None:
        self._template = template
        self._added = added
        self._where = f"chat template ({origin})"

    def text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        prompt: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        return self._template.render(
            messages, tools, add_generation_prompt=prompt, variables=variables or {}
        )

    def try_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        prompt: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str | None:
        """The text, or None where the template refuses."""
        try:
            return self.text(messages, tools=tools, prompt=prompt, variables=variables)
        except RENDER_ERRORS:
            return None

    def reply_suffix(self) -> str:
        """What follows the text of a last reply. Raises ModelError where even that is refused."""
        try:
            self.text([_USER], prompt=True)
            text = self.text([_USER, _ANSWER])
        except RENDER_ERRORS as error:
            raise self._unusable(f"an error for one question and one answer: {error}") from error
        if _REPLY not in text:
            raise self._unusable("a text without the assistant's reply")
        return text[text.rindex(_REPLY) + len(_REPLY) :]

    def _unusable(self, found: str) -> TanrenError:
        return ModelError.of(
            Fault(
                where=self._where,
                found=found,
                expected="a template that writes text messages of a user and an assistant",
                remedy="set model.chat_template to one",
            )
        )

    def end_in_suffix(self, suffix: str) -> tuple[int, str, int] | None:
        """The token that ends a turn: (its end inside `suffix`, its text, its id), or None.

        It is the last added token of what follows a reply both at the end of a conversation and
        in its middle. What comes only at the very end (Phi-3's trailing `<|endoftext|>`) ends the
        text, not the turn. Where the two agree in no token (gpt-oss: `<|return|>` at the end,
        `<|end|>` in the middle) it is the first token at the end.
        """
        longer = self.try_text([_USER, _ANSWER, {"role": "user", "content": _ASIDE}])
        shared = suffix
        if longer is not None and _REPLY in longer:
            shared = _common_prefix(suffix, longer[longer.rindex(_REPLY) + len(_REPLY) :])
        found = self._added.last(shared) or self._added.first(suffix)
        return (found.end, suffix[found.start : found.end], found.id) if found else None

    def thinking_switch(self) -> tuple[str, bool] | None:
        """(the variable that turns reasoning on and off in the prompt, is it on by default)."""
        default = self.text([_USER], prompt=True)
        for name in _THINKING_SWITCHES:
            on, off = (
                self.try_text([_USER], prompt=True, variables={name: value})
                for value in (True, False)
            )
            if on != off and None not in (on, off):
                return name, default != off
        return None

    def reasoning_tags(self, variables: Mapping[str, object]) -> tuple[str, str]:
        """(opener, closer) where the prompt opens reasoning that a bare reply does not continue.

        ("", "") for all other templates. The closer is what the template itself writes between
        reasoning and reply.
        """
        prompt = self.text([_USER], prompt=True, variables=variables)
        opener = opener_of(prompt)
        if not opener or self.text([_USER, _ANSWER], variables=variables).startswith(prompt):
            return "", ""
        reasoned = self.text([_USER, {**_ANSWER, "reasoning_content": _ASIDE}], variables=variables)
        between = reasoned.partition(_ASIDE)[2].partition(_REPLY)[0]
        kept = reasoned.startswith(prompt + _ASIDE) and "</think>" in between
        return opener, between if kept else DEFAULT_CLOSER

    def reply_prefix(self, variables: Mapping[str, object]) -> str:
        prompt = self.text([_USER], prompt=True, variables=variables)
        through = self.text([_USER, _ANSWER], variables=variables)
        return through.removeprefix(prompt).partition(_REPLY)[0]

    def role(self, role: str) -> Written:
        return _written(
            self.try_text([{"role": role, "content": _ASIDE}, _USER], prompt=True), _ASIDE
        )

    def tools(self) -> Written:
        return _written(self.try_text([_USER], tools=_TOOLS, prompt=True), _TOOL)

    def tool_calls(self) -> tuple[Written, Literal["object", "text"], bool, str | None]:
        """(are calls written, how arguments are handed over, are ids short, the rendered text)."""
        for short in (False, True):
            for kind, arguments in (("object", {"upto": 13}), ("text", '{"upto": 13}')):
                text = self.try_text(self._calling(arguments, short), tools=_TOOLS)
                # An object that a template prints without `tojson` comes out as Python: such a
                # template wants text.
                if text is not None and "{'upto'" not in text:
                    written = _written(text.rpartition(_QUESTION)[2], _TOOL)
                    return written, "object" if kind == "object" else "text", short, text
        return "refused", "object", False, None

    def tool_results(self, arguments: Literal["object", "text"], short: bool) -> Written:
        value: object = {"upto": 13} if arguments == "object" else '{"upto": 13}'
        result = {"role": "tool", "name": _TOOL, "content": _ASIDE, "tool_call_id": _call_id(short)}
        conversation = [*self._calling(value, short), result]
        return _written(self.try_text(conversation, tools=_TOOLS, prompt=True), _ASIDE)

    def _calling(self, arguments: object, short: bool) -> list[Message]:
        function = {"name": _TOOL, "arguments": arguments}
        call = {"id": _call_id(short), "type": "function", "function": function}
        return [_USER, {"role": "assistant", "content": "", "tool_calls": [call]}]


def opener_of(prompt: str) -> str:
    """The reasoning tag and white space that `prompt` ends with, or ""."""
    start = prompt.rfind("<think>")
    return prompt[start:] if start >= 0 and prompt[start:].strip() == "<think>" else ""


def _call_id(short: bool) -> str:
    return "call00001" if short else "call_0"


def _written(text: str | None, word: str) -> Written:
    if text is None:
        return "refused"
    return "written" if word in text else "left out"


def _common_prefix(one: str, other: str) -> str:
    length = 0
    for length, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:length]
    return one[: min(len(one), len(other))]


def probe(
    template: CompiledTemplate,
    added: AddedTokens,
    *,
    origin: str,
    thinking: bool | None,
    eos: tuple[str, int],
    bos: str | None,
    tokenizer_adds_bos: bool,
    date: str,
) -> TemplateFacts:
    """Asks every question once. Raises ModelError where a template cannot be used at all."""
    ask = TemplateProbe(template, added, origin=origin)
    suffix = ask.reply_suffix()
    end = ask.end_in_suffix(suffix)
    switch = ask.thinking_switch()
    variables = {switch[0]: thinking} if switch and thinking is not None else {}
    prompt = ask.text([_USER], prompt=True, variables=variables)
    opener, closer = ask.reasoning_tags(variables)
    calls, arguments, short_ids, calling = ask.tool_calls()
    call_end = added.last(calling) if calling and end else None
    system, developer = ask.role("system"), ask.role("developer")
    adds_bos = bos is not None and prompt.startswith(bos)
    stops = [end[2] if end else eos[1], *([call_end.id] if call_end else []), eos[1]]
    return TemplateFacts(
        origin=origin,
        has_generation_markers=template.has_markers,
        end_of_turn=end[1] if end else eos[0],
        end_of_turn_id=end[2] if end else eos[1],
        reply_prefix=ask.reply_prefix(variables),
        reply_suffix=suffix,
        end_of_turn_offset=end[0] if end else 0,
        end_of_turn_appended=end is None,
        stop_ids=tuple(dict.fromkeys(stops)),
        adds_bos=adds_bos,
        bos_left_out=tokenizer_adds_bos and not adds_bos,
        thinking="switch" if switch else "always" if opener_of(prompt) else "none",
        thinking_switch=switch[0] if switch else None,
        thinking_on=thinking if switch else None,
        thinking_default=switch[1] if switch else None,
        reasoning_opener=opener,
        reasoning_closer=closer,
        uses_date=bool(template.date_formats),
        date=date if template.date_formats else None,
        system=system,
        developer="as system" if developer != "written" and system == "written" else developer,
        tools=ask.tools(),
        tool_calls=calls,
        tool_results=ask.tool_results(arguments, short_ids),
        tool_arguments=arguments,
        short_tool_ids=short_ids,
    )
