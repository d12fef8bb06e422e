"""Whatever goes wrong: one JSON object, the right status, nothing of ours inside it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from api.conftest import client_of
from api.scripted import ScriptedEngine
from starlette.testclient import TestClient

from tanren.api.limits import Patience
from tanren.api.logs import AsJson, AsText
from tanren.engine.wire import ChatRequest, Reply
from tanren.errors import StorageError
from tanren.jobs.service import JobService

USER = [{"role": "user", "content": "秘密の質問"}]
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v1"), ("POST", "/v1/fine-tunes"), ("GET", "/v1/files/"),
     ("POST", "/v1/responses"), ("GET", "/v1/fine_tuning/jobs/a/b"), ("GET", "/docs"),
     ("PUT", "/v1/日本")],
)  # fmt: skip
def test_unknown_paths(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"Invalid URL ({method} {path})"
    assert answer.headers["x-should-retry"] == "false"


def test_wrong_methods(client: TestClient) -> None:
    """Among them what the client of 2023 sends to delete a job."""
    for method, path in (
        ("DELETE", "/v1/fine_tuning/jobs/ftjob-x"),
        ("PUT", "/v1/files"),
        ("GET", CHAT),
        ("POST", "/v1/models"),
        ("PATCH", "/v1/models/a:b"),
    ):
        answer = client.request(method, path)
        assert answer.status_code == 405, path
        assert method in answer.json()["error"]["message"] and "allow" in answer.headers


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "not a number": b'{"temperature": NaN}',
    "infinity": b'{"temperature": 1e999}',
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a little deep": b'{"a":' + b"[" * 70 + b"]" * 70 + b"}",
    "half a character": b'{"model": "\\ud800"}',
    "latin": '{"model": "é"}'.encode("latin-1"),
    "a long number": b'{"seed": ' + b"9" * 100_000 + b"}",
    "two documents": b"{}{}",
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("path", [CHAT, "/v1/fine_tuning/jobs", "/v1/uploads"])
def test_bodies_that_are_no_request(client: TestClient, kind: str, path: str) -> None:
    answer = client.post(path, content=BODIES[kind])
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "value", [b"1e999", b"-1e999", b"NaN", b"[" * 70 + b"]" * 70, b'"\\udc00"', b"9" * 5000]
)
def test_what_hides_in_a_part_that_nobody_checks(client: TestClient, value: bytes) -> None:
    """An ignored parameter of a request that is good otherwise."""
    good = json.dumps({"model": "tiny", "messages": USER})[:-1].encode()
    assert client.post(CHAT, content=good + b', "x": 1}').status_code == 200
    answer = client.post(CHAT, content=good + b', "x": ' + value + b"}")
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"


def test_a_body_needs_no_content_type_and_may_have_a_wrong_one(client: TestClient) -> None:
    body = json.dumps({"model": "tiny", "messages": USER}).encode()
    for headers in (
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ):
        assert client.post(CHAT, content=body, headers=headers).status_code == 200


def test_a_large_body_is_refused_with_or_without_its_length(
    make_service: Callable[..., JobService], engine: ScriptedEngine
) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000

    with client_of(make_service(limits={"json_bytes": 10_000}), engine) as client:
        for content in (b" " * 10_001, pieces()):
            answer = client.post(CHAT, content=content)
            assert answer.status_code == 413, answer.text
            assert "10,000" in answer.json()["error"]["message"]


def test_a_body_that_stops_arriving_is_given_up(
    service: JobService, engine: ScriptedEngine
) -> None:
    with client_of(service, engine, patience=Patience(body=0.1)) as client:
        sent = asyncio.run(_half_a_request(client.app))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "request_timeout"


async def _half_a_request(app: Any) -> list[dict[str, Any]]:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        message = next(messages, None)
        if message is None:
            await asyncio.sleep(30)
        assert message is not None
        return message

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"",
        "root_path": "", "scheme": "http", "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 10)
    return sent


def test_a_bug_of_ours_is_told_without_its_inside(
    client: TestClient, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(request: ChatRequest) -> AsyncIterator[list[Reply]]:
        raise ZeroDivisionError("the inside: " + request.messages[0]["content"])
        yield []

    engine.script = broken
    with caplog.at_level("INFO", logger="tanren.service"):
        answer = client.post(CHAT, json={"model": "tiny", "messages": USER})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["type"] == "server_error" and answer.headers["x-request-id"] in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    told = caplog.records[0]
    assert told.facts["error"] == "ZeroDivisionError"  # type: ignore[attr-defined]
    assert any("broken" in place for place in told.facts["at"])  # type: ignore[attr-defined]
    assert "inside" not in answer.text + caplog.text + str(told.__dict__)
    assert client.get("/healthz").status_code == 200


def test_a_full_disk_is_told_as_one(
    client: TestClient, service: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(service.files, "receive", full)
    answer = client.post("/v1/files", files={"file": ("a", b"x")}, data={"purpose": "fine-tune"})
    assert answer.status_code == 507 and "the disk is full" in answer.json()["error"]["message"]


def test_the_log_is_a_line_a_request_and_has_no_text_of_users(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="tanren.service"):
        client.post(CHAT, json={"model": "tiny", "messages": USER},
                    headers={"authorization": "Bearer sk-geheim"})  # fmt: skip
        client.get("/v1/files?purpose=秘密%0Ax")
        client.get("/v1/files/a%0Ab%1B[31m")
    assert len(caplog.records) == 3
    for form in (AsText(), AsJson()):
        lines = [form.format(record) for record in caplog.records]
        assert all("\n" not in line and "\x1b" not in line for line in lines)
        assert not any(word in line for line in lines for word in ("秘密", "geheim", "sk-"))
    documents = [json.loads(AsJson().format(record)) for record in caplog.records]
    assert documents[0]["path"] == CHAT and documents[0]["status"] == 200
    assert documents[0]["completion_tokens"] == 5 and documents[0]["level"] == "info"


def test_metrics_count_by_route_not_by_path(client: TestClient) -> None:
    for number in range(3):
        client.get(f"/v1/files/file-{number}")
    client.get("/nowhere")
    client.post(CHAT, json={"model": "tiny", "messages": USER})
    text = client.get("/metrics").text
    line = 'tanren_requests_total{method="GET",route="/v1/files/{file_id}",status="404"} 3.0'
    assert line in text.splitlines()
    assert 'tanren_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'tanren_tokens_total{kind="completion"} 5.0' in text
    assert 'tanren_tokens_total{kind="prompt"} 7.0' in text
    assert 'tanren_jobs{status="queued"} 0.0' in text
    assert 'tanren_request_seconds_count{method="POST",route="/v1/chat/completions"} 1.0' in text


def test_logging_goes_nowhere_else() -> None:
    assert not logging.getLogger("tanren.service").handlers
