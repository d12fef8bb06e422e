"""The API's objects as they are sent: every field of each, null where nothing is known yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tanren.store.records import (
    CheckpointRecord,
    EventRecord,
    EventType,
    FileRecord,
    JobRecord,
    JobStatus,
    Level,
    ModelRecord,
    UploadRecord,
)

Item = TypeVar("Item")
_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")


class Sent(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class ListOf(Sent, Generic[Item]):
    """A page; `has_more`: something follows the last one."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool


class NamedList(ListOf[Item], Generic[Item]):
    """A page that names its ends; null where it is empty."""

    first_id: str | None = None
    last_id: str | None = None


class Error(Sent):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Sent):
    error: Error


# --- files ----------------------------------------------------------------------------------------


class File(Sent):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None

    @classmethod
    def of(cls, record: FileRecord) -> File:
        return cls(
            id=record.id,
            bytes=record.bytes,
            created_at=record.created_at,
            expires_at=record.expires_at,
            filename=record.filename,
            purpose=record.purpose,
            status=record.status,
            status_details=record.status_details,
        )


class DeletedFile(Sent):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class Upload(Sent):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: File | None

    @classmethod
    def of(cls, record: UploadRecord) -> Upload:
        return cls(
            id=record.id,
            bytes=record.bytes,
            created_at=record.created_at,
            expires_at=record.expires_at,
            filename=record.filename,
            purpose=record.purpose,
            status=record.status,
            file=File.of(record.file) if record.file else None,
        )


class UploadPart(Sent):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


# --- models ---------------------------------------------------------------------------------------


class Model(Sent):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str

    @classmethod
    def of(cls, record: ModelRecord) -> Model:
        return cls(id=record.id, created=record.created_at, owned_by=record.owned_by)


class Models(Sent):
    object: Literal["list"] = "list"
    data: list[Model]


class DeletedModel(Sent):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


# --- jobs -----------------------------------------------------------------------------------------


class JobFailure(Sent):
    code: str
    message: str
    param: str | None


class JobExtension(Sent):
    """What OpenAI's jobs have no place for: our own settings, and where the job stands."""

    settings: dict[str, Any]
    priority: int
    run: str | None = Field(description="The run's directory on the server.")
    slot: str | None
    waiting_for: str | None = Field(description="Why a queued job does not run yet.")


class Job(Sent):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    fine_tuned_model: str | None
    organization_id: str
    result_files: list[str]
    status: JobStatus
    training_file: str
    validation_file: str | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    trained_tokens: int | None
    error: JobFailure | None
    seed: int
    integrations: list[dict[str, Any]]
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    tanren: JobExtension

    @classmethod
    def of(cls, record: JobRecord) -> Job:
        error = record.error
        return cls(
            id=record.id,
            model=record.model,
            created_at=record.created_at,
            finished_at=record.finished_at,
            estimated_finish=record.estimated_finish,
            fine_tuned_model=record.fine_tuned_model,
            organization_id=record.organization,
            result_files=list(record.result_files),
            status=record.status,
            training_file=record.training_file,
            validation_file=record.validation_file,
            hyperparameters=_plain_hyperparameters(record.hyperparameters),
            method={
                "type": record.method,
                record.method: {"hyperparameters": dict(record.hyperparameters)},
            },
            trained_tokens=record.trained_tokens,
            error=error and JobFailure(code=error.code, message=error.message, param=error.param),
            seed=record.seed,
            integrations=[dict(each) for each in record.integrations],
            metadata=dict(record.metadata) if record.metadata is not None else None,
            user_provided_suffix=record.suffix,
            tanren=JobExtension(
                settings=dict(record.tanren),
                priority=record.priority,
                run=record.run,
                slot=record.slot,
                waiting_for=record.waiting_for,
            ),
        )


def _plain_hyperparameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """The old top-level field: those that every method has."""
    return {name: values.get(name, "auto") for name in _HYPERPARAMETERS}


class Event(Sent):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str
    type: EventType
    data: dict[str, Any]

    @classmethod
    def of(cls, record: EventRecord) -> Event:
        return cls(
            id=record.id,
            created_at=record.created_at,
            level=record.level,
            message=record.message,
            type=record.type,
            data=dict(record.data),
        )


class Checkpoint(Sent):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]

    @classmethod
    def of(cls, record: CheckpointRecord) -> Checkpoint:
        return cls(
            id=record.id,
            created_at=record.created_at,
            fine_tuned_model_checkpoint=record.model,
            fine_tuning_job_id=record.job,
            step_number=record.step,
            metrics=dict(record.metrics),
        )
