"""Counts requests, tokens and money, and says before a request whether it still fits the budget.

What a request can cost at most is reserved before it is sent and written to disk; what it did cost
replaces that when the reply is there. A request whose end nobody saw (the process was killed, the
connection was lost) therefore counts with its most.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tanren.endpoint.journal import Journal
from tanren.endpoint.settings import Budget, Prices
from tanren.errors import WorkError

_TOKENS_PER_MESSAGE = 16
_TOKENS_OF_TEMPLATE = 64
_SLACK = 1e-9
"""Sums of prices are rounded; a budget of 1.00 is not exceeded by 1.0000000001."""


class BudgetSpent(WorkError):
    """The next request could exceed the budget. What was answered is kept."""


@dataclass(frozen=True, slots=True)
class Cost:
    """`requests` sent, and the tokens that went and came. `hidden_tokens`: how much of a bound on
    `prompt_tokens` allows for what the endpoint adds.
    """

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    hidden_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.answer_tokens + other.answer_tokens,
        )

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


def most_tokens(messages: Iterable[Mapping[str, Any]]) -> int:
    """A bound on a prompt's tokens without its tokenizer: a token is at least one byte of UTF-8.

    Added is what chat templates put around messages. For English it is about four times the real
    number, for Japanese about three.
    """
    total = _TOKENS_OF_TEMPLATE
    for message in messages:
        text = json.dumps(dict(message), ensure_ascii=False)
        total += _TOKENS_PER_MESSAGE + len(text.encode("utf-8", "surrogatepass"))
    return total


class Ledger:
    """What was spent and what is reserved for requests under way.

    With a journal, earlier starts count too.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        prices: Prices | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.budget = budget or Budget()
        self.prices = prices
        self.spent = Cost()
        self.uncertain = 0
        """Requests whose real cost nobody knows; they count with their most."""
        self._journal = journal
        self._reserved: dict[int, Cost] = {}
        self._next = 0
        self._hidden_tokens = 0
        self._recall()

    def _recall(self) -> None:
        open_ones: dict[int, Cost] = {}
        for record in self._journal.records if self._journal else ():
            number = record["request"]
            self._next = max(self._next, number + 1)
            if "reserved" in record:
                open_ones[number] = Cost(**record["reserved"])
            elif number in open_ones:
                real = Cost(**record["spent"])
                self._see_hidden(open_ones.pop(number), real)
                self.spent += real
                self.uncertain += record["uncertain"]
        self.spent = sum(open_ones.values(), self.spent)
        self.uncertain += len(open_ones)

    # --- one request ------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._reserved)

    def most(self, messages: Iterable[Mapping[str, Any]], max_tokens: int) -> Cost:
        """The most that one request can cost. Prompts that an endpoint lengthens (a system message
        of its own) are allowed for as soon as one was seen.
        """
        hidden = self._hidden_tokens
        return Cost(1, most_tokens(messages) + hidden, max_tokens, hidden)

    def fits(self, most: Cost) -> bool:
        """Whether the budget holds even if every request under way costs its most."""
        return self._first_exceeded(sum(self._reserved.values(), self.spent + most)) is None

    def reserve(self, most: Cost) -> int:
        """Set the most aside, on disk too; the number is what `settle` takes."""
        number, self._next = self._next, self._next + 1
        self._reserved[number] = most
        if self._journal:
            self._journal.append({"request": number, "reserved": asdict(most)})
        return number

    def settle(self, number: int, cost: Cost | None) -> None:
        """The request is over. `cost`: what it did cost; None: nobody knows."""
        most = self._reserved.pop(number)
        real = most if cost is None else cost
        self.spent += real
        self.uncertain += cost is None
        self._see_hidden(most, real)
        if self._journal:
            self._journal.append(
                {"request": number, "spent": asdict(real), "uncertain": cost is None}
            )

    def _see_hidden(self, most: Cost, real: Cost) -> None:
        """A prompt that was longer than its bound raises the bounds to come."""
        excess = real.prompt_tokens - (most.prompt_tokens - most.hidden_tokens)
        self._hidden_tokens = max(self._hidden_tokens, excess)

    def spent_words(self, next_one: Cost) -> str:
        """Why the next request is not sent, for people."""
        name = self._first_exceeded(self.spent + next_one) or "requests"
        limit = self._limits()[name]
        unit = f" {self.prices.currency}" if name == "money" and self.prices else ""
        had, more = self._amounts(self.spent)[name], self._amounts(next_one)[name]
        return (
            f"budget.{name} is {limit:g}{unit}: {had:g} spent, and the next request may take "
            f"up to {more:g}"
        )

    # --- sums -------------------------------------------------------------------------------------

    @property
    def money(self) -> float | None:
        return self._amounts(self.spent)["money"] if self.prices else None

    def _limits(self) -> dict[str, float]:
        given = {
            "requests": self.budget.requests,
            "tokens": self.budget.tokens,
            "money": self.budget.money,
        }
        return {name: math.inf if limit is None else limit for name, limit in given.items()}

    def _amounts(self, cost: Cost) -> dict[str, float]:
        prices = self.prices
        money = prices.of(cost.prompt_tokens, cost.answer_tokens) if prices else 0.0
        return {"requests": cost.requests, "tokens": cost.tokens, "money": money}

    def _first_exceeded(self, cost: Cost) -> str | None:
        limits, amounts = self._limits(), self._amounts(cost)
        return next((name for name in limits if amounts[name] > limits[name] + _SLACK), None)

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        return {
            "requests": self.spent.requests,
            "prompt_tokens": self.spent.prompt_tokens,
            "answer_tokens": self.spent.answer_tokens,
            "uncertain_requests": self.uncertain,
            "money": self.money,
            "currency": self.prices.currency if self.prices else None,
        }
