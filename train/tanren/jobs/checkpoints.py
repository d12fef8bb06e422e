"""A job's checkpoints as models to talk to: the ends of the last three epochs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from tanren.jobs.naming import checkpoint_name
from tanren.jobs.rows import job_row
from tanren.store.stamps import new_id, now
from tanren.store.tables import CheckpointRow, EventRow, JobRow, ModelRow

KEPT = 3
_METRICS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint on disk. `at`: seconds since 1970."""

    step: int
    folder: Path
    at: int


def add_checkpoint(session: Session, job: str, saved: Saved) -> None:
    """Make it known under a name of its own, once; the fourth last one goes."""
    row = job_row(session, job)
    if _at_step(session, job, saved.step) is None:
        name = checkpoint_name(row.base, row.organization, row.suffix, saved.step)
        _add(session, row, saved, name, "checkpoint")
        _forget_old(session, job)


def add_result(session: Session, job: str, saved: Saved, name: str) -> None:
    """The finished model, which the checkpoint of the last step is too. A name that this checkpoint
    had of its own (a run that stopped early) is given up.
    """
    row = job_row(session, job)
    earlier = _at_step(session, job, saved.step)
    if earlier is not None:
        _forget(session, earlier)
    _add(session, row, saved, name, "tuned")
    _forget_old(session, job)


def _at_step(session: Session, job: str, step: int) -> CheckpointRow | None:
    return session.scalar(
        select(CheckpointRow).where(CheckpointRow.job == job, CheckpointRow.step == step)
    )


def _add(session: Session, row: JobRow, saved: Saved, name: str, kind: str) -> None:
    session.add(
        CheckpointRow(
            id=new_id("ftckpt_"),
            job=row.id,
            step=saved.step,
            created_at=saved.at,
            model=name,
            metrics=_metrics(session, row.id, saved.step),
            folder=str(saved.folder),
        )
    )
    session.add(
        ModelRow(
            id=name,
            kind=kind,
            base=row.base,
            job=row.id,
            owned_by=row.organization,
            created_at=saved.at,
            folder=str(saved.folder),
        )
    )
    session.flush()


def _metrics(session: Session, job: str, step: int) -> dict[str, Any]:
    """The numbers that were told of this step; the step alone where none were."""
    told = session.scalar(
        select(EventRow.data).where(EventRow.job == job, EventRow.key == f"step:{step}")
    )
    found = told or {}
    return {"step": step, **{name: found[name] for name in _METRICS if name in found}}


def _forget_old(session: Session, job: str) -> None:
    rows = session.scalars(
        select(CheckpointRow).where(CheckpointRow.job == job).order_by(CheckpointRow.step.desc())
    ).all()
    for place, row in enumerate(rows):
        if place >= KEPT or not Path(row.folder).is_dir():
            _forget(session, row)


def _forget(session: Session, row: CheckpointRow) -> None:
    session.execute(update(ModelRow).where(ModelRow.id == row.model).values(deleted_at=now()))
    session.execute(delete(CheckpointRow).where(CheckpointRow.number == row.number))
