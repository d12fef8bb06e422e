"""What a run says becomes what its job tells: each thing once, whatever is killed in between.

A run's `events.jsonl` is read from where the last reader stopped. What is made of it and the place
up to which it was read are written in one transaction; a resumed run that makes steps again finds
them told already.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from tanren.jobs.checkpoints import Saved, add_checkpoint
from tanren.jobs.rows import job_row
from tanren.jobs.telling import Told, keyed_by, tell
from tanren.rundir import RunDirectory
from tanren.store.records import TERMINAL
from tanren.store.tables import JobRow

if TYPE_CHECKING:
    from tanren.jobs.service import JobService

_BYTES_AT_ONCE = 4 << 20
_BEGINS_ANEW = ("gate", "started")
"""A step whose evaluation did not come before one of these will be made again."""
_PREFERENCES = ("rewards_chosen", "rewards_rejected", "reward_accuracy", "reward_margin")


@dataclass(slots=True)
class Reading:
    """What a part of the events comes to."""

    until: int
    """Bytes of the file that are done with."""
    told: list[Told] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    estimated_finish: int | None = None
    more: bool = False
    """Whether the rest of the file can be read at once."""


class Follower:
    """Follows one run for one job."""

    def __init__(self, service: JobService, job: str, run: RunDirectory) -> None:
        self._service = service
        self._job = job
        self._run = run
        config = run.config()
        self._names = {config.data.train: "the training file"}
        if config.data.validation is not None:
            self._names[config.data.validation] = "the validation file"
        self._save_every = config.training.save_every
        self._plan: Mapping[str, Any] | None = None

    def read(self, *, at_end: bool = False) -> None:
        """Tell what is new. `at_end`: nothing more will come, so a step that waits for its
        evaluation waits no longer.
        """
        while self._read_some(at_end):
            pass

    def _read_some(self, at_end: bool) -> bool:
        with self._service.database.reading() as session:
            begin = job_row(session, self._job).read_until
        if not self._has_more(begin):
            return False
        found = self._translate(begin, at_end)
        if found.until == begin:
            return False
        with self._service.database.session() as session:
            if job_row(session, self._job).read_until == begin:  # else another reader was here
                self._write(session, found)
        return found.more

    def _has_more(self, begin: int) -> bool:
        try:
            return self._run.events_file.stat().st_size > begin
        except FileNotFoundError:
            return False

    def _write(self, session: Session, found: Reading) -> None:
        tell(session, self._job, *found.told)
        for saved in found.saved:
            add_checkpoint(session, self._job, saved)
        session.execute(update(JobRow).where(JobRow.id == self._job).values(read_until=found.until))
        if found.estimated_finish is not None:
            session.execute(
                update(JobRow)
                .where(JobRow.id == self._job, JobRow.status.not_in(sorted(TERMINAL)))
                .values(estimated_finish=found.estimated_finish)
            )

    # --- from the run's words to the API's --------------------------------------------------------

    def _translate(self, begin: int, at_end: bool) -> Reading:
        lines, found = self._lines(begin)
        events = [(end, _event(line)) for end, line in lines]
        for place, (end, event) in enumerate(events):
            if event is not None and event.get("event") == "step":
                fate, evaluation = _fate(event, [later for _, later in events[place + 1 :]])
                if fate == "waits" and not at_end:
                    found.more = found.more and found.until > begin
                    return found
                if fate != "again":
                    _tell_step(event, evaluation, found)
            elif event is not None:
                self._other(event, found)
            found.until = end
        return found

    def _lines(self, begin: int) -> tuple[list[tuple[int, bytes]], Reading]:
        """Whole lines from `begin` on, each with where it ends; half a line waits for its rest."""
        with open(self._run.events_file, "rb") as file:
            file.seek(begin)
            part = file.read(_BYTES_AT_ONCE)
            while b"\n" not in part and (rest := file.read(_BYTES_AT_ONCE)):
                part += rest
            more = bool(file.read(1))
        lines, end = [], begin
        for line in part.splitlines(keepends=True):
            end += len(line)
            if line.endswith(b"\n"):
                lines.append((end, line))
        return lines, Reading(until=begin, more=more)

    def _other(self, event: Mapping[str, Any], found: Reading) -> None:
        kind = event.get("event")
        if kind == "gate":
            self._plan = event["summary"]["plan"]
            found.told += self._warnings(event)
        elif kind == "note":
            words = self._without_paths(str(event["text"]))
            # what the gate warned of it says as a note too
            if not any(told.key == keyed_by("warning", words) for told in found.told):
                found.told.append(Told(keyed_by("note", words), words, at=_time(event)))
        elif kind == "checkpoint":
            self._checkpoint(event, found)
        elif kind == "early_stopping":
            words = (
                f"Stopped early after step {event['step']}: the best evaluation was that of step "
                f"{event['best_step']}"
            )
            found.told.append(Told("early_stopping", words, at=_time(event)))

    def _warnings(self, gate: Mapping[str, Any]) -> Iterator[Told]:
        for warning in gate["summary"]["warnings"]:
            words = self._without_paths(str(warning))
            yield Told(keyed_by("warning", words), words, level="warn", at=_time(gate))

    def _without_paths(self, words: str) -> str:
        for path, name in self._names.items():
            words = words.replace(path, name)
        return words

    def _checkpoint(self, event: Mapping[str, Any], found: Reading) -> None:
        """The end of an epoch; what is saved because somebody stops the run is none of theirs."""
        step, plan = int(event["step"]), self._planned()
        every = self._save_every or int(plan["steps_per_epoch"])
        last = step >= int(plan["steps"])
        if step % every and not last:
            return
        told = Told(f"checkpoint:{step}", f"Checkpoint created at step {step}", at=_time(event))
        found.told.append(told)
        if not last:  # the last one becomes the model itself, when the run has succeeded
            folder = self._run.path / str(event["path"])
            found.saved.append(Saved(step, folder, _time(event)))

    def _planned(self) -> Mapping[str, Any]:
        """The plan as the run's gate told it, perhaps to an earlier reader."""
        if self._plan is None:
            told = self._run.last_event("gate")
            assert told is not None, "a run passes its gate before it saves"
            self._plan = told["summary"]["plan"]
        return self._plan


def _event(line: bytes) -> dict[str, Any] | None:
    """None for half a line that a dying machine left, which the next writer has ended."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _fate(
    step: Mapping[str, Any], later: Sequence[Mapping[str, Any] | None]
) -> tuple[Literal["whole", "waits", "again"], Mapping[str, Any] | None]:
    """Whether a step can be told, with its evaluation; or waits for that; or will be made again,
    because the run was killed between the two.
    """
    if not step.get("evaluation_follows"):
        return "whole", None
    for event in later:
        kind = event.get("event") if event is not None else None
        if event is not None and kind == "evaluation" and event["step"] == step["step"]:
            return "whole", event
        if kind in _BEGINS_ANEW:
            return "again", None
        if kind == "step":
            return "whole", None
    return "waits", None


def _tell_step(
    step: Mapping[str, Any], evaluation: Mapping[str, Any] | None, found: Reading
) -> None:
    found.told.append(metrics_of(step, evaluation))
    eta = step.get("eta_seconds")
    if isinstance(eta, int | float) and math.isfinite(eta):
        found.estimated_finish = math.ceil(_time(step) + eta)


def metrics_of(step: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> Told:
    """A step in OpenAI's words and numbers. Every evaluation is of the whole validation file, so
    `valid_loss` and `full_valid_loss` are the same number.
    """
    number, total, loss = step["step"], step["steps"], step["loss"]
    data: dict[str, Any] = {"step": number, "total_steps": total, "train_loss": loss}
    words = f"Step {number}/{total}: training loss={loss:.2f}"
    if step.get("token_accuracy") is not None:
        data["train_mean_token_accuracy"] = step["token_accuracy"]
    data |= {name: step[name] for name in _PREFERENCES if step.get(name) is not None}
    if evaluation is not None:
        valid = evaluation["loss"]
        words += f", validation loss={valid:.2f}, full validation loss={valid:.2f}"
        data |= {"valid_loss": valid, "full_valid_loss": valid}
        accuracy = evaluation.get("token_accuracy")
        if accuracy is not None:
            data["valid_mean_token_accuracy"] = accuracy
            data["full_valid_mean_token_accuracy"] = accuracy
    return Told(f"step:{number}", words, type="metrics", data=data, at=_time(step))


def _time(event: Mapping[str, Any]) -> int:
    """When a run said it, in seconds since 1970."""
    return int(datetime.fromisoformat(str(event["time"])).timestamp())


def highest_step(run: RunDirectory) -> int:
    """The last optimizer step that a run ever told of; 0: none."""
    steps = [int(event["step"]) for event in run.events() if event.get("event") == "step"]
    return max(steps, default=0)
