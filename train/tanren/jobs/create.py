"""A job as it was asked for becomes a row: checked against what is there, once per client key."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tanren.errors import RunError
from tanren.jobs.asked import MOST_SEED, asked_settings, check_form
from tanren.jobs.auto import resolved
from tanren.jobs.run_settings import Start, run_config, writes_offline_log
from tanren.jobs.states import ACTIVE
from tanren.jobs.telling import Told, tell
from tanren.rundir import read_json
from tanren.store.errors import Conflict, InvalidRequest, LimitExceeded, NotFound
from tanren.store.records import JobRequest
from tanren.store.settings import ServiceConfig
from tanren.store.stamps import new_id, now
from tanren.store.tables import FileRow, JobRow, ModelRow

if TYPE_CHECKING:
    from tanren.jobs.service import JobService

PREFIX = "ftjob-"
_LONGEST_KEY = 256
_CARD = "tanren.json"
_STARTS_FROM_WEIGHTS = ("pissa", "olora", "eva")


def create(service: JobService, request: JobRequest, client_key: str | None) -> str:
    """Id of the new job, or of the one that the same request with the same key has made before.

    Raises InvalidRequest, Conflict for a key with another request, LimitExceeded.
    """
    hyperparameters = check_form(request)
    asked, priority = asked_settings(request.tanren, request.metadata)
    fingerprint = _fingerprint(request)
    if client_key is not None and not 1 <= len(client_key) <= _LONGEST_KEY:
        raise InvalidRequest(f"A client key has 1 to {_LONGEST_KEY} characters.", param=None)
    with service.database.session() as session:
        known = _made_before(session, client_key, fingerprint)
        if known is not None:
            return known
        _require_room(session, service.config.limits.queued_jobs)
        start = start_of(session, service.config, request.model)
        files = [
            _usable_file(service, session, name, id)
            for name, id in (
                ("training_file", request.training_file),
                ("validation_file", request.validation_file),
            )
            if id is not None
        ]
        _check_settings(start, request, hyperparameters, asked)
        row = _row(request, start, hyperparameters, service.config, client_key, fingerprint)
        row.priority, row.tanren = priority, asked
        session.add(row)
        session.flush()
        row.place = float(row.number)
        tell(session, row.id, *_first_events(row.id, request, files))
        return row.id


def _fingerprint(request: JobRequest) -> str:
    plain = json.dumps(asdict(request), sort_keys=True, ensure_ascii=True, default=dict)
    return hashlib.sha256(plain.encode("ascii")).hexdigest()


def _made_before(session: Session, key: str | None, fingerprint: str) -> str | None:
    if key is None:
        return None
    row = session.scalar(select(JobRow).where(JobRow.client_key == key))
    if row is None:
        return None
    if row.request_sha256 != fingerprint:
        raise Conflict(
            f"The idempotency key of this request was used before for job {row.id}, which was "
            "asked for otherwise. Send the same request again, or another key.",
            code="idempotency_key_reused",
        )
    return row.id


def _require_room(session: Session, most: int) -> None:
    active = session.scalar(select(func.count()).where(JobRow.status.in_(ACTIVE)))
    if (active or 0) >= most:
        raise LimitExceeded(
            f"There are {most:,} jobs that have not ended, which is the limit "
            "(limits.queued_jobs). Wait until some have, or cancel some.",
            retry_after=60.0,
        )


def start_of(session: Session, config: ServiceConfig, name: str) -> Start:
    """What a model's name means to a job: a base, an alias, or something tuned before. Raises
    InvalidRequest.
    """
    base = config.base_for(name)
    if base is not None:
        return Start(base)
    tuned = session.scalar(
        select(ModelRow).where(ModelRow.id == name, ModelRow.deleted_at.is_(None))
    )
    base = config.base_for(tuned.base) if tuned is not None else None
    if tuned is None or base is None:
        raise InvalidRequest(
            f"Model {name} is not available for fine-tuning or does not exist.",
            param="model",
            code="model_not_available",
        )
    return _tuned_start(Start(base, Path(tuned.folder)), name)


def _tuned_start(start: Start, name: str) -> Start:
    assert start.folder is not None
    if not (start.folder / "adapter_config.json").is_file():
        if (start.folder / "config.json").is_file():
            return start  # whole weights
        raise _gone(name, start.folder)
    try:
        card = read_json(start.folder / _CARD)
    except RunError:
        raise _gone(name, start.folder) from None
    if card["method"]["name"] in _STARTS_FROM_WEIGHTS:
        raise InvalidRequest(
            f"Model {name} was tuned with {card['method']['name']}, whose start is made of the "
            "base's weights or of data: such a model cannot be tuned further. Start from its base, "
            "or tune with lora, dora or qlora.",
            param="model",
            code="model_not_available",
        )
    return Start(start.base, start.folder, card["method"])


def _gone(name: str, folder: Path) -> InvalidRequest:
    return InvalidRequest(
        f"Model {name} has no weights any more: {folder} is gone. Restore that folder, or start "
        "from the base.",
        param="model",
        code="model_not_available",
    )


def _usable_file(service: JobService, session: Session, param: str, id: str) -> FileRow:
    try:
        row = service.files.required(session, id)
    except NotFound:
        raise InvalidRequest(f"invalid {param}: {id}", param=param) from None
    if row.purpose != "fine-tune":
        raise InvalidRequest(
            f"invalid {param}: {id} (its purpose is {row.purpose!r}, expected 'fine-tune')",
            param=param,
        )
    return row


def _check_settings(
    start: Start, request: JobRequest, hyperparameters: dict[str, Any], asked: dict[str, Any]
) -> None:
    """Build the run's settings once, so that whoever asks for the impossible learns it now."""
    run_config(
        start,
        train=Path(request.training_file),
        validation=Path(request.validation_file) if request.validation_file else None,
        method=request.method,
        hyperparameters=hyperparameters,
        auto=resolved(hyperparameters, examples=10),
        asked=asked,
        seed=request.seed or 0,
    )


def _row(
    request: JobRequest,
    start: Start,
    hyperparameters: dict[str, Any],
    config: ServiceConfig,
    client_key: str | None,
    fingerprint: str,
) -> JobRow:
    seed = request.seed
    return JobRow(
        id=new_id(PREFIX),
        client_key=client_key,
        request_sha256=fingerprint,
        status="validating_files",
        place=0.0,
        created_at=now(),
        model=start.base.id if start.folder is None else request.model,
        base=start.base.id,
        training_file=request.training_file,
        validation_file=request.validation_file,
        result_files=[],
        method=request.method,
        hyperparameters=hyperparameters,
        seed=secrets.randbelow(MOST_SEED + 1) if seed is None else int(seed),
        suffix=request.suffix,
        metadata_=dict(request.metadata) if request.metadata else None,
        integrations=[dict(each) for each in request.integrations],
        organization=config.organization,
        read_until=0,
    )


def _first_events(id: str, request: JobRequest, files: list[FileRow]) -> list[Told]:
    names = f"Validating training file: {request.training_file}"
    if request.validation_file is not None:
        names += f" and validation file: {request.validation_file}"
    told = [Told("created", f"Created fine-tuning job: {id}"), Told("validating", names)]
    if request.integrations:
        words = (
            "Nothing is sent to Weights & Biases: the numbers of every step stand in this job's "
        )
        words += "events and in its result file"
        if writes_offline_log():
            words += ", and in an offline log in its run directory"
        told.append(Told("integrations", words, level="warn"))
    return told
