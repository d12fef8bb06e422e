"""API keys. The database has their SHA-256 alone.

A plain hash suffices: a key is 256 bits of chance, so that nobody finds it by trying, and the slow
hashes that passwords need would only make every request slower. It is looked up by its hash, whose
timing tells nothing of the key, and compared in constant time.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from tanren.errors import StorageError
from tanren.store.database import Database
from tanren.store.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from tanren.store.records import KeyRecord
from tanren.store.stamps import new_id, now
from tanren.store.tables import KeyRow

SCOPES = {
    "chat": "chat completions",
    "files": "files and uploads: send, list, read, delete",
    "jobs": "fine-tuning jobs: create, list, cancel, pause, resume",
    "models": "delete tuned models (every key may list them)",
    "metrics": "read /metrics",
    "all": "everything",
}
PREFIX = "sk-tanren-"
LONGEST_NAME = 128
_USE_SECONDS = 60
"""How exactly the last use is known: each note of it is a write."""


class Keys:
    """All methods may be called from any thread and beside other processes."""

    def __init__(self, database: Database, *, clock: Callable[[], int] = now) -> None:
        self._database = database
        self._clock = clock

    def create(
        self, name: str, scopes: Sequence[str] = ("all",), expires_at: int | None = None
    ) -> tuple[str, KeyRecord]:
        """The key itself, which nobody can show again, and its record. Raises InvalidRequest."""
        self._ensure_good(name, scopes, expires_at)
        secret = PREFIX + secrets.token_urlsafe(32)
        row = KeyRow(
            id=new_id("key_"),
            name=name,
            hint=f"{secret[: len(PREFIX) + 2]}...{secret[-4:]}",
            hash=_hash(secret),
            scopes=[scope for scope in SCOPES if scope in scopes],
            created_at=self._clock(),
            expires_at=expires_at,
            last_used_at=None,
            revoked_at=None,
        )
        with self._database.session() as session:
            session.add(row)
            session.flush()
            return secret, _record(row)

    def _ensure_good(self, name: str, scopes: Sequence[str], expires_at: int | None) -> None:
        if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            words = f"A name of 1 to {LONGEST_NAME} printable characters."
            raise InvalidRequest(words, param="name")
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            found = repr(unknown[0]) if unknown else "No scope"
            words = f"{found} is not one of {list(SCOPES)} - 'scopes'"
            raise InvalidRequest(words, param="scopes")
        if expires_at is not None and expires_at <= self._clock():
            raise InvalidRequest("The time at which it expires is over.", param="expires_at")

    def check(self, secret: str | None, scope: str | None = None) -> KeyRecord:
        """The key's record; `scope` None: any valid key will do. Raises Unauthorized where the key
        is missing, unknown, expired or revoked, Forbidden where it lacks the scope.
        """
        assert scope is None or scope in SCOPES, scope
        with self._database.reading() as session:
            row = _find(session, secret) if secret else None
            record = _record(row) if row is not None else None
        if record is None or not self._is_valid(record):
            raise _wrong(secret)
        if scope is not None and not {scope, "all"} & set(record.scopes):
            raise Forbidden(
                f"This key may not do that: it lacks the scope {scope!r}.",
                code="insufficient_permissions",
            )
        self._note_use(record)
        return record

    def _is_valid(self, record: KeyRecord) -> bool:
        late = record.expires_at is not None and record.expires_at <= self._clock()
        return record.revoked_at is None and not late

    def _note_use(self, record: KeyRecord) -> None:
        at = self._clock()
        if record.last_used_at is not None and at - record.last_used_at < _USE_SECONDS:
            return
        # a full disk must not lock clients out: reading works without it
        with contextlib.suppress(StorageError), self._database.session() as session:
            _required(session, record.id).last_used_at = at

    def list(self) -> tuple[KeyRecord, ...]:
        """All keys ever made, oldest first, revoked ones too."""
        with self._database.reading() as session:
            rows = session.scalars(select(KeyRow).order_by(KeyRow.number))
            return tuple(_record(row) for row in rows)

    def revoke(self, id: str) -> KeyRecord:
        """From now on it is refused. One that was revoked stays so, with its time. Raises
        NotFound.
        """
        with self._database.session() as session:
            row = _required(session, id)
            row.revoked_at = self._clock() if row.revoked_at is None else row.revoked_at
            return _record(row)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", errors="surrogatepass")).digest()


def _find(session: Session, secret: str) -> KeyRow | None:
    wanted = _hash(secret)
    row = session.scalar(select(KeyRow).where(KeyRow.hash == wanted))
    return row if row is not None and hmac.compare_digest(row.hash, wanted) else None


def _required(session: Session, id: str) -> KeyRow:
    row = session.scalar(select(KeyRow).where(KeyRow.id == id))
    if row is None:
        raise NotFound(f"No such key: {id}", param="id")
    return row


def _wrong(secret: str | None) -> Unauthorized:
    """In the same words whatever is wrong with it; only the end of what was sent is shown."""
    if not secret:
        return Unauthorized(
            "You didn't provide an API key. Send it as `Authorization: Bearer KEY`; "
            "`tanren keys create NAME` makes one.",
            code="invalid_api_key",
        )
    return Unauthorized(
        "Incorrect API key provided. It is unknown, expired or revoked.", code="invalid_api_key"
    )


def _record(row: KeyRow) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        name=row.name,
        hint=row.hint,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
