"""From `validating_files` to `queued`: the files are checked in a process of their own, "auto" is
resolved from what it counted, and the run directory is made.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tanren.config import RunConfig
from tanren.errors import RunError, StorageError
from tanren.jobs.auto import resolved
from tanren.jobs.base_files import base_file
from tanren.jobs.check_files import FileReport, FileSpec, Report, Spec
from tanren.jobs.create import start_of
from tanren.jobs.process import Child
from tanren.jobs.rows import job_record, job_row
from tanren.jobs.run_settings import run_config
from tanren.jobs.slots import Slot
from tanren.jobs.states import become
from tanren.jobs.telling import Told, tell
from tanren.rundir import RunDirectory, storage_errors, write_json
from tanren.store.errors import NotFound, RequestError
from tanren.store.records import JobRecord

if TYPE_CHECKING:
    from tanren.jobs.service import JobService

JOB_FILE = "job.json"
"""Beside a run's own files: which job it is of, and how long its longest rows are."""
_PATIENCE_SECONDS, _BYTES_A_SECOND = 120.0, 200_000
"""Most time for a check: some for its start, and for every byte what a slow machine takes."""


class Validation:
    """One job's files being checked. `poll` until it is done, then `settle`."""

    def __init__(self, service: JobService, job: JobRecord) -> None:
        """Raises StorageError."""
        self.job = job.id
        self._service = service
        self._folder = service.home / "checking" / job.id
        self._child: Child | None = None
        self._problem: dict[str, str | None] | None = None
        try:
            spec = self._spec(job)
        except NotFound as gone:
            self._problem = _server_error(str(gone))
            return
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / "spec.json", asdict(spec))
        size = sum(Path(each.path).stat().st_size for each in spec.files)
        self._deadline = time.monotonic() + _PATIENCE_SECONDS + size / _BYTES_A_SECOND
        words = [str(self._folder / "spec.json")]
        log = self._folder / "output.log"
        self._child = Child(words, log, Slot("check"), module="tanren.jobs.check_files")

    def _spec(self, job: JobRecord) -> Spec:
        files = [FileSpec(str(self._service.files.path(job.training_file)), "training_file")]
        if job.validation_file is not None:
            path = str(self._service.files.path(job.validation_file))
            files.append(FileSpec(path, "validation_file"))
        base = self._service.config.base_for(job.base)
        tokenizer = base_file(base.name, base.revision, "tokenizer.json") if base else None
        return Spec(
            files=tuple(files),
            report=str(self._folder / "report.json"),
            method=job.method,
            skip_faulty=job.tanren.get("data.faulty_rows") == "skip",
            tokenizer=str(tokenizer) if tokenizer else None,
        )

    def poll(self) -> bool:
        """Whether it is done. What takes too long is ended."""
        if self._child is None:
            return True
        if self._child.poll() is None and time.monotonic() > self._deadline:
            self._child.kill()
            self._problem = _server_error("Checking the files took too long and was ended")
        return self._child.poll() is not None

    def drop(self) -> None:
        """End it without a word: the job was cancelled, or the dispatcher ends."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def settle(self) -> None:
        """The job becomes `queued` or `failed`, unless it was cancelled in the meantime."""
        report = self._report()
        try:
            self._conclude(report)
        finally:
            self.drop()

    def _report(self) -> Report:
        if self._problem is not None:
            return Report(error=self._problem)
        assert self._child is not None
        code = self._child.wait()
        if code != 0:
            said = self._child.said() or f"it ended with exit code {code}"
            return Report(error=_server_error(f"The files could not be checked: {said}"))
        try:
            return Report.read(self._folder / "report.json")
        except RunError as error:
            return Report(error=_server_error(f"The files could not be checked: {error}"))

    def _conclude(self, report: Report) -> None:
        run: RunDirectory | None = None
        error = report.error
        if error is None:
            try:
                run = self._make_run(report.files)
            except RequestError as fault:
                code = fault.code or "server_error"
                error = {"code": code, "message": fault.message, "param": fault.param}
            except StorageError as fault:
                error = _server_error(str(fault))
        with self._service.database.session() as session:
            if error is not None:
                if become(session, self.job, "failed", of=("validating_files",), error=error):
                    words = str(error["message"])
                    tell(session, self.job, Told("failed", words, level="error"))
                return
            assert run is not None
            if become(session, self.job, "queued", of=("validating_files",), run=str(run.path)):
                words = "Files validated, moving job to queued state"
                tell(session, self.job, *_left_out(report.files), Told("validated", words))

    def _make_run(self, files: list[FileReport]) -> RunDirectory:
        """A fresh run directory; what a dispatcher that died left half-made is replaced."""
        path = self._service.home / "runs" / self.job
        with storage_errors(path):
            shutil.rmtree(path, ignore_errors=True)
        method, config = self._settings(files[0].examples)
        run = RunDirectory.create(path, config)
        write_json(
            path / JOB_FILE,
            {
                "job": self.job,
                "method": method,
                "examples": {each.param: each.examples for each in files},
                "longest_rows": files[0].longest,
                "counted_in": files[0].counted_in,
            },
        )
        return run

    def _settings(self, examples: int) -> tuple[str, RunConfig]:
        with self._service.database.reading() as session:
            job = job_record(job_row(session, self.job))
            start = start_of(session, self._service.config, job.model)
        path = self._service.files.path
        return job.method, run_config(
            start,
            train=path(job.training_file),
            validation=path(job.validation_file) if job.validation_file else None,
            method=job.method,
            hyperparameters=job.hyperparameters,
            auto=resolved(job.hyperparameters, examples),
            asked=job.tanren,
            seed=job.seed,
            integrations=job.integrations,
        )


def _left_out(files: list[FileReport]) -> list[Told]:
    """What `data.faulty_rows: skip` leaves out is said."""
    return [
        Told(
            f"left_out:{each.param}",
            f"{each.refused} of {each.refused + each.examples} lines of the "
            f"{each.param.replace('_', ' ')} cannot be used and are left out; the first: "
            f"{each.first_fault}",
            level="warn",
            data={"left_out": each.refused, "examples": each.examples},
        )
        for each in files
        if each.refused
    ]


def _server_error(words: str) -> dict[str, str | None]:
    code: Literal["server_error"] = "server_error"
    return {"code": code, "message": words, "param": None}
