"""Answers that a tuned model will be asked for, as long as those of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tanren.quote.amounts import Amount


@dataclass(frozen=True, slots=True)
class Answers:
    """`count` requests of so many tokens each. A length that was not given is the data's mean."""

    count: int
    prompt_tokens: int
    answer_tokens: int
    given: bool
    """Whether the answers' length was."""

    @classmethod
    def like(
        cls, count: int, *, tokens: int, trained: int, sequences: int, answer_tokens: int | None
    ) -> Answers:
        """Of the data's own lengths, rounded up to whole tokens; `tokens` and `trained` are those
        of `sequences` rows.
        """
        given = answer_tokens is not None
        mean = -(-trained // sequences)
        prompts = -(-(tokens - trained) // sequences)
        return cls(count, prompts, answer_tokens if answer_tokens is not None else mean, given)

    def as_dict(self) -> dict[str, Any]:
        return {
            "count": Amount(self.count, "counted").as_dict(),
            "prompt_tokens": Amount(self.prompt_tokens, "estimated").as_dict(),
            "answer_tokens": Amount(
                self.answer_tokens, "counted" if self.given else "estimated"
            ).as_dict(),
        }
