"""Events of jobs: told once each, whoever tells them and however often."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tanren.store.records import EventType, Level
from tanren.store.stamps import new_id, now
from tanren.store.tables import EventRow

_KEYS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Told:
    """An event before it has a number. `key`: what happened, such as `step:12`; a job never tells
    the same key twice.
    """

    key: str
    message: str
    level: Level = "info"
    type: EventType = "message"
    data: Mapping[str, Any] = field(default_factory=dict)
    at: int | None = None
    """Seconds since 1970; None: now."""


def tell(session: Session, job: str, *events: Told) -> int:
    """Add those of the events whose keys this job has not told yet, in order; how many that were.

    The session writes, so nobody else can add one of them in between.
    """
    known = _known(session, job, [event.key for event in events])
    added = 0
    for event in events:
        if event.key not in known:
            known.add(event.key)
            session.add(_row(job, event))
            added += 1
    session.flush()
    return added


def _known(session: Session, job: str, keys: list[str]) -> set[str]:
    known: set[str] = set()
    for begin in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[begin : begin + _KEYS_AT_ONCE]
        found = select(EventRow.key).where(EventRow.job == job, EventRow.key.in_(some))
        known.update(session.scalars(found))
    return known


def _row(job: str, event: Told) -> EventRow:
    return EventRow(
        id=new_id("ftevent-"),
        job=job,
        key=event.key,
        created_at=now() if event.at is None else event.at,
        level=event.level,
        type=event.type,
        message=event.message,
        data=dict(event.data),
    )


def numbered(session: Session, job: str, kind: str) -> str:
    """A key for something that may happen again to the same job, such as `paused:2`."""
    prefix = f"{kind}:"
    found = session.scalars(
        select(EventRow.key).where(
            EventRow.job == job, EventRow.key.startswith(prefix, autoescape=True)
        )
    )
    return f"{prefix}{1 + len(found.all())}"


def keyed_by(kind: str, words: str) -> str:
    """A key for what is said once in these words."""
    return f"{kind}:{hashlib.sha256(words.encode('utf-8')).hexdigest()[:24]}"


def sentences(parts: Iterable[str]) -> str:
    """Parts as sentences in one line."""
    return " ".join(part.strip().rstrip(".") + "." for part in parts if part.strip())
