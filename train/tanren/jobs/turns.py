"""Which free slot a job takes, and what a job that finds none means for those behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tanren.jobs.attempts import Attempt
from tanren.jobs.memory import Neighbour, Verdict, verdict
from tanren.jobs.process import process_of
from tanren.jobs.records import JobRecord
from tanren.jobs.slots import Slot
from tanren.rundir import RunDirectory

OVERTAKING_SECONDS = 600.0
"""So long jobs behind one that waits for our own jobs' memory may go ahead of it."""
_LOOK_SECONDS = 1.0
"""Between two looks at memory while jobs wait for it."""
_ASK_SECONDS = 10.0
"""Between two times that served models are asked to make room for the same job."""


@dataclass(frozen=True, slots=True)
class Turn:
    """`slot` None: it waits, for the reason in `words`; `never`: no slot will ever do."""

    slot: Slot | None = None
    needed: int = 0
    words: str = ""
    never: bool = False
    holds_others: bool = False


class Room:
    """Finds slots with room. `make_room` asks served models to leave, by the policy's rule."""

    def __init__(
        self,
        policy: Literal["when_needed", "always", "never"],
        make_room: Callable[[Slot, int], None] | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_room = None if policy == "never" else make_room
        self._always = policy == "always"
        self._clock = clock
        self._waits_since: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}
        self._look_at = 0.0

    def is_due(self) -> bool:
        """Whether it is time to look again; at once while nobody waits for memory."""
        return self._clock() >= self._look_at

    def find(
        self,
        job: JobRecord,
        free: Sequence[Slot],
        slots: Sequence[Slot],
        attending: Sequence[Attempt],
    ) -> Turn:
        """A slot of `free` for the job. `attending`: what runs now, on any of `slots`."""
        assert job.run is not None
        run = RunDirectory(job.run)
        refused: list[tuple[Slot, Verdict]] = []
        for slot in free:
            found = self._ask(job, run, slot, attending)
            if found is None or found.fits:
                self._waits_since.pop(job.id, None)
                return Turn(slot, found.needed if found is not None else 0)
            refused.append((slot, found))
        self._look_at = self._clock() + _LOOK_SECONDS
        best_slot, best = min(refused, key=lambda each: each[1].needed)
        others = [slot for slot in slots if slot.name not in {s.name for s, _ in refused}]
        if not any(found.ever_fits for _, found in refused) and not others:
            return Turn(words=best.words, never=True)
        return Turn(
            words=best.words, holds_others=self._has_waited(job) and _is_ours(best_slot, attending)
        )

    def _ask(
        self, job: JobRecord, run: RunDirectory, slot: Slot, attending: Sequence[Attempt]
    ) -> Verdict | None:
        found = verdict(run, slot, _neighbours(slot, attending))
        wanted = self._always or (found is not None and not found.fits)
        asked = self._asked_at.get(job.id)
        if self._make_room is None or not wanted:
            return found
        if asked is not None and self._clock() - asked < _ASK_SECONDS:
            return found
        self._asked_at[job.id] = self._clock()
        self._make_room(slot, found.needed if found is not None else 0)
        return verdict(run, slot, _neighbours(slot, attending))

    def _has_waited(self, job: JobRecord) -> bool:
        since = self._waits_since.setdefault(job.id, self._clock())
        return self._clock() - since >= OVERTAKING_SECONDS


def _is_ours(slot: Slot, attending: Sequence[Attempt]) -> bool:
    """Whether jobs of ours hold the memory: only then will it help that nothing more is begun."""
    return slot.kind != "cuda" and bool(attending)


def _neighbours(slot: Slot, attending: Sequence[Attempt]) -> list[Neighbour]:
    """Jobs that share the slot's memory: all of a processor's slots do."""
    if slot.kind != "cpu":
        return []
    return [
        Neighbour(each.job, each.needed, process_of(each.run))
        for each in attending
        if each.slot.kind == "cpu"
    ]
