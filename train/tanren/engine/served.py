"""What answers a request: weights, and how they are spoken to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from transformers import PreTrainedTokenizerFast

from tanren.engine.resident import ResidentBase
from tanren.engine.structure.tool_format import ToolFormat
from tanren.engine.structure.vocabulary import Vocabulary
from tanren.engine.token_bytes import TokenBytes
from tanren.template import ChatRenderer, backend_of


@dataclass(eq=False)
class Served:
    """A base, or what was tuned on it.

    `adapter` is its name on the base. `alone`: its answers share no batch with other adapters'.
    `users` counts requests that are being answered by it.
    """

    base: ResidentBase
    folder: str | None
    adapter: str | None
    tokenizer: PreTrainedTokenizerFast
    renderer: ChatRenderer
    stop_ids: frozenset[int]
    fingerprint: str
    alone: bool = False
    users: int = 0
    last_used: int = 0

    @cached_property
    def bytes_of(self) -> TokenBytes:
        return TokenBytes(self.tokenizer)

    @cached_property
    def form(self) -> ToolFormat | None:
        """How this model writes calls; None: in no form that is known."""
        return ToolFormat.of(self.renderer)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """For constraints; adapters with one tokenizer share it. Raises ConfigError where the
        package for them is missing.
        """
        stops = sorted(self.stop_ids)
        key = sha256(f"{stops} {backend_of(self.tokenizer).to_str()}".encode()).hexdigest()
        if key not in self.base.vocabularies:
            self.base.vocabularies[key] = Vocabulary.of(
                self.tokenizer, stops, size=self.base.vocabulary_size
            )
        return self.base.vocabularies[key]
