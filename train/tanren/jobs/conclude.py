"""What the end of an attempt means for its job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tanren.errors import StorageError
from tanren.jobs.attempts import Attempt
from tanren.jobs.follow import highest_step
from tanren.jobs.process import RunEnd
from tanren.jobs.settle import (
    failure_of,
    is_over,
    leave,
    record,
    settle_cancelled,
    settle_failure,
    settle_pause,
    settle_success,
)
from tanren.jobs.telling import Told, numbered, tell
from tanren.store.records import JobRecord

if TYPE_CHECKING:
    from tanren.jobs.service import JobService

MOST_DEATHS = 5
"""So often a job may die without having come further; then it has failed."""
MOST_DEATHS_OF_MEMORY = 2
_OUR_STOP_MAY_FOLLOW_SECONDS = 2.0
"""A machine that shuts down stops our jobs before us, or after."""


class Concluding:
    """`is_stopping`: this dispatcher ends, and its jobs with it, for now."""

    def __init__(self, service: JobService) -> None:
        self.is_stopping = False
        self._service = service
        self._deaths: dict[str, tuple[int, int]] = {}
        """Job: the furthest step of its last death, and how often it died there."""

    def conclude(self, attempt: Attempt) -> bool:
        """Write down what became of the job. False: not yet, ask again. Raises StorageError."""
        end = attempt.end
        assert end is not None
        job = record(self._service, attempt.job)
        if is_over(job):
            attempt.follower.read(at_end=True)
            settle_cancelled(self._service, job.id)
            return True
        if job.status not in ("running", "pausing"):
            return True  # settled already: nothing of it is ours any more
        if end.succeeded:
            attempt.follower.read(at_end=True)
            return settle_success(self._service, job.id, attempt.run)
        attempt.follower.read()
        if end.state in ("failed", "refused"):
            return self._failed(attempt, end)
        if job.status == "pausing":
            return settle_pause(self._service, job.id, f"The job was paused {_after(attempt)}")
        if self.is_stopping:
            leave(self._service, job.id)
            return True
        if end.state == "killed":
            return self._died(attempt, end)
        return self._stopped_by_others(attempt, job)

    def no_room(self, attempt: Attempt, error: StorageError) -> None:
        """The disk has no room for the service itself: try again, but let nothing fill it more."""
        attempt.ask(at_once=False)

    def _failed(self, attempt: Attempt, end: RunEnd) -> bool:
        failure = failure_of(attempt.run, end, out_of_memory=attempt.kernel_killed)
        if failure.storage:
            return settle_pause(self._service, attempt.job, failure.words, level="warn")
        attempt.follower.read(at_end=True)
        return settle_failure(self._service, attempt.job, failure)

    def _died(self, attempt: Attempt, end: RunEnd) -> bool:
        """Once more from its last checkpoint, unless it dies again and again at the same place."""
        step = highest_step(attempt.run)
        furthest, deaths = self._deaths.get(attempt.job, (-1, 0))
        deaths = 1 if step > furthest else deaths + 1
        self._deaths[attempt.job] = (max(step, furthest), deaths)
        of_memory = attempt.kernel_killed
        if deaths > (MOST_DEATHS_OF_MEMORY if of_memory else MOST_DEATHS):
            attempt.follower.read(at_end=True)
            failure = failure_of(attempt.run, end, out_of_memory=of_memory)
            return settle_failure(self._service, attempt.job, failure)
        why = "the machine ran out of memory and the kernel killed it" if of_memory else end.why
        words = (
            f"The job's process died {_after(attempt)} ({why}): it goes on from its last checkpoint"
        )
        with self._service.database.session() as session:
            told = Told(numbered(session, attempt.job, "died"), words, level="warn")
            tell(session, attempt.job, told)
        leave(self._service, attempt.job)
        return True

    def _stopped_by_others(self, attempt: Attempt, job: JobRecord) -> bool:
        ended = attempt.ended_at or 0.0
        if time.monotonic() - ended < _OUR_STOP_MAY_FOLLOW_SECONDS:
            return False
        words = f"The job was stopped from outside {_after(attempt)}; resume it to go on"
        return settle_pause(self._service, job.id, words, level="warn")


def _after(attempt: Attempt) -> str:
    step = highest_step(attempt.run)
    return f"after step {step}" if step else "before its first step"
