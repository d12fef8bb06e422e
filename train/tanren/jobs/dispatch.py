"""The one who brings jobs to their ends: checks files, hands out slots, follows, settles.

Everything that must not be lost stands in the database and in run directories; what is kept here
can be learned anew. So a dispatcher that is killed is replaced by the next one, which goes on with
every job from where it stands:

- `validating_files`: the files are checked again;
- `running`, `pausing`: a process that still works is adopted, a dead one goes on from its last
  checkpoint, and a run that ended meanwhile is settled;
- ended in name, but with a process or a result file to be seen to: seen to.

What is broken about one job ends that job. A disk or a database that fails is waited for.

Turns: higher priority first, then place. A job that does not fit a free slot's memory waits and
says why, and jobs behind it that fit go ahead. Where other jobs of ours hold the memory (slots that
share it), this lasts `OVERTAKING_SECONDS` at most: then nothing more is begun there until it fits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout
from sqlalchemy import or_, select

from tanren.errors import Fault, StorageError, TanrenError, UserError
from tanren.jobs.attempts import Attempt
from tanren.jobs.conclude import Concluding
from tanren.jobs.follow import Follower
from tanren.jobs.process import GRACE_SECONDS, Stop, process_of
from tanren.jobs.rows import job_record
from tanren.jobs.settle import give_up, leave
from tanren.jobs.slots import Slot, find_slots
from tanren.jobs.start import begin_running, refuse_start, say_waiting
from tanren.jobs.turns import Room, Turn
from tanren.jobs.validate import Validation
from tanren.rundir import RunDirectory, name_process, named_process
from tanren.store.records import TERMINAL, JobRecord, JobStatus
from tanren.store.tables import JobRow

if TYPE_CHECKING:
    from tanren.jobs.service import JobService

log = logging.getLogger("tanren.service")

MakeRoom = Callable[[Slot, int], None]
"""Asks whoever serves models on a slot to give back so many bytes of memory."""
TICK_SECONDS = 0.2
VALIDATIONS_AT_ONCE = 2
_TROUBLE_SECONDS = 2.0
"""Until a disk or a database that failed is tried again."""
_EXPIRY_SECONDS = 60.0
_EXAMINED = 64
"""Queued jobs that are looked at for one free slot."""
_AT_WORK: tuple[JobStatus, ...] = ("running", "pausing")


def dispatcher_of(home: Path) -> int | None:
    """Process id of the dispatcher that works on this folder; None: none does."""
    return named_process(home / "dispatcher.json")


@contextlib.contextmanager
def only_dispatcher(home: Path) -> Iterator[None]:
    """Raises UserError while another one works on the same folder. A dead one holds nothing."""
    lock = FileLock(home / "dispatcher.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        found = dispatcher_of(home)
        words = f"process {found}" if found is not None else "another process"
        raise UserError(
            "jobs are dispatched already",
            [
                Fault(
                    str(home),
                    f"{words} at work on its jobs",
                    "one server or `tanren jobs work` a folder",
                    "use that one, stop it first, or name another folder",
                )
            ],
        ) from None
    try:
        name_process(home / "dispatcher.json", os.getpid())
        yield
    finally:
        (home / "dispatcher.json").unlink(missing_ok=True)
        lock.release()


@dataclass(slots=True)
class _Due:
    """Rows that need somebody, as they stood at one moment."""

    validating: list[JobRecord] = field(default_factory=list)
    at_work: list[JobRecord] = field(default_factory=list)
    over: list[JobRecord] = field(default_factory=list)
    """Ended in name alone: they still have a slot."""


class Dispatcher:
    """`run` until stopped. `make_room` is asked for memory that served models take up."""

    def __init__(
        self,
        service: JobService,
        *,
        make_room: MakeRoom | None = None,
        slots: Sequence[Slot] | None = None,
    ) -> None:
        """Raises ConfigError where there are fewer GPUs than `slots` of the settings."""
        self._service = service
        self.slots = tuple(find_slots(service.config.slots) if slots is None else slots)
        self._room = Room(service.config.serving.yield_to_training, make_room)
        self._attempts: dict[str, Attempt] = {}
        self._validations: dict[str, Validation] = {}
        self._concluding = Concluding(service)
        self._expires_at = 0.0
        self._trouble: str | None = None

    @property
    def running(self) -> dict[str, str]:
        """Jobs at work, by id, with the names of their slots. For any thread."""
        return {id: attempt.slot.name for id, attempt in self._attempts.copy().items()}

    def run(
        self,
        stop: Stop,
        *,
        until_empty: bool = False,
        on_stop: Literal["checkpoint", "leave"] = "checkpoint",
    ) -> None:
        """Work until `stop` is set; with `until_empty` until every job has ended or is paused.

        Stopped, running jobs save a checkpoint and end (`stop.at_once`: end without one); they stay
        `running`, and who dispatches next goes on with them. `on_stop="leave"` leaves their
        processes at work, to be adopted. Raises UserError where another dispatcher works.
        """
        with only_dispatcher(self._service.home):
            try:
                while not stop.is_set():
                    if self._works() and until_empty and not self._anything_left():
                        return
                    stop.wait(TICK_SECONDS if self._trouble is None else _TROUBLE_SECONDS)
            finally:
                self._wind_down(stop, on_stop)

    def _works(self) -> bool:
        """One tick. False where disk or database failed: runs need neither of us meanwhile, so that
        nothing is lost by trying again.
        """
        try:
            self._tick()
        except OSError as error:
            words = " ".join(str(error).split())
            if words != self._trouble:
                log.error("jobs have to wait", extra={"facts": {"why": words}})
            self._trouble = words
            return False
        if self._trouble is not None:
            log.info("jobs go on")
        self._trouble = None
        return True

    @contextlib.contextmanager
    def _of_one_job(self, id: str) -> Iterator[None]:
        """What is broken about a job ends this job alone."""
        try:
            yield
        except StorageError:
            raise
        except (TanrenError, FileNotFoundError) as error:
            give_up(self._service, id, error)

    def _tick(self) -> None:
        due = self._look()
        self._obey(due)
        attended = len(self._attempts)
        for attempt in list(self._attempts.values()):
            self._attend(attempt)
        if len(self._attempts) < attended:
            due = self._look()  # who has ended just now is not to be adopted again
        self._validate(due.validating)
        self._adopt(due)
        self._fill_slots()
        if time.monotonic() >= self._expires_at:
            self._service.expire()
            self._expires_at = time.monotonic() + _EXPIRY_SECONDS

    # --- what there is to do ----------------------------------------------------------------------

    def _look(self) -> _Due:
        active = JobRow.status.in_(("validating_files", *_AT_WORK))
        order = (JobRow.priority.desc(), JobRow.place, JobRow.number)
        due = _Due()
        with self._service.database.reading() as session:
            for row in session.scalars(select(JobRow).where(active).order_by(*order)):
                job = job_record(row)
                (due.validating if job.status == "validating_files" else due.at_work).append(job)
            # an index finds these alone among all that have ever ended
            for row in session.scalars(select(JobRow).where(JobRow.slot >= "")):
                if row.status in TERMINAL:
                    due.over.append(job_record(row))
        return due

    def _anything_left(self) -> bool:
        if self._attempts or self._validations:
            return True
        waiting = JobRow.status.in_(("validating_files", "queued", *_AT_WORK))
        with self._service.database.reading() as session:
            found = select(JobRow.id).where(or_(waiting, JobRow.slot.is_not(None))).limit(1)
            return session.scalar(found) is not None

    def _obey(self, due: _Due) -> None:
        """Pass on what was asked for in the database since the last look."""
        at_work = {job.id: job for job in due.at_work}
        for attempt in self._attempts.values():
            job = at_work.get(attempt.job)
            if job is None:
                attempt.ask(at_once=True)  # cancelled
            elif job.status == "pausing":
                attempt.ask(at_once=False)

    def _attend(self, attempt: Attempt) -> None:
        """Tell what it did; when it has ended, say so in the database."""
        ended = attempt.end is not None
        done = True
        try:
            with self._of_one_job(attempt.job):
                if ended:
                    done = self._concluding.conclude(attempt)
                else:
                    attempt.follower.read()
        except StorageError as error:
            self._concluding.no_room(attempt, error)
            return
        if ended and done:
            del self._attempts[attempt.job]
            self._room.look_now()

    # --- files ------------------------------------------------------------------------------------

    def _validate(self, jobs: Sequence[JobRecord]) -> None:
        wanted = {job.id for job in jobs}
        for id, validation in list(self._validations.items()):
            if id not in wanted:  # cancelled
                validation.drop()
                del self._validations[id]
            elif validation.poll():
                with self._of_one_job(id):
                    validation.settle()
                del self._validations[id]
        for job in jobs:
            if len(self._validations) >= VALIDATIONS_AT_ONCE:
                return
            if job.id not in self._validations:
                with self._of_one_job(job.id):
                    self._validations[job.id] = Validation(self._service, job)

    # --- runs -------------------------------------------------------------------------------------

    def _adopt(self, due: _Due) -> None:
        """Jobs at work that nobody attends to and that need no slot first: their process lives, or
        there is nothing left to compute.
        """
        for job in due.at_work:
            if job.id not in self._attempts and job.run is not None:
                with self._of_one_job(job.id):
                    run = RunDirectory(job.run)
                    lives = process_of(run) is not None
                    if lives or job.status == "pausing" or run.state() == "succeeded":
                        self._attempt(job, self._place_of(job), takes_place=lives)
        for job in due.over:
            if job.id not in self._attempts:
                if job.run is None:
                    leave(self._service, job.id)
                    continue
                with self._of_one_job(job.id):
                    attempt = self._attempt(job, self._place_of(job), takes_place=False)
                    attempt.ask(at_once=True)

    def _place_of(self, job: JobRecord) -> Slot:
        """The slot it had; where there is no such slot any more, one of its name alone."""
        return next((s for s in self.slots if s.name == job.slot), Slot(job.slot or "elsewhere"))

    def _attempt(self, job: JobRecord, slot: Slot, *, takes_place: bool) -> Attempt:
        assert job.run is not None
        run = RunDirectory(job.run)
        follower = Follower(self._service, job.id, run)
        attempt = Attempt(job.id, run, slot, follower, takes_place=takes_place)
        if job.status == "pausing":
            attempt.ask(at_once=False)
        self._attempts[job.id] = attempt
        attempt.begin()
        return attempt

    def _fill_slots(self) -> None:
        taken = {a.slot.name for a in self._attempts.values() if a.takes_place}
        free = [slot for slot in self.slots if slot.name not in taken]
        if not free or not self._room.is_due():
            return
        with self._room.looking():
            for job in self._candidates():
                goes_on = True  # past one that is broken
                with self._of_one_job(job.id):
                    goes_on = self._offer(job, free)
                if not free or not goes_on:
                    return

    def _offer(self, job: JobRecord, free: list[Slot]) -> bool:
        """Give the job one of the free slots, which then leaves the list, or tell it why it waits.
        Whether those behind it may be looked at.
        """
        attending = [a for a in self._attempts.values() if a.takes_place]
        turn = self._room.find(job, free, self.slots, attending)
        if turn.slot is None:
            return self._wait(job, turn)
        if begin_running(self._service, job, turn.slot):
            attempt = self._attempt(job, turn.slot, takes_place=True)
            attempt.needed = turn.needed
            free.remove(turn.slot)
        return True

    def _candidates(self) -> list[JobRecord]:
        """Dead ones that go on come first, then the queue."""
        order = (JobRow.priority.desc(), JobRow.place, JobRow.number)
        with self._service.database.reading() as session:
            found = [
                job_record(row)
                for status in ("running", "queued")
                for row in session.scalars(
                    select(JobRow).where(JobRow.status == status).order_by(*order).limit(_EXAMINED)
                )
            ]
        return [job for job in found if job.id not in self._attempts]

    def _wait(self, job: JobRecord, turn: Turn) -> bool:
        """Say why it waits, or that it never can begin; whether others may go ahead of it."""
        if turn.never:
            refuse_start(self._service, job, turn.words)
            return True
        say_waiting(self._service, job, turn.words)
        return not turn.holds_others

    # --- the end ----------------------------------------------------------------------------------

    def _wind_down(self, stop: Stop, on_stop: Literal["checkpoint", "leave"]) -> None:
        for validation in self._validations.values():
            validation.drop()  # it stays `validating_files`
        self._validations.clear()
        if on_stop == "leave":
            self._attempts.clear()
            return
        self._concluding.is_stopping = True
        for attempt in self._attempts.values():
            attempt.ask(at_once=stop.at_once.is_set())
        deadline = time.monotonic() + GRACE_SECONDS + 10
        while self._attempts and time.monotonic() < deadline:
            for attempt in list(self._attempts.values()):
                if stop.at_once.is_set():
                    attempt.ask(at_once=True)
                self._attend(attempt)
            time.sleep(TICK_SECONDS / 4)
