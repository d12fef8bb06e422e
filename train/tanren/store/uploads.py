"""Files that arrive in parts, in any order and over several requests.

Parts are known to the database like files. When an upload ends, whichever way, its parts go: as a
file they are one, and otherwise nobody asks for them again.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from tanren.errors import Fault, StorageError
from tanren.store.database import Database
from tanren.store.errors import InvalidRequest, LimitExceeded, NotFound, TooLarge
from tanren.store.files import (
    FileReceiver,
    Files,
    as_record,
    checked_expiry,
    checked_label,
    checked_purpose,
    ensure_room,
)
from tanren.store.records import FileRecord, PartRecord, UploadRecord
from tanren.store.settings import Limits
from tanren.store.stamps import is_id, new_id, now
from tanren.store.stored import Incoming, Receiver, discard_leftovers
from tanren.store.tables import FileRow, PartRow, UploadRow

LIFETIME_SECONDS = 3600
MOST_PARTS = 10_000
_CHUNK_BYTES = 1 << 20
_UPLOAD, _PART = "upload_", "part_"


class PartReceiver(Receiver):
    """A part on its way in, as a context: `write` its bytes, then `commit`."""

    def __init__(self, uploads: Uploads, upload: str, incoming: Incoming) -> None:
        super().__init__(incoming)
        self._uploads = uploads
        self._upload = upload

    def commit(self) -> PartRecord:
        """Keep it. Raises InvalidRequest where the upload has ended meanwhile."""
        return self._uploads.keep(self._upload, self._incoming)


class Uploads:
    """All methods may be called from any thread and beside other processes."""

    def __init__(
        self,
        database: Database,
        files: Files,
        folder: Path,
        limits: Limits,
        *,
        clock: Callable[[], int] = now,
    ) -> None:
        self.folder = folder
        self._database = database
        self._files = files
        self._limits = limits
        self._clock = clock

    def create(
        self,
        *,
        filename: str,
        purpose: str,
        bytes: int,
        mime_type: str,
        expires_after: int | None = None,
    ) -> UploadRecord:
        """An upload that expires in an hour. `bytes`: what all parts will have together.
        `expires_after`: seconds that the finished file is kept. Raises InvalidRequest, TooLarge.
        """
        if bytes < 1:
            raise InvalidRequest(f"{bytes} is less than the minimum of 1 - 'bytes'", param="bytes")
        if bytes > self._limits.upload_bytes:
            most = f"An upload may have {self._limits.upload_bytes:,} bytes at most."
            raise TooLarge(most, param="bytes")
        at = self._clock()
        row = UploadRow(
            id=new_id(_UPLOAD),
            filename=checked_label(filename),
            purpose=checked_purpose(purpose),
            mime_type=checked_label(mime_type),
            bytes=bytes,
            status="pending",
            created_at=at,
            expires_at=at + LIFETIME_SECONDS,
            expires_after=checked_expiry(expires_after),
            file=None,
        )
        with self._database.session() as session:
            session.add(row)
            session.flush()
            return self._record(session, row)

    def get(self, id: str) -> UploadRecord:
        """Raises NotFound."""
        with self._database.reading() as session:
            return self._record(session, _required(session, id))

    # --- parts ------------------------------------------------------------------------------------

    def add_part(self, upload: str) -> PartReceiver:
        """A context to write into. Raises NotFound, InvalidRequest where it has ended."""
        with self._database.reading() as session:
            self._pending(session, upload)
        incoming = Incoming(self.folder, limit=self._limits.part_bytes, what="A part")
        return PartReceiver(self, upload, incoming)

    def keep(self, upload: str, incoming: Incoming) -> PartRecord:
        """What `PartReceiver.commit` does."""
        row = PartRow(
            id=new_id(_PART), upload=upload, bytes=incoming.received, created_at=self._clock()
        )
        incoming.keep(self._place(row.id))
        with self._database.session() as session:
            self._pending(session, upload)
            session.add(row)
            session.flush()
            self._ensure_bounds(session, upload)
        incoming.settle()
        return PartRecord(row.id, upload, row.bytes, row.created_at)

    def _ensure_bounds(self, session: Session, upload: str) -> None:
        """More than is needed may come, for a client that saw no answer sends a part again."""
        ensure_room(session, self._limits)
        counted = select(func.count(), func.sum(PartRow.bytes)).where(PartRow.upload == upload)
        count, total = session.execute(counted).one()
        if int(total) > self._limits.upload_bytes:
            raise TooLarge(f"An upload may have {self._limits.upload_bytes:,} bytes at most.")
        if count > MOST_PARTS:
            raise LimitExceeded(f"An upload may have {MOST_PARTS:,} parts at most.", code=None)

    def _place(self, part: str) -> Path:
        assert is_id(part, _PART), "ids alone become paths"
        return self.folder / part[-2:] / part

    # --- ends -------------------------------------------------------------------------------------

    def complete(self, id: str, part_ids: Sequence[str], md5: str | None = None) -> UploadRecord:
        """The parts in this order as a file. Of a completed upload: what it has become, for a
        client that saw no answer asks again. Raises NotFound; InvalidRequest where it has ended
        otherwise, a part is not its own or stands twice, or bytes or MD5 differ.
        """
        with self._database.reading() as session:
            if _required(session, id).status == "completed":
                return self._record(session, _required(session, id))
            row = self._pending(session, id)
            own = select(PartRow.id, PartRow.bytes).where(PartRow.upload == id)
            sizes = {row.id: row.bytes for row in session.execute(own)}
        _ensure_parts(part_ids, sizes, row.bytes)
        with self._files.receive(
            filename=row.filename,
            purpose=row.purpose,
            expires_after=row.expires_after,
            limit=row.bytes,
            with_md5=md5 is not None,
        ) as receiver:
            self._join(part_ids, receiver)
            if md5 is not None and not hmac.compare_digest(
                md5.strip().lower().encode("utf-8"), receiver.md5.encode("ascii")
            ):
                words = f"The parts' MD5 is {receiver.md5}, not {md5}."
                raise InvalidRequest(words, param="md5")
            receiver.commit(also=lambda session, file: self._completed(session, id, file))
        self._remove(sizes)
        return self.get(id)

    def _completed(self, session: Session, id: str, file: FileRecord) -> None:
        row = self._pending(session, id)
        row.status, row.file = "completed", file.id
        session.execute(delete(PartRow).where(PartRow.upload == id))

    def _join(self, part_ids: Sequence[str], receiver: FileReceiver) -> None:
        for part in part_ids:
            try:
                with open(self._place(part), "rb") as file:
                    while content := file.read(_CHUNK_BYTES):
                        receiver.write(content)
            except FileNotFoundError:
                raise StorageError(
                    "a part of the upload is gone",
                    [Fault(str(self._place(part)), "no file", "the part's bytes", "send it again")],
                ) from None

    def cancel(self, id: str) -> UploadRecord:
        """Its parts are removed. Raises NotFound, InvalidRequest where it has ended."""
        with self._database.session() as session:
            row = self._pending(session, id)
            parts = self._end(session, row, "cancelled")
            record = self._record(session, row)
        self._remove(parts)
        return record

    def expire(self, at: int | None = None) -> int:
        """End uploads whose hour is over; returns how many."""
        at = self._clock() if at is None else at
        due = select(UploadRow).where(UploadRow.status == "pending", UploadRow.expires_at <= at)
        with self._database.reading() as session:
            if session.scalar(due.limit(1)) is None:
                return 0
        with self._database.session() as session:
            rows = session.scalars(due).all()
            parts = [part for row in rows for part in self._end(session, row, "expired")]
        self._remove(parts)
        return len(rows)

    def _end(self, session: Session, row: UploadRow, status: str) -> list[str]:
        row.status = status
        parts = list(session.scalars(select(PartRow.id).where(PartRow.upload == row.id)))
        session.execute(delete(PartRow).where(PartRow.upload == row.id))
        return parts

    def _remove(self, parts: Any) -> None:
        for part in parts:
            self._place(part).unlink(missing_ok=True)

    def discard_leftovers(self) -> int:
        """Remove bytes that no row knows; returns how many parts that were."""
        return discard_leftovers(self.folder, self._known)

    def _known(self) -> set[str]:
        with self._database.reading() as session:
            return set(session.scalars(select(PartRow.id)))

    # --- rows -------------------------------------------------------------------------------------

    def _pending(self, session: Session, id: str) -> UploadRow:
        row = _required(session, id)
        status = self._status(row)
        if status != "pending":
            raise InvalidRequest(f"Upload {id} is {status}.", param="upload_id")
        return row

    def _status(self, row: UploadRow) -> str:
        late = row.status == "pending" and row.expires_at <= self._clock()
        return "expired" if late else row.status

    def _record(self, session: Session, row: UploadRow) -> UploadRecord:
        file = session.scalar(select(FileRow).where(FileRow.id == row.file)) if row.file else None
        return UploadRecord(
            id=row.id,
            filename=row.filename,
            purpose=row.purpose,
            bytes=row.bytes,
            mime_type=row.mime_type,
            status=self._status(row),  # type: ignore[arg-type]
            created_at=row.created_at,
            expires_at=row.expires_at,
            file=as_record(file) if file is not None else None,
        )


def _required(session: Session, id: str) -> UploadRow:
    row = session.scalar(select(UploadRow).where(UploadRow.id == id))
    if row is None:
        raise NotFound(f"No such Upload object: {id}", param="upload_id")
    return row


def _ensure_parts(part_ids: Sequence[str], sizes: dict[str, int], expected: int) -> None:
    foreign = [part for part in part_ids if part not in sizes]
    if foreign:
        raise InvalidRequest(f"{foreign[0]} is no part of this upload.", param="part_ids")
    if len(set(part_ids)) < len(part_ids):
        raise InvalidRequest("Every part once.", param="part_ids")
    found = sum(sizes[part] for part in part_ids)
    if found != expected:
        raise InvalidRequest(
            f"The parts have {found:,} bytes together; the upload was to have {expected:,}.",
            param="part_ids",
        )
