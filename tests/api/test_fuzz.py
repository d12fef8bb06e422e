"""Two thousand malformed requests and files: no 500, and the service is there afterwards.

Requests are made from good ones: a value becomes another thing, a key goes, bytes are cut, turned
or repeated, headers lie. Which ones is decided by a seed, so that a failure can be met again.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api.conftest import client_of
from api.scripted import ScriptedEngine
from starlette.testclient import TestClient

from tanren.jobs.service import JobService

ALLOWED = {200, 400, 403, 404, 405, 408, 413, 429}
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 0.5, 1e308, "", "auto", "x" * 5000, "\0",
    "\u202e", "💥", "../../etc/passwd", "file-" + "a" * 24, "ft:tiny:a:b:c", [], [[]], {}, {"": {}},
    [None], {"a": [1, {"b": None}]}, "{{ 7*7 }}", "{% for x in ().__class__ %}",
    "'; DROP TABLE jobs--",
)  # fmt: skip
CHAT = {
    "model": "tiny", "messages": [
        {"role": "system", "content": "短く"},
        {"role": "user", "content": [{"type": "text", "text": "傘"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "晴れ"},
    ],
    "temperature": 0.5, "top_p": 1, "n": 1, "max_tokens": 5, "stop": ["。"], "seed": 3,
    "logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 1, "stream": False,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "auto", "parallel_tool_calls": True, "user": "u", "metadata": {"a": "b"},
}  # fmt: skip
JOB = {
    "model": "tiny", "training_file": "file-x", "validation_file": None, "suffix": "s", "seed": 1,
    "metadata": {"a": "b"}, "hyperparameters": {"n_epochs": 1, "batch_size": "auto"},
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}},
               "tanren": {"rank": 4, "method": "dora"}},
    "integrations": [{"type": "wandb", "wandb": {"project": "p"}}], "tanren": {"priority": 1},
}  # fmt: skip
UPLOAD = {"filename": "a", "purpose": "fine-tune", "bytes": 3, "mime_type": "text/plain"}
DOCUMENTS = (
    ("/v1/chat/completions", CHAT),
    ("/v1/fine_tuning/jobs", JOB),
    ("/v1/uploads", UPLOAD),
    ("/v1/uploads/upload_x/complete", {"part_ids": ["part_x"], "md5": "0"}),
    ("/v1/fine_tuning/jobs/ftjob-x/move", {"priority": 1}),
)
FORM = (
    b'--XX\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--XX\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n'
    b'Content-Type: application/octet-stream\r\n\r\n{"messages": []}\r\n--XX--\r\n'
)
KINDS = (
    *("multipart/form-data; boundary=XX",) * 6,
    "multipart/form-data",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary="XX',
    "multipart/form-data; boundary=" + "X" * 300,
    "text/plain",
    "",
)
HOSTS = ("", "a b", "[::1", "::1")
PATHS = (
    "/v1/files",
    "/v1/files/{}",
    "/v1/files/{}/content",
    "/v1/models/{}",
    "/v1/fine_tuning/jobs",
    "/v1/fine_tuning/jobs/{}",
    "/v1/fine_tuning/jobs/{}/events",
    "/v1/uploads/{}/cancel",
    "/v1/fine_tuning/jobs/{}/checkpoints",
    "/v1/fine_tuning/jobs/{}/cancel",
    "/{}",
)
NAMES = (
    "x",
    "%00",
    "%2e%2e%2f%2e%2e",
    "a" * 3000,
    "%E6%97%A5",
    "ft%3Ax%3A%3A",
    "'",
    "%ff%fe",
    "a%0d%0ab",
    "file-" + "0" * 24,
    "💥",
)
QUERIES = (
    "limit",
    "after",
    "order",
    "purpose",
    "starting_after",
    "metadata",
    "metadata[a]",
    "metadata[]",
    "metadata[",
    "encoding",
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in inner:
        yield (*path, key)
        yield from places(each, (*path, key))


def changed(document: Any, chance: random.Random) -> Any:
    """The document with one to three places that hold something else, or nothing."""
    made = copy.deepcopy(document)
    for _ in range(chance.randint(1, 3)):
        *way, last = chance.choice(list(places(made)) or [("x",)])
        inner = made
        for key in way:
            inner = inner[key]
        if chance.random() < 0.2 and last in (
            inner if isinstance(inner, dict) else range(len(inner))
        ):
            del inner[last]
        elif isinstance(inner, dict) or last < len(inner):
            inner[last] = copy.deepcopy(chance.choice(STRANGE))
    return made


def mangled(content: bytes, chance: random.Random) -> bytes:
    """Bytes cut, turned, doubled or put in."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            content = content[:at]
        elif kind == 1:
            content = content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]
        elif kind == 2:
            content = content[:at] + content[at : at + 30] * 3 + content[at:]
        else:
            content = content[:at] + chance.choice((b"\0", b"\r\n", b'"', b"\xff", b"--XX", b"{"))
    return content


def ask_json(client: TestClient, chance: random.Random) -> Any:
    path, document = chance.choice(DOCUMENTS)
    body = json.dumps(changed(document, chance)).encode()
    return client.post(path, content=body if chance.random() < 0.7 else mangled(body, chance))


def ask_form(client: TestClient, chance: random.Random) -> Any:
    path = chance.choice(("/v1/files", "/v1/files", "/v1/uploads/upload_x/parts"))
    kind = chance.choice(KINDS)
    return client.post(path, content=mangled(FORM, chance), headers={"content-type": kind})


def ask_path(client: TestClient, chance: random.Random) -> Any:
    path = chance.choice(PATHS).format(chance.choice(NAMES))
    values = (*STRANGE[:16], "-1", "1e3", "9" * 40)
    query = {chance.choice(QUERIES): str(chance.choice(values)) for _ in range(chance.randrange(3))}
    headers = {}
    if chance.random() < 0.2:
        key = "k" * chance.randrange(600)
        headers = {"idempotency-key": key, "host": chance.choice(HOSTS)}
    method = chance.choice(
        ("GET", "GET", "GET", "DELETE", "POST", "PUT", "HEAD", "OPTIONS", "PATCH")
    )
    return client.request(method, path, params=query, headers=headers)


def fuzz(client: TestClient, seed: int, count: int) -> set[int]:
    chance = random.Random(seed)
    statuses = set()
    for number in range(count):
        ask = chance.choice((ask_json, ask_json, ask_form, ask_path))
        answer = ask(client, chance)
        assert answer.status_code in ALLOWED, (seed, number, answer.request, answer.text)
        statuses.add(answer.status_code)
    return statuses


def check_alive(client: TestClient) -> None:
    assert client.get("/readyz").status_code == 200
    file = client.post("/v1/files", files={"file": ("a", b"x")}, data={"purpose": "fine-tune"})
    assert client.get(f"/v1/files/{file.json()['id']}/content").content == b"x"


def test_two_thousand_malformed_requests(
    make_service: Callable[..., JobService], engine: ScriptedEngine
) -> None:
    service = make_service(limits={"json_bytes": 100_000, "file_bytes": 100_000})
    with client_of(service, engine) as client:
        statuses = fuzz(client, seed=7, count=2000)
        check_alive(client)
    assert {200, 400, 403, 404, 405} <= statuses, "the requests are of many kinds"
    assert [path for path in service.files.folder.rglob("*.part") if path.is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_forty_thousand_more(service: JobService, engine: ScriptedEngine, seed: int) -> None:
    with client_of(service, engine) as client:
        fuzz(client, seed=100 + seed, count=2000)
        check_alive(client)
