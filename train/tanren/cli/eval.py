"""`tanren eval`: did tuning help, where did it hurt, and how sure is that?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tanren.cli.options import Json
from tanren.cli.output import Output, mistake, of
from tanren.cli.request import require_values
from tanren.errors import Interrupted

if TYPE_CHECKING:
    from tanren.evaluation import Evaluated


def evaluate(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]MODEL...",
            help="Runs, adapters, model folders, hub names, RUN@base, https://HOST/v1#MODEL, or an "
            "endpoint's YAML.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="TEST.jsonl", help="Chats that were not trained on."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="E.yaml", help="More settings.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="NAME", help="Measure this; repeatable. (default: by data)"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Ask the first N rows alone.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to make. (default: in runs/evaluations)"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="MODEL",
            help="What the others are compared with; none: nothing. (default: a run's own base)",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, metavar="N", help="Most tokens of an answer."),
    ] = None,
    retention: Annotated[
        bool | None,
        typer.Option(
            "--retention/--no-retention",
            help="Ask general questions too: what was forgotten? (default: where all models run "
            "here)",
        ),
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(
            "--gate",
            min=0,
            max=100,
            metavar="POINTS",
            help="Fail (exit 1) where more than so many points of retention are lost.",
        ),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option("--judge", metavar="FILE.yaml", help="Ask this judge; repeatable."),
    ] = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(
            "--lm-eval", metavar="TASKS", help="Run these benchmarks of lm-eval too: a,b,c."
        ),
    ] = None,
    lm_eval_include: Annotated[
        Path | None,
        typer.Option("--lm-eval-include", metavar="DIR", help="Folder with more lm-eval tasks."),
    ] = None,
    human: Annotated[
        bool, typer.Option("--human", help="Write a blind sheet for people to rate.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the same evaluation; ask nothing twice.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure models on the same rows, compare them, and say how sure that is.

    A run is compared with its own base unless --reference says otherwise. Answers
    are greedy and on disk as they come: --resume goes on after a stop. The folder
    holds every answer, evaluation.json, report.md and report.html.

    \b
    tanren eval runs/mine --data test.jsonl
    tanren eval runs/mine new=runs/other --data test.jsonl --gate 5
    tanren eval Qwen/Qwen3-0.6B --data test.jsonl --metric bleu --metric exact_match
    tanren eval import-ratings runs/evaluations/NAME sheet-anna.csv sheet-ben.json
    """
    output = of(context)
    require_values({"--data": data, "--reference": reference, "--lm-eval": lm_eval})
    overrides = _overrides(
        models=models, data=data, metrics=metric, limit=limit, reference=reference,
        max_new_tokens=max_new_tokens, retention=retention, gate=gate, judges=judge, human=human,
        lm_eval=_benchmarks(lm_eval, lm_eval_include),
    )  # fmt: skip
    done = _carried_out(output, config, overrides, out=out, resume=resume)

    def show(console: Console) -> None:
        from tanren.cli.eval_page import show_evaluation

        show_evaluation(console, done)

    output.give(done.as_dict(), show)
    if not done.passed:
        from tanren.cli.eval_page import show_lost

        show_lost(output.errors, done)
        raise typer.Exit(1)


def _carried_out(
    output: Output,
    config: Path | None,
    overrides: Mapping[str, Any],
    *,
    out: Path | None,
    resume: bool,
) -> Evaluated:
    from tanren.evaluate.settings import load_evaluation

    settings = load_evaluation(config, overrides)
    from tanren.cli.progress import stages

    try:
        with stages(output) as tell:
            from tanren.evaluation import evaluate as carry_out

            return carry_out(settings, out=out, resume=resume, tell=tell)
    except KeyboardInterrupt:
        words = "interrupted; answers are kept: go on with the same command and --resume"
        raise Interrupted(words) from None


def _overrides(
    *, max_new_tokens: int | None, retention: bool | None, gate: float | None, **settings: Any
) -> dict[str, Any]:
    """What was given on the command line, where the settings have it."""
    given = {name: value for name, value in settings.items() if value not in (None, [], {}, False)}
    if max_new_tokens is not None:
        given["decoding"] = {"max_new_tokens": max_new_tokens}
    kept = {"enabled": retention, "gate_points": gate}
    kept = {name: value for name, value in kept.items() if value is not None}
    if kept:
        given["retention"] = kept
    return given


def _benchmarks(tasks: str | None, include: Path | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if tasks is not None:
        given["tasks"] = [name.strip() for name in tasks.split(",") if name.strip()]
    if include is not None:
        given["include"] = str(include)
    return given


def import_ratings(
    context: typer.Context,
    evaluation: Annotated[
        str, typer.Argument(metavar="EVALUATION", help="An evaluation's folder or its name.")
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SHEET...", help="Filled sheets: CSV, or JSON from the form."),
    ] = None,
    json: Json = False,
) -> None:
    """Read people's filled sheets back into an evaluation and its report.

    Tells how far people agree with each other and with the judges.

    \b
    tanren eval import-ratings runs/evaluations/NAME sheet-anna.csv sheet-ben.json
    """
    output = of(context)
    if not files:
        raise mistake("SHEET", "no file", "filled sheets", "name the CSV or JSON files")
    from tanren.evaluate.people import import_ratings as read_back

    done = read_back(evaluation, files)

    def show(console: Console) -> None:
        from tanren.cli.eval_page import show_ratings

        show_ratings(console, done)

    output.give(done.as_dict(), show)
