"""A job's result file: what was measured at every step, as OpenAI's CSV has it."""

from __future__ import annotations

import csv
import io
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tanren.store.tables import EventRow

COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
_KEYS = ("step", "train_loss", "train_mean_token_accuracy", *COLUMNS[3:])


def result_csv(session: Session, job: str) -> bytes | None:
    """UTF-8; empty cells where nothing was measured; None where no step was made."""
    told = session.scalars(
        select(EventRow.data)
        .where(EventRow.job == job, EventRow.type == "metrics")
        .order_by(EventRow.number)
    ).all()
    if not told:
        return None
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for data in sorted(told, key=lambda each: each["step"]):
        writer.writerow([_cell(data.get(key)) for key in _KEYS])
    return text.getvalue().encode("utf-8")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5f}" if isinstance(value, float) else str(value)
