"""Who is let in: names of this machine, keys, scopes, and how often."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from api.conftest import client_of
from api.scripted import ScriptedEngine
from starlette.testclient import TestClient

from tanren.api.guard import Rates, scope_of
from tanren.jobs.service import JobService
from tanren.store.errors import LimitExceeded
from tanren.store.keys import SCOPES

MODELS = "/v1/models"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:9", "localhost:8000", "[::1]:8000", "192.168.0.7", "LOCALHOST."],
)
def test_addresses_and_own_names_are_let_in(client: TestClient, host: str) -> None:
    assert client.get(MODELS, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:8000", "127.0.0.1.nip.io", ""]
)
def test_foreign_names_are_not(client: TestClient, host: str) -> None:
    """A page whose name was turned to 127.0.0.1 after it was loaded."""
    answer = client.get(MODELS, headers={"host": host})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "host_not_allowed"
    assert client.get("/healthz", headers={"host": host}).status_code == 403


def test_further_names_come_from_the_settings(
    make_service: Callable[..., JobService], engine: ScriptedEngine
) -> None:
    service = make_service(allowed_hosts=("gpu.home.arpa",))
    with client_of(service, engine) as client:
        assert client.get(MODELS, headers={"host": "GPU.home.arpa:80"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
     {"origin": "http://127.0.0.1:9999"}],
)  # fmt: skip
def test_web_pages_from_elsewhere_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    """A form that any page may post to loopback without asking the browser."""
    answer = client.post("/v1/files", headers=headers, files={"file": ("a", b"x")})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in answer.headers


def test_pages_of_this_server_may_ask(client: TestClient) -> None:
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert client.get(MODELS, headers=own).status_code == 200


def test_any_key_will_do_where_none_is_demanded(client: TestClient) -> None:
    assert client.get(MODELS, headers={"authorization": "Bearer any"}).status_code == 200
    assert client.get(MODELS).status_code == 200


@pytest.fixture
def locked(make_service: Callable[..., JobService]) -> JobService:
    return make_service(require_keys=True)


@pytest.mark.parametrize(
    "given", [None, "Bearer", "Bearer wrong", "Basic eDp5", "Bearer sk-tanren-x"]
)
def test_without_a_good_key_nothing_is_told(
    locked: JobService, engine: ScriptedEngine, given: str | None
) -> None:
    with client_of(locked, engine) as client:
        headers = {"authorization": given} if given else {}
        for path in (MODELS, "/v1/files", "/v1/nothing", "/metrics", "/openapi.json"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz", headers=headers).status_code == 200


def test_a_key_opens_what_its_scopes_name_until_it_is_revoked(
    locked: JobService, engine: ScriptedEngine
) -> None:
    secret, record = locked.keys.create("files only", ("files",))
    headers = {"authorization": f"Bearer {secret}"}
    with client_of(locked, engine) as client:
        assert client.get("/v1/files", headers=headers).status_code == 200
        assert client.get(MODELS, headers=headers).status_code == 200
        for method, path in (("GET", "/v1/fine_tuning/jobs"), ("POST", "/v1/chat/completions"),
                             ("DELETE", "/v1/models/x"), ("GET", "/metrics")):  # fmt: skip
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 403, path
            assert answer.json()["error"]["code"] == "insufficient_permissions"
        locked.keys.revoke(record.id)
        assert client.get("/v1/files", headers=headers).status_code == 401


def test_the_old_way_to_chat_needs_the_scope_of_chats(
    locked: JobService, engine: ScriptedEngine
) -> None:
    secret, _ = locked.keys.create("numbers", ("metrics",))
    headers = {"authorization": f"Bearer {secret}"}
    body = {"messages": [{"role": "user", "content": "x"}]}
    with client_of(locked, engine) as client:
        answer = client.post("/v1/engines/tiny/chat/completions", json=body, headers=headers)
    assert answer.status_code == 403


def test_every_route_needs_a_scope_that_there_is(client: TestClient) -> None:
    open_to_every_key = []
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            scope = scope_of(method.upper(), path)
            assert scope is None or scope in SCOPES
            if scope is None:
                open_to_every_key.append((method, path))
    assert sorted(open_to_every_key) == [
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
    ]


def test_a_caller_who_asks_too_often_is_told_when_to_come_again(
    make_service: Callable[..., JobService], engine: ScriptedEngine
) -> None:
    service = make_service(limits={"requests_per_minute": 5})
    with client_of(service, engine) as client, client_of(
        service, engine, address="10.0.0.9"
    ) as other:  # fmt: skip
        statuses = [client.get(MODELS).status_code for _ in range(7)]
        limited = client.get(MODELS)
        assert statuses == [200] * 5 + [429] * 2
        assert 1 <= int(limited.headers["retry-after"]) <= 12
        assert limited.json()["error"]["code"] == "rate_limit_exceeded"
        assert "x-should-retry" not in limited.headers
        assert client.get("/healthz").status_code == 200
        assert other.get(MODELS).status_code == 200


def test_guessing_keys_is_stopped(locked: JobService, engine: ScriptedEngine) -> None:
    with client_of(locked, engine) as client:
        wrong = [
            client.get(MODELS, headers={"authorization": f"Bearer k{n}"}).status_code
            for n in range(32)
        ]
        good = {"authorization": f"Bearer {locked.keys.create('mine')[0]}"}
        assert client.get(MODELS, headers=good).status_code == 200, "behind one proxy, say"
    assert wrong[:30] == [401] * 30 and wrong[30:] == [429] * 2


def test_a_bucket_fills_again_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tanren.api.guard.time.monotonic", lambda: now[0])
    rates = Rates(60)
    for _ in range(60):
        rates.take("a")
    with pytest.raises(LimitExceeded) as refused:
        rates.take("a")
    assert refused.value.retry_after == pytest.approx(1.0)
    rates.take("b")
    now[0] = 2.5
    rates.take("a")
    rates.take("a")
    with pytest.raises(LimitExceeded):
        rates.take("a")


def test_security_headers_stand_on_every_answer(client: TestClient) -> None:
    for answer in (client.get(MODELS), client.get("/nothing"), client.get("/healthz"),
                   client.get(MODELS, headers={"host": "evil.example"})):  # fmt: skip
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-request-id"].startswith("req_")
        assert "server" not in answer.headers
