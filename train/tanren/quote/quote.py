"""The whole quote of one training, from what the gate has counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tanren.config import RunConfig
from tanren.devices import Card, find_card, known_card
from tanren.errors import ConfigError, Fault
from tanren.estimate import Speed
from tanren.estimate.flops import ASSUMED_LIMIT_SHARE
from tanren.gate import Gate
from tanren.quote.amounts import Amount
from tanren.quote.answers import Answers
from tanren.quote.cards import COMMON_CARDS, CardQuote, Effort, effort_of, estimate_here, quote_card
from tanren.quote.hosted import HostedCost, hosted_cost
from tanren.quote.prices import PriceTable
from tanren.quote.speed import Measured


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of the training rows, with the model's own tokenizer and template; all counted."""

    rows: int
    sequences: int
    tokens: int
    trained_tokens: int
    epochs: Fraction
    """Passes that the steps make; a fraction where `training.max_steps` ends one early."""
    steps: int

    @property
    def all_epochs(self) -> Fraction:
        """Tokens that go through the model."""
        return self.tokens * self.epochs

    def as_dict(self) -> dict[str, Any]:
        total = self.all_epochs
        values: dict[str, int | float] = {
            "rows": self.rows,
            "sequences": self.sequences,
            "tokens_per_epoch": self.tokens,
            "trained_tokens_per_epoch": self.trained_tokens,
            "epochs": int(self.epochs) if self.epochs.denominator == 1 else float(self.epochs),
            "steps": self.steps,
            "tokens": int(total) if total.denominator == 1 else float(total),
        }
        return {name: Amount(value, "counted").as_dict() for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to quote. `cards`: by any spelling; none: the common ones. `answers`: requests that the
    tuned model will get; `answer_tokens` None: as long as the data's own.
    """

    cards: Sequence[str] = ()
    answers: int | None = None
    answer_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    model: str
    method: str
    data: str
    tokens: Tokens
    validation_tokens: int | None
    device: str
    here: Effort
    here_fits: bool | None
    here_measured: str | None
    """What was measured, in words; None where nothing was."""
    cards: tuple[CardQuote, ...]
    hosted: tuple[HostedCost, ...]
    answers: Answers | None
    prices_from: str
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        validation = self.validation_tokens
        return {
            "model": self.model,
            "method": self.method,
            "data": self.data,
            "counted": {
                **self.tokens.as_dict(),
                "validation_tokens": None
                if validation is None
                else Amount(validation, "counted").as_dict(),
            },
            "here": {
                "device": self.device,
                "fits": self.here_fits,
                "measured": self.here_measured,
                **self.here.as_dict(),
            },
            "cards": [card.as_dict() for card in self.cards],
            "assumed_limit_share": Amount(ASSUMED_LIMIT_SHARE, "estimated").as_dict(),
            "hosted": [cost.as_dict() for cost in self.hosted],
            "answers": self.answers.as_dict() if self.answers else None,
            "prices_from": self.prices_from,
            "warnings": list(self.warnings),
        }


def tokens_of(gate: Gate) -> Tokens:
    """The figures of the gate's ledger and plan."""
    plan, ledger = gate.plan, gate.train_ledger
    return Tokens(
        rows=ledger.trained_rows,
        sequences=ledger.sequences,
        tokens=plan.tokens_per_epoch,
        trained_tokens=plan.trained_tokens_per_epoch,
        epochs=Fraction(plan.steps, plan.steps_per_epoch),
        steps=plan.steps,
    )


def quote(
    gate: Gate,
    wanted: RunConfig,
    wishes: Wishes,
    prices: PriceTable,
    *,
    prices_from: str,
    measured: Measured | None = None,
) -> Quote:
    """`wanted` is the settings as they were given to the gate. Raises ConfigError for every card
    that is not known.
    """
    cards = known_cards(wishes.cards)
    tokens = tokens_of(gate)
    answers = None
    if wishes.answers is not None:
        answers = Answers.like(
            wishes.answers,
            tokens=tokens.tokens,
            trained=tokens.trained_tokens,
            sequences=tokens.sequences,
            answer_tokens=wishes.answer_tokens,
        )
    validation = gate.validation_ledger
    return Quote(
        model=gate.source.name,
        method=gate.config.method.name,
        data=gate.config.data.train,
        tokens=tokens,
        validation_tokens=validation.tokens if validation else None,
        device=gate.device.name,
        here=_here(gate, tokens.epochs, measured, prices),
        here_fits=gate.memory.fits if gate.memory else None,
        here_measured=measured.where if measured else None,
        cards=tuple(quote_card(card, wanted, gate, tokens.epochs, prices) for card in cards),
        hosted=tuple(
            hosted_cost(row, tokens.tokens, tokens.epochs, answers) for row in prices.hosted
        ),
        answers=answers,
        prices_from=prices_from,
        warnings=measured.warnings if measured else (),
    )


def known_cards(names: Sequence[str]) -> list[Card]:
    """Each card once, in the order named. ConfigError with a fault for each that is not known."""
    found: dict[str, Card] = {}
    faults: list[Fault] = []
    for name in names or COMMON_CARDS:
        try:
            card = find_card(name)
        except ConfigError as error:
            faults += [Fault("--card", f.found, f.expected, f.remedy) for f in error.faults]
        else:
            found[card.name] = card
    if faults:
        raise ConfigError.of(*faults)
    return list(found.values())


def _here(gate: Gate, epochs: Fraction, measured: Measured | None, prices: PriceTable) -> Effort:
    """This device, or the one that was measured."""
    if measured is not None:
        watts, mark = measured.watts, measured.watts_mark
        speed, card = Speed(measured.tokens_per_second, "measured"), known_card(measured.device)
        name = card.name if card else None
        return effort_of(speed, gate, epochs, watts, mark, prices=prices, card_name=name)
    guess = estimate_here(gate)
    if guess is None:
        return Effort(why="not measured: add --measure, or --measured RUN")
    watts, card = gate.device.watts, known_card(gate.device.name)
    name = card.name if card else None
    return effort_of(guess, gate, epochs, watts, "estimated", prices=prices, card_name=name)
