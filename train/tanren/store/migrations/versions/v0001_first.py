"""The first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _whole(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=null)


def _number() -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("number", kind, primary_key=True, autoincrement=True)


def _short(name: str, length: int, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length), nullable=null)


def _text(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=null)


def _json(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(), nullable=null)


def upgrade() -> None:
    _files_and_uploads()
    _jobs()
    _what_jobs_make()
    _keys()


def _files_and_uploads() -> None:
    op.create_table(
        "files",
        _number(),
        _short("id", 64),
        _text("filename"),
        _short("purpose", 32),
        _whole("bytes"),
        _short("sha256", 64),
        _whole("created_at"),
        _whole("expires_at", null=True),
        _whole("deleted_at", null=True),
        _short("status", 16),
        _text("status_details", null=True),
        sa.UniqueConstraint("id"),
    )
    op.create_index("files_by_purpose", "files", ["deleted_at", "purpose", "number"])
    op.create_table(
        "uploads",
        _number(),
        _short("id", 64),
        _text("filename"),
        _short("purpose", 32),
        _text("mime_type"),
        _whole("bytes"),
        _short("status", 16),
        _whole("created_at"),
        _whole("expires_at"),
        _whole("expires_after", null=True),
        _short("file", 64, null=True),
        sa.UniqueConstraint("id"),
    )
    op.create_table(
        "upload_parts",
        _number(),
        _short("id", 64),
        _short("upload", 64),
        _whole("bytes"),
        _whole("created_at"),
        sa.ForeignKeyConstraint(["upload"], ["uploads.id"]),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_upload_parts_upload", "upload_parts", ["upload"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        _number(),
        _short("id", 64),
        _short("client_key", 256, null=True),
        _short("request_sha256", 64),
        _short("status", 24),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("place", sa.Float(), nullable=False),
        _whole("created_at"),
        _whole("started_at", null=True),
        _whole("finished_at", null=True),
        _whole("estimated_finish", null=True),
        _text("model"),
        _text("base"),
        _text("fine_tuned_model", null=True),
        _short("training_file", 64),
        _short("validation_file", 64, null=True),
        _json("result_files"),
        _short("method", 16),
        _json("hyperparameters"),
        _whole("trained_tokens", null=True),
        _json("error", null=True),
        _whole("seed"),
        _text("suffix", null=True),
        _json("metadata", null=True),
        _json("integrations"),
        _json("tanren"),
        _short("organization", 64),
        _text("run", null=True),
        _text("slot", null=True),
        _text("waiting_for", null=True),
        _whole("read_until"),
        sa.UniqueConstraint("client_key"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_jobs_training_file", "jobs", ["training_file"])
    op.create_index("jobs_by_turn", "jobs", ["status", "priority", "place"])
    op.create_index("jobs_by_slot", "jobs", ["slot"])


def _what_jobs_make() -> None:
    op.create_table(
        "events",
        _number(),
        _short("id", 64),
        _short("job", 64),
        _short("key", 128),
        _whole("created_at"),
        _short("level", 8),
        _short("type", 8),
        _text("message"),
        _json("data"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"]),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("job", "key", name="events_once"),
    )
    op.create_index("events_by_job", "events", ["job", "number"])
    op.create_table(
        "checkpoints",
        _number(),
        _short("id", 64),
        _short("job", 64),
        _whole("step"),
        _whole("created_at"),
        _text("model"),
        _json("metrics"),
        _text("folder"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"]),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("job", "step", name="checkpoints_once"),
    )
    op.create_table(
        "models",
        _number(),
        _short("id", 255),
        _short("kind", 16),
        _text("base"),
        _short("job", 64),
        _text("owned_by"),
        _whole("created_at"),
        _whole("deleted_at", null=True),
        _text("folder"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"]),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_models_job", "models", ["job"])


def _keys() -> None:
    op.create_table(
        "keys",
        _number(),
        _short("id", 64),
        _text("name"),
        _short("hint", 32),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        _json("scopes"),
        _whole("created_at"),
        _whole("expires_at", null=True),
        _whole("last_used_at", null=True),
        _whole("revoked_at", null=True),
        sa.UniqueConstraint("hash"),
        sa.UniqueConstraint("id"),
    )
