"""Asking models: every question once, each answer on disk as soon as it is complete.

What was found lies in a journal, one line each, under a key of everything that it depends on: the
model, the decoding and the question. A killed evaluation asks only what the journal lacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tanren.chat import Example
from tanren.endpoint import (
    EndpointConfig,
    Failure,
    Journal,
    Ledger,
    Reply,
    ReplyCache,
    ask_all,
)
from tanren.errors import UserError
from tanren.evaluate.answered import Answered
from tanren.evaluate.questions import Question

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerFast

    from tanren.evaluate.likelihood import ReplyLoss
    from tanren.generate import Answer, Decoding
    from tanren.template import ChatRenderer

OnProgress = Callable[[int, int], None]
"""Called with (done, total) of what is asked now."""

_OPEN, _CLOSE = "<think>", "</think>"


class Answers:
    """A journal's records by key. Of two records with one key the later counts.

    What it lacks may lie in another evaluation's; then it is kept in this journal too, which so
    stands alone.
    """

    def __init__(
        self, journal: Journal, identity: str, others: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """`identity` tells the model and how it is asked from all others. `others`: records of
        other journals by key.
        """
        self._journal = journal
        self._identity = identity
        self._found = {record["key"]: record for record in journal.records if "key" in record}
        self._others = others or {}

    def key(self, kind: str, asked: str) -> str:
        whole = f"{self._identity}\0{kind}\0{asked}"
        return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()

    def get(self, key: str) -> dict[str, Any] | None:
        if key not in self._found and key in self._others:
            self.put(key, self._others[key])
        return self._found.get(key)

    def taken(self) -> int:
        """How many records came from other evaluations."""
        return sum("taken_from" in record for record in self._found.values())

    def put(self, key: str, values: Mapping[str, Any]) -> None:
        record = {**values, "key": key}
        self._journal.append(record)
        self._found[key] = record


@dataclass(frozen=True)
class LocalModel:
    """A model in memory, prompted as it was trained. `base_side`: its adapter is switched off."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerFast
    renderer: ChatRenderer
    context: int
    base_side: bool = False
    batch_tokens: int = 16_384

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        if not self.base_side:
            yield self.model
            return
        from tanren.adapter import adapter_switched_off

        with adapter_switched_off(self.model):
            yield self.model

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0


# --- answers --------------------------------------------------------------------------------------


def answer_locally(
    local: LocalModel,
    questions: Sequence[Question],
    decoding: Decoding,
    answers: Answers,
    *,
    on_progress: OnProgress | None = None,
) -> list[Answered]:
    """Every question's row, in order. Questions that do not fit the model's context get a row with
    an `error`.
    """
    from tanren.generate import answer_all

    errors = _unanswerable(local, questions)
    keys = {q.row: answers.key("answer", _sampled(q, decoding)) for q in questions}
    asked = {keys[q.row]: q for q in questions if q.row not in errors}  # equal ones once
    open_ones = [(key, q) for key, q in asked.items() if answers.get(key) is None]

    def keep(place: int, answer: Answer) -> None:
        answers.put(open_ones[place][0], _record(answer))

    with local.active() as model:
        answer_all(
            model,
            local.tokenizer,
            local.renderer,
            [q.messages for _, q in open_ones],
            decoding,
            tools=[q.tools for _, q in open_ones],
            batch_tokens=local.batch_tokens,
            streams=[q.row for _, q in open_ones],
            on_answer=keep,
            on_progress=on_progress,
        )
    opened = local.renderer.facts.thinking == "always"
    return [
        q.unanswered(errors[q.row])
        if q.row in errors
        else _answered(q, answers.get(keys[q.row]), opened)
        for q in questions
    ]


def _sampled(question: Question, decoding: Decoding) -> str:
    """What an answer depends on; by chance also the row, whose draws it has."""
    asked = question.prompt_key()
    return asked if decoding.temperature == 0 else f"{asked} {question.row}"


def _unanswerable(local: LocalModel, questions: Sequence[Question]) -> dict[int, str]:
    """By row: why the model cannot be asked."""
    errors: dict[int, str] = {}
    for question in questions:
        try:
            tokens = len(local.renderer.prompt_ids(question.messages, question.tools))
        except UserError as error:
            errors[question.row] = "; ".join(fault.found for fault in error.faults) or str(error)
            continue
        if not 0 < tokens < local.context:
            errors[question.row] = f"a prompt of {tokens} tokens in a context of {local.context}"
    return errors


def _record(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": len(answer.token_ids),
        "seconds": answer.seconds,
        "token_ids": list(answer.token_ids),
    }


def _answered(question: Question, record: Mapping[str, Any] | None, opened: bool) -> Answered:
    assert record is not None, "every question was answered or has an error"
    reasoning, answer = split_reasoning(record["answer"], opened=opened)
    return replace(
        question.unanswered(),
        answer=answer,
        reasoning=record.get("reasoning") or reasoning,
        finish_reason=record["finish_reason"],
        prompt_tokens=record["prompt_tokens"],
        answer_tokens=record["answer_tokens"],
        seconds=record["seconds"],
        error=None,
    )


def split_reasoning(text: str, *, opened: bool = False) -> tuple[str, str]:
    """(thoughts, answer). `opened`: the prompt has begun the thoughts already. Thoughts without an
    end leave no answer.
    """
    stripped = text.lstrip()
    if stripped.startswith(_OPEN):
        stripped = stripped.removeprefix(_OPEN)
    elif not opened:
        return "", text
    thoughts, _, answer = stripped.partition(_CLOSE)
    return thoughts.strip(), answer.lstrip()


def token_ids_of(
    questions: Sequence[Question], decoding: Decoding, answers: Answers
) -> dict[int, list[int]]:
    """By row: the tokens of answers that lie in the journal, as the model wrote them."""
    found: dict[int, list[int]] = {}
    for question in questions:
        record = answers.get(answers.key("answer", _sampled(question, decoding)))
        if record is not None:
            found[question.row] = record["token_ids"]
    return found


# --- endpoints ------------------------------------------------------------------------------------


def answer_at(
    endpoint: EndpointConfig,
    questions: Sequence[Question],
    answers: Answers,
    *,
    ledger: Ledger,
    cache: ReplyCache | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[list[Answered], str | None]:
    """Every question's row, in order, and why not everything was asked (None: it was).

    A row that failed has an `error` and is asked again next time.
    """
    keys = {q.row: answers.key("answer", q.prompt_key()) for q in questions}
    asked = {keys[q.row]: q for q in questions if q.asks_alone}
    open_ones = [(key, q) for key, q in asked.items() if answers.get(key) is None]
    errors: dict[str, str] = {}
    done = 0

    def keep(place: int, reply: Reply | Failure) -> None:
        nonlocal done
        key = open_ones[place][0]
        if isinstance(reply, Failure):
            errors[key] = reply.words
        else:
            answers.put(key, _reply_record(reply))
        done += 1
        if on_progress is not None:
            on_progress(done, len(open_ones))

    stopped = None
    if open_ones:
        conversations = [_plain_messages(q) for _, q in open_ones]
        stopped = ask_all(endpoint, conversations, keep, cache=cache, ledger=ledger).stopped
    rows = [_at_endpoint(q, answers.get(keys[q.row]), errors.get(keys[q.row])) for q in questions]
    return rows, stopped


def _at_endpoint(
    question: Question, record: Mapping[str, Any] | None, error: str | None
) -> Answered:
    if record is not None:
        return _answered(question, record, False)
    tools = "rows with tools are not sent to endpoints"
    return question.unanswered(error or ("not asked" if question.asks_alone else tools))


def _plain_messages(question: Question) -> list[dict[str, Any]]:
    """Roles and text: thoughts of earlier turns stay here."""
    return [{"role": m["role"], "content": m.get("content", "")} for m in question.messages]


def _reply_record(reply: Reply) -> dict[str, Any]:
    return {
        "answer": reply.text,
        "reasoning": reply.reasoning,
        "finish_reason": "length" if reply.finish_reason == "length" else "stop",
        "prompt_tokens": reply.prompt_tokens,
        "answer_tokens": reply.answer_tokens,
        "seconds": reply.seconds,
    }


# --- likelihoods ----------------------------------------------------------------------------------


def measure_references(
    local: LocalModel, questions: Sequence[Question], rows: Sequence[Answered], answers: Answers
) -> list[Answered]:
    """The rows with the loss of their references; none where one does not fit the context."""
    keys = {q.row: answers.key("loss", q.reference_key()) for q in questions}
    wanted = [q for q in questions if answers.get(keys[q.row]) is None]
    examples = [replace(q.example, line=q.row, warnings=()) for q in wanted]
    _measure(local, examples, {q.row: keys[q.row] for q in wanted}, answers)
    return [_with_loss(row, answers.get(keys[row.row])) for row in rows]


def measure_options(
    local: LocalModel, questions: Sequence[Question], rows: Sequence[Answered], answers: Answers
) -> list[Answered]:
    """The rows with the loss of each of their options; none where one could not be measured."""
    lines: dict[int, str] = {}
    examples: list[Example] = []
    keys: dict[int, list[str]] = {}
    for question in questions:
        prompt = question.prompt_key()
        keys[question.row] = [answers.key("option", f"{prompt} {o}") for o in question.options]
        for option, key in zip(question.options, keys[question.row], strict=True):
            if answers.get(key) is None:
                line = len(examples) + 1
                lines[line] = key
                examples.append(question.with_reply(option, line=line))
    _measure(local, examples, lines, answers)
    return [_with_options(row, [answers.get(key) for key in keys[row.row]]) for row in rows]


def _measure(
    local: LocalModel, examples: Sequence[Example], keys: Mapping[int, str], answers: Answers
) -> None:
    """Losses of the examples' last replies into the journal, by their lines' keys."""
    from tanren.evaluate.likelihood import reply_losses, reply_rows

    if not examples:
        return
    encoded, _ = reply_rows(examples, local.renderer, local.context)

    def keep(found: Mapping[int, ReplyLoss]) -> None:
        for line, one in found.items():
            answers.put(keys[line], {"loss": one.loss, "tokens": one.tokens})

    with local.active() as model:
        reply_losses(
            model, encoded, pad_id=local.pad_id, batch_tokens=local.batch_tokens, on_losses=keep
        )


def _with_loss(row: Answered, record: Mapping[str, Any] | None) -> Answered:
    if record is None:
        return row
    return replace(row, loss=record["loss"], reference_tokens=record["tokens"])


def _with_options(row: Answered, records: Sequence[Mapping[str, Any] | None]) -> Answered:
    """All of them or none: a choice among some would be no choice."""
    known = [record for record in records if record is not None]
    if not known or len(known) < len(records):
        return row
    return replace(
        row,
        option_losses=tuple(record["loss"] for record in known),
        option_tokens=tuple(record["tokens"] for record in known),
    )
