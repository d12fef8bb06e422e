"""`tanren data split`: training, validation and test from one file, with nothing leaking."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from tanren.cli.check import reading
from tanren.cli.display import count, one_line, row, show_warnings, table, text
from tanren.cli.options import Json, NearThreshold
from tanren.cli.output import mistake, of
from tanren.errors import Fault, RunError, UserError

NEAR_THRESHOLD = 0.8
"""`data.near.NEAR_THRESHOLD`; a test holds the two together. Named here so that help is quick."""


def split(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(metavar="DATA.jsonl", help="Chats (JSONL), or a table that has them.")
    ],
    counts: Annotated[
        str | None,
        typer.Option("--counts", metavar="70,30,30", help="Rows of each part.", show_default=False),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option(
            "--shares", metavar="80,10,10", help="Or their shares, in percent or as 0.8,0.1,0.1."
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option("--names", metavar="A,B,C", help="(default: train,validation,test)"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to make (default: DATA-split)."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Another seed, other parts; the same, the same.")
    ] = 42,
    stratify: Annotated[
        str | None,
        typer.Option(
            "--stratify",
            metavar="KEY",
            help="Give each part its share of every value of this key of the metadata; "
            "`answer` takes the last answer, for short labels.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group", metavar="KEY", help="Keep rows of one value of this key in one part."
        ),
    ] = None,
    near: Annotated[
        bool, typer.Option("--near/--no-near", help="Keep rows that are nearly alike in one part.")
    ] = True,
    near_threshold: NearThreshold = NEAR_THRESHOLD,
    same_prompt: Annotated[
        bool,
        typer.Option(
            "--same-prompt/--no-same-prompt", help="Keep rows that ask the same in one part."
        ),
    ] = True,
    rest: Annotated[
        bool, typer.Option("--rest", help="With --counts: write all other rows to rest.jsonl.")
    ] = False,
    faulty: Annotated[
        Literal["stop", "skip"],
        typer.Option("--faulty", help="stop: refuse the file; skip: leave the row out, on record."),
    ] = "stop",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a split that is there already.")
    ] = False,
    json: Json = False,
) -> None:
    """Split rows into training, validation and test, so that nothing leaks between them.

    Rows that ask the same or are nearly alike go to one part together. Lines are
    copied byte for byte, in the file's order, and none is lost; `split.json`
    beside the parts has their hashes and all settings.

    \b
    tanren data split chats.jsonl --counts 70,30,30
    tanren data split kids_why.csv --counts 70,30,30
    tanren data split chats.jsonl --shares 90,10 --seed 7 --out parts
    tanren data split labels.jsonl --shares 80,10,10 --stratify answer
    tanren data split chats.jsonl --shares 80,20 --group customer --no-near
    """
    output = of(context)
    from tanren.data.split import SplitSettings, split_file

    settings = SplitSettings(
        wish=_wish(counts, shares, names, rest),
        seed=seed,
        stratify=stratify,
        group=group,
        near_threshold=near_threshold if near else None,
        same_prompt=same_prompt,
        skip_faulty=faulty == "skip",
    )
    folder = out if out is not None else Path(f"{data.stem}-split")
    _require_free(folder, overwrite)
    from tanren.cli.data.tables import as_chat

    with (
        as_chat(data, skip_faulty=settings.skip_faulty) as (chats, source),
        reading(output.errors) as on_progress,
    ):
        manifest = split_file(chats, folder, settings, source=source, on_progress=on_progress)
    document = {"out": folder, **manifest}
    output.give(document, lambda console: show_split(console, folder, manifest))


def _wish(counts: str | None, shares: str | None, names: str | None, rest: bool) -> Any:
    from tanren.data.split import counts_wish, shares_wish

    if (counts is None) == (shares is None):
        found = "both --counts and --shares" if counts else "neither --counts nor --shares"
        raise mistake("tanren data split", found, "one of them", "write --shares 80,10,10")
    if counts is not None:
        return counts_wish(counts, names, rest=rest)
    if rest:
        raise mistake("--rest", "--shares, which leave no rest", "--counts", "leave --rest out")
    assert shares is not None
    return shares_wish(shares, names)


def _require_free(folder: Path, overwrite: bool) -> None:
    """Nothing is replaced but a split, and that only when it was asked for."""
    from tanren.data.split import SPLIT_FILE

    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / SPLIT_FILE).is_file():
        found = "a folder of other things" if folder.is_dir() else "a file"
        fault = Fault(str(folder), found, "a new folder", "choose another --out")
        raise UserError("nothing was written", [fault])
    if not overwrite:
        remedy = "add --overwrite, or choose another --out"
        fault = Fault(str(folder), "a split that is there already", "a new folder", remedy)
        raise RunError("nothing was written", [fault])


def show_split(console: Console, folder: Path, manifest: Mapping[str, Any]) -> None:
    """`manifest` is what `split_file` returns."""
    from tanren.data.split.split import deviations

    made = table("part", "rows", "wanted", "file", "sha256", right=(1, 2))
    for part in manifest["parts"]:
        place = folder / part["file"]
        row(
            made,
            part["name"],
            count(part["rows"]),
            count(part["wanted"]),
            place,
            part["sha256"][:16],
        )
    console.print(made)
    if manifest["strata"]:
        _show_strata(console, manifest)
    for line in _said(manifest):
        console.print(text(line))
    said = deviations(dict(manifest))
    warnings = [f"groups stay whole, so the parts differ from the wish: {'; '.join(said[:8])}"]
    show_warnings(console, warnings if said else [])
    console.print(text(f"{folder / 'split.json'} has every setting and hash", "bold green"))


_SHOWN_STRATA = 20


def _show_strata(console: Console, manifest: Mapping[str, Any]) -> None:
    names = [part["name"] for part in manifest["parts"]]
    key = manifest["settings"]["stratify"]
    made = table(one_line(key), *names, right=range(1, len(names) + 1))
    for stratum in manifest["strata"][:_SHOWN_STRATA]:
        row(made, one_line(stratum["value"]), *(count(rows) for rows in stratum["rows"]))
    console.print(made)
    hidden = len(manifest["strata"]) - _SHOWN_STRATA
    if hidden > 0:
        console.print(text(f"and {hidden} more values in split.json"))


def _said(manifest: Mapping[str, Any]) -> list[str]:
    """What was kept together, looked for, and left out."""
    settings, together, source = manifest["settings"], manifest["together"], manifest["source"]
    lines = []
    if "table" in source:
        lines.append(f"{source['name']} was read as {source['table']['read_as']}")
        for reason, left in source["table"]["left_out"].items():
            lines.append(f"{left['rows']:,} rows of it were left out: {reason}")
    for key, words in (
        ("group", f"by {settings['group']!r}"),
        ("same_prompt", "because they ask the same"),
        ("near", f"because they are nearly alike (from {settings['near_threshold']})"),
    ):
        if together[key]:
            lines.append(f"{together[key]:,} rows stayed with an earlier row {words}")
    if settings["near_threshold"] is None:
        lines.append("rows that are nearly alike were not looked for (--no-near)")
    if together["near_crowded_rows"]:
        rows = f"{together['near_crowded_rows']:,}"
        lines.append(f"{rows} rows are like so many that some near repeats may be missed")
    if together["near_cut_rows"]:
        rows = f"{together['near_cut_rows']:,}"
        lines.append(f"{rows} rows were compared by their first 10,000 characters only")
    if source["rows_left_out"]:
        left = f"{source['rows_left_out']:,}"
        lines.append(f"{left} faulty rows were left out: ledger.jsonl names them")
    return lines
