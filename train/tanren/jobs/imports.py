"""Past jobs of OpenAI's, kept beside our own: the result file's numbers become a finished job."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tanren.errors import DataError, Fault
from tanren.jobs.create import PREFIX
from tanren.jobs.telling import Told, tell
from tanren.store.records import FileRecord, JobRecord
from tanren.store.stamps import new_id, now
from tanren.store.tables import JobRow

if TYPE_CHECKING:
    from tanren.jobs.service import JobService

_COLUMNS: Mapping[str, str] = {
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "train_mean_token_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
    "full_valid_loss": "full_valid_loss",
    "full_valid_mean_token_accuracy": "full_valid_mean_token_accuracy",
}
"""Columns of result files of all years, as a metrics event names them."""
_ID = re.compile(r"ftjob-[A-Za-z0-9]{1,50}|ft-[A-Za-z0-9]{1,50}")


@dataclass(frozen=True, slots=True)
class PastJob:
    """A result file, with the job object and the training file where somebody kept them."""

    results: bytes
    name: str
    """Of the result file, for errors."""
    job: Mapping[str, Any]
    train: tuple[str, bytes] | None = None
    """Name and content."""


def import_job(service: JobService, past: PastJob) -> JobRecord:
    """The finished job; the same result file again gives the same job. Raises DataError for a file
    that is no result file.
    """
    table = plain_table(past.results)
    told = _told(table, past.name)
    key = f"import:{hashlib.sha256(table).hexdigest()}"
    with service.database.reading() as session:
        known = session.scalar(select(JobRow.id).where(JobRow.client_key == key))
    if known is not None:
        return service.jobs.get(known)
    train = past.job.get("training_file")
    if past.train is not None:
        name, content = past.train
        train = service.files.store(content, filename=name, purpose="fine-tune").id
    row = _row(past.job, key, str(train or "unknown"), hashlib.sha256(table).hexdigest())

    def also(session: Session, file: FileRecord) -> None:
        if session.scalar(select(JobRow.id).where(JobRow.id == row.id)) is not None:
            row.id = new_id(PREFIX)
        row.result_files = [file.id]
        session.add(row)
        session.flush()
        row.place = float(row.number)
        tell(session, row.id, *_framed(row, told))

    service.files.store(table, filename=past.name, also=also)
    return service.jobs.get(row.id)


def plain_table(content: bytes) -> bytes:
    """The CSV itself: since about 2024 OpenAI's files come in base64."""
    if b"," in content:
        return content.removeprefix(b"\xef\xbb\xbf")
    try:
        return base64.b64decode(content, validate=False).removeprefix(b"\xef\xbb\xbf")
    except binascii.Error:
        return content


def _told(table: bytes, name: str) -> list[Told]:
    try:
        rows = list(csv.DictReader(io.StringIO(table.decode("utf-8"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_results(name, str(error)) from None
    if not rows or "step" not in rows[0] or "train_loss" not in rows[0]:
        first = table[:60].decode("utf-8", errors="replace")
        raise _no_results(name, repr(first))
    return [_metrics(row, len(rows), f"{name}:{number}") for number, row in enumerate(rows, 2)]


def _no_results(name: str, found: str) -> DataError:
    expected = "a result file of a fine-tuning job: CSV (or base64) with step and train_loss"
    error = DataError.of(Fault(name, found, expected, "give the file of the job's result_files"))
    assert isinstance(error, DataError)
    return error


def _metrics(row: Mapping[str, str | None], total: int, where: str) -> Told:
    try:
        step = int(row["step"] or "")
        data: dict[str, Any] = {"step": step, "total_steps": total}
        data |= {ours: float(row[name] or "") for name, ours in _COLUMNS.items() if row.get(name)}
    except ValueError as error:
        raise _no_results(where, str(error)) from None
    loss = data.get("train_loss")
    words = f"Step {step}/{total}:" + (f" training loss={loss:.2f}" if loss is not None else "")
    if "valid_loss" in data:
        words += f", validation loss={data['valid_loss']:.2f}"
    return Told(f"step:{step}", words, type="metrics", data=data)


def _framed(row: JobRow, told: list[Told]) -> list[Told]:
    begin = Told("created", f"Created fine-tuning job: {row.id}", at=row.created_at)
    end = Told("succeeded", "The job has successfully completed", at=row.finished_at)
    name = row.fine_tuned_model
    made = [Told("model", f"New fine-tuned model created: {name}")] if name else []
    imported = Told("imported", "Imported from OpenAI: its model is not on this machine")
    return [begin, *told, *made, end, imported]


def _row(job: Mapping[str, Any], key: str, train: str, sha256: str) -> JobRow:
    at = now()
    model = str(job.get("model") or "unknown")
    id = str(job.get("id") or "")
    settings = job.get("hyperparameters")
    metadata = job.get("metadata")
    created = _time(job.get("created_at"), at)
    return JobRow(
        id=id if _ID.fullmatch(id) else new_id(PREFIX),
        client_key=key,
        request_sha256=sha256,
        status="succeeded",
        place=0.0,
        created_at=created,
        started_at=created,
        finished_at=_time(job.get("finished_at"), at),
        model=model,
        base=model,
        fine_tuned_model=_text(job.get("fine_tuned_model")),
        training_file=train[:64],
        validation_file=(_text(job.get("validation_file")) or "")[:64] or None,
        method="supervised",
        hyperparameters=dict(settings) if isinstance(settings, Mapping) else {},
        trained_tokens=_whole(job.get("trained_tokens")),
        seed=_whole(job.get("seed")) or 0,
        suffix=_text(job.get("user_provided_suffix")),
        metadata_=_texts(metadata) or None,
        integrations=[],
        tanren={},
        organization=str(job.get("organization_id") or "openai")[:64],
        read_until=0,
        result_files=[],
    )


def _texts(pairs: object) -> dict[str, str]:
    """Metadata is texts, whatever else stood in a file that people may have changed."""
    found = pairs if isinstance(pairs, Mapping) else {}
    return {
        str(key): value if isinstance(value, str) else str(value) for key, value in found.items()
    }


def _time(value: object, otherwise: int) -> int:
    whole = _whole(value)
    return otherwise if whole is None else whole


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
