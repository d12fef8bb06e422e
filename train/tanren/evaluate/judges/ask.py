"""Who judges: an endpoint, many questions at once, or a model on this machine, one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tanren.endpoint import (
    Conversation,
    EndpointConfig,
    Failure,
    Ledger,
    Reply,
    ReplyCache,
    ask_all,
)


@dataclass(frozen=True, slots=True)
class Said:
    """`cut`: the reply ended because its tokens were used up."""

    text: str
    cut: bool = False


OnSaid = Callable[[int, Said | Failure], None]


@dataclass(frozen=True, slots=True)
class Judge:
    """`ask` sends all conversations, calls back for each with its position, in order of arrival,
    and returns why it did not ask everything (None: it did). `identity` changes whenever the same
    question may get another reply; kept judgements hang on it.
    """

    name: str
    identity: str
    ask: Callable[[Sequence[Conversation], OnSaid], str | None]


def judge_at(
    config: EndpointConfig,
    *,
    name: str | None = None,
    cache: ReplyCache | None = None,
    ledger: Ledger | None = None,
) -> Judge:
    """A judge behind an endpoint. Several judges may share a ledger, if their prices are equal."""
    spending = ledger or Ledger(config.budget, config.prices)

    def ask(conversations: Sequence[Conversation], on_said: OnSaid) -> str | None:
        def on_reply(position: int, reply: Reply | Failure) -> None:
            if isinstance(reply, Reply):
                on_said(position, Said(reply.text, reply.cut))
            else:
                on_said(position, reply)

        return ask_all(config, conversations, on_reply, cache=cache, ledger=spending).stopped

    settings = json.dumps([config.url, config.body([])], sort_keys=True, ensure_ascii=False)
    identity = hashlib.sha256(settings.encode()).hexdigest()
    return Judge(name or config.model, identity, ask)


def judge_from(ask_one: Callable[[Conversation], str], *, name: str, identity: str) -> Judge:
    """A judge made of a function that answers one conversation, such as a model on this machine.

    `identity` names the model and how it decodes, so that its judgements are found again.
    """

    def ask(conversations: Sequence[Conversation], on_said: OnSaid) -> str | None:
        for position, conversation in enumerate(conversations):
            on_said(position, Said(ask_one(conversation)))
        return None

    return Judge(name, identity, ask)
