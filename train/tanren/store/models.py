"""What clients can talk to: bases and aliases of the settings, tuned models and checkpoints of the
database.

Deleting a tuned model takes its name away and nothing else: the run directory keeps its weights,
and its checkpoints, which have names of their own, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from tanren.engine.wire import Target
from tanren.store.database import Database
from tanren.store.errors import Conflict, Forbidden, NotFound
from tanren.store.records import TERMINAL, ModelRecord
from tanren.store.settings import Base, ServiceConfig
from tanren.store.stamps import now
from tanren.store.tables import JobRow, ModelRow

OWNER = "tanren"
"""Of bases and aliases."""


class Models:
    """All methods may be called from any thread and beside other processes."""

    def __init__(
        self,
        database: Database,
        config: ServiceConfig,
        *,
        since: int,
        clock: Callable[[], int] = now,
    ) -> None:
        """`since`: when bases are said to have been created, for nobody knows better."""
        self._database = database
        self._config = config
        self._since = since
        self._clock = clock

    def list(self) -> list[ModelRecord]:
        """Bases, aliases, then tuned models and checkpoints, newest first; deleted ones not."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(ModelRow)
                .where(ModelRow.deleted_at.is_(None))
                .order_by(ModelRow.number.desc())
            )
            made = [_record(row) for row in rows]
        bases = [self._given(base, base.id) for base in self._config.models]
        aliases = [self._given(base, name) for base in self._config.models for name in base.aliases]
        return [*bases, *aliases, *made]

    def get(self, name: str) -> ModelRecord:
        """Raises NotFound."""
        base = self._config.base_for(name)
        if base is not None:
            return self._given(base, name)
        with self._database.reading() as session:
            return _record(_required(session, name))

    def base_of(self, name: str) -> Base:
        """The base that a model is, means, or was tuned on. Raises NotFound, also where the
        settings have that base no more.
        """
        record = self.get(name)
        base = self._config.base_for(record.base)
        if base is None:
            raise NotFound(
                f"The model `{name}` was tuned on `{record.base}`, which is not among the models "
                "of this service any more.",
                param="model",
                code="model_not_found",
            )
        return base

    def target(self, name: str) -> Target:
        """Which weights answer in its name. Raises NotFound, also where they are gone from the
        disk.
        """
        base, record = self.base_of(name), self.get(name)
        if record.folder is not None and not Path(record.folder).is_dir():
            raise NotFound(
                f"The weights of the model `{name}` are gone from this machine (they were made by "
                f"fine-tuning job {record.job}).",
                param="model",
                code="model_not_found",
            )
        return Target(base.name, base.revision, record.folder)

    def delete(self, name: str) -> None:
        """From now on nobody finds it. Raises NotFound; Forbidden for bases and aliases; Conflict
        while an active job goes on from it.
        """
        if self._config.base_for(name) is not None:
            raise Forbidden(
                f"The model `{name}` is no tuned model; what may be used here stands in the "
                "service's settings.",
                param="model",
                code="model_not_deletable",
            )
        with self._database.session() as session:
            row = _required(session, name)
            job = session.scalar(
                select(JobRow.id)
                .where(JobRow.model == name, JobRow.status.not_in(sorted(TERMINAL)))
                .limit(1)
            )
            if job is not None:
                raise Conflict(
                    f"The model `{name}` is what fine-tuning job {job} goes on from, which has not "
                    "ended. Cancel that job first.",
                    param="model",
                    code="model_in_use",
                )
            row.deleted_at = self._clock()

    def _given(self, base: Base, name: str) -> ModelRecord:
        return ModelRecord(
            id=name,
            kind="base" if name == base.id else "alias",
            base=base.id,
            created_at=self._since,
            owned_by=OWNER,
            job=None,
            folder=None,
        )


def _required(session: Session, name: str) -> ModelRow:
    row = session.scalar(select(ModelRow).where(ModelRow.id == name, ModelRow.deleted_at.is_(None)))
    if row is None:
        raise NotFound(
            f"The model `{name}` does not exist or you do not have access to it.",
            param="model",
            code="model_not_found",
        )
    return row


def _record(row: ModelRow) -> ModelRecord:
    return ModelRecord(
        id=row.id,
        kind="checkpoint" if row.kind == "checkpoint" else "tuned",
        base=row.base,
        created_at=row.created_at,
        owned_by=row.owned_by,
        job=row.job,
        folder=row.folder,
    )
