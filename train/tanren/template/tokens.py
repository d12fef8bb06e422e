"""Which strings a tokenizer cuts out of a text as one token, before anything else looks at it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tanren.errors import Fault, ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


class Found(NamedTuple):
    """An added token inside a text: characters [start, end) and its id."""

    start: int
    end: int
    id: int


class AddedTokens:
    """The added tokens of a tokenizer: `<|im_end|>`, `</s>`, `<think>`, …

    `ids` are all of them. `special_text` finds only those that are marked special: control tokens
    that have no business inside somebody's message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        decoder = tokenizer.added_tokens_decoder
        self._id_of = {token.content: number for number, token in decoder.items() if token.content}
        self.ids = frozenset(self._id_of.values())
        # White-space tokens (Gemma has them) are ordinary text and end no turn.
        self._pattern = _any_of([text for text in self._id_of if not text.isspace()])
        special = [token.content for token in decoder.values() if token.special and token.content]
        self.special_text = _any_of([text for text in special if not text.isspace()])

    def first(self, text: str) -> Found | None:
        match = self._pattern.search(text)
        return self._found(match) if match else None

    def last(self, text: str) -> Found | None:
        matches = list(self._pattern.finditer(text))
        return self._found(matches[-1]) if matches else None

    def _found(self, match: re.Match[str]) -> Found:
        return Found(match.start(), match.end(), self._id_of[match.group()])


def _any_of(texts: list[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def backend_of(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The Rust tokenizer inside, set to encode whole texts as they are.

    No truncation, no padding, control tokens recognised. A saved `tokenizer.json` and every padded
    call leave such state behind, so this is asked for before each use. Raises ModelError for
    tokenizers that run in Python: they know no character positions, so no mask could be proven.
    """
    if not tokenizer.is_fast:
        raise ModelError.of(
            Fault(
                where=f"tokenizer {tokenizer.name_or_path or type(tokenizer).__name__}",
                found=f"{type(tokenizer).__name__}, which runs in Python and knows no positions",
                expected="a tokenizer with a tokenizer.json",
                remedy="save the model's fast tokenizer (transformers' AutoTokenizer) beside it",
            )
        )
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    if backend.encode_special_tokens:
        backend.encode_special_tokens = False
    return backend
