"""Files over HTTP: every form of upload that clients use, pages, bytes back as they were."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api.conftest import client_of
from api.scripted import ScriptedEngine
from starlette.testclient import TestClient

from tanren.jobs.service import JobService

LINE = json.dumps({"messages": [{"role": "user", "content": "傘を貸して"}]}, ensure_ascii=False)


def upload(
    client: TestClient, content: bytes = b"{}\n", name: str = "a.jsonl", **fields: str
) -> Any:
    data = {"purpose": "fine-tune", **fields}
    return client.post("/v1/files", data=data, files={"file": (name, content)})


def form(boundary: str, *parts: tuple[str, bytes]) -> bytes:
    """A multipart body as it is on the wire; `parts` are (what follows form-data;, content)."""
    pieces = [
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"
        % (boundary.encode(), head.encode("utf-8"), content)
        for head, content in parts
    ]
    return b"".join(pieces) + b"--%s--\r\n" % boundary.encode()


def post_raw(client: TestClient, body: bytes, boundary: str = "XX", pieces: int = 0) -> Any:
    """`pieces` > 0: chunked, without a Content-Length, so many bytes at a time."""

    def each() -> Iterator[bytes]:
        for at in range(0, len(body), pieces):
            yield body[at : at + pieces]

    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return client.post("/v1/files", content=each() if pieces else body, headers=headers)


def test_what_was_sent_comes_back_byte_for_byte(client: TestClient) -> None:
    content = bytes(range(256)) * 3000 + LINE.encode() + b"\r\n--XX\r\n"
    file = upload(client, content).json()
    assert file["object"] == "file" and file["bytes"] == len(content)
    assert file["purpose"] == "fine-tune" and file["expires_at"] is None
    back = client.get(f"/v1/files/{file['id']}/content")
    assert back.content == content
    assert back.headers["content-type"] == "application/octet-stream"
    coded = client.get(f"/v1/files/{file['id']}/content?encoding=base64")
    assert base64.b64decode(coded.content, validate=True) == content


@pytest.mark.parametrize("pieces", [0, 1, 7, 4096])
def test_the_file_may_come_before_its_purpose_and_in_pieces_of_any_size(
    client: TestClient, pieces: int
) -> None:
    """Node sends it so, chunked."""
    body = form(
        "XX", ('name="file"; filename="n.jsonl"', LINE.encode()), ('name="purpose"', b"fine-tune")
    )
    answer = post_raw(client, body, pieces=pieces)
    assert answer.status_code == 200, answer.text
    assert answer.json()["filename"] == "n.jsonl"
    assert client.get(f"/v1/files/{answer.json()['id']}/content").content == LINE.encode()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ('name="file"; filename="日本語.jsonl"', "日本語.jsonl"),
        ("name=\"file\"; filename*=utf-8''%E6%97%A5%E6%9C%AC.jsonl", "日本.jsonl"),
        ('name="file"; filename="a%22b.jsonl"', 'a"b.jsonl'),
        ('name="file"; filename="a\\"b.jsonl"', 'a"b.jsonl'),
        ('name="file"; filename="../../etc/passwd"', "../../etc/passwd"),
        ('name="file"', "upload"),
        ('name="file"; filename=""', "upload"),
    ],
)
def test_names_are_labels_in_whatever_spelling(
    client: TestClient, service: JobService, head: str, expected: str
) -> None:
    answer = post_raw(client, form("XX", ('name="purpose"', b"fine-tune"), (head, b"x")))
    assert answer.json()["filename"] == expected
    assert service.files.path(answer.json()["id"]).is_relative_to(service.home)


def test_old_spelling_of_the_purpose_is_understood_and_others_are_refused(
    client: TestClient,
) -> None:
    assert upload(client, purpose="fine_tune").json()["purpose"] == "fine-tune"
    refused = upload(client, purpose="foo")
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["message"] == (
        "'foo' is not one of ['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals'] "
        "- 'purpose'"
    )
    assert (error["param"], error["code"]) == ("purpose", None)


def test_an_expiry_is_taken_and_checked(client: TestClient) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = upload(client, **fields).json()
    assert file["expires_at"] == file["created_at"] + 3600
    for wrong in (
        {"expires_after[seconds]": "12"},
        {"expires_after[seconds]": "x"},
        {"expires_after[anchor]": "now"},
    ):
        assert upload(client, **{**fields, **wrong}).json()["error"]["param"] == "expires_after"


PURPOSE = ('name="purpose"', b"fine-tune")
FILE = ('name="file"; filename="a"', b"x")
BROKEN = {
    "ends in the middle": form("XX", PURPOSE, FILE)[:-8],
    "another boundary": form("YY", PURPOSE, FILE),
    "two files": form("XX", PURPOSE, FILE, FILE),
    "no file": form("XX", PURPOSE),
    "no purpose": form("XX", FILE),
    "no name": form("XX", PURPOSE, FILE, ('filename="a"', b"x")),
    "a long field": form("XX", PURPOSE, FILE, ('name="more"', b"x" * 5000)),
    "no UTF-8": form("XX", PURPOSE, FILE, ('name="more"', b"\xff")),
    "many fields": form("XX", PURPOSE, FILE, *[(f'name="f{n}"', b"") for n in range(100)]),
    "one field many times": form("XX", PURPOSE, FILE, *[('name="f"', b"")] * 100),
    "a long header": form("XX", PURPOSE, FILE, (f'name="{"n" * 40_000}"', b"")),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_form_is_refused_and_leaves_nothing(
    client: TestClient, service: JobService, kind: str
) -> None:
    answer = post_raw(client, BROKEN[kind])
    assert answer.status_code == 400, answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert client.get("/v1/files").json()["data"] == []
    assert [path for path in service.files.folder.rglob("*") if path.is_file()] == []


def test_a_file_beyond_the_limit_is_refused_while_it_arrives(
    make_service: Callable[..., JobService], engine: ScriptedEngine
) -> None:
    service = make_service(limits={"file_bytes": 1000})
    with client_of(service, engine) as client:
        assert upload(client, b"x" * 1000).status_code == 200
        refused = upload(client, b"x" * 1001)
        endless = post_raw(client, b"--XX\r\n" + b"x" * 3_000_000, pieces=65_536)
    assert refused.status_code == endless.status_code == 413
    assert len(service.files.list().items) == 1


def test_uploads_pass_no_temporary_folder(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 MB in /tmp, which may be memory, is what must not be."""
    gone = tmp_path / "gone"
    monkeypatch.setattr(tempfile, "tempdir", str(gone))
    assert upload(client, b"x" * 3_000_000).status_code == 200


def test_deleting_while_paging_meets_every_file_once(client: TestClient) -> None:
    made = [upload(client).json()["id"] for _ in range(5)]
    after, seen = None, []
    while True:
        page = client.get(
            "/v1/files", params={"limit": 2, **({"after": after} if after else {})}
        ).json()
        if not page["data"]:
            assert page["has_more"] is False and page["first_id"] is None
            break
        assert (
            page["first_id"] == page["data"][0]["id"] and page["last_id"] == page["data"][-1]["id"]
        )
        for file in page["data"]:
            assert client.delete(f"/v1/files/{file['id']}").json()["deleted"] is True
            seen.append(file["id"])
        after = page["last_id"]
    assert seen == made[::-1]


def test_order_and_purpose_choose(client: TestClient) -> None:
    first, second = upload(client).json()["id"], upload(client, purpose="batch").json()["id"]
    listed = client.get("/v1/files?order=asc").json()["data"]
    assert [file["id"] for file in listed] == [first, second]
    assert [f["id"] for f in client.get("/v1/files?purpose=batch").json()["data"]] == [second]
    assert client.get("/v1/files?order=up").json()["error"]["param"] == "order"
    assert client.get("/v1/files?limit=10001").status_code == 400


def test_what_is_not_there_is_said_as_openai_says_it(client: TestClient) -> None:
    for answer in (
        client.get("/v1/files/file-x"),
        client.delete("/v1/files/file-x"),
        client.get("/v1/files/file-x/content"),
    ):
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert error["message"] == "No such File object: file-x"
        assert (error["param"], error["code"]) == ("id", None)
        assert answer.headers["content-type"] == "application/json"


def test_a_large_file_arrives_in_parts(client: TestClient) -> None:
    pieces = [b"a" * 70_000, b"b" * 50_000, b"c"]
    whole = b"".join(pieces)
    asked = {
        "filename": "big.jsonl",
        "purpose": "fine-tune",
        "bytes": len(whole),
        "mime_type": "application/jsonl",
    }
    made = client.post("/v1/uploads", json=asked).json()
    assert made["object"] == "upload" and made["status"] == "pending" and made["file"] is None
    parts = [
        client.post(f"/v1/uploads/{made['id']}/parts", files={"data": ("p", piece)}).json()
        for piece in reversed(pieces)
    ]
    assert {part["object"] for part in parts} == {"upload.part"}
    order = [part["id"] for part in reversed(parts)]
    done = client.post(f"/v1/uploads/{made['id']}/complete", json={"part_ids": order}).json()
    assert done["status"] == "completed" and done["file"]["bytes"] == len(whole)
    assert client.get(f"/v1/files/{done['file']['id']}/content").content == whole
    other = client.post("/v1/uploads", json=asked).json()
    cancelled = client.post(f"/v1/uploads/{other['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    wrong = client.post("/v1/uploads", json={**asked, "bytes": "x"}).json()["error"]
    assert wrong["param"] == "bytes"
    assert client.post("/v1/uploads/upload_x/cancel").status_code == 404
