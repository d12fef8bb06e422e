"""`tanren data distill`: a teacher's answers as training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tanren.cli.display import count, shell, text
from tanren.cli.options import Json
from tanren.cli.output import Output, of
from tanren.errors import Interrupted

if TYPE_CHECKING:
    from tanren.distill.distillation import Distilled
    from tanren.distill.settings import DistillConfig


def distill(
    context: typer.Context,
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG.yaml", help="Source, teacher and constraints."),
    ],
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Folder to make or go on with. (out)")
    ] = None,
    from_ideas: Annotated[
        Path | None,
        typer.Option(
            "--from-ideas",
            metavar="SEEDS",
            help="Think of new pairs like these few: chats, {question, answer}, or lines.",
        ),
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option("--count", min=1, metavar="N", help="Pairs to reach. (ideas.count)"),
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(
            "--near",
            min=0.01,
            max=1,
            metavar="SHARE",
            help="Similarity from which a question repeats another. (ideas.near_threshold)",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="Take the first N rows. (source.limit)"),
    ] = None,
    allow_python: Annotated[
        bool, typer.Option("--allow-python", help="Run the functions that constraints name.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew; the folder's answers are lost.")
    ] = False,
    json: Json = False,
) -> None:
    """Let a teacher answer, have it mend what breaks a constraint, and keep what holds.

    A teacher is an endpoint, a model here, or a run. What is wrong with an answer goes
    back to it in words, up to N repairs in each of M tries; what never holds lies in
    rejected.jsonl with all attempts. Stop it any time: the same command goes on and
    asks nothing twice. Exit code 1 when rows are left (a budget, a silent teacher).

    \b
    tanren data distill configs/distill/summaries.yaml --out distilled/summaries
    tanren data distill configs/distill/taro_ideas.yaml --from-ideas data/taro.jsonl --count 50
    tanren check distilled/summaries/train.jsonl
    """
    output = of(context)
    from tanren.distill.settings import load_distillation

    settings = load_distillation(config, _overrides(config, out, pairs, near, limit))
    done = _carried_out(
        output, settings, config, from_ideas, overwrite=overwrite, allow_python=allow_python
    )

    def show(console: Console) -> None:
        from tanren.cli.data.distill_page import show_distillation

        show_distillation(console, done)

    output.give(done.as_dict(), show)
    if not done.complete:
        _show_left(output, done)
        raise typer.Exit(1)


def _overrides(
    config: Path, out: str | None, pairs: int | None, near: float | None, limit: int | None
) -> dict[str, Any]:
    """What was given on the command line, where the settings have it."""
    given: dict[str, Any] = {} if out is None else {"out": out}
    ideas = {"count": pairs, "near_threshold": near}
    ideas = {name: value for name, value in ideas.items() if value is not None}
    if ideas:
        given["ideas"] = ideas
    if limit is not None:
        given["source"] = {**_source_of(config), "limit": limit}
    return given


def _source_of(config: Path) -> dict[str, Any]:
    """The settings' source as a part of its own, which may be written as a path alone."""
    from tanren.config import read_yaml

    source = read_yaml(config).get("source")
    return {"path": source} if isinstance(source, str) else {}


def _carried_out(
    output: Output,
    settings: DistillConfig,
    path: Path,
    seeds: Path | None,
    *,
    overwrite: bool,
    allow_python: bool,
) -> Distilled:
    from tanren.cli.progress import stages

    try:
        with stages(output) as tell:
            if seeds is not None:
                from tanren.distill.ideas import distill_ideas

                return distill_ideas(
                    settings, path, seeds, overwrite=overwrite, allow_python=allow_python, tell=tell
                )
            from tanren.distill.distillation import distill as carry_out

            return carry_out(
                settings, path, overwrite=overwrite, allow_python=allow_python, tell=tell
            )
    except KeyboardInterrupt:
        words = "interrupted; answers are kept: the same command goes on"
        raise Interrupted(words) from None


def _show_left(output: Output, done: Distilled) -> None:
    """Why rows are left, and how to go on."""
    left = done.summary.left
    first = next(iter(done.summary.left_reasons), "")
    why = done.stopped or first
    words = f"error: stopped: {why}" if done.stopped else f"error: rows without an answer: {why}"
    output.errors.print(text(words, "bold red"), soft_wrap=True)
    rows = f"{count(left)} of {count(done.summary.rows)} rows are left" if left else "pairs missing"
    remedy = (
        "raise the budget and start the same command again"
        if (done.stopped or "").startswith("budget.")
        else "start the same command again when the teacher answers"
    )
    words = f"  {rows}; what was answered is in {shell(done.folder.path)} and is not asked again;"
    output.errors.print(text(f"{words} {remedy}"), soft_wrap=True)
