"""Which free slot a job takes, and what a job that finds none means for those behind it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tanren.jobs.attempts import Attempt
from tanren.jobs.memory import Memory, Neighbour, Verdict, memory_of, verdict
from tanren.jobs.process import process_of
from tanren.jobs.slots import Slot
from tanren.rundir import RunDirectory
from tanren.store.records import JobRecord

OVERTAKING_SECONDS = 600.0
"""So long jobs behind one that waits for our own jobs' memory may go ahead of it."""
_LOOK_SECONDS = 1.0
"""Between two looks at memory while jobs wait for it."""
_SHARE = 40
"""Looking may take one of so many seconds: a long queue that waits must not cost a core."""
_ASK_SECONDS, _LONGEST_ASK_SECONDS = 10.0, 600.0
"""Between two times that served models are asked to make room for the same job. Twice as long after
each time: what did not help will hardly help the next time, and costs who chats a new load.
"""


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
        self._asks: dict[str, tuple[int, float]] = {}
        """Job: how often served models were asked for it, and when they may be again."""
        self._look_at = 0.0
        self._cards: dict[str, Memory | None] = {}
        """Memory of GPUs by slot, as it was found in this look: each question takes its time."""

    def is_due(self) -> bool:
        """Whether it is time to look again; at once while nobody waits for memory."""
        return self._clock() >= self._look_at

    def look_now(self) -> None:
        """Something has ended: there may be room."""
        self._look_at = 0.0

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Around all that is found in one look."""
        began = self._clock()
        self._cards.clear()
        try:
            yield
        finally:
            self._cards.clear()
            if self._look_at > began:  # somebody waits
                now = self._clock()
                self._look_at = max(self._look_at, now + _SHARE * (now - began))

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
        for ask in (self._found, self._found_with_room):
            refused.clear()
            for slot in free:
                found = ask(job, run, slot, attending)
                if found is None or found.fits:
                    return self._given(job, slot, found)
                refused.append((slot, found))
        self._look_at = self._clock() + _LOOK_SECONDS
        best_slot, best = min(refused, key=lambda each: each[1].needed)
        others = [slot for slot in slots if slot.name not in {s.name for s, _ in refused}]
        if not any(found.ever_fits for _, found in refused) and not others:
            return Turn(words=best.words, never=True)
        return Turn(
            words=best.words, holds_others=self._has_waited(job) and _is_ours(best_slot, attending)
        )

    def _given(self, job: JobRecord, slot: Slot, found: Verdict | None) -> Turn:
        needed = found.needed if found is not None else 0
        if self._always:
            self._make_room_for(job, slot, needed)
        self._waits_since.pop(job.id, None)
        self._asks.pop(job.id, None)
        self._cards.pop(slot.name, None)
        return Turn(slot, needed)

    def _found(
        self, job: JobRecord, run: RunDirectory, slot: Slot, attending: Sequence[Attempt]
    ) -> Verdict | None:
        if slot.kind != "cuda":
            return verdict(run, slot, _neighbours(slot, attending))
        if slot.name not in self._cards:
            self._cards[slot.name] = memory_of(slot)
        memory = self._cards[slot.name]
        return verdict(run, slot, memory=memory) if memory is not None else None

    def _found_with_room(
        self, job: JobRecord, run: RunDirectory, slot: Slot, attending: Sequence[Attempt]
    ) -> Verdict | None:
        """Once more, after served models have left; no free slot does as they are."""
        found = self._found(job, run, slot, attending)
        if found is None or not found.ever_fits:
            return found
        if not self._make_room_for(job, slot, found.needed):
            return found
        self._cards.pop(slot.name, None)
        return self._found(job, run, slot, attending)

    def _make_room_for(self, job: JobRecord, slot: Slot, needed: int) -> bool:
        """Whether anybody was asked."""
        times, next_at = self._asks.get(job.id, (0, 0.0))
        if self._make_room is None or (times and self._clock() < next_at):
            return False
        wait = min(_ASK_SECONDS * 2**times, _LONGEST_ASK_SECONDS)
        self._make_room(slot, needed)
        self._asks[job.id] = (min(times + 1, 10), self._clock() + wait)
        return True

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
