"""Files of clients and results of jobs: bytes under a name made of their id, the rest in the
database.

A row without bytes cannot be: bytes are flushed and in place before it is written. Bytes without a
row are what a killed process left, and removed when the service is opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from tanren.store.database import Database
from tanren.store.errors import Conflict, InvalidRequest, NotFound, TooLarge
from tanren.store.pages import cursor, page
from tanren.store.records import TERMINAL, FileRecord, Page
from tanren.store.settings import Limits
from tanren.store.stamps import is_id, new_id, now
from tanren.store.stored import Incoming, Receiver, discard_leftovers
from tanren.store.tables import FileRow, JobRow, PartRow, UploadRow

PURPOSES = ("fine-tune", "assistants", "batch", "user_data", "vision", "evals")
RESULTS = "fine-tune-results"
ALIASES = {"fine_tune": "fine-tune"}
SHORTEST_SECONDS, LONGEST_SECONDS = 3600, 2_592_000
LONGEST_NAME = 1024
_PREFIX = "file-"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL and halves of characters: databases and UTF-8 have no place for them."""

Also = Callable[[Session, FileRecord], None]
"""What else is to be written in the transaction that makes the file known."""


class FileReceiver(Receiver):
    """A file on its way in, as a context: `write` its bytes, then `commit`. Without that nothing
    stays.

    `filename`, `purpose` and `expires_after` may be set until then: some clients send them after
    the bytes.
    """

    def __init__(self, files: Files, *, limit: int, with_md5: bool) -> None:
        incoming = Incoming(files.folder, limit=limit, what="A file", with_md5=with_md5)
        super().__init__(incoming)
        self.filename = "upload"
        self.purpose: str | None = None
        self.expires_after: int | None = None
        self._files = files

    @property
    def received(self) -> int:
        """Bytes that have come so far."""
        return self._incoming.received

    @property
    def md5(self) -> str:
        """Of what has come so far, in hex. Only where it was asked for."""
        return self._incoming.md5

    def commit(self, *, also: Also | None = None) -> FileRecord:
        """Keep it: on disk first, then in the database. `also` writes more in that transaction;
        where it raises, the file is not kept.
        """
        return self._files.keep(self._incoming, self, also)


class Files:
    """All methods may be called from any thread and beside other processes."""

    def __init__(
        self, database: Database, folder: Path, limits: Limits, *, clock: Callable[[], int] = now
    ) -> None:
        self.folder = folder
        self._database = database
        self._limits = limits
        self._clock = clock

    # --- in ---------------------------------------------------------------------------------------

    def receive(
        self,
        *,
        filename: str = "upload",
        purpose: str | None = None,
        expires_after: int | None = None,
        limit: int | None = None,
        with_md5: bool = False,
    ) -> FileReceiver:
        """A context to write into, `limit` bytes at most (None: as the settings say).
        `expires_after` in seconds. What is given is checked here, everything at `commit`. Raises
        InvalidRequest, StorageError.
        """
        if purpose is not None:
            checked_purpose(purpose)
        checked_label(filename)
        checked_expiry(expires_after)
        most = self._limits.file_bytes if limit is None else limit
        receiver = FileReceiver(self, limit=most, with_md5=with_md5)
        receiver.filename, receiver.purpose = filename, purpose
        receiver.expires_after = expires_after
        return receiver

    def store(
        self, content: bytes, *, filename: str, purpose: str = RESULTS, also: Also | None = None
    ) -> FileRecord:
        """A file that the service makes itself, such as a job's results."""
        with self.receive(limit=max(len(content), 1)) as receiver:
            receiver.filename, receiver.purpose = filename, purpose
            receiver.write(content)
            return receiver.commit(also=also)

    def keep(
        self, incoming: Incoming, described: FileReceiver, also: Also | None = None
    ) -> FileRecord:
        """What `FileReceiver.commit` does."""
        row = self._row_of(incoming, described)
        incoming.keep(self._place(row.id))
        with self._database.session() as session:
            session.add(row)
            session.flush()
            record = as_record(row)
            if also is not None:
                also(session, record)
            ensure_room(session, self._limits)
        incoming.settle()
        return record

    def _row_of(self, incoming: Incoming, described: FileReceiver) -> FileRow:
        at = self._clock()
        purpose = described.purpose
        after = checked_expiry(described.expires_after)
        return FileRow(
            id=new_id(_PREFIX),
            filename=checked_label(described.filename),
            purpose=RESULTS if purpose == RESULTS else checked_purpose(purpose),
            bytes=incoming.received,
            sha256=incoming.sha256,
            created_at=at,
            expires_at=None if after is None else at + after,
            deleted_at=None,
            status="processed",
            status_details=None,
        )

    # --- out --------------------------------------------------------------------------------------

    def get(self, id: str) -> FileRecord:
        """Raises NotFound, for expired files too."""
        with self._database.reading() as session:
            return as_record(self.required(session, id))

    def required(self, session: Session, id: str) -> FileRow:
        """The row of a file that clients see, within a session. Raises NotFound."""
        row = session.scalar(select(FileRow).where(FileRow.id == id, *self._visible()))
        if row is None:
            raise _no_such_file(id)
        return row

    def list(
        self,
        *,
        purpose: str | None = None,
        limit: int = 10_000,
        after: str | None = None,
        newest_first: bool = True,
    ) -> Page[FileRecord]:
        """Files that follow `after`, which may have been deleted by now. Raises InvalidRequest."""
        statement = select(FileRow).where(*self._visible())
        if purpose is not None:
            statement = statement.where(FileRow.purpose == ALIASES.get(purpose, purpose))
        with self._database.reading() as session:
            begin = cursor(session, FileRow.id, FileRow.number, after)
            return page(
                session,
                statement,
                FileRow.number,
                as_record,
                limit=limit,
                after=begin,
                newest_first=newest_first,
            )

    def path(self, id: str) -> Path:
        """Where its bytes lie. They are there until the file is deleted, or expired and no job
        needs it. Raises NotFound.
        """
        with self._database.reading() as session:
            known = session.scalar(
                select(FileRow.id).where(FileRow.id == id, FileRow.deleted_at.is_(None))
            )
        if known is None:
            raise _no_such_file(id)
        return self._place(id)

    def _place(self, id: str) -> Path:
        assert is_id(id, _PREFIX), "ids alone become paths"
        return self.folder / id[-2:] / id

    def _visible(self) -> tuple[ColumnElement[bool], ...]:
        lasting = or_(FileRow.expires_at.is_(None), FileRow.expires_at > self._clock())
        return FileRow.deleted_at.is_(None), lasting

    # --- away -------------------------------------------------------------------------------------

    def delete(self, id: str) -> None:
        """Raises NotFound; Conflict while an active job reads it."""
        with self._database.session() as session:
            row = self.required(session, id)
            job = session.scalar(select(JobRow.id).where(_reads(id), _is_active()).limit(1))
            if job is not None:
                raise Conflict(
                    f"File {id} is used by fine-tuning job {job}, which has not ended. "
                    "Cancel that job first.",
                    param="id",
                    code="file_in_use",
                )
            row.deleted_at = self._clock()
        self._place(id).unlink(missing_ok=True)

    def expire(self, at: int | None = None) -> int:
        """Remove files whose time is over and that no active job reads; returns how many."""
        at = self._clock() if at is None else at
        with self._database.reading() as session:
            due = select(FileRow.id).where(FileRow.deleted_at.is_(None), FileRow.expires_at <= at)
            if session.scalar(due.limit(1)) is None:
                return 0
        with self._database.session() as session:
            active = select(JobRow.id).where(
                or_(JobRow.training_file == FileRow.id, JobRow.validation_file == FileRow.id),
                _is_active(),
            )
            rows = session.scalars(
                select(FileRow).where(
                    FileRow.deleted_at.is_(None), FileRow.expires_at <= at, ~active.exists()
                )
            ).all()
            for row in rows:
                row.deleted_at = at
        for row in rows:
            self._place(row.id).unlink(missing_ok=True)
        return len(rows)

    def discard_leftovers(self) -> int:
        """Remove bytes that no row knows; returns how many files that were."""
        return discard_leftovers(self.folder, self._known)

    def _known(self) -> set[str]:
        with self._database.reading() as session:
            return set(session.scalars(select(FileRow.id).where(FileRow.deleted_at.is_(None))))


def as_record(row: FileRow) -> FileRecord:
    return FileRecord(
        id=row.id,
        filename=row.filename,
        purpose=row.purpose,
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        status=row.status,  # type: ignore[arg-type]
        status_details=row.status_details,
        sha256=row.sha256,
    )


def _no_such_file(id: str) -> NotFound:
    return NotFound(f"No such File object: {id}", param="id")


def _reads(id: str) -> ColumnElement[bool]:
    return or_(JobRow.training_file == id, JobRow.validation_file == id)


def _is_active() -> ColumnElement[bool]:
    return JobRow.status.not_in(sorted(TERMINAL))


# --- what clients may ask for ---------------------------------------------------------------------


def checked_purpose(purpose: str | None) -> str:
    """As it is kept. Raises InvalidRequest in OpenAI's words."""
    known = ALIASES.get(purpose or "", purpose)
    if known not in PURPOSES:
        raise InvalidRequest(
            f"{purpose!r} is not one of {list(PURPOSES)} - 'purpose'", param="purpose"
        )
    return known


def checked_label(filename: str) -> str:
    """A file's name as it is shown. It is never part of a path, so path parts and control
    characters may stand in it; what no database takes becomes U+FFFD.
    """
    if len(filename) > LONGEST_NAME:
        raise InvalidRequest(
            f"A filename may have {LONGEST_NAME:,} characters at most; this one has "
            f"{len(filename):,}.",
            param="file",
        )
    return _UNSTORABLE.sub("�", filename) or "upload"


def checked_expiry(seconds: int | None) -> int | None:
    if seconds is not None and not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise InvalidRequest(
            f"expires_after[seconds] must be between {SHORTEST_SECONDS} and {LONGEST_SECONDS}; "
            f"found {seconds}.",
            param="expires_after",
        )
    return seconds


def ensure_room(session: Session, limits: Limits) -> None:
    """Raises TooLarge where all files and unfinished uploads together have passed the limit."""
    if limits.storage_bytes is None:
        return
    live = FileRow.deleted_at.is_(None)
    kept = session.scalar(select(func.coalesce(func.sum(FileRow.bytes), 0)).where(live))
    parts = session.scalar(
        select(func.coalesce(func.sum(PartRow.bytes), 0))
        .join(UploadRow, UploadRow.id == PartRow.upload)
        .where(UploadRow.status == "pending")
    )
    if int(kept or 0) + int(parts or 0) > limits.storage_bytes:
        raise TooLarge(
            f"All files together may have {limits.storage_bytes:,} bytes; delete some first.",
            code="storage_limit_exceeded",
        )
