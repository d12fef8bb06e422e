"""What the same tokens cost where tokens are sold by the thousand. Exact arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from tanren.quote.amounts import Money, plain
from tanren.quote.answers import Answers
from tanren.quote.prices import HostedPrice

_DIGITS = 60


@dataclass(frozen=True, slots=True)
class HostedCost:
    """`answers` is None where none were asked for, or the price of one side is not known."""

    price: HostedPrice
    training: Money
    answers: Money | None

    def as_dict(self) -> dict[str, Any]:
        price = self.price
        per_1k = {
            "training_per_1k": price.training_per_1k,
            "input_per_1k": price.input_per_1k,
            "output_per_1k": price.output_per_1k,
        }
        return {
            "name": price.name,
            "as_of": price.as_of,
            "source": price.source,
            "currency": price.currency,
            **{name: None if value is None else plain(value) for name, value in per_1k.items()},
            "training": self.training.as_dict(),
            "answers": self.answers.as_dict() if self.answers else None,
        }


def training_cost(tokens: int, epochs: Fraction, per_1k: Decimal) -> Decimal:
    """tokens x epochs x price, exactly; to 60 digits where an epoch is cut in thirds."""
    with localcontext() as context:
        context.prec = _DIGITS
        passes = Decimal(tokens) * epochs.numerator
        return passes * per_1k / 1000 / epochs.denominator


def answers_cost(answers: Answers, price: HostedPrice) -> Decimal | None:
    """count x (prompt x input price + answer x output price)."""
    if price.input_per_1k is None or price.output_per_1k is None:
        return None
    with localcontext() as context:
        context.prec = _DIGITS
        prompts = answers.prompt_tokens * price.input_per_1k
        replies = answers.answer_tokens * price.output_per_1k
        return answers.count * (prompts + replies) / 1000


def hosted_cost(
    price: HostedPrice, tokens: int, epochs: Fraction, answers: Answers | None
) -> HostedCost:
    training = training_cost(tokens, epochs, price.training_per_1k)
    asked = answers_cost(answers, price) if answers else None
    return HostedCost(
        price=price,
        training=Money(training, price.currency, "counted"),
        answers=None if asked is None else Money(asked, price.currency, "estimated"),
    )
