"""The engine's process: `python -P -m tanren.engine`, orders on stdin, replies on stdout.

The first order is `EngineSettings`. It ends when stdin ends, which is when its parent is gone,
whatever it is doing then; SIGTERM tells everybody first. What libraries print goes to stderr.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from types import FrameType
from typing import IO, TYPE_CHECKING

from tanren import privacy
from tanren.engine.lines import Order, read_order, replies_line
from tanren.engine.wire import Cancel, ChatRequest, EngineSettings, EngineState, Reply, Unload

if TYPE_CHECKING:
    from tanren.engine.loop import Engine

PARENT_GONE_SECONDS = 0.5
"""After stdin has ended, for the step that is being made."""
_STATE_SECONDS = 0.1
STOPPED = "The engine was stopped."


class Inbox:
    """Orders, in the order of their arrival; None when there will be no more."""

    def __init__(self, lines: IO[bytes]) -> None:
        self._queue: SimpleQueue[Order | None] = SimpleQueue()
        self._lines = lines
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self, *_: object) -> None:
        """Also as a handler of signals: `SimpleQueue.put` may interrupt its own `get`."""
        self._queue.put(None)

    def new(self, *, wait: bool) -> Iterator[Order | None]:
        """What has arrived; with `wait` at least one."""
        if wait:
            yield self._queue.get()
        while not self._queue.empty():
            yield self._queue.get()

    def _listen(self) -> None:
        try:
            for line in self._lines:
                self._queue.put(read_order(line))
        finally:
            self.close()
            # The parent is gone, or wants this process to be. Nobody is left to be told anything.
            time.sleep(PARENT_GONE_SECONDS)
            os._exit(0)


def main() -> int:
    replies = _own_stdout()
    privacy.apply(offline=True)
    inbox = Inbox(sys.stdin.buffer)
    signal.signal(signal.SIGTERM, lambda _number, _frame: inbox.close())
    signal.signal(signal.SIGINT, _ignore)  # Ctrl-C is for the parent, which then ends this
    settings = next(inbox.new(wait=True))
    if not isinstance(settings, EngineSettings):
        return 0
    engine = _engine(settings)
    with contextlib.suppress(BrokenPipeError):
        _serve(engine, inbox, replies)
    sys.stderr.flush()
    os._exit(0)  # everything is said; taking the libraries down would cost seconds


def _serve(engine: Engine, inbox: Inbox, replies: IO[bytes]) -> None:
    told = 0.0
    _say(replies, [], engine.state())
    while True:
        said: list[Reply] = []
        for order in inbox.new(wait=engine.idle):
            if order is None:
                _say(replies, engine.give_up(STOPPED), engine.state())
                return
            said += _obey(engine, order)
        said += engine.step()
        now = time.monotonic()
        news = engine.idle or now - told >= _STATE_SECONDS
        if news:
            told = now
        if said or news:
            _say(replies, said, engine.state() if news else None)


def _say(out: IO[bytes], replies: Sequence[Reply], state: EngineState | None) -> None:
    """Waits while nobody reads: then no answer is written either, and none piles up."""
    out.write(replies_line(replies, state))
    out.flush()


def _obey(engine: Engine, order: Order) -> list[Reply]:
    if isinstance(order, ChatRequest):
        return engine.submit(order)
    if isinstance(order, Cancel):
        engine.cancel(order.id)
    elif isinstance(order, Unload):
        engine.unload(order.folder)
    return []


def _engine(settings: EngineSettings) -> Engine:
    import torch

    from tanren.engine.loop import Engine

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return Engine(settings)


def _own_stdout() -> IO[bytes]:
    """Stdout for replies alone: whatever else writes to it goes to stderr from now on."""
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return open(own, "wb")


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Not SIG_IGN: that would be inherited by processes that libraries start."""


if __name__ == "__main__":
    sys.exit(main())
