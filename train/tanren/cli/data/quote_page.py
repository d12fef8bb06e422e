"""A quote as a page; every figure says how it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from tanren.cli.display import (
    count,
    duration,
    facts,
    heading,
    number,
    one_line,
    row,
    show_warnings,
    size,
    table,
    text,
)

if TYPE_CHECKING:
    from tanren.gate import Gate

Summary = Mapping[str, Any]


def show_quote(console: Console, quote: Summary) -> None:
    """`quote` is `Quote.as_dict()`."""
    _counted(console, quote)
    _here(console, quote["here"])
    _cards(console, quote)
    _hosted(console, quote)
    if quote["warnings"]:
        console.print()
        show_warnings(console, quote["warnings"])


def _counted(console: Console, quote: Summary) -> None:
    found = quote["counted"]
    pairs: list[tuple[str, object]] = [
        ("data", quote["data"]),
        ("model", f"{quote['model']}, {quote['method']}"),
        ("rows", marked(found["rows"])),
        ("tokens per epoch", marked(found["tokens_per_epoch"])),
        ("  of them trained", marked(found["trained_tokens_per_epoch"])),
        ("epochs", marked(found["epochs"])),
        ("steps", marked(found["steps"])),
        ("tokens to train", marked(found["tokens"])),
    ]
    if found["validation_tokens"]:
        pairs.append(("validation tokens", marked(found["validation_tokens"])))
    console.print(facts(pairs, title="What is trained"))
    console.print(text("tokens are those of this model's tokenizer and chat template", "dim"))


def _here(console: Console, here: Summary) -> None:
    device = one_line(here["device"])
    if here["measured"]:
        heading(console, f"Measured: {one_line(here['measured'])}")
    else:
        heading(console, f"On this device: {device}")
    if here["why"]:
        console.print(text(f"time: {here['why']}"))
        return
    fits = {True: "yes", False: "no", None: "not estimated"}[here["fits"]]
    pairs = [
        (f"fits {device}", f"{fits} (estimated)"),
        ("speed", with_mark(here["tokens_per_second"], ",.0f", " tokens/s")),
        ("training takes", f"{duration(at(here['seconds']))}{mark_of(here['seconds'])}"),
        ("energy", _energy(here["watt_hours"])),
    ]
    if here["watt_hours"]:
        pairs.append(("electricity", _money(here["electricity"], "no price: add --electricity")))
    if here["rent"]:
        pairs.append(("rent", _money(here["rent"], "")))
    console.print(facts(pairs))


def _energy(energy: Summary | None) -> str:
    if energy is None:
        return "not known for this device"
    return f"{_watt_hours(energy['value'])}{mark_of(energy)}"


def _cards(console: Console, quote: Summary) -> None:
    rents = any(card["rent"] for card in quote["cards"])
    power = any(card["electricity"] for card in quote["cards"])
    headers = ["card", "needs", "of", "fits", "tokens/s", "time", "energy"]
    headers += ["electricity"] * power + ["rent"] * rents
    made = table(
        *headers, title="On other cards (all estimated)", right=[1, 2, *range(4, len(headers))]
    )
    for card in quote["cards"]:
        cells: list[object] = [card["card"], *_memory(card)]
        cells += [number(at(card["tokens_per_second"]), ",.0f"), _time(at(card["seconds"]))]
        cells.append(_watt_hours(at(card["watt_hours"])))
        cells += [_amount(card["electricity"])] * power + [_amount(card["rent"])] * rents
        row(made, *cells)
    console.print()
    console.print(made)
    _advice(console, quote["cards"])
    share = at(quote["assumed_limit_share"])
    console.print(
        text(
            f"times assume {share:.0%} of the rate that the arithmetic allows, of steps alone; "
            "small models stay far below it on large cards",
            "dim",
        ),
        soft_wrap=True,
    )


def _watt_hours(value: float | None) -> str:
    if value is None:
        return "-"
    return "under 0.1 Wh" if value < 0.1 else f"{value:,.1f} Wh"


def _time(seconds: float | None) -> str:
    return "under 1 s" if seconds is not None and seconds < 1 else duration(seconds)


def _memory(card: Summary) -> tuple[str, str, Text]:
    if card["fits"] is None:
        return "-", size(at(card["usable_bytes"])), text("not estimated", "yellow")
    verdict = text("yes", "green") if card["fits"] else text("no", "bold red")
    return size(at(card["needed_bytes"])), size(at(card["usable_bytes"])), verdict


def _advice(console: Console, cards: Sequence[Summary]) -> None:
    """What would make it fit, and why a time is not given; equal words once."""
    said: dict[str, list[str]] = {}
    for card in cards:
        # the first sentence of advice says how much is missing, which the table shows
        words = card["advice"][1:] if card["fits"] is False else [card["why"]]
        for sentence in words:
            if sentence:
                said.setdefault(sentence, []).append(card["card"])
    for sentence, names in said.items():
        console.print(text(f"{', '.join(names)}: {sentence}"), soft_wrap=True)


def _hosted(console: Console, quote: Summary) -> None:
    if not quote["hosted"]:
        return
    answers = quote["answers"]
    headers = ["sold by the token", "as of", "per 1,000", "training (counted)"]
    headers += ["answers (estimated)"] if answers else []
    made = table(*headers, title="The same tokens, bought", right=range(2, len(headers)))
    for cost in quote["hosted"]:
        cells = [cost["name"], cost["as_of"], f"{cost['currency']} {cost['training_per_1k']}"]
        cells.append(_amount(cost["training"]))
        cells += [_amount(cost["answers"])] if answers else []
        row(made, *cells)
    console.print()
    console.print(made)
    for (source, day), names in _sources(quote["hosted"]).items():
        line = f"{', '.join(names)} ({day}): {one_line(source)}"
        console.print(text(line, "dim"), soft_wrap=True)
    if answers:
        asked, replied = marked(answers["prompt_tokens"]), marked(answers["answer_tokens"])
        many = count(at(answers["count"]))
        console.print(text(f"{many} answers, each of {asked} tokens in and {replied} out"))
    console.print(
        text(
            f"prices: {one_line(quote['prices_from'])}. Tokens are counted with this model's "
            "tokenizer; a seller's own count differs.",
            "dim",
        ),
        soft_wrap=True,
    )


def _sources(hosted: Sequence[Summary]) -> dict[tuple[str, str], list[str]]:
    """Who said which prices on which day, each once."""
    found: dict[tuple[str, str], list[str]] = {}
    for cost in hosted:
        found.setdefault((cost["source"], cost["as_of"]), []).append(one_line(cost["name"]))
    return found


# --- in `tanren check` -----------------------------------------------------------------------


def cost_of(gate: Gate, measured: Summary | None) -> dict[str, Any]:
    """What a check says of costs: tokens of all epochs, time if it was measured, the first price
    of the package's table. `measured` is what `--measure` gave.
    """
    from tanren.quote import Amount, hosted_cost, load_prices, tokens_of

    tokens = tokens_of(gate)
    price = load_prices().hosted[0]
    seconds = Amount(measured["seconds"], "measured").as_dict() if measured else None
    hosted = hosted_cost(price, tokens.tokens, tokens.epochs, None)
    return {**tokens.as_dict(), "seconds": seconds, "hosted": hosted.as_dict()}


def show_cost(console: Console, cost: Summary) -> None:
    """Two lines; `tanren data quote` has the rest."""
    seconds, hosted = cost["seconds"], cost["hosted"]
    time = f"{duration(at(seconds))}{mark_of(seconds)}" if seconds else "not measured (--measure)"
    console.print()
    console.print(
        text(
            f"to train: {count(at(cost['tokens_per_epoch']))} tokens x {at(cost['epochs']):g} = "
            f"{marked(cost['tokens'])}; time here: {time}"
        ),
        soft_wrap=True,
    )
    console.print(
        text(
            f"bought at {hosted['currency']} {hosted['training_per_1k']} per 1,000 "
            f"({hosted['name']}, {hosted['as_of']}): {_amount(hosted['training'])}; "
            "other cards and prices: tanren data quote"
        ),
        soft_wrap=True,
    )


# --- figures ---------------------------------------------------------------------------------


def at(amount: Summary | None) -> Any:
    return None if amount is None else amount["value"]


def mark_of(amount: Summary | None) -> str:
    return "" if amount is None else f" ({amount['mark']})"


def marked(amount: Summary) -> str:
    return f"{count(amount['value'])}{mark_of(amount)}"


def with_mark(amount: Summary, spec: str, unit: str) -> str:
    return f"{number(amount['value'], spec)}{unit}{mark_of(amount)}"


def _money(money: Summary | None, absent: str) -> str:
    return absent if money is None else f"{_amount(money)}{mark_of(money)}"


def _amount(money: Summary | None) -> str:
    return "-" if money is None else f"{money['currency']} {short(Decimal(money['value']))}"


def short(value: Decimal) -> str:
    """Two digits behind the point; of less than one the first two that are not zero."""
    if value >= 1 or value == 0:
        return f"{value:,.2f}"
    return format(value, f".{1 - value.adjusted()}f")
