"""A small Hub on loopback: repositories, upload modes, LFS storage and commits, all in memory.

It speaks what huggingface_hub's client asks for when it uploads a model, counts every request, and
misbehaves on demand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any

Answer = tuple[int, Mapping[str, Any]]
PAGE = {"page": "<html>A page where JSON was expected</html>"}
REGULAR_BYTES = 2_000
"""Larger files go to LFS here, and so do weights of any size; the real Hub's bound is 10 MB."""


@dataclass
class Repository:
    """One commit after the other. `files` is the newest state, by path."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    in_lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    messages: list[str] = field(default_factory=list)

    def oid(self, path: str) -> str:
        """What the client compares: sha256 of an LFS file, git's blob hash of others."""
        content = self.files[path]
        if path in self.in_lfs:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """The state behind the server, and how it is to misbehave."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.agents: set[str] = set()
        self.refusals: dict[str, Answer] = {}
        self.drops: dict[str, int] = {}
        self.url = ""

    def refuse(self, part: str, status: int, words: str = "refused") -> None:
        """Answer requests whose line contains `part` with an error."""
        self.refusals[part] = (status, {"error": words})

    def garble(self, part: str) -> None:
        """Answer requests whose line contains `part` with a page, as a proxy in between does."""
        self.refusals[part] = (502, PAGE)

    def drop(self, part: str, times: int) -> None:
        """Close the connection of the next `times` requests whose line contains `part`."""
        self.drops[part] = times

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        if method == "PUT" and path.startswith("/storage/"):
            self.stored[path.rpartition("/")[2]] = body
            return 200, {}
        values = json.loads(body) if body and not path.endswith("/commit/main") else {}
        if path == "/api/repos/create":
            return self._create(values)
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": self._instructions(values["objects"])}
        return self._about_model(path, values, body)

    def _about_model(self, path: str, values: Mapping[str, Any], body: bytes) -> Answer:
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}
        repository = self.repositories[name]
        if path.endswith("/preupload/main"):
            return 200, {"files": [self._mode(repository, file) for file in values["files"]]}
        if path.endswith("/commit/main"):
            return self._commit(name, repository, body)
        siblings = [{"rfilename": file} for file in sorted(repository.files)]
        return 200, {
            "id": name,
            "sha": repository.commits[-1],
            "private": repository.private,
            "siblings": siblings,
        }

    def _create(self, values: Mapping[str, Any]) -> Answer:
        name = f"{values['organization']}/{values['name']}"
        if name in self.repositories:
            url = f"{self.url}/{name}"
            return 409, {"error": "You already created this model repo", "url": url}
        # Clients say `visibility` today and said `private` before.
        private = values.get("visibility") == "private" or bool(values.get("private"))
        self.repositories[name] = Repository(private)
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def _mode(self, repository: Repository, file: Mapping[str, Any]) -> dict[str, Any]:
        path = file["path"]
        large = file["size"] > REGULAR_BYTES or PurePosixPath(path).suffix == ".safetensors"
        oid = repository.oid(path) if path in repository.files else None
        mode = "lfs" if large else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _instructions(self, objects: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        answers = []
        for item in objects:
            found = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.stored:
                upload = {"href": f"{self.url}/storage/{item['oid']}", "header": {}}
                found["actions"] = {"upload": upload}
            answers.append(found)
        return answers

    def _commit(self, name: str, repository: Repository, body: bytes) -> Answer:
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.stored[value["oid"]]
                repository.in_lfs.add(value["path"])
            else:
                repository.messages.append(value["summary"])
        repository.commits.append(hashlib.sha1(body).hexdigest())
        commit = repository.commits[-1]
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        line = f"{self.command} {path}"
        self.hub.requests.append(line)
        self.hub.agents.add(self.headers.get("User-Agent", ""))
        for part, times in self.hub.drops.items():
            if part in line and times > 0:
                self.hub.drops[part] -= 1
                self.close_connection = True
                return
        status, values = self._status(line, path, body)
        content = (PAGE["page"] if values is PAGE else json.dumps(values)).encode()
        self.send_response(status)
        if "error" in values:
            self.send_header("X-Error-Message", values["error"])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _status(self, line: str, path: str, body: bytes) -> Answer:
        for part, refusal in self.hub.refusals.items():
            if part in line:
                return refusal
        signed = path.startswith("/storage/")  # its address is the permission
        if not signed and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return 401, {"error": "Invalid username or password."}
        return self.hub.answer(self.command, path, body)

    do_GET = do_POST = do_PUT = _handle

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not printed."""


@contextmanager
def running_hub(token: str) -> Iterator[Hub]:
    """A Hub that serves until the block ends."""
    hub = Hub(token)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
