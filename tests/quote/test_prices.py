"""The table of prices: dated, strict, exact; and the user's own instead of it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from tanren.errors import ConfigError
from tanren.quote import load_prices, money_of, with_given

ROW = {
    "name": "mine",
    "as_of": "2026-01-31",
    "source": "a letter",
    "currency": "JPY",
    "training_per_1k": 1.1,
}


def table(path: Path, **values: object) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def faults_of(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_prices(path)
    return [fault.where.removeprefix(f"{path} ") for fault in caught.value.faults]


def test_the_packages_table_has_the_prices_that_articles_quote() -> None:
    """$0.008 for training and $0.012 for asking, per 1,000 tokens, in August 2023."""
    rows = load_prices().hosted
    first = rows[0]
    assert (first.name, first.as_of) == ("gpt-3.5-turbo", "2023-08-22")
    assert first.training_per_1k == Decimal("0.008") and first.input_per_1k == Decimal("0.012")
    assert first.output_per_1k == Decimal("0.016")
    by_name = {row.name: row for row in rows}
    assert by_name["gpt-4o-mini-2024-07-18"].training_per_1k == Decimal("0.003")
    assert by_name["gpt-4o-2024-08-06"].training_per_1k == Decimal("0.025")
    for row in rows:
        assert date.fromisoformat(row.as_of) > date(2020, 1, 1)
        assert len(row.source) > 10 and row.currency == "USD"


def test_no_price_of_power_or_rent_is_assumed() -> None:
    own = load_prices()
    assert own.electricity is None and own.rent == []


def test_numbers_are_taken_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    rows = "\n".join(
        f"  - {{name: n{i}, as_of: 2026-01-31, source: s, currency: EUR, training_per_1k: {price}}}"
        for i, price in enumerate(["0.1", "'0.10000000000000000001'", "3", "1e-5"])
    )
    path.write_text(f"hosted:\n{rows}\n", encoding="utf-8")
    found = [row.training_per_1k for row in load_prices(path).hosted]
    wanted = ["0.1", "0.10000000000000000001", "3", "0.00001"]
    assert found == [Decimal(price) for price in wanted]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"training_per_1k": -1}, "hosted[0].training_per_1k"),
        ({"training_per_1k": True}, "hosted[0].training_per_1k"),
        ({"training_per_1k": "much"}, "hosted[0].training_per_1k"),
        ({"training_per_1k": ".nan"}, "hosted[0].training_per_1k"),
        ({"training_per_1k": None}, "hosted[0].training_per_1k"),
        ({"currency": "yen"}, "hosted[0].currency"),
        ({"as_of": "soon"}, "hosted[0].as_of"),
        ({"as_of": "20260131"}, "hosted[0].as_of"),
        ({"source": ""}, "hosted[0].source"),
        ({"traning_per_1k": 1}, "hosted[0].traning_per_1k"),
    ],
)
def test_every_fault_of_a_table_is_named(
    tmp_path: Path, change: dict[str, object], where: str
) -> None:
    assert faults_of(table(tmp_path / "p.yaml", hosted=[{**ROW, **change}])) == [where]


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    power = {"per_kwh": -3, "currency": "JPY", "as_of": "2026-01-31"}
    path = table(tmp_path / "p.yaml", hosted=[{"name": "x"}], electricity=power, rents=[])
    assert len(faults_of(path)) == 4 + 2 + 1


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    dated = {"as_of": "2026-01-31", "source": "s", "currency": "USD", "per_hour": 1}
    rents = [{"card": name, **dated} for name in ("4090", "RTX 4090", "GTX 9999")]
    assert faults_of(table(tmp_path / "p.yaml", rent=rents)) == ["rent[2].card"]
    assert faults_of(table(tmp_path / "p.yaml", rent=rents[:2])) == ["rent[1]"]
    path = table(tmp_path / "p.yaml", hosted=[ROW, ROW])
    assert faults_of(path) == ["hosted[1]"]
    assert faults_of(table(tmp_path / "empty.yaml")) != []


def test_the_command_line_goes_before_the_table(tmp_path: Path) -> None:
    dated = {"as_of": "2026-01-31", "source": "s", "currency": "USD"}
    path = table(
        tmp_path / "p.yaml",
        rent=[{"card": "4090", "per_hour": 1, **dated}, {"card": "any", "per_hour": 2, **dated}],
        electricity={"per_kwh": 9, **dated},
    )
    own = load_prices(path)
    laid = with_given(own, electricity="31 JPY", rents=["rtx4090=0.44 EUR"], today=date(2026, 2, 1))
    assert laid.electricity is not None
    assert (laid.electricity.per_kwh, laid.electricity.currency) == (Decimal(31), "JPY")
    assert laid.electricity.as_of == "2026-02-01"
    mine, others = laid.rent_of("RTX 4090"), laid.rent_of("H200")
    assert mine is not None and (mine.per_hour, mine.currency) == (Decimal("0.44"), "EUR")
    assert others is not None and others.per_hour == 2
    assert own.electricity is not None and own.electricity.per_kwh == 9


@pytest.mark.parametrize("words", ["31", "JPY", "31 yen", "-1 JPY", "1e3 JPY", "31 JPY JPY", ""])
def test_money_needs_an_amount_and_a_currency(words: str) -> None:
    with pytest.raises(ConfigError):
        money_of(words, "--electricity")


def test_every_fault_of_the_command_line_comes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        with_given(load_prices(), electricity="x", rents=["GTX 1=1 USD", "1"], today=date.today())
    assert [f.where for f in caught.value.faults] == ["--electricity", "--rent", "--rent"]
