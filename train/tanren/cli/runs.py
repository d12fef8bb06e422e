"""`tanren runs`: the runs there are, one of them in full, what differs between two."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tanren.cli import run_page
from tanren.cli.display import text
from tanren.cli.options import Json, Run
from tanren.cli.output import of

app = typer.Typer(rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, json: Json = False) -> None:
    """List the runs, newest first; `show` one, `diff` two.

    Runs lie under runs/ in the current folder, or in the folder that TANREN_HOME names.

    \b
    tanren runs
    tanren runs show 20261122-101530-taro-lora
    tanren runs diff runs/a runs/b
    """
    if context.invoked_subcommand is not None:
        return
    from tanren.cli.run_facts import summary
    from tanren.rundir import list_runs, runs_root

    found = [summary(run) for run in list_runs()]

    def show(console: Console) -> None:
        if found:
            run_page.show_list(console, found)
        else:
            console.print(text(f"no runs under {runs_root()}"))

    of(context).give({"root": str(runs_root()), "runs": found}, show)


@app.command("show")
def show(context: typer.Context, run: Run, json: Json = False) -> None:
    """All about one run: settings, data, result, last events; why it failed and how to go on.

    \b
    tanren runs show runs/mine
    """
    from tanren.cli.run_facts import details
    from tanren.rundir import RunDirectory

    found = details(RunDirectory.open(run))
    of(context).give(found, lambda console: run_page.show_run(console, found))


@app.command("diff")
def diff(
    context: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="One run: its folder or its name.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    json: Json = False,
) -> None:
    """Only what differs between two runs: settings, data, environment, result.

    \b
    tanren runs diff runs/a runs/b
    """
    from tanren.cli.run_facts import difference
    from tanren.rundir import RunDirectory

    left, right = RunDirectory.open(a), RunDirectory.open(b)
    found = difference(left, right)
    document = {"a": str(left.path), "b": str(right.path), "differences": found}
    of(context).give(
        document, lambda console: run_page.show_difference(console, left.name, right.name, found)
    )
