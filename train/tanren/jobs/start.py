"""A job's turn has come, or cannot: written down before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import update

from tanren.jobs.follow import highest_step
from tanren.jobs.rows import job_row
from tanren.jobs.run_settings import shown_hyperparameters
from tanren.jobs.slots import Slot
from tanren.jobs.states import become
from tanren.jobs.telling import Told, numbered, tell
from tanren.rundir import RunDirectory
from tanren.store.records import JobRecord
from tanren.store.stamps import now
from tanren.store.tables import JobRow

if TYPE_CHECKING:
    from tanren.jobs.service import JobService


def begin_running(service: JobService, job: JobRecord, slot: Slot) -> bool:
    """The job is `running` there, with the hyperparameters that its run has. False where it is not
    to run any more.
    """
    assert job.run is not None
    run = RunDirectory(job.run)
    shown = shown_hyperparameters(run.config(), job.hyperparameters)
    words = f"The job goes on after step {highest_step(run)}"
    with service.database.session() as session:
        row = job_row(session, job.id)
        if row.status == "running":
            row.slot, row.waiting_for = slot.name, None
        elif not become(
            session, job.id, "running", of=("queued",), slot=slot.name, waiting_for=None
        ):
            return False
        session.refresh(row)
        row.hyperparameters = shown
        if row.started_at is None:
            row.started_at = now()
            tell(session, job.id, Told("started", "Fine-tuning job started"))
        else:
            tell(session, job.id, Told(numbered(session, job.id, "continued"), words))
    return True


def say_waiting(service: JobService, job: JobRecord, words: str) -> None:
    """Kept with the job; told as an event the first time."""
    if job.waiting_for == words:
        return
    with service.database.session() as session:
        session.execute(
            update(JobRow)
            .where(JobRow.id == job.id, JobRow.status.in_(("queued", "running")))
            .values(waiting_for=words)
        )
        tell(session, job.id, Told("waiting", f"The job waits for memory. {words}", level="warn"))


def refuse_start(service: JobService, job: JobRecord, words: str) -> None:
    """It fits no slot, however empty."""
    message = f"The job is too large for every device here. {words}"
    error = {"code": "insufficient_memory", "message": message, "param": None}
    with service.database.session() as session:
        if become(session, job.id, "failed", of=("queued", "running"), error=error, slot=None):
            tell(session, job.id, Told("failed", message, level="error"))
