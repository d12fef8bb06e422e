"""As many tasks at once as there are slots, and none left behind."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

from tanren.errors import Interrupted
from tanren.jobs.process import Stop
from tanren.jobs.slots import Slot

T = TypeVar("T")

_LISTENING_SECONDS = 0.2
"""Python hands a signal over between two of its own instructions: one that comes just before a wait
without an end would be heard after it.
"""


class Pool:
    """A context. Leaving it waits for every task; leaving it by an exception asks them to end
    first.

    In the main thread Ctrl-C and SIGTERM stop it and raise KeyboardInterrupt, once; from then on
    they ask for an end at once. A task that was not begun by then raises Interrupted.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)
        self._stop = Stop()
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in self.slots:
            self._free.put(slot)
        self._threads = ThreadPoolExecutor(max_workers=len(self.slots), thread_name_prefix="slot")
        self._open: list[Future[Any]] = []
        self._lock = threading.Lock()
        self._handlers: dict[int, Any] = {}
        self._holds_back = self._held_back = False

    def stop(self) -> None:
        """Ask all tasks for an orderly end; they have the event in their hands."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def submit(self, task: Callable[[Slot, Stop], T]) -> Future[T]:
        """The task in a slot of its own, as soon as one is free; in the order of submitting. A task
        must not wait for another one of the same pool.
        """
        with self._undisturbed(), self._lock:
            future = self._threads.submit(self._carry_out, task)
            self._open = [*(other for other in self._open if not other.done()), future]
        return future

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """A signal's exception comes afterwards: in its midst a task would be lost sight of."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._holds_back = True
        try:
            yield
        finally:
            self._holds_back = False
        if self._held_back:
            self._held_back = False
            raise KeyboardInterrupt

    def _carry_out(self, task: Callable[[Slot, Stop], T]) -> T:
        slot = self._free.get()
        try:
            if self.stopped:
                raise Interrupted("stopped before it began")
            return task(slot, self._stop)
        finally:
            self._free.put(slot)

    # --- the context ------------------------------------------------------------------------------

    def __enter__(self) -> Pool:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.stop()
        try:
            self._wait()
        except BaseException:  # Ctrl-C while the last tasks are waited for
            self.stop()
            self._wait()
            raise
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            self._stop.at_once.set()
            return
        self.stop()
        if not self._holds_back:
            raise KeyboardInterrupt
        self._held_back = True

    def _wait(self) -> None:
        while self._open:
            wait(self._open, _LISTENING_SECONDS)
            with self._lock:
                self._open = [future for future in self._open if not future.done()]
        self._threads.shutdown(wait=True)
