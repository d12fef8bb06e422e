"""Jobs as people read them, and as documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from tanren.cli.display import count, duration, facts, heading, one_line, row, table, text

if TYPE_CHECKING:
    from tanren.store.records import CheckpointRecord, EventRecord, JobRecord

STYLES: Mapping[str, str] = {
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "dim",
    "running": "bold cyan",
    "pausing": "yellow",
    "paused": "yellow",
}
LEVELS: Mapping[str, str] = {"warn": "yellow", "error": "bold red"}


def document(job: JobRecord) -> dict[str, Any]:
    found = asdict(job)
    return {name: dict(v) if isinstance(v, Mapping) else v for name, v in found.items()}


def event_document(event: EventRecord) -> dict[str, Any]:
    return {**asdict(event), "data": dict(event.data)}


def checkpoint_document(checkpoint: CheckpointRecord) -> dict[str, Any]:
    return {**asdict(checkpoint), "metrics": dict(checkpoint.metrics)}


def show_list(
    console: Console,
    jobs: Sequence[JobRecord],
    has_more: bool,
    counts: Mapping[Any, int],
    dispatcher: int | None,
) -> None:
    if not jobs:
        console.print(text("no jobs; `tanren jobs submit TRAIN.jsonl` makes one"), soft_wrap=True)
        return
    made = table("job", "status", "model", "suffix", "made", "took", "priority", right=(6,))
    for job in jobs:
        row(
            made,
            job.id,
            _status(job),
            job.model,
            one_line(job.suffix or ""),
            _when(job.created_at),
            _took(job),
            str(job.priority) if job.priority else "",
        )
    console.print(made)
    for job in jobs:
        if job.waiting_for is not None:
            console.print(text(f"{job.id} waits: {one_line(job.waiting_for)}"), soft_wrap=True)
    if has_more:
        console.print(text("there are more: --limit", "dim"))
    show_counts(console, counts)
    _say_who_works(console, dispatcher, sum(counts[s] for s in ("validating_files", "queued")))


def show_counts(console: Console, counts: Mapping[Any, int]) -> None:
    said = ", ".join(f"{number:,} {status}" for status, number in counts.items() if number)
    console.print(text(said or "no jobs"), soft_wrap=True)


def show_submitted(console: Console, job: JobRecord, dispatcher: int | None) -> None:
    console.print(text(job.id, "bold"), soft_wrap=True)
    console.print(text(f"on {job.model}; follow it with: tanren jobs logs {job.id} --follow"))
    _say_who_works(console, dispatcher, 1)


def show_changed(console: Console, job: JobRecord, dispatcher: int | None) -> None:
    line = text(f"{job.id} ")
    line.append_text(_status(job))
    console.print(line, soft_wrap=True)
    _say_who_works(console, dispatcher, int(job.status in ("queued", "pausing")))


def _say_who_works(console: Console, dispatcher: int | None, waiting: int) -> None:
    if waiting and dispatcher is None:
        words = "nobody works on the jobs: start `tanren serve` or `tanren jobs work`"
        console.print(text(words, "yellow"), soft_wrap=True)


def show_job(
    console: Console,
    job: JobRecord,
    events: Sequence[EventRecord],
    checkpoints: Sequence[CheckpointRecord],
) -> None:
    console.print(text(job.id, "bold"), soft_wrap=True)
    shown = [(name, value) for name, value in _facts(job) if value not in (None, "", "-")]
    console.print(facts(shown))
    if checkpoints:
        heading(console, "Checkpoints")
        made = table("step", "model", "training loss", "validation loss", right=(0, 2, 3))
        for each in checkpoints:
            loss, valid = each.metrics.get("train_loss"), each.metrics.get("valid_loss")
            row(made, str(each.step), each.model, _loss(loss), _loss(valid))
        console.print(made)
    if events:
        heading(console, "Last events")
        show_events(console, list(reversed(events)))


def show_events(console: Console, events: Sequence[EventRecord]) -> None:
    for event in events:
        line = text(f"{_when(event.created_at, '%H:%M:%S')}  ", "dim")
        line.append_text(text(one_line(event.message), LEVELS.get(event.level, "")))
        console.print(line, soft_wrap=True)


def _facts(job: JobRecord) -> list[tuple[str, object]]:
    settings = {**job.hyperparameters, **job.tanren}
    return [
        ("status", _status(job)),
        ("waits for", job.waiting_for),
        ("error", f"{job.error.code}: {job.error.message}" if job.error else None),
        ("model", job.model if job.model == job.base else f"{job.model} (on {job.base})"),
        ("tuned model", job.fine_tuned_model),
        ("method", job.method),
        ("settings", ", ".join(f"{name}={value}" for name, value in settings.items())),
        ("training file", job.training_file),
        ("validation file", job.validation_file),
        ("result files", ", ".join(job.result_files)),
        ("trained tokens", count(job.trained_tokens)),
        ("seed", str(job.seed)),
        ("suffix", job.suffix),
        ("metadata", ", ".join(f"{k}={v}" for k, v in (job.metadata or {}).items())),
        ("priority", str(job.priority)),
        ("made", _when(job.created_at)),
        ("started", _when(job.started_at)),
        ("ended", _when(job.finished_at)),
        ("ends about", _when(job.estimated_finish)),
        ("took", _took(job)),
        ("slot", job.slot),
        ("run", job.run),
    ]


def _status(job: JobRecord) -> Text:
    return text(job.status, STYLES.get(job.status, ""))


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _took(job: JobRecord) -> str:
    if job.started_at is None or job.finished_at is None:
        return ""
    return duration(float(job.finished_at - job.started_at))


def _when(seconds: int | None, shape: str = "%Y-%m-%d %H:%M") -> str:
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime(shape)
