"""The one door to the queue: what command line, API and dispatcher share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tanren.jobs.queue import JobQueue
from tanren.rundir import storage_errors
from tanren.store.database import Database
from tanren.store.files import Files
from tanren.store.keys import Keys
from tanren.store.models import Models
from tanren.store.settings import ServiceConfig
from tanren.store.stamps import now
from tanren.store.stored import make_private_folder
from tanren.store.uploads import Uploads


class JobService:
    """Opening it makes the folder, brings the database up to date and removes what killed
    processes left half-written; several processes may have it open. A context closes it.

    Its methods are synchronous and may be called from any thread.
    """

    def __init__(self, config: ServiceConfig, *, clock: Callable[[], int] = now) -> None:
        self.config = config
        self.clock = clock
        self.home: Path = config.home.resolve()
        with storage_errors(self.home):
            make_private_folder(self.home)
        since = _since(self.home)
        self.database = Database(config.database, self.home)
        files, uploads = self.home / "files", self.home / "uploads"
        self.files = Files(self.database, files, config.limits, clock=clock)
        self.uploads = Uploads(self.database, self.files, uploads, config.limits, clock=clock)
        self.keys = Keys(self.database, clock=clock)
        self.models = Models(self.database, config, since=since, clock=clock)
        self.jobs = JobQueue(self)
        try:
            self.files.discard_leftovers()
            self.uploads.discard_leftovers()
        except BaseException:
            self.close()
            raise

    def expire(self, at: int | None = None) -> int:
        """Remove files and end uploads whose time is over; returns how many."""
        return self.files.expire(at) + self.uploads.expire(at)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> JobService:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _since(home: Path) -> int:
    """When the service was first opened here: the time of a file that is never written again."""
    mark = home / "CREATED"
    with storage_errors(mark):
        mark.touch(exist_ok=True)
        return int(mark.stat().st_mtime)
