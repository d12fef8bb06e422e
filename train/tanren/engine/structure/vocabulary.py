"""A tokenizer as the grammar library sees it: what bytes every token writes, which tokens stop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tanren.errors import ConfigError, Fault
from tanren.template.tokens import AddedTokens, backend_of

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerFast

GRAMMARS_KEPT = 64
COMPLAINTS_KEPT = 512


class Vocabulary:
    """One tokenizer's tokens and stop tokens, and the grammars compiled for them.

    `size` is the width of a mask in tokens: that of the model's logits, which may be wider than the
    tokenizer. Building one costs 10 ms for a thousand tokens and about a second for 150,000: keep
    one for each tokenizer.
    """

    def __init__(
        self, tokens: LLTokenizer, added: AddedTokens, stop_ids: tuple[int, ...], size: int
    ) -> None:
        self._tokens = tokens
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._complaints: OrderedDict[str, str] = OrderedDict()
        self.added = added
        self.stop_ids = stop_ids
        self.size = size

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerFast, stop_ids: Sequence[int], *, size: int | None = None
    ) -> Vocabulary:
        """Raises ConfigError where llguidance is not installed."""
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise ConfigError.of(
                Fault(
                    where="answers of a given form (response_format, tool_choice)",
                    found="no package llguidance",
                    expected="what is installed with the service",
                    remedy='pip install "tanren[serve]"',
                )
            ) from error
        text = backend_of(tokenizer).to_str()
        width = max(len(tokenizer), size or 0)
        stops = list(dict.fromkeys(stop_ids))
        tokens = LLTokenizer(text, n_vocab=width, eos_token=stops)
        return cls(tokens, AddedTokens(tokenizer), tuple(stops), width)

    def knows(self, grammar: str) -> bool:
        """Was it compiled before, and is it still here?"""
        return grammar in self._compiled

    def compile(self, grammar: str) -> LLMatcher:
        """A matcher at the grammar's beginning; `error_of` tells whether it can be used."""
        found = self._compiled.get(grammar)
        if found is None:
            found = self._compiled[grammar] = self._build(grammar)
            if len(self._compiled) > GRAMMARS_KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return found.deep_copy()

    def error_of(self, grammar: str) -> str:
        """Why `grammar` cannot be used, in the words of the library; "" where it can."""
        if grammar not in self._complaints:
            self._complaints[grammar] = str(self._build(grammar).get_error())
            if len(self._complaints) > COMPLAINTS_KEPT:
                self._complaints.popitem(last=False)
        return self._complaints[grammar]

    def _build(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        return LLMatcher(
            self._tokens, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False)
        )
