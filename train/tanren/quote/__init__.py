"""What a training will take, before it is begun: tokens, memory, time, energy, money.

Every figure says how it is known: counted, measured, or estimated.
"""

from tanren.quote.amounts import Amount, Mark, Money
from tanren.quote.answers import Answers
from tanren.quote.cards import COMMON_CARDS, CardQuote, quote_card
from tanren.quote.hosted import HostedCost, answers_cost, hosted_cost, training_cost
from tanren.quote.prices import HostedPrice, PriceTable, load_prices, money_of, with_given
from tanren.quote.quote import Quote, Tokens, Wishes, quote, tokens_of
from tanren.quote.speed import Measured, measured_by, measured_here

__all__ = [
    "COMMON_CARDS",
    "Amount",
    "Answers",
    "CardQuote",
    "HostedCost",
    "HostedPrice",
    "Mark",
    "Measured",
    "Money",
    "PriceTable",
    "Quote",
    "Tokens",
    "Wishes",
    "answers_cost",
    "hosted_cost",
    "load_prices",
    "measured_by",
    "measured_here",
    "money_of",
    "quote",
    "quote_card",
    "tokens_of",
    "training_cost",
    "with_given",
]
