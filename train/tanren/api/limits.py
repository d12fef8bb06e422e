"""How much a client may send, and how slowly."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tanren.api.errors import Timeout
from tanren.store.errors import TooLarge
from tanren.store.settings import Limits


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of waiting, for each kind of silence."""

    body: float = 60.0
    """Between two pieces of a request's body; then it is given up."""
    first_word: float = 2.0
    """A refusal by the engine in this time has a status of its own; later a stream has begun and
    it is a line of that.
    """
    keep_alive: float = 5.0
    """Between two signs of life in a stream, while models are loaded or others are answered."""


_FORM_EXTRA_BYTES = 1024 * 1024
"""Beside the file in a multipart form: boundaries, headers, other fields."""


class BodyLimit:
    """Counts a body while it arrives, whatever its `Content-Length` said or whether it had one."""

    def __init__(self, app: ASGIApp, limits: Limits, *, seconds: float) -> None:
        self._app = app
        self._limits = limits
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            most = most_bytes(scope["method"], scope["path"], self._limits)
            receive = _Counted(receive, most, self._seconds)
        await self._app(scope, receive, send)


def most_bytes(method: str, path: str, limits: Limits) -> int:
    """Bytes that the body of such a request may have."""
    parts = path.strip("/").split("/")
    if method == "POST" and parts == ["v1", "files"]:
        return limits.file_bytes + _FORM_EXTRA_BYTES
    if method == "POST" and len(parts) == 4 and parts[1] == "uploads" and parts[3] == "parts":
        return limits.part_bytes + _FORM_EXTRA_BYTES
    return limits.json_bytes


class _Counted:
    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._bytes = 0
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:  # only "the client has left" comes now, and may take as long as it likes
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._seconds)
        except TimeoutError:
            raise Timeout(
                f"The request stopped arriving for {self._seconds:g} seconds.",
                code="request_timeout",
            ) from None
        self._whole = not message.get("more_body", False)
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most:
            raise TooLarge(
                f"The request is too large: at most {self._most:,} bytes are taken here.",
                code="request_too_large",
            )
        return message
