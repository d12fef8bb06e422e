"""What the queue keeps, as plain values: files, jobs, events, checkpoints, tuned models, keys.

Times are whole seconds since 1970 (UTC) as OpenAI's API has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

JobStatus = Literal[
    "validating_files", "queued", "running", "pausing", "paused", "succeeded", "failed", "cancelled"
]
TERMINAL: frozenset[JobStatus] = frozenset(("succeeded", "failed", "cancelled"))
Level = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, in the order asked for. `has_more`: something follows the last one."""

    items: tuple[T, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class FileRecord:
    """`file-...`. Its bytes lie under a name made of the id; `filename` is a label and no path."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None
    sha256: str


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """`upload_...`: a file that arrives in parts."""

    id: str
    filename: str
    purpose: str
    bytes: int
    mime_type: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    created_at: int
    expires_at: int
    file: FileRecord | None


@dataclass(frozen=True, slots=True)
class PartRecord:
    """`part_...` of an upload."""

    id: str
    upload: str
    bytes: int
    created_at: int


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: `code`, words for a person, and which of its inputs is at fault."""

    code: str
    message: str
    param: str | None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job as it was asked for, checked for form but not against what is there.

    `hyperparameters`: `n_epochs`, `batch_size`, `learning_rate_multiplier`, for DPO `beta`; each a
    number or "auto"; absent means "auto". `tanren`: our own settings of the run, flat or nested
    (`{"method": "dora", "rank": 32, "training": {"max_steps": 5}, "priority": 5}`).
    """

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    method: Literal["supervised", "dpo"] = "supervised"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] | None = None
    integrations: Sequence[Mapping[str, Any]] = ()
    tanren: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """`ftjob-...`. `hyperparameters` hold "auto" until the job is started.

    `waiting_for`: why a queued job is not running, in words; None where it is next.
    """

    id: str
    status: JobStatus
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    model: str
    """The base's id, or the `ft:` model that the job goes on from."""
    base: str
    """The base's id, whatever the job goes on from."""
    fine_tuned_model: str | None
    training_file: str
    validation_file: str | None
    result_files: tuple[str, ...]
    method: Literal["supervised", "dpo"]
    hyperparameters: Mapping[str, Any]
    trained_tokens: int | None
    error: JobError | None
    seed: int
    suffix: str | None
    metadata: Mapping[str, str] | None
    integrations: tuple[Mapping[str, Any], ...]
    tanren: Mapping[str, Any]
    organization: str
    priority: int
    """Higher ones start first; 0 unless asked otherwise."""
    run: str | None
    """Path of the run directory; None before it is made."""
    slot: str | None
    """Where it runs."""
    waiting_for: str | None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """`ftevent-...`. `data` are the numbers of a `metrics` event."""

    id: str
    job: str
    created_at: int
    level: Level
    type: EventType
    message: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """`ftckpt_...`. `folder`: what can be served; `metrics` as the API names them."""

    id: str
    job: str
    created_at: int
    step: int
    model: str
    metrics: Mapping[str, float]
    folder: str


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Something clients can talk to. `folder` is None for a base or an alias."""

    id: str
    kind: Literal["base", "alias", "tuned", "checkpoint"]
    base: str
    """The base's id."""
    created_at: int
    owned_by: str
    job: str | None
    folder: str | None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key, of which only a hash is kept. `hint`: its first and last characters."""

    id: str
    name: str
    hint: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None
