"""`tanren data distill`: rows -> a teacher's answers that hold to every constraint -> chat JSONL.

A start into a folder that was begun goes on with it: what has an answer is not asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tanren.distill.answers import Answers
from tanren.distill.checks import opened_checks
from tanren.distill.constraints import Constraints, read_constraints
from tanren.distill.folder import DistillFolder, opened_folder
from tanren.distill.loop import Loop, Outcome
from tanren.distill.output import in_order, provenance_row, rejected_row, train_row
from tanren.distill.rows import SourceFacts, SourceRow, source_of
from tanren.distill.settings import DistillConfig, ensure_purpose
from tanren.distill.summary import Summary, summarise
from tanren.distill.teacher import TeacherChoice, choose_teacher
from tanren.distill.wording import Wording
from tanren.distill.work import settle_all
from tanren.endpoint import Ledger
from tanren.errors import ConfigError, Fault, UserError
from tanren.rundir import write_json

Tell = Callable[..., None]
"""`tell(event, **fields)`: `stage` (name, text) and `progress` (done, total)."""


@dataclass(frozen=True)
class Request:
    """Everything that was asked for, read and checked before anything is asked of anybody."""

    config: DistillConfig
    source: str
    teacher: TeacherChoice
    constraints: Constraints
    wording: Wording

    @classmethod
    def read(
        cls, config: DistillConfig, path: Path, *, from_ideas: bool, allow_python: bool
    ) -> Request:
        """ConfigError with the faults of all parts."""
        source, beside = str(path), path.parent
        faults: list[Fault] = []

        def part(read: Callable[[], Any]) -> Any:
            try:
                return read()
            except UserError as error:
                faults.extend(error.faults)
                return None

        part(lambda: ensure_purpose(config, source, from_ideas=from_ideas))
        constraints = part(
            lambda: read_constraints(
                config.constraints, source=source, beside=beside, allow_python=allow_python
            )
        )
        wording = part(lambda: Wording(config.wording, f"{source} wording"))
        teacher = part(lambda: choose_teacher(config, source=source, beside=beside))
        if faults:
            raise ConfigError.of(*faults)
        return cls(config, source, teacher, constraints, wording)

    def identity(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """What the answers depend on. Budget, concurrency and waits are none of it, nor is how
        accepted answers are written.
        """
        return {
            "rows": rows,
            "system": self.config.system,
            "user": self.config.user,
            "teacher": dict(self.teacher.identity),
            "constraints": self.constraints.identity(),
            "wording": self.wording.identity(),
            "repairs": self.config.repairs,
            "tries": self.config.tries,
        }


@dataclass(frozen=True)
class Distilled:
    """`stopped` says why not every row was decided; None: all were."""

    folder: DistillFolder
    summary: Summary
    teacher: str
    spent: Mapping[str, Any]
    stopped: str | None
    source: Mapping[str, Any]
    ideas: Mapping[str, Any] | None = None

    @property
    def complete(self) -> bool:
        return self.stopped is None and not self.summary.left

    def as_dict(self) -> dict[str, Any]:
        found = {
            "folder": str(self.folder.path),
            "train": str(self.folder.train_file),
            "teacher": self.teacher,
            "complete": self.complete,
            "stopped": self.stopped,
            **self.summary.as_dict(),
            "spent": dict(self.spent),
            "source": dict(self.source),
        }
        return found if self.ideas is None else {**found, "ideas": dict(self.ideas)}


@dataclass
class Decided:
    """What became of the rows so far: outcomes by position, and why others are left."""

    total: int | None
    tell: Tell
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    left: dict[int, str] = field(default_factory=dict)

    def end(self, row: SourceRow, found: Outcome | str) -> None:
        if isinstance(found, str):
            self.left[row.position] = found
        else:
            self.outcomes[row.position] = found
        self.tell("progress", done=len(self.outcomes) + len(self.left), total=self.total)


def distill(
    config: DistillConfig,
    path: Path,
    *,
    overwrite: bool = False,
    allow_python: bool = False,
    tell: Tell,
) -> Distilled:
    """Ask, mend, write. `path`: the settings' file, for messages and for files beside it.

    Raises UserError for what is wrong with settings or rows before anything is asked. Ctrl-C raises
    KeyboardInterrupt; what was answered is kept.
    """
    request = Request.read(config, path, from_ideas=False, allow_python=allow_python)
    tell("stage", name="read", text="reading the rows")
    rows = source_of(config, str(path))
    facts = rows.survey()
    identity = request.identity({"count": facts.rows, "sha256": facts.sha256})
    folder = opened_folder(Path(str(config.out)), identity, overwrite=overwrite)
    decided = Decided(facts.rows, tell)

    async def settle(loop: Loop, answers: Answers) -> None:
        text = f"{request.teacher.name} answers {facts.rows:,} rows"
        tell("stage", name="ask", text=text)
        concurrency = request.teacher.concurrency
        await settle_all(rows.rows(facts), loop, answers, decided.end, concurrency=concurrency)

    with folder.claimed():
        stopped, spent = carried_out(request, folder, settle)
        return written(request, folder, decided, facts=facts, stopped=stopped, spent=spent)


def carried_out(
    request: Request, folder: DistillFolder, settle: Callable[[Loop, Answers], Any]
) -> tuple[str | None, dict[str, Any]]:
    """`settle` with an open teacher and judges; why it was stopped, and what was spent."""
    config, teacher = request.config, request.teacher

    async def work() -> tuple[str | None, dict[str, Any]]:
        async with AsyncExitStack() as stack:
            journal = stack.enter_context(folder.replies())
            spending = stack.enter_context(folder.spending())
            endpoint = teacher.endpoint
            budget = endpoint.budget if endpoint else config.budget
            ledger = Ledger(budget, endpoint.prices if endpoint else None, spending)
            opened = await stack.enter_async_context(teacher.opened(ledger, date=folder.day))
            checks = await stack.enter_async_context(
                opened_checks(request.constraints, request.wording, folder)
            )
            answers = Answers(opened, journal)
            await settle(Loop(answers, checks, repairs=config.repairs, tries=config.tries), answers)
            return answers.stopped, {**ledger.as_dict(), "judges": checks.spent()}

    return asyncio.run(work())


def written(
    request: Request,
    folder: DistillFolder,
    decided: Decided,
    *,
    facts: SourceFacts | None,
    stopped: str | None,
    spent: Mapping[str, Any],
    ideas: Mapping[str, Any] | None = None,
    apart: Sequence[Mapping[str, Any]] = (),
) -> Distilled:
    """All files of a distillation. `apart`: more lines for rejected.jsonl."""
    config = request.config
    accepted = in_order(decided.outcomes, accepted=True)
    rejected = in_order(decided.outcomes, accepted=False)
    folder.write_lines(
        folder.train_file,
        (
            train_row(
                one,
                system_in_rows=config.system_in_rows,
                keep_repair_turns=config.keep_repair_turns,
            )
            for one in accepted
        ),
    )
    name = request.teacher.name
    lines = (provenance_row(one, number, name) for number, one in enumerate(accepted, start=1))
    folder.write_lines(folder.provenance_file, lines)
    folder.write_lines(folder.rejected_file, (*(rejected_row(one) for one in rejected), *apart))
    outcomes = [decided.outcomes[position] for position in sorted(decided.outcomes)]
    summary = summarise(outcomes, decided.left.values(), request.constraints)
    source = facts.as_dict() if facts is not None else {}
    done = Distilled(folder, summary, name, spent, stopped, source, ideas)
    write_json(folder.summary_file, done.as_dict())
    return done
