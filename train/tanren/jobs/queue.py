"""Jobs as clients see them: asked for, listed, stopped, moved. All of it is words in the database;
the dispatcher does the work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from sqlalchemy import ColumnElement, Select, and_, exists, func, literal, select
from sqlalchemy.orm import Session

from tanren.jobs.asked import checked_priority
from tanren.jobs.create import create
from tanren.jobs.rows import checkpoint_record, event_record, job_record, job_row
from tanren.jobs.states import ACTIVE, STATUSES, become, refuse
from tanren.jobs.telling import Told, numbered, tell
from tanren.store.errors import InvalidRequest
from tanren.store.pages import cursor, page
from tanren.store.records import (
    CheckpointRecord,
    EventRecord,
    JobRecord,
    JobRequest,
    JobStatus,
    Page,
)
from tanren.store.tables import CheckpointRow, EventRow, JobRow

if TYPE_CHECKING:
    from tanren.jobs.service import JobService


class JobQueue:
    """All methods may be called from any thread and beside other processes.

    Jobs that are not there raise NotFound.
    """

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._database = service.database

    def create(self, request: JobRequest, *, client_key: str | None = None) -> JobRecord:
        """The job, which is validated next. The same request with the same `client_key` gives the
        same job again, as it stands now.

        Raises InvalidRequest, Conflict (the key belongs to another request), LimitExceeded.
        """
        return self.get(create(self._service, request, client_key))

    def get(self, id: str) -> JobRecord:
        with self._database.reading() as session:
            return job_record(job_row(session, id))

    def list(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        metadata: Mapping[str, str] | None = None,
        without_metadata: bool = False,
        statuses: Collection[JobStatus] | None = None,
    ) -> Page[JobRecord]:
        """Newest first, those that follow `after`. `metadata`: pairs that a job must have;
        `without_metadata`: jobs that have none.
        """
        pairs = (metadata or {}).items()
        statement = select(JobRow).where(*(self._has(key, value) for key, value in pairs))
        if without_metadata:
            statement = statement.where(JobRow.metadata_.is_(None))
        if statuses is not None:
            statement = statement.where(JobRow.status.in_(list(statuses)))
        with self._database.reading() as session:
            begin = cursor(session, JobRow.id, JobRow.number, after)
            return page(session, statement, JobRow.number, job_record, limit=limit, after=begin)

    def waiting(self) -> Sequence[JobRecord]:
        """Queued jobs in the order of their turns."""
        with self._database.reading() as session:
            return [job_record(row) for row in session.scalars(in_turn("queued"))]

    def counts(self) -> dict[JobStatus, int]:
        """Jobs in every state, 0 included."""
        with self._database.reading() as session:
            counted = session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
            found = {row[0]: int(row[1]) for row in counted}
        return {status: found.get(status, 0) for status in STATUSES}

    def _has(self, key: str, value: str) -> ColumnElement[bool]:
        """Whether a job's metadata has this pair, whatever letters the key is made of."""
        if not self._database.is_sqlite:
            return JobRow.metadata_[key].as_string() == value
        # a path such as $."key" would not find keys that SQLite compares in their escaped form
        pair = func.json_each(JobRow.metadata_).table_valued("key", "value")
        same = and_(pair.c.key == key, pair.c.value == value)
        return exists(select(literal(1)).select_from(pair).where(same))

    # --- stopping and going on --------------------------------------------------------------------

    def cancel(self, id: str) -> JobRecord:
        """Cancelled at once; the process is ended behind it. Raises InvalidState after its end."""
        return self._become(id, "cancelled", ACTIVE, "cancelled", "The job was cancelled")

    def pause(self, id: str) -> JobRecord:
        """A running job is `pausing` until its checkpoint is on disk; a queued one is `paused`.

        Asked again it says how far that is. Raises InvalidState in all other states.
        """
        with self._database.session() as session:
            row = job_row(session, id)
            if row.status == "running":
                become(session, id, "pausing")
                told = "The job is being paused: a checkpoint is saved first"
                tell(session, id, Told(numbered(session, id, "pausing"), told))
            elif row.status == "queued":
                become(session, id, "paused", waiting_for=None)
                tell(session, id, Told(numbered(session, id, "paused"), "The job was paused"))
            elif row.status not in ("pausing", "paused"):
                raise refuse("paused", id, _status(row), allowed=("queued", "running"))
            return _anew(session, row)

    def resume(self, id: str) -> JobRecord:
        """A paused job takes its turn again, before those that were asked for after it. Raises
        InvalidState unless it is paused.
        """
        return self._become(id, "queued", _PAUSED, "resumed", "The job was resumed")

    def _become(
        self, id: str, after: JobStatus, of: tuple[JobStatus, ...], kind: str, words: str
    ) -> JobRecord:
        with self._database.session() as session:
            row = job_row(session, id)
            if not become(session, id, after, of=of):
                raise refuse(kind, id, _status(row), allowed=of)
            tell(session, id, Told(numbered(session, id, kind), words))
            return _anew(session, row)

    # --- order ------------------------------------------------------------------------------------

    def move(
        self,
        id: str,
        *,
        priority: int | None = None,
        before: str | None = None,
        to_front: bool = False,
    ) -> JobRecord:
        """Another turn: a priority, or a place before another waiting job (whose priority it takes)
        or before all. Raises InvalidState for a job that has begun, InvalidRequest.
        """
        if sum((priority is not None, before is not None, to_front)) != 1:
            raise InvalidRequest("Give one of priority, before and to_front.", param="priority")
        with self._database.session() as session:
            row = job_row(session, id)
            if row.status not in _MOVABLE:
                raise refuse("moved", id, _status(row), allowed=_MOVABLE)
            if priority is not None:
                row.priority, row.place = checked_priority(priority), float(row.number)
            else:
                row.priority, row.place = _place_before(session, row, before)
            session.flush()
            return _anew(session, row)

    # --- what happened ----------------------------------------------------------------------------

    def events(self, id: str, *, limit: int = 20, after: str | None = None) -> Page[EventRecord]:
        """Newest first."""
        with self._database.reading() as session:
            job_row(session, id)
            begin = cursor(session, EventRow.id, EventRow.number, after, EventRow.job == id)
            statement = select(EventRow).where(EventRow.job == id)
            return page(session, statement, EventRow.number, event_record, limit=limit, after=begin)

    def events_since(
        self, id: str, event: str | None, *, limit: int = 500
    ) -> Sequence[EventRecord]:
        """Oldest first, those after `event` (None: from the first one), for who follows a job."""
        with self._database.reading() as session:
            job_row(session, id)
            begin = cursor(session, EventRow.id, EventRow.number, event, EventRow.job == id)
            found = page(
                session,
                select(EventRow).where(EventRow.job == id),
                EventRow.number,
                event_record,
                limit=limit,
                after=begin,
                newest_first=False,
            )
            return found.items

    def checkpoints(
        self, id: str, *, limit: int = 10, after: str | None = None
    ) -> Page[CheckpointRecord]:
        """Newest first."""
        with self._database.reading() as session:
            job_row(session, id)
            begin = cursor(
                session, CheckpointRow.id, CheckpointRow.number, after, CheckpointRow.job == id
            )
            statement = select(CheckpointRow).where(CheckpointRow.job == id)
            return page(
                session,
                statement,
                CheckpointRow.number,
                checkpoint_record,
                limit=limit,
                after=begin,
            )


_PAUSED: tuple[JobStatus, ...] = ("paused",)
_MOVABLE: tuple[JobStatus, ...] = ("validating_files", "queued", "paused")


def in_turn(*statuses: JobStatus) -> Select[JobRow]:
    """Rows in these states in the order of their turns: higher priorities, then places."""
    return (
        select(JobRow)
        .where(JobRow.status.in_(statuses))
        .order_by(JobRow.priority.desc(), JobRow.place, JobRow.number)
    )


def _place_before(session: Session, row: JobRow, before: str | None) -> tuple[int, float]:
    """Priority and place right before the job `before`, or before all that wait (None)."""
    others = [each for each in session.scalars(in_turn(*_MOVABLE)) if each.id != row.id]
    if before is None:
        return (others[0].priority, others[0].place - 1.0) if others else (row.priority, row.place)
    names = [each.id for each in others]
    if before not in names:
        job_row(session, before)
        raise InvalidRequest(f"Job {before} does not wait for its turn.", param="before")
    number = names.index(before)
    behind = others[number]
    ahead = others[number - 1] if number else None
    if ahead is None or ahead.priority != behind.priority:
        return behind.priority, behind.place - 1.0
    place = (ahead.place + behind.place) / 2
    if not ahead.place < place < behind.place:  # halved too often, or two in one place
        same = [each for each in others if each.priority == behind.priority]
        for count, each in enumerate(same, start=1):
            each.place = float(count)
        place = behind.place - 0.5
    return behind.priority, place


def _status(row: JobRow) -> JobStatus:
    return cast("JobStatus", row.status)


def _anew(session: Session, row: JobRow) -> JobRecord:
    session.refresh(row)
    return job_record(row)
