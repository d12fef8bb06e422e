"""A chat model that was trained to answer "safe" or "unsafe", asked greedily for a few tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from tanren.config import ModelConfig
from tanren.data.screen.moderator import Passage, Unjudged, Verdict
from tanren.errors import UserError
from tanren.generate import Answer, Decoding, answer_all
from tanren.methods import Lora
from tanren.model import Source, context_length, load_base, load_tokenizer, set_tokens
from tanren.template import ChatRenderer

ANSWER_TOKENS = 24
_SAID = re.compile(r"\b(unsafe|controversial|safe)\b", re.IGNORECASE)
_CATEGORY = re.compile(r"\bS[0-9]{1,2}\b|(?<=Categories: )[^\n]+", re.IGNORECASE)


@dataclass(frozen=True)
class ChatGuard:
    """An assistant's message is shown behind the question that it answers, any other as a user's.

    What the guard does not say in words that are known is no verdict.
    """

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerFast
    renderer: ChatRenderer
    context: int

    def judge(self, passages: Sequence[Passage]) -> Sequence[Verdict | Unjudged]:
        said: list[Verdict | Unjudged] = [Unjudged("it was not asked")] * len(passages)
        asked, places = [], []
        for place, passage in enumerate(passages):
            conversation = _conversation(passage)
            why = self._unanswerable(conversation)
            if why is None:
                asked.append(conversation)
                places.append(place)
            else:
                said[place] = Unjudged(why)

        def keep(number: int, answer: Answer) -> None:
            said[places[number]] = read_answer(answer.text)

        decoding = Decoding(max_new_tokens=ANSWER_TOKENS)
        answer_all(self.model, self.tokenizer, self.renderer, asked, decoding, on_answer=keep)
        return said

    def _unanswerable(self, conversation: Sequence[dict[str, Any]]) -> str | None:
        try:
            tokens = len(self.renderer.prompt_ids(conversation))
        except UserError as error:
            return "; ".join(fault.found for fault in error.faults) or str(error)
        if tokens + ANSWER_TOKENS <= self.context:
            return None
        return f"a message of {tokens:,} tokens in a context of {self.context:,}"


def _conversation(passage: Passage) -> list[dict[str, Any]]:
    if passage.role == "assistant" and passage.asked.strip():
        return [
            {"role": "user", "content": passage.asked},
            {"role": "assistant", "content": passage.text},
        ]
    return [{"role": "user", "content": passage.text}]


def read_answer(text: str) -> Verdict | Unjudged:
    """The first of the words safe, unsafe and controversial, and the categories after it."""
    found = _SAID.search(text)
    if found is None:
        return Unjudged(f"an answer that is neither safe nor unsafe ({text.strip()[:40]!r})")
    if found[1].lower() == "safe":
        return Verdict({})
    named = _CATEGORY.findall(text[found.end() :])
    return Verdict({}, tuple(name.strip()[:40] for name in named) or (found[1].lower(),))


def load_chat_guard(source: Source) -> ChatGuard:
    config = ModelConfig(name=source.name)
    tokenizer = load_tokenizer(source, config)
    renderer = ChatRenderer(tokenizer)
    model = load_base(source, Lora(), config)
    set_tokens(model, tokenizer, renderer.facts.stop_ids)
    context = context_length(source.config)
    return ChatGuard(source.name, model, tokenizer, renderer, context)
