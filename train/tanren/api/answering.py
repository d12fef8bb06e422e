"""One chat completion: from the engine's replies to what the client is sent, and back when the
client leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

from starlette.requests import Request

from tanren.api.completion import Chunks, Head, Used, Whole
from tanren.api.errors import EngineFailed, error_object
from tanren.engine.wire import (
    Accepted,
    ChatRequest,
    Failed,
    Finished,
    Piece,
    Reply,
    ToolCall,
    Unloaded,
)
from tanren.store.errors import InvalidRequest, LimitExceeded, NotFound, RequestError

_RETRY_SECONDS = 2.0


class Engine(Protocol):
    """What answers: `engine.client.EngineClient`."""

    def chat(self, request: ChatRequest) -> AsyncIterator[list[Reply]]: ...
    async def unload(self, folder: str | None = None) -> None: ...


class Answering:
    """One request at the engine. Raises RequestError where it fails; `close` tells the engine that
    nobody listens any more.
    """

    def __init__(self, engine: Engine, request: ChatRequest, head: Head) -> None:
        self.request = request
        self.head = head
        self.used = Used()
        self.silent = False
        self._replies = engine.chat(request)
        self._next: asyncio.Future[list[Reply]] | None = None

    async def first(self, seconds: float) -> None:
        """Wait for the engine's first word, so long at most. Raises what it fails with at once."""
        self._next = asyncio.ensure_future(anext(self._replies, []))
        try:
            done, _ = await asyncio.wait([self._next], timeout=seconds)
            for reply in self._next.result() if done else ():
                if isinstance(reply, Failed):
                    raise error_of(reply, self.head.model)
        except BaseException:  # whoever asked has gone, or was refused
            await self.close()
            raise

    async def step(self, seconds: float | None = None) -> list[Piece | ToolCall | Finished] | None:
        """What came next; [] where that was nothing to tell, or nothing came for so long (then
        `silent`); None at the end.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._replies, []))
        done, _ = await asyncio.wait([self._next], timeout=seconds)
        self.silent = not done
        if self.silent:
            return []
        arrived, self._next = self._next, None
        replies = arrived.result()
        return self._taken(replies) if replies else None

    def _taken(self, replies: list[Reply]) -> list[Piece | ToolCall | Finished]:
        told: list[Piece | ToolCall | Finished] = []
        for reply in replies:
            if isinstance(reply, Accepted):
                self.used.accepted(reply)
                self.head.fingerprint = reply.fingerprint
            elif isinstance(reply, Failed):
                raise error_of(reply, self.head.model)
            elif not isinstance(reply, Unloaded):
                if isinstance(reply, Finished):
                    self.used.finished(reply)
                told.append(reply)
        return told

    @property
    def accepted(self) -> bool:
        return self.head.fingerprint is not None

    async def close(self) -> None:
        waiting, self._next = self._next, None
        if waiting is not None and waiting.cancel():
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        if isinstance(self._replies, AsyncGenerator):
            await self._replies.aclose()


def error_of(failed: Failed, model: str) -> RequestError:
    if failed.kind == "busy":
        return LimitExceeded(failed.message, retry_after=_RETRY_SECONDS)
    if failed.kind == "model":
        return NotFound(failed.message, param="model", code=failed.code or "model_not_found")
    if failed.kind == "request":
        return InvalidRequest(failed.message, param=failed.param, code=failed.code)
    return EngineFailed(failed.message, code=failed.code)


async def whole(answering: Answering, request: Request) -> dict[str, Any] | None:
    """The completion; None where the client left before it was there."""
    gone = asyncio.ensure_future(_left(request))
    collected = Whole(answering.head, answering.request.choices)
    try:
        while not gone.done():
            step = asyncio.ensure_future(answering.step())
            await asyncio.wait([step, gone], return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                step.cancel()
                return None
            replies = step.result()
            if replies is None:
                return collected.body(answering.used)
            for reply in replies:
                collected.add(reply)
        return None
    finally:
        gone.cancel()
        await answering.close()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def lines(
    answering: Answering, include_usage: bool, keep_alive_seconds: float
) -> AsyncIterator[str]:
    """The completion as server-sent events. An error in the middle is a data line like the others:
    old clients pass over lines of any other kind.
    """
    try:
        async for chunk in _chunks(answering, include_usage, keep_alive_seconds):
            yield ": keep-alive\n\n" if chunk is None else _line(chunk)
    except RequestError as error:
        yield _line(error_object(error.status, str(error), param=error.param, code=error.code))
    else:
        yield "data: [DONE]\n\n"
    finally:
        await answering.close()


async def _chunks(
    answering: Answering, include_usage: bool, seconds: float
) -> AsyncIterator[dict[str, Any] | None]:
    """None where nothing came for a while."""
    chunks = Chunks(answering.head, include_usage=include_usage)
    began = False
    while (replies := await answering.step(seconds)) is not None:
        if not began and answering.accepted:
            began = True
            for chunk in chunks.roles(answering.request.choices):
                yield chunk
        if answering.silent:
            yield None
        for reply in replies:
            for chunk in chunks.of(reply):
                yield chunk
    for chunk in chunks.usage(answering.used):
        yield chunk


def _line(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n\n"
