"""The end of a run becomes the end of its job, or a pause: all of it in one transaction."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import update
from sqlalchemy.orm import Session

from tanren.jobs.checkpoints import Saved, add_result
from tanren.jobs.naming import tuned_name
from tanren.jobs.process import RunEnd
from tanren.jobs.results import result_csv
from tanren.jobs.rows import job_record, job_row
from tanren.jobs.states import become
from tanren.jobs.telling import Told, numbered, sentences, tell
from tanren.rundir import RunDirectory, read_json
from tanren.store.records import TERMINAL, FileRecord, JobRecord, JobStatus
from tanren.store.stamps import now
from tanren.store.tables import JobRow

if TYPE_CHECKING:
    from tanren.jobs.service import JobService

ENOUGH_DISK_BYTES = 64 << 20
"""With less than this free a failure that has no other word is the disk's."""
_AT_WORK: tuple[JobStatus, ...] = ("running", "pausing")


class _Overtaken(Exception):
    """The job became something else while its end was written: nothing of that end stays."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed, for a person: `words`; and for a program: `code` and `param`. `storage`:
    the disk is to blame, so that the run can go on when it has room again.
    """

    words: str
    code: str = "server_error"
    param: str | None = None
    storage: bool = False


def settle_success(service: JobService, id: str, run: RunDirectory) -> bool:
    """False where the job was cancelled in the meantime."""
    result = read_json(run.result_file)
    with service.database.reading() as session:
        row = job_row(session, id)
        name = tuned_name(row.base, row.organization, row.suffix)
        table = result_csv(session, id)

    def succeed(session: Session, files: list[str]) -> None:
        at = now()
        folder = Path(str(result["artefact"])).resolve()
        add_result(session, id, Saved(int(result["steps"]), folder, at), name)
        tell(
            session,
            id,
            Told("model", f"New fine-tuned model created: {name}"),
            Told("succeeded", "The job has successfully completed"),
        )
        _end(
            session,
            id,
            "succeeded",
            files,
            fine_tuned_model=name,
            trained_tokens=int(result["trained_tokens"]),
        )

    return _with_file(service, id, table, succeed)


def settle_failure(service: JobService, id: str, failure: Failure) -> bool:
    """False where the job was cancelled in the meantime."""
    with service.database.reading() as session:
        table = result_csv(session, id)
    error = {"code": failure.code, "message": failure.words, "param": failure.param}

    def fail(session: Session, files: list[str]) -> None:
        tell(session, id, Told("failed", f"The job failed. {failure.words}", level="error"))
        _end(session, id, "failed", files, error=error)

    return _with_file(service, id, table, fail)


def settle_cancelled(service: JobService, id: str) -> None:
    """What was measured before somebody cancelled it is kept; it is nowhere any more."""
    with service.database.reading() as session:
        done = bool(job_row(session, id).result_files)
        table = None if done else result_csv(session, id)

    def complete(session: Session, files: list[str]) -> None:
        values: dict[str, Any] = {"slot": None}
        if files:
            values["result_files"] = files
        session.execute(update(JobRow).where(JobRow.id == id).values(**values))

    _with_file(service, id, table, complete)


def settle_pause(service: JobService, id: str, words: str, *, level: str = "info") -> bool:
    """Paused, from wherever it was at work. False where the job was cancelled in the meantime."""
    with service.database.session() as session:
        become(session, id, "pausing", of=("running",))
        if not become(
            session,
            id,
            "paused",
            slot=None,
            waiting_for=None,
            estimated_finish=None,
            of=("pausing",),
        ):
            return False
        key = numbered(session, id, "paused")
        tell(session, id, Told(key, words, level="warn" if level == "warn" else "info"))
        return True


def give_up(service: JobService, id: str, why: Exception) -> None:
    """What the job needs is broken or gone, such as its run directory: it fails, from wherever it
    stands, and is nowhere any more.
    """
    words = sentences([f"The job cannot go on: {' '.join(str(why).split())}"])
    error = {"code": "server_error", "message": words, "param": None}
    with service.database.session() as session:
        if become(session, id, "failed", error=error):
            tell(session, id, Told("failed", words, level="error"))
        session.execute(update(JobRow).where(JobRow.id == id).values(slot=None))


def leave(service: JobService, id: str, *, waiting_for: str | None = None) -> None:
    """It is still running in name, and nowhere: whoever dispatches next goes on with it."""
    with service.database.session() as session:
        session.execute(
            update(JobRow)
            .where(JobRow.id == id, JobRow.status.in_(_AT_WORK))
            .values(slot=None, estimated_finish=None, waiting_for=waiting_for)
        )


def _end(session: Session, id: str, after: JobStatus, files: list[str], **columns: Any) -> None:
    values = {**columns, "slot": None, "result_files": files}
    if not become(session, id, after, of=_AT_WORK, **values):
        raise _Overtaken


def _with_file(service: JobService, id: str, table: bytes | None, write: Any) -> bool:
    """`write(session, ids of result files)` in the transaction that makes the file known too."""

    def also(session: Session, file: FileRecord) -> None:
        write(session, [file.id])

    try:
        if table is None:
            with service.database.session() as session:
                write(session, [])
        else:
            service.files.store(table, filename=f"{id}-step_metrics.csv", also=also)
    except _Overtaken:
        return False
    return True


# --- why it failed --------------------------------------------------------------------------------


def failure_of(run: RunDirectory, end: RunEnd, *, out_of_memory: bool) -> Failure:
    """The cause of a run that ended badly: what it said last, or how its process went (T25).

    `out_of_memory`: the kernel killed some process of this machine for lack of memory meanwhile.
    """
    last = run.last_event() or {}
    kind, told = last.get("kind"), last.get("event") in ("failed", "refused")
    faults = _faults(last) if told else []
    where = f"More is told by: tanren runs show {run.path}"
    if kind == "StorageError" or (not told and end.state != "killed" and _disk_is_full(run)):
        return Failure(sentences([_disk_words(run), *faults]), storage=True)
    if kind == "DataError":
        words = sentences([str(last["error"]), *faults])
        return Failure(words, "invalid_file_format", "training_file")
    if end.state == "killed":
        return Failure(sentences([_killed(end, out_of_memory), where]))
    if not told:
        return Failure(sentences([f"Its process ended with code {end.exit_code}", end.why, where]))
    error = str(last.get("error") or "")
    return Failure(sentences([error, *faults, *_next_step(kind), where]))


def _faults(event: dict[str, Any]) -> list[str]:
    faults = cast("Sequence[dict[str, str]]", event.get("faults") or ())
    return [
        f"{each['where']}: found {each['found']}, expected {each['expected']}; {each['remedy']}"
        for each in faults[:3]
    ]


def _next_step(kind: object) -> list[str]:
    if kind == "OutOfMemoryError":
        return ["Try tanren settings method=qlora or a shorter data.max_length, or a smaller base"]
    if kind == "DivergenceError":
        return ["Try a smaller learning_rate_multiplier"]
    return []


def _killed(end: RunEnd, out_of_memory: bool) -> str:
    if out_of_memory:
        return (
            "Its process was killed by the kernel because the machine ran out of memory. Free "
            "memory, or try method=qlora, a shorter data.max_length or a smaller base"
        )
    return f"Its process died: {end.why}"


def _disk_is_full(run: RunDirectory) -> bool:
    try:
        return shutil.disk_usage(run.path).free < ENOUGH_DISK_BYTES
    except OSError:
        return False


def _disk_words(run: RunDirectory) -> str:
    free = shutil.disk_usage(run.path).free
    return (
        f"The disk of {run.path} is full or cannot be written ({free / 1e9:.1f} GB are free): the "
        "job is paused and nothing is lost. Make room there, then resume the job"
    )


def record(service: JobService, id: str) -> JobRecord:
    """The job as it stands now."""
    with service.database.reading() as session:
        return job_record(job_row(session, id))


def is_over(job: JobRecord) -> bool:
    return job.status in TERMINAL
