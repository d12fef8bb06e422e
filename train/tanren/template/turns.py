"""Where in a rendered conversation the trained text lies, found by rendering prefixes of it.

For a trained turn i the template renders the prompt (messages before i, with the opening of the
assistant's turn) and the conversation through i. The second must begin with the first: then what
follows the prompt, up to and including the token that ends the turn, is exactly what inference has
to produce from exactly that prompt. Where a later conversation keeps all earlier turns as they
were, one sequence trains them all; where the template rewrites them (Qwen3 removes reasoning), each
trained turn gets a sequence of its own, because nothing is trained in a context that inference
never shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tanren.errors import DataError, Fault
from tanren.template.facts import Message, TemplateFacts
from tanren.template.shape import all_reasoning, reasoning_of
from tanren.template.writer import Spans, TemplateWriter

if TYPE_CHECKING:
    from tanren.chat import Example

TrainOn = Literal["all", "last"]

_EMPTY_REASONING = re.compile(r"\s*<think>\s*</think>")

# Roles whose message must reach the text: without it the reply answers something that is not there.
_NEEDED_ROLES = frozenset({"user", "tool", "function", "developer"})


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training sequence as text.

    prompts         where each trained turn's prompt ends: `text[:end]` is what inference sees
                    before that reply
    spans           trained characters [start, end), each within one reply and its end of turn
    last_turn       index of the last trained message; later messages are not in the text
    split           True where the row needs one sequence per trained turn
    left_out        indices of messages whose content the template does not write (system texts,
                    text beside tool calls)
    lost_reasoning  reasoning of earlier turns that the template removes from this context
    own_lost_reasoning  reasoning of trained turns that the template removes: it is not learned
    """

    text: str
    prompts: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    last_turn: int
    split: bool = False
    left_out: tuple[int, ...] = ()
    lost_reasoning: tuple[str, ...] = ()
    own_lost_reasoning: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Reply:
    """The conversation through one trained turn, cut after its end of turn."""

    index: int
    prompt: int
    text: str
    spans: tuple[tuple[int, int], ...]


def training_sequences(
    writer: TemplateWriter, example: Example, train_on: TrainOn, *, split: bool
) -> list[Rendered]:
    """See `ChatRenderer.turns`."""
    where = f"{example.source}:{example.line}"
    trained = example.trained_turns if train_on == "all" else example.trained_turns[-1:]
    if not trained:
        raise DataError.of(
            Fault(
                where=where,
                found="no trained reply",
                expected="an assistant message whose weight is not 0",
                remedy="add a reply, set a weight to 1, or remove the row",
            )
        )
    messages = writer.shape.ready(example.messages)
    tools = list(example.tools) or None
    replies = [reply_of(writer, messages, tools, index, where) for index in trained]
    apart = split or writer.facts.end_of_turn_appended
    if not apart and all(replies[-1].text.startswith(reply.text) for reply in replies):
        return [_sequence(writer, messages, replies, where, split=False)]
    return [
        _sequence(writer, messages, [reply], where, split=len(replies) > 1) for reply in replies
    ]


def reply_of(
    writer: TemplateWriter,
    messages: Sequence[Message],
    tools: Sequence[Message] | None,
    index: int,
    where: str,
) -> _Reply:
    """The trained text of the assistant message `index`.

    Raises DataError where inference could not produce it.
    """
    place = f"{where} messages[{index}]"
    prompt = writer.prompt(messages[:index], tools, place)
    through, marks = writer.marked(messages[: index + 1], tools, place)
    if not through.startswith(prompt):
        through, marks = _after_prompt(writer, prompt, through, messages[index], place), None
    text, reply_end = _ended(writer, through, len(prompt), place)
    if marks is None:
        return _Reply(index, len(prompt), text, ((len(prompt), len(text)),))
    return _Reply(index, len(prompt), text, _clipped(marks, len(prompt), reply_end, len(text)))


def _after_prompt(
    writer: TemplateWriter, prompt: str, through: str, message: Message, place: str
) -> str:
    """`prompt` and then the reply, for a conversation that does not begin with the prompt.

    DeepSeek-R1's prompt opens a reasoning block, and its conversations leave out block and
    reasoning; Nemotron's write an empty block. There the reasoning and the closing tag are written
    back: they are what the model has to produce after that prompt. Mistral's prompts hold the
    system text in the last user message, its conversations only where that message is the last of
    all. There the reply is taken as the conversation writes it. Raises DataError for any other
    difference.
    """
    facts = writer.facts
    opener, reasoning = facts.reasoning_opener, reasoning_of(message)
    base = prompt.removesuffix(opener)
    if opener and through.startswith(base):
        reply = _EMPTY_REASONING.sub("", through[len(base) :]).lstrip()
        return f"{prompt}{reasoning}{facts.reasoning_closer}{reply}"
    content = message.get("content") or ""
    for written in (content, content.strip()):
        reply = facts.reply_prefix + written + facts.reply_suffix
        if written and not reasoning and "tool_calls" not in message and through.endswith(reply):
            return prompt + reply
    raise DataError.of(_not_continued(facts, prompt, through, place))


def _not_continued(facts: TemplateFacts, prompt: str, through: str, place: str) -> Fault:
    same = next(
        (i for i, (a, b) in enumerate(zip(prompt, through, strict=False)) if a != b), len(through)
    )
    return Fault(
        where=place,
        found=f"a conversation that goes on with {through[same : same + 60]!r} where the prompt "
        f"for this reply ends in {prompt[max(0, same - 20) :][-80:]!r}",
        expected="a template whose conversation begins with the prompt that inference sees",
        remedy="set model.chat_template to such a one"
        if facts.thinking == "none"
        else "set data.thinking to true if the data has reasoning and to false if it has none",
    )


def _ended(writer: TemplateWriter, through: str, prompt: int, place: str) -> tuple[str, int]:
    """(the text up to and including the end of turn, where the reply proper ends)."""
    facts = writer.facts
    reply_end = len(through) - len(facts.reply_suffix)
    if reply_end >= prompt and through.endswith(facts.reply_suffix):
        if facts.end_of_turn_appended:
            return through[:reply_end] + facts.end_of_turn, reply_end
        return through[: reply_end + facts.end_of_turn_offset], reply_end
    if facts.end_of_turn_appended:
        return through + facts.end_of_turn, len(through)
    # Turns that call tools may end otherwise (Llama's `<|eom_id|>`, gpt-oss's `<|call|>`).
    last = writer.added.last(through[prompt:])
    if last is None or through[prompt + last.end :].strip():
        raise DataError.of(
            Fault(
                where=place,
                found=f"a reply that the template ends with {through[-40:]!r}",
                expected=f"an end of turn such as {facts.end_of_turn!r}",
                remedy="set model.chat_template to one that ends each reply with a special token",
            )
        )
    return through[: prompt + last.end], prompt + last.start


def _clipped(marks: Spans, prompt: int, reply_end: int, end: int) -> tuple[tuple[int, int], ...]:
    """`{% generation %}` spans inside the reply.

    One that reaches the reply's end takes in the end of turn, and no more.
    """
    spans: Spans = []
    for start, stop in marks:
        start, stop = max(start, prompt), end if stop >= reply_end else stop
        if spans:
            start = max(start, spans[-1][1])
        if start < stop:
            spans.append((start, stop))
    return tuple(spans)


def _sequence(
    writer: TemplateWriter,
    messages: Sequence[Message],
    replies: Sequence[_Reply],
    where: str,
    *,
    split: bool,
) -> Rendered:
    text = replies[-1].text
    spans = tuple(span for reply in replies for span in reply.spans)
    if not spans:
        raise DataError.of(
            Fault(
                where=where,
                found="no reply inside the template's {% generation %} blocks",
                expected="at least one marked reply",
                remedy="remove the row, or set model.chat_template to one that marks such replies",
            )
        )
    shown = messages[: replies[-1].index + 1]
    left_out = tuple(
        i for i, message in enumerate(shown) if not writer.shape.is_written(message, text)
    )
    if left_out:
        _refuse_needed(writer, messages, left_out, text, where)
    lost = [(i, reasoning) for i, reasoning in all_reasoning(shown) if reasoning not in text]
    trained = {reply.index for reply in replies}
    return Rendered(
        text=text,
        prompts=tuple(reply.prompt for reply in replies),
        spans=spans,
        last_turn=replies[-1].index,
        split=split,
        left_out=left_out,
        lost_reasoning=tuple(reasoning for i, reasoning in lost if i not in trained),
        own_lost_reasoning=tuple(reasoning for i, reasoning in lost if i in trained),
    )


def _refuse_needed(
    writer: TemplateWriter,
    messages: Sequence[Message],
    left_out: Sequence[int],
    text: str,
    where: str,
) -> None:
    faults = [
        Fault(
            where=f"{where} messages[{i}]",
            found=f"a {messages[i]['role']} message that the chat template does not write",
            expected="a message that reaches the model",
            remedy="change its role, remove the row, or set model.chat_template",
        )
        for i in left_out
        if messages[i]["role"] in _NEEDED_ROLES
        or not writer.shape.calls_are_written(messages[i], text)
    ]
    if faults:
        raise DataError(f"{where}: messages would be lost", faults)
