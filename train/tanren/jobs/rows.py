"""Rows of the database as the plain records that everybody else sees."""

from __future__ import annotations

from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from tanren.store.errors import NotFound
from tanren.store.records import (
    CheckpointRecord,
    EventRecord,
    EventType,
    JobError,
    JobRecord,
    JobStatus,
    Level,
)
from tanren.store.tables import CheckpointRow, EventRow, JobRow


def job_row(session: Session, id: str) -> JobRow:
    """Raises NotFound."""
    row = session.scalar(select(JobRow).where(JobRow.id == id))
    if row is None:
        raise NotFound(
            f"Could not find fine tune: {id}",
            param="fine_tuning_job_id",
            code="fine_tune_not_found",
        )
    return row


def job_record(row: JobRow) -> JobRecord:
    error = row.error
    return JobRecord(
        id=row.id,
        status=cast("JobStatus", row.status),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        estimated_finish=row.estimated_finish,
        model=row.model,
        base=row.base,
        fine_tuned_model=row.fine_tuned_model,
        training_file=row.training_file,
        validation_file=row.validation_file,
        result_files=tuple(row.result_files),
        method="dpo" if row.method == "dpo" else "supervised",
        hyperparameters=dict(row.hyperparameters),
        trained_tokens=row.trained_tokens,
        error=JobError(error["code"], error["message"], error.get("param")) if error else None,
        seed=row.seed,
        suffix=row.suffix,
        metadata=dict(row.metadata_) if row.metadata_ else None,
        integrations=tuple(row.integrations),
        tanren=dict(row.tanren),
        organization=row.organization,
        priority=row.priority,
        run=row.run,
        slot=row.slot,
        waiting_for=row.waiting_for,
    )


def event_record(row: EventRow) -> EventRecord:
    return EventRecord(
        id=row.id,
        job=row.job,
        created_at=row.created_at,
        level=cast("Level", row.level),
        type=cast("EventType", row.type),
        message=row.message,
        data=dict(row.data),
    )


def checkpoint_record(row: CheckpointRow) -> CheckpointRecord:
    return CheckpointRecord(
        id=row.id,
        job=row.job,
        created_at=row.created_at,
        step=row.step,
        model=row.model,
        metrics=dict(row.metrics),
        folder=row.folder,
    )
