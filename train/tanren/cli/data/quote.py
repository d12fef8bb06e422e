"""`tanren data quote`: what a training will take, and what others would ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tanren.cli.options import Items, Json, MethodName, Model, Validation
from tanren.cli.output import Output, mistake, of
from tanren.cli.request import Flags, configuration, read_items, require_values
from tanren.errors import ConfigError, Fault

if TYPE_CHECKING:
    from tanren.config import RunConfig
    from tanren.gate import Gate
    from tanren.quote import Measured, PriceTable, Quote, Wishes


def quote(
    context: typer.Context,
    items: Items = None,
    model: Model = None,
    method: MethodName = None,
    valid: Validation = None,
    epochs: Annotated[
        float | None,
        typer.Option("--epochs", metavar="N", help="Passes. (training.num_epochs)"),
    ] = None,
    card: Annotated[
        list[str] | None,
        typer.Option(
            "--card", metavar="NAME", help="A card to quote for: 4090, H200 (repeatable)."
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Train a few steps here to measure the speed.")
    ] = False,
    measured: Annotated[
        str | None,
        typer.Option("--measured", metavar="RUN", help="Take the speed that this run had."),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option("--prices", metavar="FILE.yaml", help="Your prices instead of the package's."),
    ] = None,
    electricity: Annotated[
        str | None,
        typer.Option("--electricity", metavar="PRICE", help='Of a kWh, such as "0.31 EUR".'),
    ] = None,
    rent: Annotated[
        list[str] | None,
        typer.Option(
            "--rent",
            metavar="[CARD=]PRICE",
            help='Of an hour, such as "4090=0.44 USD" (repeatable).',
        ),
    ] = None,
    answers: Annotated[
        int | None,
        typer.Option("--answers", min=1, metavar="N", help="Price so many answers afterwards too."),
    ] = None,
    answer_tokens: Annotated[
        int | None,
        typer.Option("--answer-tokens", min=1, metavar="N", help="(default: the data's mean)"),
    ] = None,
    json: Json = False,
) -> None:
    """Say what a training takes: tokens, steps, memory, time, energy and money.

    Each figure is marked: counted from your data with the model's tokenizer,
    measured on real steps, or estimated from formulas. Beside them stands what
    the same tokens cost where training is sold by the token.

    \b
    tanren data quote chats.jsonl --model Qwen/Qwen3-8B
    tanren data quote chats.jsonl --model Qwen/Qwen3-8B --card 4090 --card H200
    tanren data quote config.yaml --measure --electricity "31 JPY"
    tanren data quote config.yaml --measured runs/last --answers 10000
    """
    output = of(context)
    flags = Flags(model=model, method=method, validation=valid)
    require_values({**flags.options(), "--measured": measured})
    _require_one_way(measure, measured, answers, answer_tokens)
    words = [*(items or ()), *([] if epochs is None else [f"training.num_epochs={epochs:g}"])]
    config = configuration(read_items(words), flags, command="data quote")
    from tanren.quote import Wishes

    wishes = Wishes(cards=card or (), answers=answers, answer_tokens=answer_tokens)
    table = _prices(prices, electricity, rent or [], wishes)
    made = _quoted(output, config, wishes, table, prices, measure=measure, measured=measured)
    from tanren.cli.data.quote_page import show_quote

    document = made.as_dict()
    output.give(document, lambda console: show_quote(console, document))


def _require_one_way(
    measure: bool, measured: str | None, answers: int | None, answer_tokens: int | None
) -> None:
    if measure and measured is not None:
        raise mistake("--measure", "--measured beside it", "one of them", "leave one out")
    if answer_tokens is not None and answers is None:
        raise mistake("--answer-tokens", "no --answers", "how many answers", "add --answers N")


def _prices(
    path: Path | None, electricity: str | None, rents: list[str], wishes: Wishes
) -> PriceTable:
    """All that can be wrong with prices and cards, said before any work is done."""
    from datetime import date

    from tanren.quote import load_prices, with_given
    from tanren.quote.quote import known_cards

    faults: list[Fault] = []
    table = None
    try:
        table = load_prices(path)
        table = with_given(table, electricity=electricity, rents=rents, today=date.today())
    except ConfigError as error:
        faults += error.faults
    try:
        known_cards(wishes.cards)
    except ConfigError as error:
        faults += error.faults
    if faults or table is None:
        raise ConfigError.of(*faults)
    return table


def _quoted(
    output: Output,
    config: RunConfig,
    wishes: Wishes,
    table: PriceTable,
    path: Path | None,
    *,
    measure: bool,
    measured: str | None,
) -> Quote:
    from tanren.cli.progress import watched

    with watched(output.errors) as observer:

        def tell(event: str, /, **fields: Any) -> None:
            observer({"event": event, **fields})

        from tanren.gate import examine
        from tanren.quote import measured_here
        from tanren.quote import quote as make_quote

        gate = examine(config, tell=tell)
        speed = _of_run(measured, gate) if measured is not None else None
        if measure:
            from tanren.cli.measure import measure as measure_steps

            speed = measured_here(gate, measure_steps(gate, observer))
    where = "the package's own table" if path is None else str(path)
    return make_quote(gate, config, wishes, table, prices_from=where, measured=speed)


def _of_run(name: str, gate: Gate) -> Measured:
    from tanren.quote import measured_by
    from tanren.rundir import RunDirectory

    return measured_by(RunDirectory.open(name), gate)
