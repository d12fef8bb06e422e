"""A chat endpoint on loopback that answers, delays, refuses, drops connections and talks garbage.

It counts what it is asked and how much of it at once. `behave` decides by the request's body.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What to send back. `dropped`: close the connection without a word."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    dropped: bool = False


def completion(
    text: str, *, prompt_tokens: int = 10, answer_tokens: int = 5, finish_reason: str = "stop"
) -> dict[str, Any]:
    """A chat completion as OpenAI writes it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "judge-1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": answer_tokens,
            "total_tokens": prompt_tokens + answer_tokens,
        },
    }


def echo(body: Mapping[str, Any]) -> Answer:
    """Repeats the last message."""
    return Answer(body=completion("echo: " + body["messages"][-1]["content"]))


@dataclass
class ChatServer:
    behave: Callable[[Mapping[str, Any]], Answer] = echo
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def asked(self) -> list[str]:
        """The last message of every request, in order of arrival."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def first(self, *answers: Answer) -> None:
        """The first requests meet these answers, later ones the behaviour of now."""
        rest = iter(answers)
        then = self.behave
        lock = threading.Lock()

        def behave(body: Mapping[str, Any]) -> Answer:
            with lock:
                answer = next(rest, None)
            return answer or then(body)

        self.behave = behave


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; the second would wait 40 ms
    chat: ChatServer

    def do_POST(self) -> None:
        chat = self.chat
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with chat.lock:
            chat.bodies.append(body)
            chat.headers.append(dict(self.headers.items()))
            chat.paths.append(self.path)
            chat.times.append(time.monotonic())
            chat.at_once += 1
            chat.most_at_once = max(chat.most_at_once, chat.at_once)
        try:
            answer = chat.behave(body)
            time.sleep(answer.delay)
        finally:
            with chat.lock:
                chat.at_once -= 1
        if answer.dropped:
            self.close_connection = True
            return
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body)
        content = content.encode() if isinstance(content, str) else content
        try:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the client has left

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not printed."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the tests."""


@contextmanager
def running_chat(behave: Callable[[Mapping[str, Any]], Answer] = echo) -> Iterator[ChatServer]:
    """An endpoint that serves until the block ends."""
    chat = ChatServer(behave)
    handler = type("Handler", (_Handler,), {"chat": chat})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
