"""A model on this machine as a judge: greedy, many questions at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tanren.endpoint import Conversation, Failure
from tanren.errors import UserError
from tanren.evaluate.judges.ask import Judge, OnSaid, Said

if TYPE_CHECKING:
    from tanren.evaluate.answering import LocalModel
    from tanren.generate import Answer


def judge_from_session(
    load: Callable[[], LocalModel], *, name: str, identity: str, max_tokens: int
) -> Judge:
    """`load` is called when the first question is open: a judge whose judgements are all known
    takes no memory. `identity` tells the model; how it decodes is added.

    Questions that the model cannot be asked (too long for its context, refused by its template)
    have failed; a reasoning model's thoughts are no part of its reply.
    """
    loaded: list[LocalModel] = []

    def ask(conversations: Sequence[Conversation], on_said: OnSaid) -> str | None:
        if not loaded:
            loaded.append(load())
        _ask(loaded[0], conversations, on_said, max_tokens)
        return None

    return Judge(name, f"{identity} greedy, up to {max_tokens} tokens", ask)


def _ask(
    local: LocalModel, conversations: Sequence[Conversation], on_said: OnSaid, max_tokens: int
) -> None:
    from tanren.evaluate.answering import split_reasoning
    from tanren.generate import Decoding, answer_all

    opened = local.renderer.facts.thinking == "always"
    asked: list[int] = []
    for position, conversation in enumerate(conversations):
        why = _unanswerable(local, conversation)
        if why is None:
            asked.append(position)
        else:
            on_said(position, Failure("refused", why))

    def keep(place: int, answer: Answer) -> None:
        _, text = split_reasoning(answer.text, opened=opened)
        on_said(asked[place], Said(text, answer.finish_reason == "length"))

    with local.active() as model:
        answer_all(
            model,
            local.tokenizer,
            local.renderer,
            [[dict(message) for message in conversations[position]] for position in asked],
            Decoding(max_new_tokens=max_tokens),
            batch_tokens=local.batch_tokens,
            on_answer=keep,
        )


def _unanswerable(local: LocalModel, conversation: Conversation) -> str | None:
    """Why the model cannot be asked; None: it can."""
    try:
        tokens = len(local.renderer.prompt_ids([dict(message) for message in conversation]))
    except UserError as error:
        return "; ".join(fault.found for fault in error.faults) or str(error)
    if tokens < local.context:
        return None
    return f"a question of {tokens:,} tokens in a context of {local.context:,}"
