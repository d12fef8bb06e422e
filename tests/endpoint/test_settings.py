"""Laws of the settings: private unless asked, all faults at once, no key in any of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tanren.endpoint import load_endpoint
from tanren.endpoint.address import is_loopback, is_own_network
from tanren.endpoint.waiting import asked_wait, backoff
from tanren.errors import ConfigError

KEY = "sk-" + "Zq3v" * 8


def settings(**changes: Any) -> Mapping[str, Any]:
    return {"base_url": "http://127.0.0.1:8000/v1", "model": "m", **changes}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]", "LOCALHOST", "[::ffff:127.0.0.1]"]
)
def test_this_machine_needs_no_permission(host: str) -> None:
    config = load_endpoint(None, settings(base_url=f"http://{host}:1234/v1/"))
    assert not config.leaves_machine
    assert config.url.endswith(":1234/v1/chat/completions")


@pytest.mark.parametrize(
    "host",
    [
        "api.example.com",
        "192.168.1.5",
        "0.0.0.0",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "2130706433",
        "[::ffff:8.8.8.8]",
    ],
)
def test_rows_leave_the_machine_only_for_a_host_that_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match="remote_host") as refused:
        load_endpoint(None, settings(base_url=f"https://{host}/v1"))
    assert f"write remote_host: {host.strip('[]')}" in str(refused.value)
    with pytest.raises(ConfigError, match="remote_host"):
        load_endpoint(None, settings(base_url=f"https://{host}/v1", remote_host="example.org"))
    named = settings(base_url=f"https://{host}/v1", remote_host=host.strip("[]"))
    assert load_endpoint(None, named).leaves_machine


def test_a_key_goes_unencrypted_to_ones_own_network_alone() -> None:
    far = {"base_url": "http://api.example.com/v1", "remote_host": "api.example.com"}
    with pytest.raises(ConfigError, match="https://"):
        load_endpoint(None, settings(**far, api_key_env="KEY"))
    near = {"base_url": "http://gpu-box:8000/v1", "remote_host": "gpu-box"}
    load_endpoint(None, settings(**near, api_key_env="KEY"))
    assert is_own_network("10.0.0.3") and not is_own_network("8.8.8.8")
    assert not is_loopback("")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8000",
        "ftp://127.0.0.1/v1",
        "http://",
        "http://127.0.0.1:port/v1",
        f"http://user:{KEY}@127.0.0.1/v1",
        f"http://127.0.0.1/v1?key={KEY}",
        "http://127.0.0.1/v1/chat/completions",
        " http://127.0.0.1/v1",
    ],
)
def test_an_address_that_is_none_is_refused_without_showing_what_is_in_it(address: str) -> None:
    with pytest.raises(ConfigError, match=r"base_url: (an?|the) ") as refused:
        load_endpoint(None, settings(base_url=address))
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "mistake",
    [{"api_key_env": KEY}, {"api_key": KEY}, {"api_key_env": "gsk_" + "a1B2" * 8}],
)
def test_a_key_in_the_settings_is_refused_and_not_shown(mistake: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="api_key") as refused:
        load_endpoint(None, settings(**mistake))
    assert next(iter(mistake.values())) not in str(refused.value)


def test_a_missing_or_unusable_key_is_told_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_endpoint(None, settings(api_key_env="JUDGE_KEY"))
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match="export JUDGE_KEY"):
        config.api_key()
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n second")
    with pytest.raises(ConfigError, match="white space") as refused:
        config.api_key()
    assert KEY not in str(refused.value)
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    assert config.api_key() == KEY


def test_all_faults_at_once_with_near_names(tmp_path: Path) -> None:
    path = tmp_path / "judge.yaml"
    path.write_text(
        "base_url: http://127.0.0.1/v1\nmodle: m\nconcurrency: 0\nbudget: {token: 5}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as refused:
        load_endpoint(path)
    faults = {fault.where.removeprefix(f"{path} "): fault for fault in refused.value.faults}
    assert set(faults) == {"model", "modle", "concurrency", "budget.token"}
    assert faults["modle"].remedy == "did you mean 'model'?"
    assert faults["budget.token"].remedy == "did you mean 'tokens'?"


def test_a_budget_of_money_needs_prices() -> None:
    with pytest.raises(ConfigError, match=r"prices beside budget\.money"):
        load_endpoint(None, settings(budget={"money": 1.0}))


def test_extra_fields_cannot_hide_a_setting() -> None:
    with pytest.raises(ConfigError, match="extra without temperature, max_tokens"):
        load_endpoint(None, settings(extra={"temperature": 1, "max_tokens": 9, "top_k": 1}))


# --- waits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
    ],
)
def test_the_wait_that_an_endpoint_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    now = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
    assert asked_wait(headers, now) == seconds


def test_backoff_doubles_up_to_the_longest_and_is_spread() -> None:
    draw = random.Random(0)
    waits = [[backoff(k, 1.0, 10.0, draw) for _ in range(200)] for k in range(1, 7)]
    for k, several in enumerate(waits):
        whole = min(10.0, 2.0**k)
        assert whole / 2 <= min(several) < max(several) <= whole
