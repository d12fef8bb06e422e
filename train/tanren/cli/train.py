"""`tanren train` and `tanren run`: make a run directory and carry it out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tanren.cli.display import heading, shell, text
from tanren.cli.options import Items, Json, MethodName, Model, Run, Validation
from tanren.cli.output import Output, mistake, of
from tanren.cli.request import Flags, configuration, read_items, require_values
from tanren.errors import Fault, RunError, TanrenError, UserError

if TYPE_CHECKING:
    from tanren.config import RunConfig
    from tanren.rundir import RunDirectory


def train(
    context: typer.Context,
    items: Items = None,
    model: Model = None,
    method: MethodName = None,
    valid: Validation = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Run directory; else a new one under runs/."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="RUN", help="Go on with a run from its last checkpoint."),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Resume although data, settings or processes changed."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Pass the gate, show the settings, train nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Train an adapter, prove what was saved, and show answers before and after.

    Ctrl-C saves a checkpoint and prints the command that goes on.

    \b
    tanren train chats.jsonl --model Qwen/Qwen3-0.6B
    tanren train chats.jsonl --model Qwen/Qwen3-8B --method qlora
    tanren train config.yaml training.num_epochs=5 --out runs/mine
    tanren train --resume runs/mine
    """
    output = of(context)
    flags = Flags(model=model, method=method, validation=valid)
    require_values({**flags.options(), "--out": out, "--resume": resume})
    found = read_items(items or ())
    if resume is not None:
        _refuse_beside_resume({"--out": out, "--dry-run": dry_run or None, "file": found.source})
        run = _resumed(resume, [*flags.overrides(), *found.overrides], accept_changes)
        _execute(output, run, resume=True, accept_changes=accept_changes)
        return
    if accept_changes:
        raise mistake("--accept-changes", "no --resume", "a run to resume", "add --resume RUN")
    config = configuration(found, flags, command="train")
    if dry_run:
        _dry_run(output, config)
        return
    with output.errors.status("starting"):
        from tanren import pipeline

    run = pipeline.start(config, Path(out) if out is not None else None)
    try:
        _execute(output, run)
    except UserError:
        run.discard_if_unstarted()  # the mistake is told; nothing was done that is worth keeping
        raise


def run(
    context: typer.Context,
    directory: Run,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    until_step: Annotated[
        int | None,
        typer.Option(
            "--until-step",
            min=1,
            metavar="K",
            help="Pause after optimizer step K with a checkpoint; --resume goes on.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Carry out a run directory that exists already, as jobs and comparisons do.

    \b
    tanren run runs/mine
    python -P -m tanren run runs/mine --resume
    """
    from tanren.rundir import RunDirectory

    require_values({"RUN": directory})
    _execute(of(context), RunDirectory.open(directory), resume=resume, until_step=until_step)


def _refuse_beside_resume(given: dict[str, object]) -> None:
    faults = [
        Fault(name, f"{value} beside --resume", "--resume alone", f"leave {name} away")
        for name, value in given.items()
        if value is not None
    ]
    if faults:
        raise UserError("a resumed run has its own settings and folder", faults)


def _resumed(name: str, overrides: list[str], accept_changes: bool) -> RunDirectory:
    """The run to go on with. Changed settings are written to it only when asked for (T6)."""
    from tanren.rundir import RunDirectory

    run = RunDirectory.open(name)
    if not overrides:
        return run
    if not accept_changes:
        raise RunError(
            "a resumed run keeps its settings",
            [
                Fault(
                    override,
                    "a changed setting",
                    f"the settings of {run.path}",
                    "leave it away, add --accept-changes, or start a new run",
                )
                for override in overrides
            ],
        )
    from tanren.config import load

    config = load(run.config_file, overrides)
    with run.claim():
        run.write_config(config)
        run.event("note", text="settings changed on resuming: " + " ".join(overrides))
    return run


def _dry_run(output: Output, config: RunConfig) -> None:
    from tanren.cli.gate_page import show_gate
    from tanren.cli.progress import watched

    with watched(output.errors) as observer:

        def tell(event: str, /, **fields: Any) -> None:
            observer({"event": event, **fields})

        from tanren.gate import examine

        gate = examine(config, tell=tell)
    summary = gate.as_dict()

    def show(console: Console) -> None:
        show_gate(console, summary, gate.preview(1))
        heading(console, "Settings")
        console.print(text(gate.config.to_yaml().rstrip()), soft_wrap=True)
        console.print()
        console.print("Nothing was trained (--dry-run).")

    output.give({"config": gate.config.model_dump(mode="json"), "gate": summary}, show)


def _execute(
    output: Output,
    run: RunDirectory,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    until_step: int | None = None,
) -> None:
    from tanren.cli.progress import watched
    from tanren.cli.result_page import show_result

    output.console.print(text(f"run {run.path}", "bold"), soft_wrap=True)
    try:
        with watched(output.console) as observer:
            from tanren import pipeline

            result = pipeline.execute(
                run,
                resume=resume,
                accept_changes=accept_changes,
                until_step=until_step,
                observer=observer,
            )
    except TanrenError as error:
        if error.exit_code == 1:
            _say_where(output, run)
        raise
    if result.get("planned"):
        output.give(result, lambda console: _show_pause(console, result))
        return
    output.give(result, lambda console: show_result(console, result, str(run.path)))


def _show_pause(console: Console, result: dict[str, Any]) -> None:
    if result["state"] != "interrupted":
        words = f"nothing to do: this run has {result['state']}"
    else:
        words = f"paused at step {result['step']}; go on with: {result['resume']}"
    console.print(text(words), soft_wrap=True)


def _say_where(output: Output, run: RunDirectory) -> None:
    words = f"what happened is kept: tanren runs show {shell(run.path)}"
    output.console.print(text(words), soft_wrap=True)
