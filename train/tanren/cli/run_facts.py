"""What can be said about runs, read from their directories: plain JSON values, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tanren.cli.display import at, shell
from tanren.config import RunConfig, flattened
from tanren.errors import ConfigError, RunError
from tanren.rundir import RunDirectory, State, read_json

Facts = dict[str, Any]

LAST_EVENTS = 12
_IDLE = ("created", "succeeded", "failed", "interrupted")


def summary(run: RunDirectory) -> Facts:
    """One line about a run. What cannot be read is None, and `problem` says why."""
    events = run.events()
    settings, problem = settings_of(run)
    last_step: Facts = next((e for e in reversed(events) if e.get("event") == "step"), {})
    result = at(next((e for e in reversed(events) if e.get("event") == "succeeded"), {}), "result")
    return {
        "id": run.name,
        "path": str(run.path),
        "state": run.state(),
        "method": at(settings, "method", "name"),
        "model": at(settings, "model", "name"),
        "steps": at(result, "steps") or last_step.get("step"),
        "total_steps": last_step.get("steps"),
        "loss": last_step.get("loss"),
        "created": events[0].get("time") if events else None,
        "seconds": worked_seconds(events),
        "problem": problem,
    }


def settings_of(run: RunDirectory) -> tuple[Facts | None, str | None]:
    """(settings, None), or (None, why they cannot be read)."""
    try:
        return run.config().model_dump(mode="json"), None
    except ConfigError as error:
        return None, str(error)


def chosen(settings: Facts) -> tuple[Facts, int]:
    """Settings that are not defaults, with the four that name a run; how many others there are."""
    named = {
        "model": {"name": settings["model"]["name"]},
        "data": {"train": settings["data"]["train"]},
        "method": {"name": settings["method"]["name"]},
    }
    defaults = flattened(RunConfig.model_validate(named).model_dump(mode="json"))
    everything = flattened(settings)
    always = ("model.name", "data.train", "method.name", "seed")
    found = {k: v for k, v in everything.items() if k in always or defaults.get(k) != v}
    return found, len(everything) - len(found)


def worked_seconds(events: list[Facts]) -> float | None:
    """Time at work: between events, without the waits.

    A run waits after it was created and after it ended. After a kill it waits until the next
    process reads the data, which every process does first.
    """
    total, before = 0.0, None
    for event in events:
        moment = _moment(event)
        if moment is None:
            continue
        if before is not None and not _waited(before[1], event):
            total += moment - before[0]
        before = moment, event
    return round(total, 3) if events else None


def _waited(before: Facts, after: Facts) -> bool:
    if before.get("event") in _IDLE:
        return True
    begins = after.get("event") == "stage" and after.get("name") == "data"
    return begins and before.get("event") != "stage"


def _moment(event: Mapping[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(str(event.get("time"))).timestamp()
    except ValueError:
        return None


def details(run: RunDirectory) -> Facts:
    """All that is known about a run, and what can be done next."""
    events = run.events()
    settings, problem = settings_of(run)
    state = run.state()
    return {
        **summary(run),
        "config": settings,
        "problem": problem,
        "data": _json_of(run.data_file),
        "environment": _json_of(run.environment_file),
        "result": _json_of(run.result_file),
        "failure": _failure(events) if state == "failed" else None,
        "checkpoints": [checkpoint.step for checkpoint in run.complete_checkpoints()],
        "incomplete_checkpoints": {
            path.name: problems for path, problems in run.incomplete_checkpoints().items()
        },
        "owner": run.owner(),
        "next": next_step(run, state),
        "events": events[-LAST_EVENTS:],
    }


def _failure(events: list[Facts]) -> Facts:
    failed = next((e for e in reversed(events) if e.get("event") == "failed"), {})
    return {
        "cause": failed.get("error"),
        "kind": failed.get("kind"),
        "faults": failed.get("faults") or [],
        "traceback": failed.get("traceback"),
    }


def _json_of(path: Any) -> Any:
    """The file's value; None where it is missing or damaged."""
    try:
        return read_json(path)
    except RunError:
        return None


def next_step(run: RunDirectory, state: State) -> Facts:
    """The command that goes on from a state, and what it does (T25)."""
    where = shell(run.path)
    if state == "succeeded":
        return _next(f"tanren chat {where} --base", "talk to it, beside its base")
    if state == "running":
        return _next(f"tail -f {shell(run.events_file)}", f"watch process {run.owner()} work")
    complete = run.complete_checkpoints()
    if complete:
        return _next(f"tanren train --resume {where}", f"go on after step {complete[-1].step}")
    if state == "created":
        return _next(f"tanren run {where}", "carry it out")
    why = "begin anew: no checkpoint was saved"
    return _next(f"tanren train {shell(run.config_file)}", why)


def _next(command: str, meaning: str) -> Facts:
    return {"command": command, "meaning": meaning}


# --- what differs between two runs ---------------------------------------------------------------

_PLACES = ("config", "data", "environment", "result")
# Names of the run itself, and what only repeats other parts.
_LEFT_OUT = {
    "environment": ("command",),
    "result": ("run", "artefact", "proof", "answers", "optimizer_groups"),
    "data": (),
    "config": (),
}


def difference(a: RunDirectory, b: RunDirectory) -> Facts:
    """Part -> dotted key -> [value in a, value in b], where they differ. None: there is none."""
    left, right = _comparable(a), _comparable(b)
    differing = {}
    for place in _PLACES:
        keys = {**left[place], **right[place]}
        found = {
            key: [left[place].get(key), right[place].get(key)]
            for key in keys
            if left[place].get(key) != right[place].get(key)
        }
        if found:
            differing[place] = found
    return differing


def _comparable(run: RunDirectory) -> dict[str, Facts]:
    settings, _ = settings_of(run)
    parts = {
        "config": settings,
        "data": _data(_json_of(run.data_file)),
        "environment": _json_of(run.environment_file),
        "result": _json_of(run.result_file),
    }
    flat = {
        place: flattened(
            {
                key: value
                for key, value in (parts[place] or {}).items()
                if key not in _LEFT_OUT[place]
            }
        )
        for place in _PLACES
    }
    return {**flat, "result": {**flat["result"], "state": run.state()}}


def _data(record: Any) -> Facts:
    """Of the data: which file by hash, and how many rows and tokens; not every percentile."""
    found = {}
    for name in ("train", "validation"):
        file = at(record, name)
        if file:
            ledger = file.get("ledger") or {}
            found[name] = {
                "path": file.get("path"),
                "sha256": file.get("sha256"),
                "rows": ledger.get("source_rows"),
                "tokens": ledger.get("tokens"),
                "trained_tokens": ledger.get("trained_tokens"),
            }
    return found
