"""The service's side: one engine process, started when it is needed, replaced when it dies."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tanren.engine.lines import Order, order_line, read_replies, too_deep
from tanren.engine.wire import (
    Cancel,
    ChatRequest,
    EngineSettings,
    EngineState,
    Failed,
    Finished,
    Piece,
    Reply,
    Unload,
    Unloaded,
)

UNREAD_BYTES = 8 * 2**20
"""Text and log-probabilities that one reader may leave unread before its request ends."""
LINE_BYTES = 256 * 2**20
END_SECONDS = 5.0
"""For the engine to end by itself before it is killed."""
CRASHES = 3
CRASH_SECONDS = 60.0
"""After so many ends within so many seconds without an answer, no new process for as long."""


class Serving(Protocol):
    """The part of the service's settings that is for the engine."""

    @property
    def max_batch(self) -> int: ...
    @property
    def batch_tokens(self) -> int: ...
    @property
    def max_waiting(self) -> int: ...
    @property
    def max_adapters(self) -> int: ...
    @property
    def max_bases(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def idle_unload_seconds(self) -> float | None: ...
    @property
    def threads(self) -> int | None: ...


class EngineClient:
    """Of one event loop. A request that is in hand when the engine dies gets `Failed` (engine); the
    next one has a new engine.
    """

    def __init__(
        self,
        serving: Serving,
        *,
        log: Path,
        environment: Mapping[str, str] = {},
        rests: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`rests` says why no process may be started now (a job has the device); None: it may."""
        self._serving = serving
        self._rests = rests
        self._log = log
        self._environment = dict(environment)
        self._process: _Process | None = None
        self._starting = asyncio.Lock()
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._open = 0
        self._last_used = time.monotonic()
        self._idle_watch: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """A process without any model. Raises OSError where it cannot be started."""
        await self._running()

    async def close(self) -> None:
        """Ends the process; requests in hand fail."""
        self._closed = True
        if self._idle_watch is not None:
            self._idle_watch.cancel()
        async with self._starting:
            if self._process is not None:
                await self._process.end("The service is stopping.")
                self._process = None

    def busy(self) -> EngineState:
        """As the engine told it last, a tenth of a second ago at most while it works."""
        process = self._process
        return process.state if process is not None and process.alive else EngineState()

    async def chat(self, request: ChatRequest) -> AsyncGenerator[list[Reply], None]:
        """Replies to this request, what has arrived at once. The last one is `Failed` or the last
        choice's `Finished`. Closing the iterator cancels the request.
        """
        if self._open >= self._serving.max_batch + self._serving.max_waiting:
            yield [_busy(request.id, self._open)]
            return
        self._open += 1
        try:
            try:
                process = await self._running()
            except OSError as error:
                process = Failed("", "engine", f"The engine could not be started: {error}.")
            if isinstance(process, Failed):
                yield [replace(process, id=request.id)]
                return
            async with aclosing(process.ask(request)) as answering:
                async for replies in answering:
                    if any(isinstance(reply, Finished) for reply in replies):
                        self._crashes.clear()
                    yield replies
        finally:
            self._open -= 1
            self._last_used = time.monotonic()

    async def unload(self, folder: str | None = None, *, grace_seconds: float = 30.0) -> None:
        """Frees what was loaded from `folder`, after the answers that use it; or everything (None),
        by ending the process: that alone gives all of a GPU's memory back. Answers in hand then
        have `grace_seconds` to become complete; new requests wait, and start a new process.
        """
        if folder is None:
            async with self._starting:
                process = self._process
                if process is not None:
                    await process.drain(grace_seconds)
                    await process.end("The engine was unloaded: its memory is needed.")
                    self._process = None
        elif self._process is not None and self._process.alive:
            await self._process.unload(folder)

    # --- the process ------------------------------------------------------------------------------

    async def _running(self) -> _Process | Failed:
        async with self._starting:
            if self._closed:
                return Failed("", "engine", "The service is stopping.")
            process = self._process
            if process is not None and process.alive:
                return process
            if process is not None:
                self._crashes.append(process.ended_at)
                self._process = None
            resting = self._rests()
            if resting is not None:
                return Failed("", "busy", resting, code="rate_limit_exceeded")
            wait = self._holds_off()
            if wait > 0:
                return Failed("", "engine", self._too_many_crashes(wait))
            self._process = await _Process.start(self._serving, self._log, self._environment)
            if self._idle_watch is None and self._serving.idle_unload_seconds is not None:
                self._idle_watch = asyncio.create_task(
                    self._unload_when_idle(self._serving.idle_unload_seconds)
                )
            return self._process

    def _holds_off(self) -> float:
        """Seconds until another process is tried."""
        if len(self._crashes) < CRASHES or self._crashes[-1] - self._crashes[0] > CRASH_SECONDS:
            return 0.0
        return self._crashes[-1] + CRASH_SECONDS - time.monotonic()

    def _too_many_crashes(self, wait: float) -> str:
        return (
            f"The engine ended {len(self._crashes)} times in a row without an answer; it is tried "
            f"again in {wait:.0f} seconds. Its last words are in {self._log}."
        )

    async def _unload_when_idle(self, seconds: float) -> None:
        while True:
            idle = time.monotonic() - self._last_used
            if self._open or idle < seconds or self._process is None:
                await asyncio.sleep(max(seconds - idle, seconds / 4) if not self._open else seconds)
            else:
                await self.unload()


@dataclass(eq=False)
class _Reader:
    """Who waits for replies, and what arrived since the last look."""

    left: int
    """Choices that are not complete."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    replies: list[Reply] = field(default_factory=list)
    size: int = 0

    def put(self, reply: Reply) -> None:
        """Text that nobody has read yet is joined, so that a slow reader costs little memory."""
        last = self.replies[-1] if self.replies else None
        if _joins(last, reply):
            assert isinstance(last, Piece) and isinstance(reply, Piece)
            self.replies[-1] = replace(last, text=last.text + reply.text)
            self.size += 2 * len(reply.text)
        else:
            self.replies.append(reply)
            self.size += _size(reply)
        self.arrived.set()

    def take(self) -> list[Reply]:
        taken, self.replies, self.size = self.replies, [], 0
        self.arrived.clear()
        return taken


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.state = EngineState(process=process.pid)
        self.ended_at = 0.0
        self._code = 0
        self._log = log
        self._process = process
        self._orders = process.stdin
        self._lines = process.stdout
        self._readers: dict[str, _Reader] = {}
        self._unloading: dict[str | None, list[asyncio.Future[None]]] = {}
        self._farewell: str | None = None
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, serving: Serving, log: Path, environment: Mapping[str, str]) -> _Process:
        settings = EngineSettings(
            max_batch=serving.max_batch,
            batch_tokens=serving.batch_tokens,
            max_waiting=serving.max_waiting,
            max_adapters=serving.max_adapters,
            max_bases=serving.max_bases,
            max_tokens=serving.max_tokens,
            threads=serving.threads,
        )
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = {} if serving.threads is None else {"OMP_NUM_THREADS": str(serving.threads)}
        with open(log, "ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "tanren.engine"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                limit=LINE_BYTES,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **threads, **environment},
                start_new_session=True,
            )
        started = cls(process, log)
        await started._say(settings)
        return started

    @property
    def alive(self) -> bool:
        return not self._listener.done()

    async def ask(self, request: ChatRequest) -> AsyncGenerator[list[Reply], None]:
        reader = self._readers[request.id] = _Reader(request.choices)
        try:
            try:
                await self._say(request)
            except RecursionError:  # before a byte of it was written
                reader.left = 0
                yield [too_deep(request.id)]
            if not self.alive and request.id in self._readers:  # it died before this began
                self._fail(request.id, self._farewell or _last_words(self._code, self._log))
            while reader.left > 0:
                await reader.arrived.wait()
                taken = reader.take()
                reader.left -= sum(isinstance(reply, Finished) for reply in taken)
                if isinstance(taken[-1], Failed):
                    reader.left = 0
                yield taken
        finally:
            if self._readers.pop(request.id, None) is not None and reader.left > 0:
                self._send(Cancel(request.id))

    async def unload(self, folder: str) -> None:
        done = asyncio.get_running_loop().create_future()
        self._unloading.setdefault(folder, []).append(done)
        await self._say(Unload(folder))
        await done

    async def drain(self, seconds: float) -> None:
        """Until nobody waits for anything, or the time is over."""
        until = time.monotonic() + seconds
        while self._readers and self.alive and time.monotonic() < until:
            await asyncio.sleep(0.02)

    async def end(self, why: str) -> None:
        self._farewell = why
        for name in list(self._readers):
            self._fail(name, why)
        self._orders.close()
        try:
            await asyncio.wait_for(self._process.wait(), END_SECONDS)
        except TimeoutError:
            self._process.kill()
        await self._listener

    # --- both ways --------------------------------------------------------------------------------

    async def _say(self, order: Order) -> None:
        """Waits while the engine is too slow to listen."""
        self._send(order)
        try:
            await self._orders.drain()
        except (BrokenPipeError, ConnectionResetError):
            await self._listener  # it tells everybody

    def _send(self, order: Order) -> None:
        if not self._orders.is_closing():
            self._orders.write(order_line(order))

    async def _listen(self) -> None:
        while line := await self._lines.readline():
            if not line.endswith(b"\n"):
                break  # it died in the middle of a word
            replies, state = read_replies(line)
            if state is not None:
                self.state = state
            for reply in replies:
                self._deliver(reply)
        self._code = await self._process.wait()
        self.ended_at = time.monotonic()
        self._orders.close()
        for name in list(self._readers):
            self._fail(name, self._farewell or _last_words(self._code, self._log))
        for waiting in self._unloading.values():
            for done in waiting:
                _resolve(done)

    def _deliver(self, reply: Reply) -> None:
        if isinstance(reply, Unloaded):
            for done in self._unloading.pop(reply.folder, []):
                _resolve(done)
            return
        reader = self._readers.get(reply.id)
        if reader is None:
            return  # it has gone; the engine is being told
        reader.put(reply)
        if reader.size > UNREAD_BYTES:
            self._send(Cancel(reply.id))
            self._fail(reply.id, "The answer was read too slowly, and too much of it was waiting.")

    def _fail(self, request_id: str, why: str) -> None:
        reader = self._readers.pop(request_id)
        ended = sum(isinstance(reply, Finished) for reply in reader.replies)
        if ended < reader.left and not any(isinstance(r, Failed) for r in reader.replies):
            reader.put(Failed(request_id, "engine", why))


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _joins(last: Reply | None, reply: Reply) -> bool:
    return (
        isinstance(last, Piece)
        and isinstance(reply, Piece)
        and last.index == reply.index
        and not (last.logprobs or reply.logprobs)
    )


def _size(reply: Reply) -> int:
    """Bytes in memory, about."""
    if isinstance(reply, Piece):
        return 200 + 2 * len(reply.text) + sum(300 * (1 + len(t.top)) for t in reply.logprobs)
    return 500


def _busy(request_id: str, open_requests: int) -> Failed:
    message = f"The engine is busy: {open_requests} requests are open. Try again later."
    return Failed(request_id, "busy", message, code="rate_limit_exceeded")


def _last_words(code: int, log: Path) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    if code == -9:
        how += " (this machine may have run out of memory)"
    return f"The engine's process {how} while it worked on this request. Its log: {log}."
