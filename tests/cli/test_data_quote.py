"""`tanren data quote`, and the two lines of it in `tanren check`."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.commands import Ended
from quote.quoting import DATA, MODEL, unmarked
from rich.console import Console

from tanren.cli.data.quote_page import short, show_cost, show_quote

Tanren = Callable[..., Ended]
WORDS = ("data", "quote", str(DATA), "--model", str(MODEL))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a quote needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def quoted(tanren: Tanren, no_network: None) -> Callable[..., Any]:
    def call(*words: str) -> Any:
        ended = tanren(*WORDS, *words, "--json")
        assert ended.code == 0, ended.out + ended.err
        return ended.document

    return call


def page_of(document: Any, width: int = 100) -> str:
    page = Console(file=io.StringIO(), width=width, record=True)
    show_quote(page, document)
    return page.export_text()


def test_a_quote_counts_what_a_check_counts(quoted: Callable[..., Any], tanren: Tanren) -> None:
    found = quoted()["counted"]
    checked = tanren("check", str(DATA), "--model", str(MODEL), "--json").document
    ledger = checked["data"]["train"]["ledger"]
    assert found["tokens_per_epoch"]["value"] == ledger["tokens"]
    assert found["trained_tokens_per_epoch"]["value"] == ledger["trained_tokens"]
    assert found["steps"]["value"] == checked["plan"]["steps"]
    assert found["rows"]["value"] == ledger["source_rows"]
    cost = checked["cost"]
    assert cost["tokens"] == found["tokens"]
    assert cost["hosted"]["training"]["value"] == "0.042912"  # 1,788 x 3 x 0.008 / 1,000
    assert list(unmarked(cost)) == []


def test_epochs_and_overrides_reach_the_plan(quoted: Callable[..., Any]) -> None:
    assert quoted("--epochs", "5")["counted"]["epochs"]["value"] == 5
    assert quoted("--epochs", "0.5", "training.batch_size=4")["counted"]["steps"]["value"] == 3


def test_the_page_has_each_part(quoted: Callable[..., Any]) -> None:
    words = ("--card", "4090", "--card", "T4", "--answers", "1000", "--answer-tokens", "300")
    document = quoted(*words, "--electricity", "31 JPY", "--rent", "4090=0.44 USD")
    page = page_of(document)
    for part in (
        "5,364 (counted)",
        "not measured",
        "RTX 4090",
        "speed is estimated for",
        "under 1 s",
        "2023-08-22",
        "USD 0.043",
        "300 (counted) out",
        "a seller's own count differs",
    ):
        assert part in page, page
    assert max(len(line) for line in page.splitlines() if line.startswith("  ")) <= 100
    assert list(unmarked(document)) == []


def test_a_users_own_table_stands_instead(quoted: Callable[..., Any], home: Path) -> None:
    (home / "p.yaml").write_text(
        "hosted:\n  - {name: 内製, as_of: 2026-01-31, source: me, currency: JPY,"
        " training_per_1k: 2}\n",
        encoding="utf-8",
    )
    document = quoted("--prices", "p.yaml", "--answers", "5")
    assert [row["name"] for row in document["hosted"]] == ["内製"]
    assert document["hosted"][0]["training"]["value"] == "10.728"
    assert document["hosted"][0]["answers"] is None  # no price of answers was given
    assert document["prices_from"] == "p.yaml"


def test_what_was_measured_heads_its_figures(quoted: Callable[..., Any]) -> None:
    document = quoted()
    here = {
        **document["here"],
        "measured": "run a on a desk",
        "why": None,
        "tokens_per_second": {"value": 2833.4, "mark": "measured"},
        "seconds": {"value": 61.0, "mark": "measured"},
        "watt_hours": {"value": 0.01, "mark": "estimated"},
    }
    page = page_of({**document, "here": here})
    for part in ("Measured: run a on a desk", "2,833 tokens/s (measured)", "1 min 01 s (measured)",
                 "under 0.1 Wh (estimated)", "no price: add --electricity"):  # fmt: skip
        assert part in page, page


@pytest.mark.parametrize(
    ("words", "wheres"),
    [
        (
            ["--card", "GTX 1", "--electricity", "x", "--rent", "y"],
            ["--electricity", "--rent", "--card"],
        ),
        (["--prices", "none.yaml"], ["none.yaml"]),
        (["--answer-tokens", "5"], ["--answer-tokens"]),
        (["--measure", "--measured", "runs/x"], ["--measure"]),
        (["--measured", "nowhere"], ["nowhere"]),
        (["--epochs", "0"], ["training.num_epochs"]),
    ],
)
def test_mistakes_are_said_all_at_once(tanren: Tanren, words: list[str], wheres: list[str]) -> None:
    ended = tanren(*WORDS, *words, "--json")
    assert ended.code == 2 and [fault["where"] for fault in ended.faults] == wheres


def test_without_a_model_or_data_it_says_what_to_write(tanren: Tanren) -> None:
    ended = tanren("data", "quote", str(DATA), "--json")
    assert ended.code == 2 and ended.faults[0]["where"] == "--model"
    ended = tanren("data", "quote", "--model", str(MODEL), "--json")
    assert ended.code == 2 and "tanren data quote DATA.jsonl" in ended.faults[0]["remedy"]


def test_the_check_page_grows_by_three_lines(tanren: Tanren, no_network: None) -> None:
    words = ("check", str(DATA), "--model", str(MODEL))
    cost = tanren(*words, "--json").document["cost"]
    page = Console(file=io.StringIO(), width=100, record=True)
    show_cost(page, cost)
    shown = page.export_text()
    assert shown.count("\n") <= 3
    assert shown in tanren(*words).out
    assert "1,788 tokens x 3 = 5,364 (counted)" in shown and "USD 0.043" in shown
    show_cost(page, {**cost, "seconds": {"value": 61.0, "mark": "measured"}})
    assert "1 min 01 s (measured)" in page.export_text()


def test_small_amounts_keep_two_digits() -> None:
    from decimal import Decimal

    shown = [short(Decimal(text)) for text in ("1234.5", "1", "0.5", "0.0429", "0.00000404", "0")]
    assert shown == ["1,234.50", "1.00", "0.50", "0.043", "0.0000040", "0.00"]


@pytest.mark.slow
def test_measured_steps_give_time_here(quoted: Callable[..., Any]) -> None:
    here = quoted("--measure", "--card", "4090")["here"]
    assert here["seconds"]["mark"] == "measured" and here["seconds"]["value"] > 0
    assert here["measured"].startswith("6 steps on ")
