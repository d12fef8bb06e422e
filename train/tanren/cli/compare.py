"""`tanren compare` and `tanren sweep`: which method, rank and rate, and is the difference real?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tanren.cli.display import text
from tanren.cli.options import Json, Model, Validation
from tanren.cli.output import Output, mistake, of
from tanren.cli.request import Items, read_items, require_text, require_values
from tanren.errors import ConfigError, Fault, UserError

if TYPE_CHECKING:
    from tanren.compare.prepare import Prepared

Source = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.yaml|DATA.jsonl  key.path=value...",
        help="A comparison or a run's settings (YAML), or data (JSONL); then what all arms share.",
        show_default=False,
    ),
]
Swept = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.yaml|DATA.jsonl  key.path=v1,v2...",
        help="A run's settings (YAML) or data (JSONL), then settings with the values to try.",
        show_default=False,
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="N|A,B,C", help="How many seeds, or which. (default: 3)"),
]
Test = Annotated[
    str | None,
    typer.Option("--test", metavar="TEST.jsonl", help="Rows that finished runs are evaluated on."),
]
Metric = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME", help="Of the evaluation; the first one decides."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N test rows.")
]
Retention = Annotated[
    bool | None,
    typer.Option("--retention/--no-retention", help="Ask general questions too. (default: yes)"),
]
Reference = Annotated[
    str | None,
    typer.Option("--reference", metavar="ARM", help="What the others are compared with."),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        min=0,
        metavar="N",
        help="Runs an arm has to find its learning rate; 0: no search. (default: 5)",
    ),
]
Parallel = Annotated[
    int | None,
    typer.Option(
        "--parallel", min=1, metavar="N", help="Runs side by side. (default: one a GPU, else 1)"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Its folder. (default: comparisons/NAME)"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Pass every arm through the gate, train nothing.")
]


def compare(
    context: typer.Context,
    items: Source = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", metavar="A,B,...", help="Methods. (default: lora,qlora,dora,lora_plus)"
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=V1,V2", help="One more axis of arms; repeatable."),
    ] = None,
    model: Model = None,
    valid: Validation = None,
    seeds: Seeds = None,
    test: Test = None,
    metric: Metric = None,
    limit: Limit = None,
    retention: Retention = None,
    reference: Reference = None,
    trials: Trials = None,
    parallel: Parallel = None,
    out: Out = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Train every arm on the same rows, and say which differences are real.

    First each arm's learning rate is searched, then it is trained with several
    seeds at its best rate. Every run is an ordinary run in a process of its own,
    one a GPU. The same command goes on where it was stopped: what is finished is
    kept. The folder holds report.html, report.md, results.csv and
    recommended.yaml, ready for tanren train.

    \b
    tanren compare chats.jsonl --model Qwen/Qwen3-0.6B --valid held-out.jsonl
    tanren compare config.yaml --methods lora,dora --seeds 5 --test test.jsonl
    tanren compare config.yaml --grid method.rank=8,32 --dry-run
    tanren compare configs/compare/demo.yaml
    """
    output = of(context)
    options = _Options(
        model, valid, seeds, test, metric, limit, retention, reference, trials, parallel
    )
    require_values({"--methods": methods, **options.words(), "--out": _text(out)})
    axes = [f"method={methods}"] if methods is not None else []
    found = read_items(items or ())
    _carry_out(output, "compare", found, [*axes, *(grid or ())], found.overrides, options,
               out=out, dry_run=dry_run)  # fmt: skip


def sweep(
    context: typer.Context,
    items: Swept = None,
    model: Model = None,
    valid: Validation = None,
    seeds: Seeds = None,
    test: Test = None,
    metric: Metric = None,
    limit: Limit = None,
    retention: Retention = None,
    reference: Reference = None,
    trials: Trials = None,
    parallel: Parallel = None,
    out: Out = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Try the values of one or more settings: rank, rate, data size, anything.

    Every combination is an arm of a comparison (see tanren compare). A setting
    with one value is the same for all arms; data.rows trains on so many rows.
    Where no rate is given, each arm's rate is searched.

    \b
    tanren sweep config.yaml training.learning_rate=1e-4,3e-4,1e-3
    tanren sweep config.yaml method.rank=4,16,64 --seeds 1 --trials 0
    tanren sweep chats.jsonl data.rows=100,300,1000 --model Qwen/Qwen3-0.6B --valid v.jsonl
    """
    output = of(context)
    options = _Options(
        model, valid, seeds, test, metric, limit, retention, reference, trials, parallel
    )
    require_values({**options.words(), "--out": _text(out)})
    found = read_items(items or ())
    several = [word for word in found.overrides if _has_values(word)]
    single = [word for word in found.overrides if word not in several]
    if not several:
        raise mistake(
            "tanren sweep", "no setting with several values", "key.path=v1,v2",
            "write for example method.rank=4,16,64",
        )  # fmt: skip
    _carry_out(output, "sweep", found, several, single, options, out=out, dry_run=dry_run)


class _Options:
    """Options that both commands have."""

    def __init__(
        self,
        model: str | None,
        valid: str | None,
        seeds: str | None,
        test: str | None,
        metric: Sequence[str] | None,
        limit: int | None,
        retention: bool | None,
        reference: str | None,
        trials: int | None,
        parallel: int | None,
    ) -> None:
        self.model, self.valid, self.seeds, self.test = model, valid, seeds, test
        self.metric, self.limit, self.retention = metric, limit, retention
        self.reference, self.trials, self.parallel = reference, trials, parallel

    def words(self) -> dict[str, str | None]:
        return {
            "--model": self.model, "--valid": self.valid, "--seeds": self.seeds,
            "--test": self.test, "--reference": self.reference,
        }  # fmt: skip

    def settings(self) -> dict[str, Any]:
        seeds = None if self.seeds is None else _seeds(self.seeds)
        return {"seeds": seeds, "reference": self.reference, "parallel": self.parallel}

    def shared(self) -> dict[str, Any]:
        given = {"model.name": self.model, "data.validation": self.valid}
        return {key: value for key, value in given.items() if value is not None}

    def tested(self) -> dict[str, Any]:
        given = {
            "data": self.test, "metrics": self.metric or None, "limit": self.limit,
            "retention": self.retention,
        }  # fmt: skip
        return {key: value for key, value in given.items() if value is not None}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _seeds(words: str) -> Any:
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise mistake("--seeds", words, "a number, or numbers with commas", "write --seeds 3")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def _has_values(word: str) -> bool:
    from tanren.compare.request import split_values

    return len(split_values(word.partition("=")[2])) > 1


def _carry_out(
    output: Output,
    command: str,
    found: Items,
    axes: Sequence[str],
    overrides: Sequence[str],
    options: _Options,
    *,
    out: Path | None,
    dry_run: bool,
) -> None:
    if found.source is None:
        raise mistake(
            f"tanren {command}",
            "no file",
            "a comparison or settings (CONFIG.yaml), or data (DATA.jsonl)",
            f"write `tanren {command} CONFIG.yaml`",
        )
    require_text([str(found.source), *found.overrides, *axes, *options.words().values()])
    if found.source.is_dir():
        raise _not_a_file(found.source, command)
    with _telling(output) as tell:
        prepared = _prepared(command, found.source, axes, overrides, options, out, tell)
        if not dry_run:
            from tanren.compare.carry_out import compare as carry_out

            done = carry_out(prepared, tell)
    from tanren.cli import compare_page

    if dry_run:
        document = compare_page.plan_document(prepared)
        prepared.folder.discard()
        output.give(document, lambda console: compare_page.show_plan(console, prepared))
        return
    document = {"folder": str(done.folder.path), **compare_page.as_document(done.comparison)}
    output.give(document, lambda console: compare_page.show_comparison(console, done))
    if not done.finished or not any(arm.finished for arm in done.comparison.arms):
        raise typer.Exit(1)


def _not_a_file(folder: Path, command: str) -> UserError:
    settings = folder / "comparison.yaml"
    remedy = f"write `tanren {command} CONFIG.yaml`"
    if settings.is_file():
        remedy = f"go on with it: tanren compare {settings} --out {folder}"
    wanted = "a comparison or settings (CONFIG.yaml), or data (DATA.jsonl)"
    return mistake(str(folder), "a folder", wanted, remedy)


def _prepared(
    command: str,
    source: Path,
    axes: Sequence[str],
    overrides: Sequence[str],
    options: _Options,
    out: Path | None,
    tell: Callable[..., None],
) -> Prepared:
    from tanren.compare.prepare import prepare
    from tanren.compare.request import Asked, axis, comparison
    from tanren.config import read_value

    shared = options.shared()
    for word in overrides:
        key, _, value = word.partition("=")
        shared[key.strip()] = read_value(value)
    config = comparison(
        Asked(
            source=source,
            axes=_axes([axis(word) for word in axes]),
            settings=options.settings(),
            trials=options.trials,
            test=options.tested(),
        )
    )
    name = source.stem if command == "compare" else f"{source.stem}-sweep"
    try:
        return prepare(config, shared, out, name, tell)
    except ConfigError as error:
        raise ConfigError.of(*dict.fromkeys(map(_in_options, error.faults))) from None


def _in_options(fault: Fault) -> Fault:
    """Without settings a person thinks of the model as an option, and of one for all arms."""
    if fault.found == "nothing" and fault.where.endswith((" model", " model.name")):
        return Fault(
            "--model", "nothing", "a model folder or a Hugging Face name", "add --model MODEL"
        )
    return fault


def _axes(found: Sequence[tuple[str, tuple[Any, ...]]]) -> Mapping[str, tuple[Any, ...]]:
    keys = [key for key, _ in found]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError.of(
            *(mistake(key, "two axes", "one with all values", "join them").faults[0]
              for key in twice)
        )  # fmt: skip
    return dict(found)


@contextlib.contextmanager
def _telling(output: Output) -> Iterator[Callable[..., None]]:
    """A line for every finished run; in a terminal also what is going on now."""
    from tanren.cli.compare_page import run_words, stage_words

    console: Console = output.errors if output.json else output.console
    live = console.is_terminal and not output.json
    with console.status("starting") if live else contextlib.nullcontext() as status:

        def tell(event: str, /, **fields: Any) -> None:
            words = run_words(fields) if event == "run" else stage_words(event, fields)
            lasting = event == "run" and fields["state"] != "running"
            if live and status is not None and words:
                status.update(text(words))
            if lasting or (words and not live and event == "stage" and not output.json):
                console.print(text(words), soft_wrap=True)

        yield tell
