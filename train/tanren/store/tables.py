"""The database's tables. A change needs a migration (`store/migrations/`); a test compares both.

`number` orders what was made within the same second and is what pages go by. Deleted files and
models keep their row, marked, so that a page can go on after them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Whole = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up in columns of type INTEGER alone."""
JsonOrNull = JSON(none_as_null=True)
"""None is the database's NULL, as in every other column, not the JSON text `null`."""


class Table(DeclarativeBase):
    pass


class FileRow(Table):
    __tablename__ = "files"

    number: Mapped[int] = mapped_column(Whole, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    filename: Mapped[str] = mapped_column(Text)
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(Whole)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(Whole)
    expires_at: Mapped[int | None] = mapped_column(Whole)
    deleted_at: Mapped[int | None] = mapped_column(Whole)
    status: Mapped[str] = mapped_column(String(16))
    status_details: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (Index("files_by_purpose", "deleted_at", "purpose", "number"),)


class UploadRow(Table):
    __tablename__ = "uploads"

    number: Mapped[int] = mapped_column(Whole, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    filename: Mapped[str] = mapped_column(Text)
    purpose: Mapped[str] = mapped_column(String(32))
    mime_type: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(Whole)
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int] = mapped_column(Whole)
    expires_at: Mapped[int] = mapped_column(Whole)
    expires_after: Mapped[int | None] = mapped_column(Whole)
    """Seconds that the finished file is to be kept."""
    file: Mapped[str | None] = mapped_column(String(64))


class PartRow(Table):
    __tablename__ = "upload_parts"

    number: Mapped[int] = mapped_column(Whole, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    upload: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(Whole)
    created_at: Mapped[int] = mapped_column(Whole)


class JobRow(Table):
    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(Whole, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    client_key: Mapped[str | None] = mapped_column(String(256), unique=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    """Of the request: the same key with another request is a mistake."""
    status: Mapped[str] = mapped_column(String(24))
    priority: Mapped[int] = mapped_column(Integer, default=0)
    place: Mapped[float] = mapped_column(Float)
    """Order within a priority; `number` unless the job was moved."""
    created_at: Mapped[int] = mapped_column(Whole)
    started_at: Mapped[int | None] = mapped_column(Whole)
    finished_at: Mapped[int | None] = mapped_column(Whole)
    estimated_finish: Mapped[int | None] = mapped_column(Whole)
    model: Mapped[str] = mapped_column(Text)
    base: Mapped[str] = mapped_column(Text)
    fine_tuned_model: Mapped[str | None] = mapped_column(Text)
    training_file: Mapped[str] = mapped_column(String(64), index=True)
    validation_file: Mapped[str | None] = mapped_column(String(64))
    result_files: Mapped[list[str]] = mapped_column(JSON)
    method: Mapped[str] = mapped_column(String(16))
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    trained_tokens: Mapped[int | None] = mapped_column(Whole)
    error: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)
    seed: Mapped[int] = mapped_column(Whole)
    suffix: Mapped[str | None] = mapped_column(Text)
    metadata_: Mapped[dict[str, str] | None] = mapped_column("metadata", JsonOrNull)
    integrations: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    tanren: Mapped[dict[str, Any]] = mapped_column(JSON)
    organization: Mapped[str] = mapped_column(String(64))
    run: Mapped[str | None] = mapped_column(Text)
    slot: Mapped[str | None] = mapped_column(Text)
    waiting_for: Mapped[str | None] = mapped_column(Text)
    read_until: Mapped[int] = mapped_column(Whole, default=0)
    """Bytes of the run's events.jsonl that have become events here, in the same transaction."""

    __table_args__ = (
        Index("jobs_by_turn", "status", "priority", "place"),
        Index("jobs_by_slot", "slot"),
    )


class EventRow(Table):
    __tablename__ = "events"

    number: Mapped[int] = mapped_column(Whole, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    key: Mapped[str] = mapped_column(String(128))
    """What happened, such as `step:12`: once per job, however often a resumed run says it."""
    created_at: Mapped[int] = mapped_column(Whole)
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)

    __table_args__ = (
        UniqueConstraint("job", "key", name="events_once"),
        Index("events_by_job", "job", "number"),
    )


class CheckpointRow(Table):
    __tablename__ = "checkpoints"

    number: Mapped[int] = mapped_column(Whole, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    step: Mapped[int] = mapped_column(Whole)
    created_at: Mapped[int] = mapped_column(Whole)
    model: Mapped[str] = mapped_column(Text)
    metrics: Mapped[dict[str, float]] = mapped_column(JSON)
    folder: Mapped[str] = mapped_column(Text)

    __table_args__ = (UniqueConstraint("job", "step", name="checkpoints_once"),)


class ModelRow(Table):
    """Tuned models and their checkpoints; bases and aliases stand in the settings."""

    __tablename__ = "models"

    number: Mapped[int] = mapped_column(Whole, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(255), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    base: Mapped[str] = mapped_column(Text)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    owned_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(Whole)
    deleted_at: Mapped[int | None] = mapped_column(Whole)
    folder: Mapped[str] = mapped_column(Text)


class KeyRow(Table):
    __tablename__ = "keys"

    number: Mapped[int] = mapped_column(Whole, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(Text)
    hint: Mapped[str] = mapped_column(String(32))
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(Whole)
    expires_at: Mapped[int | None] = mapped_column(Whole)
    last_used_at: Mapped[int | None] = mapped_column(Whole)
    revoked_at: Mapped[int | None] = mapped_column(Whole)
