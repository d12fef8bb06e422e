"""What a job may become, and the one way it becomes it: compared with what it is, and told.

    validating_files -> queued -> running -> succeeded
                          |  ^       |
                          |  |       v
                          +--|--> pausing -> paused -> queued
                             +-----------------+
    anything that has not ended -> failed | cancelled

A queued job that is paused is `paused` at once: there is nothing to be saved. A full disk takes a
running job through `pausing` to `paused` within one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, cast, get_args

from sqlalchemy import CursorResult, update
from sqlalchemy.orm import Session

from tanren.store.errors import InvalidState
from tanren.store.records import TERMINAL, JobStatus
from tanren.store.stamps import now
from tanren.store.tables import JobRow

STATUSES: Final[tuple[JobStatus, ...]] = get_args(JobStatus)
_NEXT: Final[Mapping[JobStatus, frozenset[JobStatus]]] = {
    "validating_files": frozenset(("queued", "failed", "cancelled")),
    "queued": frozenset(("running", "paused", "failed", "cancelled")),
    "running": frozenset(("pausing", "succeeded", "failed", "cancelled")),
    "pausing": frozenset(("paused", "succeeded", "failed", "cancelled")),
    "paused": frozenset(("queued", "failed", "cancelled")),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
ACTIVE: Final[tuple[JobStatus, ...]] = tuple(s for s in STATUSES if s not in TERMINAL)


def may_become(before: JobStatus, after: JobStatus) -> bool:
    return after in _NEXT[before]


def become(
    session: Session,
    id: str,
    after: JobStatus,
    *,
    of: tuple[JobStatus, ...] | None = None,
    **columns: Any,
) -> bool:
    """Make the job `after` if it is one of `of` now (None: any state that may become it), and set
    `columns` with it. False, and nothing changed, where it is something else by now.

    An end sets `finished_at` and takes away what is said of a job that waits.
    """
    before = [status for status in of or STATUSES if may_become(status, after)]
    assert before, f"nothing of {of} becomes {after}"
    if after in TERMINAL:
        columns = {"finished_at": now(), "estimated_finish": None, "waiting_for": None, **columns}
    changed = session.execute(
        update(JobRow)
        .where(JobRow.id == id, JobRow.status.in_(before))
        .values(status=after, **columns)
    )
    return cast("CursorResult[Any]", changed).rowcount == 1


def refuse(
    wish: str, id: str, status: JobStatus, *, allowed: Collection[JobStatus]
) -> InvalidState:
    """The error of a wish that the job's state does not allow."""
    states = ", ".join(status for status in STATUSES if status in allowed)
    return InvalidState(
        f"Job {id} cannot be {wish}: its status is {status}, and it would have to be one of "
        f"{states}."
    )
