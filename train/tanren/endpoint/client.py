"""Asks an endpoint many things at once: bounded, patient, within its budget, nothing twice.

`ask_all` is for programs without an event loop, `ask_each` for those with one. Ctrl-C cancels what
is under way; what was answered before is kept.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tanren.endpoint.cache import ReplyCache, request_key
from tanren.endpoint.reply import (
    Conversation,
    Failure,
    Garbled,
    Reply,
    error_words,
)
from tanren.endpoint.settings import EndpointConfig
from tanren.endpoint.spending import BudgetSpent, Cost, Ledger
from tanren.endpoint.waiting import RETRIED_STATUS, asked_wait, backoff
from tanren.errors import ConfigError, Fault, WorkError

if TYPE_CHECKING:
    import httpx2

MOST_BYTES = 32 << 20
"""32 MiB. A longer body is no chat completion."""

OnReply = Callable[[int, Reply | Failure], None]
"""Called in the order of arrival with the conversation's position and what came of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`stopped` says why not everything was asked; None: everything was."""

    asked: int
    failed: int
    not_asked: int
    cached: int
    stopped: str | None = None


class _Failed(Exception):
    """One try did not succeed. `cost` None: nobody knows what it did cost."""

    def __init__(
        self,
        failure: Failure,
        *,
        again: bool,
        wait: float | None = None,
        cost: Cost | None = None,
    ) -> None:
        super().__init__(failure.words)
        self.failure = failure
        self.again = again
        self.wait = wait
        self.cost = cost


class EndpointSilent(WorkError):
    """Several rows in a row got no answer, so the others are not asked. What was answered is
    kept.
    """


_MOST_UNANSWERED = 3
"""Rows in a row that were given up after all retries: the endpoint is down, not the row at fault.
Going on would spend minutes on every further row."""
_MOST_REFUSED = 10
"""Rows in a row that the endpoint calls wrong before it answered any: a setting is at fault."""
_NOTHING = Cost(requests=1)
"""A request that was turned away: it counts, and no token was charged."""


class Client:
    """One endpoint, for as long as `opened` holds it open. Its representation shows no key."""

    def __init__(
        self,
        config: EndpointConfig,
        http: httpx2.AsyncClient,
        *,
        key: str | None,
        cache: ReplyCache | None,
        ledger: Ledger,
    ) -> None:
        self.config = config
        self.ledger = ledger
        self._http = http
        self._key = key
        self._cache = cache
        self._turns = asyncio.Semaphore(config.concurrency)
        self._settled = asyncio.Condition()
        self._asking: dict[str, asyncio.Lock] = {}
        self._not_before = 0.0
        self._answered = False
        self._failed_in_a_row: list[Failure] = []
        self._random = random.Random()

    async def ask(self, conversation: Conversation, *, sample: int = 0) -> Reply | Failure:
        """The reply, kept or new. Raises BudgetSpent when the next request might exceed it,
        EndpointSilent when the endpoint seems to be down, and ConfigError for what would fail every
        request (the key, the address, the model's name).
        """
        messages = [dict(message) for message in conversation]
        key = request_key(self.config, messages, sample)
        async with self._asking.setdefault(key, asyncio.Lock()):  # equal rows are asked once
            kept = self._cache.get(key) if self._cache else None
            if kept is not None:
                return kept
            async with self._turns:
                self._ensure_worth_asking()
                reply = await self._ask_until_answered(messages)
            self._remember(reply)
            if self._cache and isinstance(reply, Reply):
                self._cache.put(key, reply)
            return reply

    def _remember(self, reply: Reply | Failure) -> None:
        if isinstance(reply, Reply):
            self._answered = True
            self._failed_in_a_row.clear()
        else:
            self._failed_in_a_row.append(reply)

    def _ensure_worth_asking(self) -> None:
        failed = self._failed_in_a_row
        silent = [one for one in failed if one.kind in ("lost", "garbled", "overloaded")]
        if len(silent) >= _MOST_UNANSWERED:
            words = (
                f"the endpoint does not answer ({len(silent)} rows in a row): {silent[-1].words}"
            )
            raise EndpointSilent(words)
        if not self._answered and len(failed) >= _MOST_REFUSED:
            remedy = "change the setting that it names (temperature: null sends none)"
            expected = "requests that it accepts"
            raise self._hopeless(f"model {self.config.model}", failed[-1].words, expected, remedy)

    async def _ask_until_answered(self, messages: list[dict[str, Any]]) -> Reply | Failure:
        attempt = 1
        while True:
            await self._until_welcome()
            try:
                return await self._try(messages, attempt)
            except _Failed as failed:
                wait = self._wait(failed, attempt)
                if wait is None:
                    return failed.failure
                await asyncio.sleep(wait)
                attempt += 1

    def _wait(self, failed: _Failed, attempt: int) -> float | None:
        """Seconds before the next try; None: no further one.

        A wait that the endpoint asked for holds all requests back, not only this one.
        """
        config = self.config
        if not failed.again or attempt > config.retries:
            return None
        if failed.wait is None:
            first, longest = config.first_wait_seconds, config.longest_wait_seconds
            return backoff(attempt, first, longest, self._random)
        if failed.wait > config.longest_wait_seconds:
            return None
        self._not_before = max(self._not_before, time.monotonic() + failed.wait)
        return failed.wait

    async def _until_welcome(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    # --- one try ----------------------------------------------------------------------------------

    async def _try(self, messages: list[dict[str, Any]], attempt: int) -> Reply:
        number = await self._reserve(messages)
        cost: Cost | None = None
        try:
            reply = await self._send(messages, attempt)
            cost = _cost_of(reply)
            return reply
        except _Failed as failed:
            cost = failed.cost
            raise
        except ConfigError:
            cost = _NOTHING
            raise
        finally:
            self.ledger.settle(number, cost)
            await self._tell_settled()

    async def _reserve(self, messages: list[dict[str, Any]]) -> int:
        """Waits while only requests under way stand between this one and the budget."""
        async with self._settled:
            while True:
                most = self.ledger.most(messages, self.config.max_tokens)
                if self.ledger.fits(most):
                    return self.ledger.reserve(most)
                if not self.ledger.in_flight:
                    raise BudgetSpent(self.ledger.spent_words(most))
                await self._settled.wait()

    async def _tell_settled(self) -> None:
        async with self._settled:
            self._settled.notify_all()

    async def _send(self, messages: list[dict[str, Any]], attempt: int) -> Reply:
        import httpx2

        began = time.monotonic()
        try:
            async with asyncio.timeout(self.config.timeout_seconds):
                status, headers, body = await self._post(messages)
        except TimeoutError:
            words = f"no whole answer within {self.config.timeout_seconds:g} seconds"
            raise _Failed(Failure("lost", words, attempt), again=True) from None
        except httpx2.ConnectError as error:
            words = f"no connection to {self.config.host}: {self._clean(str(error))}"
            raise _Failed(Failure("lost", words, attempt), again=True, cost=_NOTHING) from None
        except httpx2.RequestError as error:
            words = f"the connection broke: {self._clean(str(error)) or type(error).__name__}"
            raise _Failed(Failure("lost", words, attempt), again=True) from None
        if status != 200:
            raise self._refusal(status, headers, body, attempt)
        try:
            seconds = time.monotonic() - began
            reply = self.config.read(body, seconds=seconds, attempts=attempt)
        except Garbled as error:
            words = f"the answer is none that can be read: {error}"
            raise _Failed(Failure("garbled", words, attempt), again=True) from None
        if reply.finish_reason == "content_filter":
            words = "the endpoint's content filter kept the answer"
            failure = Failure("withheld", words, attempt)
            raise _Failed(failure, again=False, cost=_cost_of(reply))
        return reply

    async def _post(self, messages: list[dict[str, Any]]) -> tuple[int, httpx2.Headers, bytes]:
        # In ASCII, so that half of an emoji in a row is the endpoint's fault to find, not a crash.
        body = json.dumps(self.config.body(messages)).encode()
        async with self._http.stream("POST", self.config.url, content=body) as response:
            received = bytearray()
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > MOST_BYTES:
                    break
            return response.status_code, response.headers, bytes(received)

    def _refusal(
        self, status: int, headers: httpx2.Headers, body: bytes, attempt: int
    ) -> _Failed | ConfigError:
        code, words = error_words(body)
        words = f"HTTP {status}: {self._clean(words)}"
        if code == "insufficient_quota" or status == 402:
            return self._hopeless("base_url", words, "credit at the endpoint", "add credit there")
        if status in RETRIED_STATUS:
            failure = Failure("overloaded" if status in (429, 503, 529) else "lost", words, attempt)
            return _Failed(failure, again=True, wait=asked_wait(headers), cost=_NOTHING)
        if status in (401, 403):
            named = self.config.api_key_env
            remedy = f"check the key in {named}" if named else "name the key's variable here"
            return self._hopeless("api_key_env", words, "a key that the endpoint accepts", remedy)
        if status in (404, 405) or 300 <= status < 400:
            name = f"{self.config.base_url} and the model {self.config.model!r}"
            remedy = "check both (redirects are not followed)"
            return self._hopeless("base_url", words, f"a chat endpoint at {name}", remedy)
        return _Failed(Failure("refused", words, attempt), again=False, cost=_NOTHING)

    def _hopeless(self, name: str, found: str, expected: str, remedy: str) -> ConfigError:
        """What would be the same for every request ends the work at once."""
        return ConfigError("the endpoint refuses", [Fault(name, found, expected, remedy)])

    def _clean(self, words: str) -> str:
        """An endpoint's words without our key, which some repeat in their errors."""
        return words.replace(self._key, "***") if self._key else words


def _cost_of(reply: Reply) -> Cost | None:
    if reply.prompt_tokens is None or reply.answer_tokens is None:
        return None
    return Cost(1, reply.prompt_tokens, reply.answer_tokens)


@asynccontextmanager
async def opened(
    config: EndpointConfig, *, cache: ReplyCache | None = None, ledger: Ledger | None = None
) -> AsyncIterator[Client]:
    """A client. ConfigError if rows would leave the machine unasked, or the key is missing."""
    import httpx2

    config.ensure_allowed()
    key = config.api_key()
    headers = {"User-Agent": "tanren", "Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )
    limits = httpx2.Limits(max_connections=None)  # `Client` takes turns
    # What goes to this machine passes no proxy; redirects are not followed, so that rows and key
    # reach the named host alone. `asyncio.timeout` above bounds the whole exchange.
    async with httpx2.AsyncClient(
        headers=headers,
        limits=limits,
        timeout=None,
        follow_redirects=False,
        trust_env=config.leaves_machine,
    ) as http:
        own = ledger or Ledger(config.budget, config.prices)
        yield Client(config, http, key=key, cache=cache, ledger=own)


async def ask_each(
    client: Client, conversations: Sequence[Conversation], on_reply: OnReply
) -> Outcome:
    """Ask everything, `concurrency` at a time, in order. Ends early when the budget is spent or the
    endpoint does not answer any more.
    """
    waiting = iter(enumerate(conversations))
    counts = {"asked": 0, "failed": 0, "cached": 0}
    stopped: list[str] = []

    async def work() -> None:
        for position, conversation in waiting:
            if stopped:
                return
            try:
                reply = await client.ask(conversation)
            except (BudgetSpent, EndpointSilent) as why:
                stopped.append(why.message)
                return
            counts["asked"] += 1
            counts["failed"] += isinstance(reply, Failure)
            counts["cached"] += isinstance(reply, Reply) and reply.cached
            on_reply(position, reply)

    await _together([work() for _ in range(min(client.config.concurrency, len(conversations)))])
    return Outcome(
        **counts,
        not_asked=len(conversations) - counts["asked"],
        stopped=stopped[0] if stopped else None,
    )


async def _together(works: Sequence[Any]) -> None:
    """Run all; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


def ask_all(
    config: EndpointConfig,
    conversations: Sequence[Conversation],
    on_reply: OnReply,
    *,
    cache: ReplyCache | None = None,
    ledger: Ledger | None = None,
) -> Outcome:
    """Ask everything and come back when all is answered or failed, or as early as `ask_each`.

    Raises ConfigError as `opened` and `Client.ask` do. Ctrl-C cancels what is under way and raises
    KeyboardInterrupt; `on_reply` was called with everything that was answered before.
    """

    async def ask() -> Outcome:
        async with opened(config, cache=cache, ledger=ledger) as client:
            return await ask_each(client, conversations, on_reply)

    return asyncio.run(ask())
