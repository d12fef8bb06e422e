"""The database under the queue: SQLite in a file, or PostgreSQL by URL, with the same promises.

- What `session` has committed survives the death of the process and of the machine: SQLite writes
  ahead (WAL) and flushes at every commit (`synchronous=FULL`; with NORMAL a power failure could
  take the last commits back, never tear one; with OFF it could ruin the file).
- Writers take turns, across threads and processes, from the beginning of a session to its end.
  What was read in it is still so when it writes, and no two sessions can block each other. SQLite
  begins IMMEDIATE for this, PostgreSQL holds an advisory lock.
- `reading` sees one state of the database, waits for nobody and holds up nobody.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tanren.errors import ConfigError, Fault, StorageError, TanrenError
from tanren.rundir import one_at_a_time, storage_errors
from tanren.store.errors import InvalidRequest
from tanren.store.migrations import HEAD
from tanren.store.migrations.run import missing_package, revision_of, upgrade

try:
    from sqlalchemy import Connection, Engine, create_engine, event
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
    from sqlalchemy.orm import Session
except ModuleNotFoundError:
    raise missing_package("sqlalchemy") from None

PATIENCE_SECONDS = 30.0
"""How long a writer waits for its turn. Sessions are short; longer means that one hangs."""
_KEPT_OPEN = 48
"""Connections that stay, once they were needed: opening one costs more than most sessions."""
_TURN = 0x74616E72
"""Number of the advisory lock by which PostgreSQL's writers take turns ("tanr")."""


class Database:
    """Open connections. Threads share it; processes each have their own."""

    def __init__(self, url: str | None, folder: Path) -> None:
        """`url` None: `service.db` in the folder. Missing tables are made, older ones brought up to
        date, by one process at a time. Raises ConfigError where that cannot be.
        """
        self.url = _checked(url, folder)
        self.name = self.url.render_as_string(hide_password=True)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._turn = threading.Lock()
        self._has_turn = threading.local()
        self._engine = _engine(self.url)
        self._reader = self._engine.execution_options(tanren_writes=False)
        self._writer = self._engine.execution_options(tanren_writes=True)
        try:
            with one_at_a_time(folder):  # SQLite cannot change to WAL while another one looks
                self.migrated_from = self._migrated()
        except BaseException:
            self.close()
            raise

    def _migrated(self) -> str | None:
        """The revision that was found. Where nothing is to be done, no writer is waited for."""
        with self._errors(), self._reader.begin() as connection:
            if revision_of(connection) == HEAD:
                return HEAD
        with self._errors(), self._writer.begin() as connection:
            return upgrade(connection, name=self.name)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Read and write: committed at the end, rolled back by any exception.

        Never within another one of the same thread. Keep it short: others wait for it.
        """
        assert not getattr(self._has_turn, "held", False), "a session within a session"
        with self._my_turn(), self._errors(), self._session_of(self._writer) as session:
            session.connection()  # begins here, not with the first statement
            yield session

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """Read only, from one state of the database; writing in it fails."""
        with self._errors(writes=False), self._session_of(self._reader) as session:
            yield session

    @contextlib.contextmanager
    def _session_of(self, engine: Engine) -> Iterator[Session]:
        """What it read stays readable after its end."""
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self._engine.dispose()

    @contextlib.contextmanager
    def _my_turn(self) -> Iterator[None]:
        """Threads of this process take turns here, in order, instead of asking SQLite again and
        again.
        """
        if not self._turn.acquire(timeout=PATIENCE_SECONDS):
            raise _hangs(self.name)
        self._has_turn.held = True
        try:
            yield
        finally:
            self._has_turn.held = False
            self._turn.release()

    @contextlib.contextmanager
    def _errors(self, *, writes: bool = True) -> Iterator[None]:
        """The driver's errors as ours: a full disk, a file that is no database, no server."""
        with storage_errors(Path(self.url.database or self.name)):
            try:
                yield
            except DBAPIError as error:
                known = _known(error, self.name, writes=writes)
                if known is None:
                    raise
                raise known from error


def _checked(url: str | None, folder: Path) -> URL:
    if url is None:
        return URL.create("sqlite", database=str(folder / "service.db"))
    try:
        made = make_url(url)
    except (ArgumentError, ValueError):
        expected = "an SQLAlchemy URL such as postgresql+psycopg://user@host/name"
        raise _no_such("a text that is no URL", expected) from None
    backend = made.get_backend_name()
    if backend == "postgresql":
        return made.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise _no_such(repr(backend), "sqlite or postgresql")
    if not made.database or ":memory:" in made.database:
        raise _no_such("a database in memory", "one in a file: it has to outlive the process")
    return made


def _no_such(found: str, expected: str) -> ConfigError:
    error = ConfigError.of(Fault("database", found, expected, "change it"))
    assert isinstance(error, ConfigError)
    return error


def _engine(url: URL) -> Engine:
    """With room for a server's threads; connections that fell silent are replaced."""
    try:  # sized for the thread pool of the server (40) and the dispatcher
        engine = create_engine(url, pool_size=_KEPT_OPEN, max_overflow=16, pool_pre_ping=True)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise missing_package("psycopg", "serve,postgres") from None
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "begin", _begin_postgres)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver does
    connection.execute(f"PRAGMA busy_timeout = {int(PATIENCE_SECONDS * 1000)}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    writes = _writes(connection)
    connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgres(connection: Connection) -> None:
    """One state per reader as SQLite has it; one writer at a time."""
    if _writes(connection):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(PATIENCE_SECONDS)}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TURN})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("tanren_writes", False))


# --- errors ---------------------------------------------------------------------------------------


def _known(error: DBAPIError, name: str, *, writes: bool) -> TanrenError | None:
    """What the machine or the client is to blame for; None for mistakes of this code."""
    if isinstance(error.orig, sqlite3.Error):
        return _known_of_sqlite(error.orig, name, writes=writes)
    return _known_of_postgres(error.orig, name)


def _known_of_sqlite(error: sqlite3.Error, name: str, *, writes: bool) -> StorageError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended codes' family
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _hangs(name)
    if code == sqlite3.SQLITE_READONLY and writes:  # else a writing `reading`: our mistake
        return _storage(name, str(error), "a database that can be written", "check permissions")
    if code == sqlite3.SQLITE_FULL:
        remedy = "free some space; everything saved before is still there"
        return _storage(name, "a full disk", "room to write", remedy)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return _storage(name, str(error), "a disk that can be read and written", "check the disk")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        remedy = "restore it from a copy, or move it away to begin anew"
        return _storage(name, str(error), "a database of the service", remedy)
    return None


def _known_of_postgres(error: BaseException | None, name: str) -> TanrenError | None:
    state = getattr(error, "sqlstate", None)
    if type(error).__name__ == "DataError" and "NUL" in str(error):  # SQLite has a place for it
        return InvalidRequest("The request holds the character NUL, which no name or id has.")
    if state == "55P03":  # lock_not_available
        return _hangs(name)
    if state == "53100":
        return _storage(name, "a full disk", "room to write", "free some space on its machine")
    if type(error).__name__ == "OperationalError":  # no server, or it went away
        words = " ".join(str(error).split())
        return _storage(name, words, "a database that answers", "start it, or mend `database`")
    return None


def _storage(name: str, found: str, expected: str, remedy: str) -> StorageError:
    return StorageError("the database failed", [Fault(name, found, expected, remedy)])


def _hangs(name: str) -> StorageError:
    found = f"another process that has been writing for {PATIENCE_SECONDS:.0f} s"
    remedy = "see which tanren process hangs, and end it"
    return _storage(name, found, "one that ends", remedy)
