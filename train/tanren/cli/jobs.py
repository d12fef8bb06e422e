"""`tanren jobs`: the service's queue, with or without a running server."""

from __future__ import annotations

import contextlib
import json as json_module
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tanren.cli import jobs_page
from tanren.cli.api_keys import Config
from tanren.cli.options import Json
from tanren.cli.output import Output, mistake, of
from tanren.errors import Interrupted

if TYPE_CHECKING:
    from tanren.jobs.service import JobService
    from tanren.store.records import JobRecord, JobRequest

app = typer.Typer(rich_markup_mode="rich")
Job = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, or the beginning or end of it.")
]
_FOLLOW_SECONDS = 0.3
_FEW = 4
"""Characters of an id that are enough to mean one."""


@app.callback(invoke_without_command=True)
def jobs(
    context: typer.Context,
    config: Config = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many.")] = 20,
    json: Json = False,
) -> None:
    """List the jobs, newest first; submit, show, stop and move them.

    All of it works beside a running server and without one; `tanren jobs work` does what the
    server would do.

    \b
    tanren jobs submit chats.jsonl --model tiny-chat --suffix taro
    tanren jobs
    tanren jobs logs ftjob-... --follow
    """
    if context.invoked_subcommand is None:
        show_list(context, config, limit)


@app.command("list")
def list_jobs(
    context: typer.Context,
    config: Config = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many.")] = 20,
    json: Json = False,
) -> None:
    """List the jobs, newest first.

    \b
    tanren jobs list --limit 100
    """
    show_list(context, config, limit)


def show_list(context: typer.Context, config: Path | None, limit: int) -> None:
    with _opened(config) as service:
        found = service.jobs.list(limit=limit)
        counts = service.jobs.counts()
        working = _dispatcher(service)
    document = {
        "jobs": [jobs_page.document(job) for job in found.items],
        "has_more": found.has_more,
        "counts": dict(counts),
        "dispatcher": working,
    }
    of(context).give(
        document,
        lambda console: jobs_page.show_list(console, found.items, found.has_more, counts, working),
    )


@app.command("submit")
def submit(
    context: typer.Context,
    train: Annotated[str, typer.Argument(metavar="TRAIN", help="JSONL, or the id of a file.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings of the run, such as rank=32 method=dora priority=5.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A base, an alias or a tuned model. (first base)")
    ] = None,
    valid: Annotated[
        str | None, typer.Option("--valid", metavar="V", help="JSONL, or the id of a file.")
    ] = None,
    suffix: Annotated[
        str | None, typer.Option("--suffix", help="Part of the tuned model's name.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Passes over the data, 1 to 50. (auto)")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Rows a step, 1 to 256. (auto)")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--learning-rate-multiplier", help="Factor on the base's rate. (auto)"),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="0 to 2147483647. (by chance)")] = None,
    dpo: Annotated[bool, typer.Option("--dpo", help="Preference lines instead of chats.")] = False,
    beta: Annotated[float | None, typer.Option("--beta", help="Of DPO, up to 2. (auto)")] = None,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="KEY=VALUE", help="Kept with the job.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="The same key and request: the same job again.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Put a job into the queue. Prints its id.

    \b
    tanren jobs submit chats.jsonl --suffix taro
    tanren jobs submit chats.jsonl --valid held_out.jsonl method=dora rank=32
    """
    from tanren.config import read_value
    from tanren.store.records import JobRequest

    chosen = {
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate_multiplier": rate,
        "beta": beta,
    }
    with _opened(config) as service:
        request = JobRequest(
            model=model or service.config.models[0].id,
            training_file=_file(service, train),
            validation_file=None if valid is None else _file(service, valid),
            suffix=suffix,
            seed=seed,
            method="dpo" if dpo else "supervised",
            hyperparameters={name: value for name, value in chosen.items() if value is not None},
            metadata=dict(_pair("--meta", each) for each in meta or ()) or None,
            tanren={
                name: read_value(value)
                for name, value in (_pair("settings", each) for each in settings or ())
            },
        )
        job = _created(service, request, key)
        working = _dispatcher(service)
    of(context).give(
        jobs_page.document(job), lambda console: jobs_page.show_submitted(console, job, working)
    )


def _created(service: JobService, request: JobRequest, key: str | None) -> JobRecord:
    return service.jobs.create(request, client_key=key)


def _pair(where: str, words: str) -> tuple[str, str]:
    name, equals, value = words.partition("=")
    if not equals or not name:
        raise mistake(where, repr(words), "KEY=VALUE", "write for example rank=32")
    return name, value


def _file(service: JobService, name: str) -> str:
    """Id of a file of the service. One of this disk is taken in first; one with the same bytes is
    not taken in twice.
    """
    path = Path(name)
    if not path.exists() and name.startswith("file-"):
        return service.files.get(name).id
    if not path.is_file():
        raise mistake("TRAIN", f"{name!r}, which is no file here", "a JSONL file", "check the path")
    from tanren.rundir import sha256_of

    digest = sha256_of(path)
    for known in service.files.list(purpose="fine-tune", limit=1000).items:
        if known.sha256 == digest and known.expires_at is None:
            return known.id
    with service.files.receive(filename=path.name, purpose="fine-tune") as receiver:
        with open(path, "rb") as file:
            while content := file.read(1 << 20):
                receiver.write(content)
        return receiver.commit().id


@app.command("show")
def show(context: typer.Context, job: Job, config: Config = None, json: Json = False) -> None:
    """All about one job: state, settings, checkpoints, last events, and why it waits or failed.

    \b
    tanren jobs show ftjob-0123
    """
    with _opened(config) as service:
        found = service.jobs.get(_id(service, job))
        events = service.jobs.events(found.id, limit=8).items
        checkpoints = service.jobs.checkpoints(found.id).items
    document = {
        **jobs_page.document(found),
        "events": [jobs_page.event_document(event) for event in events],
        "checkpoints": [jobs_page.checkpoint_document(each) for each in checkpoints],
    }
    of(context).give(
        document, lambda console: jobs_page.show_job(console, found, events, checkpoints)
    )


@app.command("logs")
def logs(
    context: typer.Context,
    job: Job,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends or is paused.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Everything a job told, oldest first.

    \b
    tanren jobs logs ftjob-0123 --follow
    """
    output = of(context)
    told: list[dict[str, Any]] = []
    last = None
    with _opened(config) as service:
        id = _id(service, job)
        while True:
            status = service.jobs.get(id).status  # before its events: none of its last is missed
            while events := service.jobs.events_since(id, last):
                last = events[-1].id
                told += [jobs_page.event_document(event) for event in events]
                if not output.json:
                    jobs_page.show_events(output.console, events)
            if not follow or status in _AT_REST:
                break
            time.sleep(_FOLLOW_SECONDS)
    if output.json:
        output.give({"job": id, "status": status, "events": told}, lambda console: None)


_AT_REST = ("succeeded", "failed", "cancelled", "paused")


@app.command("cancel")
def cancel(context: typer.Context, job: Job, config: Config = None, json: Json = False) -> None:
    """End a job for good. What was measured is kept.

    \b
    tanren jobs cancel ftjob-0123
    """
    _change(context, config, job, lambda service, id: service.jobs.cancel(id))


@app.command("pause")
def pause(context: typer.Context, job: Job, config: Config = None, json: Json = False) -> None:
    """Let a job save a checkpoint and stop, or keep it from starting.

    \b
    tanren jobs pause ftjob-0123
    """
    _change(context, config, job, lambda service, id: service.jobs.pause(id))


@app.command("resume")
def resume(context: typer.Context, job: Job, config: Config = None, json: Json = False) -> None:
    """Let a paused job take its turn again; it goes on from its checkpoint.

    \b
    tanren jobs resume ftjob-0123
    """
    _change(context, config, job, lambda service, id: service.jobs.resume(id))


@app.command("move")
def move(
    context: typer.Context,
    job: Job,
    priority: Annotated[
        int | None, typer.Option("--priority", help="Higher ones start first; 0 at first.")
    ] = None,
    before: Annotated[
        str | None, typer.Option("--before", metavar="JOB", help="Right before that job.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="Before all that wait.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Change the turn of a job that waits.

    \b
    tanren jobs move ftjob-0123 --first
    tanren jobs move ftjob-0123 --priority 5
    """

    def change(service: JobService, id: str) -> JobRecord:
        other = None if before is None else _id(service, before)
        return service.jobs.move(id, priority=priority, before=other, to_front=first)

    _change(context, config, job, change)


@app.command("work")
def work(
    context: typer.Context,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when no job is left to be done.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Do the jobs here, as the server would. Ctrl-C lets them save a checkpoint; twice: at once.

    \b
    tanren jobs work --until-empty
    """
    output = of(context)
    from tanren.cli.jobs_work import dispatch

    with _opened(config) as service:
        stopped = dispatch(service, output, until_empty=until_empty)
        counts = service.jobs.counts()
    if stopped:
        raise Interrupted("stopped; jobs that ran go on when `tanren jobs work` or the server does")
    output.give({"counts": dict(counts)}, lambda console: jobs_page.show_counts(console, counts))


@app.command("import")
def import_results(
    context: typer.Context,
    results: Annotated[Path, typer.Argument(metavar="RESULTS.csv", help="Of a past OpenAI job.")],
    job: Annotated[
        Path | None, typer.Option("--job", metavar="JOB.json", help="The job as the API gave it.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option("--train", metavar="TRAIN.jsonl", help="What it was trained on.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take a past job of OpenAI's into the list, from its result file (CSV, plain or base64).

    \b
    tanren jobs import step_metrics.csv --job job.json --train chats.jsonl
    """
    from tanren.jobs.imports import PastJob, import_job

    past = PastJob(
        results=_content(results),
        name=results.name,
        job=_job_object(job),
        train=None if train is None else (train.name, _content(train)),
    )
    with _opened(config) as service:
        found = import_job(service, past)
    of(context).give(
        jobs_page.document(found), lambda console: jobs_page.show_job(console, found, (), ())
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        words = error.strerror or str(error)
        raise mistake(str(path), words, "a file that can be read", "check the path") from None


def _job_object(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json_module.loads(_content(path).decode("utf-8-sig"))
    except ValueError as error:
        raise mistake(str(path), str(error), "a job in JSON", "save it again") from None
    if not isinstance(found, dict):
        raise mistake(str(path), type(found).__name__, "a JSON object", "save it again")
    return found


# --- common ---------------------------------------------------------------------------------------


def _change(
    context: typer.Context,
    config: Path | None,
    job: str,
    change: Callable[[JobService, str], JobRecord],
) -> None:
    with _opened(config) as service:
        found = change(service, _id(service, job))
        working = _dispatcher(service)
    output: Output = of(context)
    output.give(
        jobs_page.document(found), lambda console: jobs_page.show_changed(console, found, working)
    )


@contextlib.contextmanager
def _opened(config: Path | None) -> Iterator[JobService]:
    from tanren.jobs.service import JobService
    from tanren.store.settings import load_service, service_file

    with JobService(load_service(service_file(config))) as service:
        yield service


def _dispatcher(service: JobService) -> int | None:
    from tanren.jobs.dispatch import dispatcher_of

    return dispatcher_of(service.home)


def _id(service: JobService, words: str) -> str:
    """The job whose id it is, or the only one of the newest 1,000 whose id begins or ends so."""
    from tanren.store.errors import NotFound

    try:
        return service.jobs.get(words).id
    except NotFound:
        short = words.removeprefix("ftjob-")
        if len(short) < _FEW:
            raise
        known = [job.id for job in service.jobs.list(limit=1000).items]
        found = [id for id in known if id.startswith(f"ftjob-{short}") or id.endswith(short)]
        if len(found) == 1:
            return found[0]
        if found:
            said = ", ".join(found[:5])
            raise mistake("JOB", repr(words), "one job", f"which: {said}?") from None
        raise
