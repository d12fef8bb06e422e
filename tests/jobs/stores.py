"""Services in a folder of their own, clocks that stand still, and a real PostgreSQL server."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tanren.jobs.service import JobService
from tanren.store.records import JobStatus
from tanren.store.settings import ServiceConfig
from tanren.store.stamps import new_id
from tanren.store.tables import JobRow, ModelRow

SOURCES = Path(__file__).resolve().parents[2] / "train"
START = 1_800_000_000
PATIENCE_SECONDS = 30.0


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self, at: int = START) -> None:
        self.at = at

    def __call__(self) -> int:
        return self.at


def config(folder: Path, **changes: Any) -> ServiceConfig:
    values: dict[str, Any] = {
        "folder": str(folder),
        "models": ({"id": "tiny", "name": "data/tiny-chat", "aliases": ("gpt-4o-mini",)},),
        **changes,
    }
    return ServiceConfig.model_validate(values)


def add_job(service: JobService, *, status: JobStatus = "queued", **columns: Any) -> str:
    """A job's row, as the queue would write it."""
    values: dict[str, Any] = {
        "id": new_id("ftjob-"),
        "client_key": None,
        "request_sha256": "0" * 64,
        "status": status,
        "place": 0.0,
        "created_at": START,
        "model": "tiny",
        "base": "tiny",
        "training_file": "file-none",
        "result_files": [],
        "method": "supervised",
        "hyperparameters": {"n_epochs": "auto"},
        "seed": 1,
        "integrations": [],
        "tanren": {},
        "organization": "personal",
        **columns,
    }
    with service.database.session() as session:
        session.add(JobRow(**values))
    return str(values["id"])


def add_model(service: JobService, name: str, folder: Path, **columns: Any) -> None:
    job = columns.pop("job", None) or add_job(service, status="succeeded")
    values: dict[str, Any] = {
        "kind": "tuned",
        "base": "tiny",
        "owned_by": "personal",
        "created_at": START,
        "deleted_at": None,
        **columns,
    }
    with service.database.session() as session:
        session.add(ModelRow(id=name, job=job, folder=str(folder), **values))


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- other processes ------------------------------------------------------------------------------


def python(code: str, *words: str | Path) -> subprocess.Popen[str]:
    """`code` in a fresh interpreter with tests and package at hand; `words` are its arguments."""
    tests = str(Path(__file__).resolve().parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(SOURCES), tests))},
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What it printed, once it ended well."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    return out


def killed_when_it_says(word: str, process: subprocess.Popen[str]) -> None:
    """kill -9 as soon as it has printed that line."""
    assert process.stdout is not None and process.stderr is not None
    said = process.stdout.readline().strip()
    process.kill()
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert said == word, err


# --- PostgreSQL -----------------------------------------------------------------------------------


def postgres_programs() -> Path | None:
    """The folder with `initdb` and `postgres`, where this machine has them."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((p for p in places if (p / "initdb").exists() and (p / "postgres").exists()), None)


@contextlib.contextmanager
def postgres_server(programs: Path) -> Iterator[Callable[[], str]]:
    """A server on a socket of its own; gives a function that makes an empty database and returns
    its URL.
    """
    user = _unprivileged()
    with tempfile.TemporaryDirectory(prefix="pg") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        _run([programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust"], user)
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-k", folder, "-c",
             "listen_addresses=", "-c", "fsync=off"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user,
            cwd=folder,
        )  # fmt: skip
        stack.callback(server.wait, PATIENCE_SECONDS)
        stack.callback(server.send_signal, 3)  # at once, without asking who is connected
        _wait_for_server(folder)
        made = iter(range(1000))
        yield lambda: _new_database(folder, f"t{next(made)}")


def _unprivileged() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _run(command: list[Path | str], user: str | None) -> None:
    done = subprocess.run(command, user=user, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


def _wait_for_server(folder: Path) -> None:
    import psycopg

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            psycopg.connect(host=str(folder), user="postgres", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)


def _new_database(folder: Path, name: str) -> str:
    import psycopg

    with psycopg.connect(
        host=str(folder), user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"postgresql://postgres@/{name}?host={folder}"
