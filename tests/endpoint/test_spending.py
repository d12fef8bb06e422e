"""Laws of the budget: it ends the work before it is exceeded, over restarts too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from endpoint.chat_server import Answer, ChatServer, completion

from tanren.endpoint import EndpointConfig, Journal, Ledger, Outcome, ask_all
from tanren.endpoint.spending import Cost, most_tokens
from tanren.errors import RunError

Config = Callable[..., EndpointConfig]
PRICES = {"input_per_million": 3.0, "output_per_million": 15.0}


def run(config: EndpointConfig, count: int, ledger: Ledger | None = None) -> Outcome:
    conversations = [[{"role": "user", "content": f"row {k}"}] for k in range(count)]
    return ask_all(config, conversations, lambda *_: None, ledger=ledger)


def ledger_of(config: EndpointConfig, journal: Journal | None = None) -> Ledger:
    return Ledger(config.budget, config.prices, journal)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_requests_stop_at_the_budget(chat: ChatServer, config: Config, concurrency: int) -> None:
    settings = config(budget={"requests": 7}, concurrency=concurrency)
    outcome = run(settings, 20)
    assert len(chat.asked) == 7
    assert (outcome.asked, outcome.not_asked) == (7, 13)
    assert outcome.stopped is not None
    assert "budget.requests is 7" in outcome.stopped


def test_requests_sent_again_count(chat: ChatServer, config: Config) -> None:
    chat.behave = lambda _: Answer(status=500, body={})
    outcome = run(config(budget={"requests": 4}, concurrency=1, retries=9), 3)
    assert len(chat.asked) == 4
    assert (outcome.asked, outcome.not_asked) == (0, 3)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_tokens_and_money_are_never_exceeded(
    chat: ChatServer, config: Config, concurrency: int
) -> None:
    """Each reply costs as much as it may; a ledger that looks back only would overshoot."""
    most = most_tokens([{"role": "user", "content": "row 0"}])

    def behave(_: Any) -> Answer:
        body = completion("ok", prompt_tokens=most, answer_tokens=20)
        return Answer(body=body, delay=0.01)

    chat.behave = behave
    settings = config(budget={"tokens": 3 * (most + 20) + 19}, concurrency=concurrency)
    ledger = ledger_of(settings)
    outcome = run(settings, 12, ledger)
    assert (outcome.asked, ledger.spent) == (3, Cost(3, 3 * most, 60))

    one = (most * 3.0 + 20 * 15.0) / 1e6
    settings = config(budget={"money": 4 * one}, prices=PRICES, concurrency=concurrency)
    ledger = ledger_of(settings)
    outcome = run(settings, 12, ledger)
    assert outcome.asked == 4
    assert ledger.money == pytest.approx(4 * one)


def test_what_was_reserved_and_not_spent_is_free_again(chat: ChatServer, config: Config) -> None:
    """Real prompts are shorter than their bound; the budget is used up all the same."""
    most = most_tokens([{"role": "user", "content": "row 00"}]) + 20
    settings = config(budget={"tokens": most + 150}, concurrency=8)
    ledger = ledger_of(settings)
    outcome = run(settings, 50, ledger)
    assert outcome.asked == 11  # 11 replies of 15 tokens; a twelfth might exceed it
    assert ledger.spent.tokens <= most + 150


def test_a_prompt_that_the_endpoint_lengthens_is_allowed_for(
    chat: ChatServer, config: Config
) -> None:
    chat.behave = lambda _: Answer(body=completion("ok", prompt_tokens=1000, answer_tokens=1))
    settings = config(budget={"tokens": 2500}, concurrency=1)
    ledger = ledger_of(settings)
    assert run(settings, 9, ledger).asked == 2
    assert ledger.spent.tokens == 2002


def test_what_an_endpoint_adds_is_allowed_for_once_however_many_are_under_way(
    chat: ChatServer, config: Config
) -> None:
    body = completion("ok", prompt_tokens=1000, answer_tokens=1)
    chat.behave = lambda _: Answer(body=body, delay=0.02)
    settings = config(budget={"tokens": 30_000}, concurrency=8)
    ledger = ledger_of(settings)
    assert run(settings, 60, ledger).asked == 29  # after 29 there is no room for 1020
    assert ledger.spent.tokens == 29 * 1001


@pytest.mark.parametrize(
    "text", ["The quick brown fox. " * 20, "吾輩は猫である。名前はまだ無い。" * 20, "🙂👩‍👩‍👧" * 20]
)
def test_the_bound_on_tokens_holds_for_bytes(text: str) -> None:
    """No byte-level tokenizer makes more tokens than bytes."""
    messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
    assert most_tokens(messages) > 2 * len(text.encode())


def test_usage_that_nobody_told_counts_with_its_most(chat: ChatServer, config: Config) -> None:
    body = completion("ok")
    del body["usage"]
    chat.behave = lambda _: Answer(body=body)
    settings = config()
    ledger = ledger_of(settings)
    run(settings, 1, ledger)
    assert ledger.spent.answer_tokens == 20
    assert ledger.as_dict()["uncertain_requests"] == 1


def test_earlier_starts_count(chat: ChatServer, config: Config, tmp_path: Path) -> None:
    settings = config(budget={"requests": 5}, prices=PRICES)
    with Journal(tmp_path / "spending.jsonl") as journal:
        first = ledger_of(settings, journal)
        run(settings, 3, first)
    with Journal(tmp_path / "spending.jsonl") as journal:
        second = ledger_of(settings, journal)
        assert (second.spent, second.money) == (first.spent, first.money)
        outcome = run(settings, 9, second)
    assert outcome.asked == 2
    assert len(chat.asked) == 5


def test_a_torn_last_line_is_cut_off_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "\xe6\x97')
    with Journal(path) as journal:
        assert journal.records == [{"a": 1}]
        journal.append({"a": "日\ud83d"})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["a"] for line in lines] == [1, "日\ud83d"]
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": 2}\n')
    with pytest.raises(RunError, match=r"journal\.jsonl:2"):
        Journal(path)


def test_a_journal_is_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append({"text": "改行\n\u2028 と"})
        journal.append({"text": "次"})
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["text"] for line in lines if line] == ["改行\n\u2028 と", "次"]
    with Journal(path) as journal:
        assert len(journal.records) == 2
