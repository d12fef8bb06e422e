"""Laws of a quote: figures follow from what was counted, and say how they are known."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from estimate_models import QWEN3_8B
from hypothesis import given
from hypothesis import strategies as st
from quote.quoting import gate_of, settings, unmarked

from tanren.devices import find_card
from tanren.errors import ConfigError, RunError
from tanren.estimate import shape_of
from tanren.gate import Gate
from tanren.quote import (
    Answers,
    HostedPrice,
    Measured,
    PriceTable,
    Quote,
    Wishes,
    answers_cost,
    load_prices,
    measured_by,
    quote,
    quote_card,
    tokens_of,
    training_cost,
)
from tanren.rundir import RunDirectory, write_json

PRICE = HostedPrice(
    name="p", as_of="2026-01-31", source="s", currency="USD",
    training_per_1k=Decimal("0.008"), input_per_1k=Decimal("0.003"), output_per_1k=Decimal("0.006"),
)  # fmt: skip
PRICES = PriceTable.model_validate(
    {
        "hosted": [PRICE.model_dump()],
        "electricity": {
            "per_kwh": "31", "currency": "JPY", "as_of": "2026-01-31", "source": "s",
        },
        "rent": [
            {"card": "RTX 4090", "per_hour": "0.44", "currency": "USD", "as_of": "2026-01-31",
             "source": "s"},
        ],
    }
)  # fmt: skip
MEASURED = Measured(500.0, "6 steps on a desk", "a desk", 100.0, "estimated")


def quoted(
    *overrides: str, measured: Measured | None = None, prices: PriceTable = PRICES, **wishes: Any
) -> Quote:
    gate = gate_of(*overrides)
    wanted = settings(*overrides)
    wish = Wishes(**wishes)
    return quote(gate, wanted, wish, prices, prices_from="here", measured=measured)


def as_8b(*overrides: str) -> Gate:
    """The same rows on a model of 8 billion parameters."""
    return replace(gate_of(*overrides), shape=shape_of(QWEN3_8B, source="8B"))


# --- bought by the token --------------------------------------------------------------------------


def test_the_sellers_own_example_comes_out() -> None:
    """100,000 tokens, three epochs, $0.008 per 1,000: the announcement says $2.40."""
    assert training_cost(100_000, Fraction(3), Decimal("0.008")) == Decimal("2.4")


@given(
    tokens=st.integers(1, 10**12),
    epochs=st.integers(1, 10**4),
    price=st.decimals(0, 10**4, places=8),
)
def test_cost_is_tokens_times_epochs_times_price_exactly(
    tokens: int, epochs: int, price: Decimal
) -> None:
    cost = training_cost(tokens, Fraction(epochs), price)
    assert Fraction(cost) == Fraction(price) * tokens * epochs / 1000
    assert training_cost(tokens, Fraction(2 * epochs), price) == 2 * cost


def test_answers_cost_what_goes_in_and_what_comes_out() -> None:
    answers = Answers.like(1000, tokens=1788, trained=446, sequences=24, answer_tokens=None)
    assert (answers.prompt_tokens, answers.answer_tokens) == (56, 19)  # 55.9 and 18.6
    assert (
        answers_cost(answers, PRICE)
        == Decimal(1000) * (56 * Decimal("0.003") + 19 * Decimal("0.006")) / 1000
    )
    given_length = Answers.like(10, tokens=100, trained=50, sequences=5, answer_tokens=300)
    assert given_length.answer_tokens == 300 and given_length.prompt_tokens == 10
    unknown = PRICE.model_copy(update={"output_per_1k": None})
    assert answers_cost(answers, unknown) is None


# --- what is counted ------------------------------------------------------------------------------


def test_tokens_are_those_of_the_gates_ledger() -> None:
    gate = gate_of()
    tokens = tokens_of(gate)
    assert tokens.tokens == gate.train_ledger.tokens == int(gate.train.lengths.sum())
    assert tokens.trained_tokens == gate.train_ledger.trained_tokens
    assert tokens.epochs == 3 and tokens.steps == gate.plan.steps
    assert tokens.all_epochs == 3 * gate.train_ledger.tokens
    assert quoted().hosted[0].training.value == Decimal("0.008") * 3 * tokens.tokens / 1000


def test_doubling_the_epochs_doubles_everything_that_is_spent() -> None:
    once, twice = quoted(measured=MEASURED), quoted("training.num_epochs=6", measured=MEASURED)
    for a, b in ((once.here, twice.here), (once.cards[3].effort, twice.cards[3].effort)):
        for name in ("seconds", "watt_hours", "electricity"):
            before, after = getattr(a, name), getattr(b, name)
            assert float(after.value) == pytest.approx(2 * float(before.value), rel=1e-12)
    assert twice.hosted[0].training.value == 2 * once.hosted[0].training.value
    assert twice.tokens.steps == 2 * once.tokens.steps
    assert twice.tokens.tokens == once.tokens.tokens


def test_a_run_that_steps_end_early_pays_for_its_steps_only() -> None:
    """Nine steps make three epochs; four of them are 4/3."""
    short = quoted("training.max_steps=4")
    assert short.tokens.epochs == Fraction(4, 3)
    exact = Fraction(PRICE.training_per_1k) * short.tokens.tokens * Fraction(4, 3) / 1000
    assert abs(Fraction(short.hosted[0].training.value) - exact) < Fraction(1, 10**50)


def test_every_number_says_how_it_is_known() -> None:
    for made in (quoted(answers=10, measured=MEASURED), quoted(), quoted(cards=["T4"])):
        assert list(unmarked(made.as_dict())) == []
    document = quoted(answers=10, measured=MEASURED).as_dict()
    assert {n["mark"] for n in document["counted"].values() if n} == {"counted"}
    assert document["here"]["seconds"]["mark"] == "measured"
    assert document["here"]["watt_hours"]["mark"] == "estimated"  # the board's limit, not a meter
    assert {card["seconds"]["mark"] for card in document["cards"]} == {"estimated"}


def test_the_test_of_marks_can_fail() -> None:
    assert list(unmarked({"a": [{"value": 3}]})) == [".a[0].value"]


# --- cards ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("method", ["lora", "qlora", "dora"])
def test_time_on_a_card_is_the_documented_formula(method: str, checkpointed: bool) -> None:
    """seconds = tokens x epochs / (half of reachable FLOP/s / FLOPs per token)."""
    wishes = (f"method.name={method}", f"training.gradient_checkpointing={checkpointed}")
    gate, card = as_8b(*wishes), find_card("4090")
    found = quote_card(find_card("H200"), settings(*wishes), gate, Fraction(3), PRICES)
    assert found.memory is not None and found.effort.seconds is not None
    assert found.memory.checkpointed_layers == (36 if checkpointed else 0)
    lengths = gate.train.lengths.astype(float)
    s = float((lengths**2).sum() / lengths.sum())
    h, layers, q, k, mlp, vocab, rank = 4096, 36, 4096, 1024, 12_288, 151_936, 16
    lin = layers * (h * (q + 2 * k) + q * h + 3 * h * mlp)
    lora = layers * rank * ((h + q) + 2 * (h + k) + (q + h) + 3 * (h + mlp))
    share = gate.train_ledger.trained_tokens / gate.train_ledger.tokens
    attention = layers * q * s
    flops = 4 * lin + 4 * share * h * vocab + 6 * lora + 7 * attention
    flops += (2 * lin + 2 * lora + 2 * attention) * found.memory.checkpointed_layers / layers
    seconds = 3 * gate.train_ledger.tokens / (0.5 * 790e12 / flops)
    assert found.effort.seconds.value == pytest.approx(seconds, rel=1e-9)
    assert found.effort.watt_hours is not None
    assert found.effort.watt_hours.value == pytest.approx(seconds * 700 / 3600, rel=1e-9)
    assert card.reachable_flops == 165e12  # where nothing was measured, the data sheet


def test_memory_decides_before_time() -> None:
    small = find_card("3060")
    whole = quote_card(small, settings(), as_8b(), Fraction(3), PRICES)
    assert whole.fits is False and whole.effort.seconds is None
    assert whole.effort.why == "does not fit"
    assert any("qlora" in sentence for sentence in whole.memory.advice) if whole.memory else False
    name = "method.name=qlora"
    four_bits = quote_card(small, settings(name), as_8b(name), Fraction(3), PRICES)
    assert four_bits.fits is True and four_bits.effort.seconds is not None
    assert four_bits.memory is not None
    assert four_bits.memory.memory_bytes == int(12 * 2**30 * 0.95)


def test_a_card_is_planned_for_as_itself_and_not_as_this_machine() -> None:
    """`auto` means bfloat16 there, whatever it means on a CPU here."""
    assert gate_of().config.model.dtype == "float32"
    found = quoted(cards=["4090", "T4"]).cards
    assert [card.dtype for card in found] == ["bfloat16", "float32"]
    assert found[1].effort.seconds is None and "bfloat16 only" in str(found[1].effort.why)
    wanted = quoted("model.dtype=float32", cards=["4090"]).cards[0]
    assert wanted.dtype == "float32" and wanted.effort.seconds is None


def test_power_and_rent_are_priced_where_their_price_is_known() -> None:
    rented, other = quoted(cards=["4090", "H200"]).cards
    assert rented.effort.rent is not None and other.effort.rent is None
    assert rented.effort.seconds is not None and rented.effort.watt_hours is not None
    hours = Decimal(repr(rented.effort.seconds.value)) / 3600
    assert rented.effort.rent.value == hours * Decimal("0.44")
    kwh = Decimal(repr(rented.effort.watt_hours.value)) / 1000
    assert rented.effort.electricity is not None
    assert rented.effort.electricity.value == kwh * 31
    assert rented.effort.electricity.currency == "JPY" and rented.effort.rent.currency == "USD"
    bare = quoted(cards=["4090"], prices=load_prices()).cards[0]
    assert bare.effort.electricity is None and bare.effort.rent is None


def test_every_unknown_card_is_a_fault_with_near_names() -> None:
    with pytest.raises(ConfigError) as caught:
        quoted(cards=["RTX 4099", "4090", "H20O"])
    assert [fault.where for fault in caught.value.faults] == ["--card", "--card"]
    assert "4090" in caught.value.faults[0].remedy


def test_a_card_named_twice_is_quoted_once() -> None:
    names = [card.card.name for card in quoted(cards=["4090", "h200", "RTX4090"]).cards]
    assert names == ["RTX 4090", "H200"]
    assert len(quoted().cards) == 10


# --- measured -------------------------------------------------------------------------------------


def test_measured_speed_gives_time_and_energy_here() -> None:
    made = quoted(measured=MEASURED)
    seconds = 3 * made.tokens.tokens / 500
    assert made.here.seconds is not None and made.here.seconds.value == pytest.approx(seconds)
    assert made.here.watt_hours is not None
    assert made.here.watt_hours.value == pytest.approx(seconds * 100 / 3600)
    assert made.here_measured == "6 steps on a desk"
    assert quoted().here.seconds is None and "--measure" in str(quoted().here.why)


def ended_run(path: Path, *overrides: str, **result: Any) -> RunDirectory:
    run = RunDirectory.create(path, gate_of(*overrides).config)
    write_json(run.result_file, {"tokens_per_second": 640.0, **result})
    write_json(run.data_file, {"base": gate_of().source.fingerprint})
    write_json(run.environment_file, {"device": "NVIDIA GeForce RTX 4090"})
    return run


def test_a_runs_speed_and_energy_are_taken_over(tmp_path: Path) -> None:
    run = ended_run(tmp_path / "run", energy_joules=3000.0, train_seconds=20.0)
    found = measured_by(run, gate_of())
    assert (found.tokens_per_second, found.watts, found.watts_mark) == (640.0, 150.0, "measured")
    assert "RTX 4090" in found.where and found.warnings == ()
    made = quoted(measured=found)
    assert made.here.watt_hours is not None and made.here.watt_hours.mark == "measured"
    assert made.here.rent is not None and made.here.rent.mark == "measured"
    assert made.here.electricity is not None and made.here.electricity.mark == "measured"


def test_a_run_without_a_meter_says_no_energy(tmp_path: Path) -> None:
    found = measured_by(ended_run(tmp_path / "run"), gate_of())
    assert found.watts is None
    made = quoted(measured=found)
    assert made.here.watt_hours is None and made.here.electricity is None


def test_a_run_of_other_work_is_refused(tmp_path: Path) -> None:
    run = ended_run(tmp_path / "run", "method.name=dora")
    write_json(run.data_file, {"base": "another"})
    with pytest.raises(RunError) as caught:
        measured_by(run, gate_of())
    assert len(caught.value.faults) == 2
    for number, rate in enumerate((None, 0)):
        stopped = ended_run(tmp_path / f"stopped{number}", tokens_per_second=rate)
        with pytest.raises(RunError, match="no measured speed"):
            measured_by(stopped, gate_of())


def test_settings_that_change_the_speed_are_said(tmp_path: Path) -> None:
    run = ended_run(tmp_path / "run", "training.packing=false", "method.rank=4")
    said = " ".join(measured_by(run, gate_of()).warnings)
    assert "training.packing=False" in said and "method.rank=4" in said
