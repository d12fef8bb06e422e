"""`tanren data review`: rows before a person's eyes, one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tanren.cli.check import reading
from tanren.cli.display import count, counted, shell, text
from tanren.cli.options import Json
from tanren.cli.output import mistake, of
from tanren.errors import Interrupted

if TYPE_CHECKING:
    from tanren.data.review import Progress, Written
    from tanren.data.review.chosen import Choose, Chosen


def review(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DATA.jsonl", help="Chats to look at.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Rows taken (default: DATA.reviewed.jsonl)."),
    ] = None,
    only: Annotated[
        Path | None,
        typer.Option("--only", metavar="FILE", help="Rows named here: 17 or DATA.jsonl:17 a line."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", min=1, metavar="N", help="So many rows, drawn by --seed."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other rows.")] = 42,
    from_lint: Annotated[
        Path | None,
        typer.Option(
            "--from-lint",
            metavar="FINDINGS.json",
            help="Rows that `tanren data lint --json` found, and why.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an --out that no review has made.")
    ] = False,
    json: Json = False,
) -> None:
    """Look at rows one at a time: accept, edit, reject, note.

    Every decision is kept at once in a journal beside --out, so a review goes on
    where it was left; a row that has changed since is asked again. When you leave,
    --out has the accepted and edited rows and FILE.rejected.jsonl the rejected
    ones, in the file's order. Undecided rows are in neither.

    \b
    tanren data review chats.jsonl
    tanren data review chats.jsonl --sample 50 --out looked-at.jsonl
    tanren data lint chats.jsonl --json > findings.json
    tanren data review chats.jsonl --from-lint findings.json
    """
    output = of(context)
    target = out if out is not None else data.with_name(f"{data.stem}.reviewed.jsonl")
    from tanren.cli.data.review_room import talk
    from tanren.cli.keys import Keys
    from tanren.data.review import Review

    choose = _choose(data, only, sample, seed, from_lint)
    stopped = False
    with reading(output.errors) as tell:
        looked = Review(data, target, choose=choose, overwrite=overwrite, on_progress=tell)
    with looked:
        try:
            talk(output.console, looked, Keys())
        except KeyboardInterrupt:
            stopped = True
        progress = looked.progress
        written = looked.write()
    document = {
        "data": data,
        "out": target if written else None,
        "rejected_out": written.rejected_out if written else None,
        **progress.as_dict(),
    }
    if stopped and output.json:
        raise Interrupted("interrupted; every decision is kept")
    output.give(document, lambda console: show_review(console, data, progress, written))
    if stopped:
        raise Interrupted("interrupted; every decision is kept")


def _choose(
    data: Path, only: Path | None, sample: int | None, seed: int, from_lint: Path | None
) -> Chosen | Choose | None:
    from tanren.data.review import chosen_by_lint, chosen_places, sampled

    given = {"--only": only, "--sample": sample, "--from-lint": from_lint}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise mistake(" and ".join(names), "both", "one choice of rows", "leave one out")
    if only is not None:
        return chosen_places(only, data)
    if from_lint is not None:
        return chosen_by_lint(from_lint, data)
    return None if sample is None else sampled(sample, seed)


def show_review(console: Console, data: Path, progress: Progress, written: Written | None) -> None:
    from tanren.cli.data.review_room import said

    console.print()
    console.print(text(said(progress)))
    if written is None:
        console.print(text("nothing was decided, so nothing was written"))
        return
    style = "bold green"
    console.print(text(f"{count(written.kept_rows)} rows in {shell(written.out)}", style))
    if written.rejected_out is not None:
        rejected = f"{count(written.rejected_rows)} rejected in {shell(written.rejected_out)}"
        console.print(text(rejected))
    if written.undecided_rows:
        undecided = f"in neither, as undecided: {counted(written.undecided_rows, 'row')}"
        out = f" --out {shell(written.out)}"
        console.print(text(f"{undecided}; go on: tanren data review {shell(data)}{out}"))
