"""The table of prices: what hosted services ask, and what power and rented cards cost.

It is small, dated and in YAML. The package's own has hosted prices only: what a kilowatt-hour or an
hour of a card costs is the user's to say, so there is no such price until one is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from tanren.config import read_yaml
from tanren.devices import find_card
from tanren.endpoint.checked import Strict, checked
from tanren.errors import ConfigError, Fault
from tanren.strict_json import quoted

OWN_TABLE = "prices.yaml"
_LARGEST = Decimal(10) ** 9
_MONEY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Z]{3})\s*")


def _exact(value: object) -> object:
    """A number of the YAML as it was written: 0.008 is eight thousandths, not the nearest float."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return Decimal(str(value).strip())
    except InvalidOperation:
        return value


Price = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=_LARGEST)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Words = Annotated[str, Field(min_length=1, max_length=500)]


class _Dated(Strict):
    currency: Currency = Field(description="Three letters: USD, EUR, JPY.")
    as_of: str = Field(description="The day on which the price was so, as 2026-01-31.")
    source: Words = Field(description="Who says so, in words.")

    @field_validator("as_of")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        try:
            day = date.fromisoformat(value)
        except ValueError:
            raise ValueError("a day such as 2026-01-31") from None
        if day.isoformat() != value:
            raise ValueError("a day such as 2026-01-31")
        return value


class HostedPrice(_Dated):
    """What a service asks for tuning its model, and for asking the tuned model."""

    name: Words
    training_per_1k: Price = Field(description="For 1,000 training tokens, each epoch anew.")
    input_per_1k: Price | None = Field(None, description="For 1,000 tokens of prompts.")
    output_per_1k: Price | None = Field(None, description="For 1,000 tokens of answers.")


class PowerPrice(_Dated):
    per_kwh: Price = Field(description="For a kilowatt-hour.")


class RentPrice(_Dated):
    card: Words = Field(description="A card of the table, or `any` for those without their own.")
    per_hour: Price = Field(description="For an hour of one card.")


class PriceTable(Strict):
    hosted: list[HostedPrice] = Field(default_factory=list)
    electricity: PowerPrice | None = None
    rent: list[RentPrice] = Field(default_factory=list)

    def rent_of(self, card: str) -> RentPrice | None:
        """By the card's name in the table of cards."""
        rows = {row.card: row for row in self.rent}
        return rows.get(card) or rows.get(ANY)


ANY = "any"


def load_prices(path: Path | None = None) -> PriceTable:
    """The package's own table, or the user's instead of it. ConfigError with every fault."""
    if path is not None:
        return _checked(read_yaml(path), str(path))
    with resources.as_file(resources.files("tanren.quote") / OWN_TABLE) as own:
        return _checked(read_yaml(own), OWN_TABLE)


def _checked(values: Mapping[str, Any], source: str) -> PriceTable:
    if not values:
        expected = "hosted, electricity or rent"
        raise ConfigError.of(Fault(source, "an empty table", expected, "write at least one price"))
    table = checked(PriceTable, values, source=source)
    rent, faults = _named_cards(table, source)
    faults += _repeated([f"{row.name} of {row.as_of}" for row in table.hosted], f"{source} hosted")
    if not faults:  # else places would be those of the cards that are known
        faults += _repeated([row.card for row in rent], f"{source} rent")
    if faults:
        raise ConfigError.of(*faults)
    return table.model_copy(update={"rent": rent})


def _named_cards(table: PriceTable, source: str) -> tuple[list[RentPrice], list[Fault]]:
    """Rents under the names that the table of cards has."""
    rows, faults = [], []
    for index, row in enumerate(table.rent):
        try:
            name = row.card if row.card == ANY else find_card(row.card).name
        except ConfigError as error:
            where = f"{source} rent[{index}].card"
            faults += [Fault(where, f.found, f.expected, f.remedy) for f in error.faults]
            continue
        rows.append(row.model_copy(update={"card": name}))
    return rows, faults


def _repeated(names: Sequence[str], place: str) -> list[Fault]:
    """Two prices of one thing contradict each other."""
    return [
        Fault(f"{place}[{index}]", f"{quoted(name)} again", "one price", "remove one of them")
        for index, name in enumerate(names)
        if name in names[:index]
    ]


def money_of(words: str, option: str) -> tuple[Decimal, str]:
    """`31 JPY` -> (31, "JPY"). ConfigError names the option."""
    found = _MONEY.fullmatch(words)
    if found is None:
        fault = Fault(option, quoted(words), "an amount and a currency", 'write it as "0.31 EUR"')
        raise ConfigError.of(fault)
    return Decimal(found[1]), found[2]


def with_given(
    table: PriceTable, *, electricity: str | None, rents: list[str], today: date
) -> PriceTable:
    """The table with what the command line says laid over it. ConfigError with every fault."""
    faults = list(_faults_of_options(electricity, rents))
    if faults:
        raise ConfigError.of(*faults)
    given = {"as_of": today.isoformat(), "source": "the command line"}
    power = table.electricity
    if electricity is not None:
        price, currency = money_of(electricity, "--electricity")
        power = PowerPrice(per_kwh=price, currency=currency, **given)
    rows = {row.card: row for row in table.rent}
    for words in rents:
        card, price, currency = _rent_of(words)
        rows[card] = RentPrice(card=card, per_hour=price, currency=currency, **given)
    return table.model_copy(update={"electricity": power, "rent": list(rows.values())})


def _rent_of(words: str) -> tuple[str, Decimal, str]:
    """`4090=0.69 USD` or `0.69 USD`, which is for any card."""
    card, equals, amount = words.rpartition("=")
    price, currency = money_of(amount, "--rent")
    return (find_card(card).name if equals else ANY), price, currency


def _faults_of_options(electricity: str | None, rents: list[str]) -> Iterator[Fault]:
    if electricity is not None:
        try:
            money_of(electricity, "--electricity")
        except ConfigError as error:
            yield from error.faults
    for words in rents:
        try:
            _rent_of(words)
        except ConfigError as error:
            yield from (Fault("--rent", f.found, f.expected, f.remedy) for f in error.faults)
