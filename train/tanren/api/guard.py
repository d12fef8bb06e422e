"""Who may ask for what: the Host header, the Origin, keys with their scopes, and how often.

Attacks that matter on loopback come from web pages open in the same machine's browser: one that
posts to 127.0.0.1 (its Origin tells), and one whose name was turned to 127.0.0.1 after it was
loaded (the Host header tells; an address instead of a name cannot be turned).
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tanren.api.errors import response_to
from tanren.api.watch import seen
from tanren.store.errors import Forbidden, LimitExceeded, RequestError, Unauthorized
from tanren.store.keys import Keys
from tanren.store.settings import ServiceConfig

OPEN_PATHS = frozenset(("/healthz", "/readyz"))
"""Answered without a key: they say no more than that the service is there."""
_MOST_CALLERS = 10_000


class Guard:
    """Lets a request through or answers it with 401, 403 or 429."""

    def __init__(self, app: ASGIApp, config: ServiceConfig, keys: Keys) -> None:
        self._app = app
        self._config = config
        self._keys = keys
        self._names = host_names(config)
        self._rates = Rates(config.limits.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._check(scope)
        except RequestError as refusal:
            await response_to(refusal)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        check_host(headers, self._names)
        check_origin(headers)
        if scope["path"] in OPEN_PATHS:
            return
        address = scope["client"][0] if scope.get("client") else "unknown"
        caller = address
        if self._config.demands_keys:
            caller = await self._key(headers, scope, address)
        self._rates.take(caller)

    async def _key(self, headers: Headers, scope: Scope, address: str) -> str:
        """The id of the key that allows this request."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthorized(
                "You didn't provide an API key. You need to provide your API key in an "
                "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                code="invalid_api_key",
            )
        wanted = scope_of(scope["method"], scope["path"])
        try:
            record = await run_in_threadpool(self._keys.check, secret.strip(), wanted)
        except Unauthorized:
            # good keys are not refused: behind a proxy all clients have one address
            self._rates.guessed(address)
            raise
        seen(scope).noted["key"] = record.id
        return record.id


def scope_of(method: str, path: str) -> str | None:
    """The scope that a key needs; None: any key will do."""
    room = path.removeprefix("/v1/").split("/", 1)[0]
    if room in ("files", "uploads"):
        return "files"
    if room == "fine_tuning":
        return "jobs"
    if room in ("chat", "engines"):
        return "chat"
    if path == "/metrics":
        return "metrics"
    return "models" if room == "models" and method != "GET" else None


def host_names(config: ServiceConfig) -> frozenset[str]:
    """Names by which clients may call this machine; addresses always may be used."""
    names = {"localhost", config.host, *config.allowed_hosts}
    if not config.is_loopback:
        names |= {socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower().rstrip(".") for name in names if name)


def check_host(headers: Headers, names: frozenset[str]) -> None:
    """Raises Forbidden for a name that nobody gave this machine."""
    given = headers.getlist("host")
    host = _without_port(given[0]) if len(given) == 1 else ""
    if not _is_address(host) and host.lower().rstrip(".") not in names:
        raise Forbidden(
            "This service does not know itself by the name in the Host header. Add the name to "
            "allowed_hosts in its settings.",
            code="host_not_allowed",
        )


def check_origin(headers: Headers) -> None:
    """Raises Forbidden where a web page from elsewhere asks."""
    origin = headers.get("origin")
    own = {f"http://{headers.get('host')}", f"https://{headers.get('host')}"}
    foreign = origin is not None and origin not in own
    if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Forbidden("Web pages of other origins may not ask here.", code="origin_not_allowed")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Rates:
    """A bucket of requests for each caller: a minute's worth at once, filled again evenly.

    Callers beyond the last ten thousand are forgotten, the quietest first.
    """

    def __init__(self, per_minute: int | None, *, guesses_per_minute: int = 30) -> None:
        self._asked = _Buckets(per_minute) if per_minute else None
        self._guessed = _Buckets(guesses_per_minute)

    def take(self, caller: str) -> None:
        """Raises LimitExceeded when the caller's bucket is empty."""
        if self._asked is None:
            return
        wait = self._asked.take(caller)
        if wait > 0:
            raise LimitExceeded(
                f"Rate limit reached: {self._asked.per_minute} requests per minute. Please try "
                f"again in {wait:.1f}s.",
                retry_after=wait,
            )

    def guessed(self, address: str) -> None:
        """A wrong key. Raises LimitExceeded where the address has shown too many of them."""
        wait = self._guessed.take(address)
        if wait > 0:
            raise LimitExceeded(
                f"Too many wrong API keys from your address. Please try again in {wait:.1f}s.",
                retry_after=wait,
            )


class _Buckets:
    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, caller: str) -> float:
        """Take one; returns 0.0, or the seconds until there is one."""
        wait = self.missing(caller)
        if wait <= 0:
            self._buckets[caller].tokens -= 1
        return wait

    def missing(self, caller: str) -> float:
        """Seconds until this caller may take one; 0.0: now."""
        now = time.monotonic()
        bucket = self._buckets.setdefault(caller, _Bucket(float(self.per_minute), now))
        self._buckets.move_to_end(caller)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        filled = bucket.tokens + (now - bucket.at) * self.per_minute / 60
        bucket.tokens, bucket.at = min(float(self.per_minute), filled), now
        return max(0.0, (1 - bucket.tokens) * 60 / self.per_minute)
