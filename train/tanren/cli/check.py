"""`tanren check`: the gate before training, without training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tanren.cli.display import counted, text
from tanren.cli.options import Items, Json, MethodName, Model, Validation
from tanren.cli.output import Output, mistake, of
from tanren.cli.request import Flags, configuration, read_items, require_values

if TYPE_CHECKING:
    from tanren.cli.request import Items as ReadItems
    from tanren.config import RunConfig


# What says without a model that the file holds preference lines.
_PREFERENCES = ("objective=dpo", "objective.name=dpo")


def check(
    context: typer.Context,
    items: Items = None,
    model: Model = None,
    method: MethodName = None,
    valid: Validation = None,
    preview: Annotated[
        int, typer.Option(min=0, metavar="N", help="Rows shown with what is trained in them.")
    ] = 3,
    max_faults: Annotated[
        int, typer.Option(min=0, metavar="N", help="Faults shown; --json has them all.")
    ] = 20,
    measure: Annotated[
        bool, typer.Option("--measure", help="Train a few steps to measure time and energy.")
    ] = False,
    json: Json = False,
) -> None:
    """See what would be trained, without training: every fault, row and token.

    Without a model the data alone is read. With one: what the chat template
    makes of the rows, which tokens are trained, whether it fits into memory,
    how many steps it takes. Exit code 2 when something is wrong.

    \b
    tanren check chats.jsonl
    tanren check chats.jsonl --model Qwen/Qwen3-0.6B --valid held-out.jsonl
    tanren check chats.jsonl --model Qwen/Qwen3-8B --method qlora --measure
    tanren check chats.jsonl --model Qwen/Qwen3-0.6B method.rank=32
    tanren check config.yaml
    tanren check preferences.jsonl objective=dpo
    """
    output = of(context)
    output.max_faults = max_faults
    flags = Flags(model=model, method=method, validation=valid)
    require_values(flags.options())
    found = read_items(items or ())
    if _has_model(found, flags):
        _check_with_model(output, configuration(found, flags, command="check"), preview, measure)
    else:
        _check_data(output, found, flags, measure)


def _has_model(items: ReadItems, flags: Flags) -> bool:
    named = flags.model is not None or any(o.startswith("model.name=") for o in items.overrides)
    return items.is_yaml or named


def _check_data(output: Output, items: ReadItems, flags: Flags, measure: bool) -> None:
    """The survey of the files alone. What needs a model and was asked for is a mistake."""
    asked = [f"`{override}`" for override in items.overrides if override not in _PREFERENCES]
    asked += ["--measure"] if measure else []
    asked += ["--method"] if flags.method is not None else []
    if asked:
        raise mistake("--model", "nothing", f"a model for {', '.join(asked)}", "add --model MODEL")
    if items.source is None:
        raise mistake(
            "tanren check", "no file", "data (DATA.jsonl)", "write `tanren check DATA.jsonl`"
        )
    from tanren.cli.survey_page import show_survey
    from tanren.data.survey import survey

    against = Path(flags.validation) if flags.validation is not None else None
    with reading(output.errors) as on_progress:
        found = survey(
            items.source,
            against=against,
            preferences=any(override in _PREFERENCES for override in items.overrides),
            on_progress=on_progress,
        )
    summary = found.as_dict()
    if found.fault_count and not output.json:
        show_survey(output.console, summary)
    found.require_sound()

    def show(console: Console) -> None:
        show_survey(console, summary)
        rows = sum(file.counts.examples for file in found.files)
        console.print(text(f"{counted(rows, 'row')}, no fault", "bold green"))

    output.give(summary, show)


@contextlib.contextmanager
def reading(console: Console) -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar of the bytes read, for files that take a while; nothing off a terminal."""
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress

    with Progress(
        "reading", BarColumn(), DownloadColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("reading", total=None)

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield show


def _check_with_model(output: Output, config: RunConfig, preview: int, measure: bool) -> None:
    from tanren.cli.data.quote_page import cost_of, show_cost
    from tanren.cli.gate_page import show_gate
    from tanren.cli.progress import watched

    with watched(output.errors) as observer:

        def tell(event: str, /, **fields: Any) -> None:
            observer({"event": event, **fields})

        from tanren.gate import examine

        gate = examine(config, tell=tell)
        measured = None
        if measure:
            from tanren.cli.measure import measure as measure_steps

            measured = measure_steps(gate, observer)
    pieces: Sequence[list[tuple[str, bool]]] = gate.preview(preview)
    document = {
        **gate.as_dict(),
        "config": gate.config.model_dump(mode="json"),
        "preview": [
            [{"text": words, "trained": trained} for words, trained in row] for row in pieces
        ],
        "measured": measured,
        "cost": cost_of(gate, measured),
    }

    def show(console: Console) -> None:
        show_gate(console, gate.as_dict(), pieces)
        show_cost(console, document["cost"])
        if measured is not None:
            from tanren.cli.measure import show_measured

            show_measured(console, measured)

    output.give(document, show)
