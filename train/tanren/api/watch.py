"""Around every request: its id, headers that keep browsers out, a line in the log, a count, and the
wall behind which nothing is told of what nobody foresaw.
"""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tanren.api.errors import CLIENT_LEFT, error_response
from tanren.api.metrics import Metrics

log = logging.getLogger("tanren.service")

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_LONGEST_PATH = 200


@dataclass(slots=True)
class Seen:
    """What is known of a request; routes add to `noted`, which must hold no text of a user."""

    id: str
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    noted: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


class Watch:
    """The outermost piece of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, organization: str) -> None:
        self._app = app
        self._metrics = metrics
        self._organization = organization

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = Seen("req_" + secrets.token_hex(16))
        scope.setdefault("state", {})["seen"] = seen

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                self._add_headers(MutableHeaders(raw=message["headers"]), seen)
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception as error:  # the outermost wall: what nobody foresaw is told as our bug
            _log_bug(seen, error)
            if not seen.status:
                message = (
                    "The server had an error while processing your request. Its log says more "
                    f"under {seen.id}."
                )
                await error_response(500, message)(scope, receive, send_on)
        finally:
            self._tell(scope, seen)

    def _add_headers(self, headers: MutableHeaders, seen: Seen) -> None:
        headers["x-request-id"] = seen.id
        headers["openai-processing-ms"] = str(round(seen.seconds * 1000))
        headers["openai-organization"] = self._organization
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)

    def _tell(self, scope: Scope, seen: Seen) -> None:
        route = getattr(scope.get("route"), "path", None)
        status = seen.status or CLIENT_LEFT
        self._metrics.request(scope["method"], route or "none", status, seen.seconds)
        log.info(
            "request",
            extra={
                "facts": {
                    "method": _plain(scope["method"]),
                    "path": _plain(scope["path"]),
                    "status": status,
                    "milliseconds": round(seen.seconds * 1000, 1),
                    "request": seen.id,
                    **seen.noted,
                }
            },
        )


def seen(scope: Scope) -> Seen:
    """What `Watch` keeps of the request that this scope belongs to."""
    found = scope["state"]["seen"]
    assert isinstance(found, Seen)
    return found


def _plain(text: str) -> str:
    """One short printable line whatever a client sent."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:_LONGEST_PATH])
    return shown + ("..." if len(text) > _LONGEST_PATH else "")


def _log_bug(seen: Seen, error: Exception) -> None:
    """Kind and place, not the message: that may hold what a user sent."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
    facts = {"request": seen.id, "error": type(error).__name__, "at": places}
    log.error("a bug in tanren", extra={"facts": facts})
