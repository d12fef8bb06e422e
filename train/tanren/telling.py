"""What a run tells while it works: events in its folder, the same to an observer, and its end.

A run that ends because the disk is full still says so: `Teller` keeps some room aside for that.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tanren.errors import StorageError, TanrenError
from tanren.rundir import RunDirectory

Observer = Callable[[dict[str, Any]], None]

RESERVED_BYTES = 128 * 1024


@dataclass
class Teller:
    """Writes each event to the run and hands it to the observer; silent on all processes but the
    first.
    """

    run: RunDirectory
    observer: Observer | None
    active: bool
    stages: dict[str, float] = field(default_factory=dict)
    _stage: tuple[str, float] | None = None

    def __call__(self, event: str, /, **fields: Any) -> None:
        if event == "stage":
            self._count(fields["name"])
        if not self.active:
            return
        if event != "progress":  # of the moment only
            self.run.event(event, **fields)
        if self.observer is not None:
            self.observer({"event": event, **fields})

    def failed(self, error: BaseException) -> None:
        """The last event of a run that fails. Raises nothing of its own: `error` is what counts."""
        fields: dict[str, Any] = {"kind": type(error).__name__, "faults": [], "traceback": None}
        if isinstance(error, TanrenError):
            fields |= {"error": error.message, "faults": [f.as_dict() for f in error.faults]}
        else:
            trace = "".join(traceback.format_exception(error))
            fields |= {"error": repr(error), "traceback": trace}
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        try:
            self("failed", **fields)
        except StorageError:  # not even the reserve was enough: whoever looks on hears it
            if self.active and self.observer is not None:
                self.observer({"event": "failed", **fields})

    @property
    def _reserve(self) -> Path:
        return self.run.path / ".room-for-the-last-event"

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """While this holds, the disk has room for telling how the run ended (T14)."""
        if not self.active:
            yield
            return
        with contextlib.suppress(OSError):  # a disk that is full already is noticed elsewhere
            self._reserve.write_bytes(b"\0" * RESERVED_BYTES)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._reserve.unlink(missing_ok=True)

    def _count(self, name: str) -> None:
        now = time.monotonic()
        if self._stage is not None:
            before, since = self._stage
            self.stages[before] = round(self.stages.get(before, 0.0) + now - since, 3)
        self._stage = (name, now)

    @property
    def stage(self) -> str:
        return self._stage[0] if self._stage else "start"

    def seconds(self) -> dict[str, float]:
        """Seconds of every stage so far."""
        if self._stage is not None:
            self._count(self._stage[0])
        return {**self.stages, "all": round(sum(self.stages.values()), 3)}
