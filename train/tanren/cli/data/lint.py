"""`tanren data lint`: what is wrong with rows that can all be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tanren.cli.check import reading
from tanren.cli.data.split import NEAR_THRESHOLD
from tanren.cli.display import count, counted, one_line, row, shell, table, text
from tanren.cli.options import Json, NearThreshold
from tanren.cli.output import Output, mistake, of
from tanren.errors import ConfigError, Fault, RunError

if TYPE_CHECKING:
    from tanren.data.lint import LintReport

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def lint(
    context: typer.Context,
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA.jsonl...", help="Chats. Several files are compared with each other."
        ),
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="FILE", help="Look for its rows too (repeatable)."),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix", metavar="OUT", help="Write a new file with the safe changes made, and a list."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as a page too.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="RULE", help="Leave a rule out (repeatable)."),
    ] = None,
    max_characters: Annotated[
        int | None,
        typer.Option("--max-characters", min=1, metavar="N", help="Report longer rows."),
    ] = None,
    near: Annotated[
        bool,
        typer.Option("--near/--no-near", help="Look for rows that are nearly alike (slower)."),
    ] = True,
    near_threshold: NearThreshold = NEAR_THRESHOLD,
    places: Annotated[
        int, typer.Option("--places", min=0, metavar="N", help="Places shown of each finding.")
    ] = 3,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 if there are warnings or errors.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of --fix and --html.")
    ] = False,
    json: Json = False,
) -> None:
    """Find what a model should not learn: mojibake, loops, leaks, odd rows, and more.

    What cannot be read at all is for `tanren check`. The findings here are of rows
    that can: each says which rows, how bad it is and what to do. --fix makes the
    changes that are safe, in a new file, and lists every one.

    \b
    tanren data lint train.jsonl
    tanren data lint train.jsonl validation.jsonl test.jsonl
    tanren data lint train.jsonl --against test.jsonl --html report.html
    tanren data lint train.jsonl --fix clean.jsonl
    tanren data lint train.jsonl --skip contact --strict
    """
    output = of(context)
    _require_possible(data, skip or [], fix, html, overwrite)
    from tanren.data.lint import lint_files

    with reading(output.errors) as on_progress:
        report = lint_files(
            data,
            against=against or (),
            skip=skip or (),
            max_characters=max_characters,
            near_threshold=near_threshold if near else None,
            on_progress=on_progress,
        )
    document = report.as_dict()
    if any(file.fault_count for file in report.files):
        if not output.json:
            show_lint(output.console, document, places)
        report.require_sound()
    _finish(output, report, document, fix=fix, html=html, skip=skip or [], places=places)
    if strict and (report.count("error") or report.count("warning")):
        raise typer.Exit(1)


def _finish(
    output: Output,
    report: LintReport,
    document: dict[str, Any],
    *,
    fix: Path | None,
    html: Path | None,
    skip: list[str],
    places: int,
) -> None:
    from tanren.rundir import storage_errors, write_text

    for path in (fix, html):
        if path is not None:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
    if fix is not None:
        from tanren.data.lint import fix_file

        document["fix"] = fix_file(Path(report.files[0].path), fix, skip=skip)
    if html is not None:
        from tanren.cli.data.lint_html import lint_page

        write_text(html, lint_page(document))
    document["html"] = html

    def show(console: Console) -> None:
        show_lint(console, document, places)
        if html is not None:
            console.print(text(f"the page: {html}", "bold green"))

    output.give(document, show)


def _require_possible(
    data: list[Path], skip: list[str], fix: Path | None, html: Path | None, overwrite: bool
) -> None:
    """Mistakes that need no reading, all at once."""
    from tanren.data.lint import RULES, changes_path
    from tanren.strict_json import close_match

    if fix is not None and len(data) > 1:
        raise mistake("--fix", f"{len(data)} files", "one", "fix one file after another")
    faults = []
    for name in skip:
        if name not in RULES:
            meant = close_match(name, RULES)
            remedy = f"write {meant}" if meant else f"the rules are {', '.join(RULES)}"
            faults.append(Fault("--skip", f'"{name}"', "a rule", remedy))
    if faults:
        raise ConfigError("there are no such rules", faults)
    written = [path for path in (fix, html) if path is not None]
    written += [changes_path(fix)] if fix is not None else []
    there = [path for path in written if path.exists()]
    if there and not overwrite:
        raise RunError(
            "nothing was written",
            [
                Fault(str(path), "a file that is there already", "a new one", "add --overwrite")
                for path in there
            ],
        )


def show_lint(console: Console, document: Mapping[str, Any], places: int) -> None:
    """`document` is `LintReport.as_dict()`, with `fix` where something was fixed."""
    for file in document["files"]:
        _show_file(console, file, places, alone=len(document["files"]) == 1)
    counts = document["counts"]
    words = ", ".join(counted(counts[name], name) for name in ("error", "warning", "note"))
    style = "bold red" if counts["error"] else "bold yellow" if counts["warning"] else "bold green"
    rows = sum(file["rows"] for file in document["files"])
    console.print(text(f"{counted(rows, 'row')}: {words}", style))
    if document["near_threshold"] is None:
        console.print(text("rows that are nearly alike were not looked for (--no-near)"))
    if document.get("fix"):
        _show_fix(console, document["fix"])
        return
    for file in document["files"]:
        if any(finding["fixed_by_fix"] for finding in file["findings"]):
            path = Path(file["path"])
            clean = path.with_name(f"{path.stem}.clean{path.suffix}")
            command = f"tanren data lint {shell(path)} --fix {shell(clean)}"
            console.print(text(f"(fix): {command}", "dim"), soft_wrap=True)


def _show_file(console: Console, file: Mapping[str, Any], places: int, *, alone: bool) -> None:
    title = None if alone else f"{file['path']}: {counted(file['rows'], 'row')}"
    if not file["findings"]:
        if title:
            console.print(text(f"{title}, nothing found", "bold"))
        return
    made = table("", "rule", "rows", "what", "what to do", title=title, right=(2,))
    for finding in file["findings"]:
        mark = text(finding["severity"], _STYLES[finding["severity"]])
        fixed = f"{finding['remedy']} (fix)" if finding["fixed_by_fix"] else finding["remedy"]
        row(made, mark, finding["rule"], count(finding["rows"]), _what(finding), fixed)
    console.print(made)
    if file["near_crowded_rows"]:
        rows = count(file["near_crowded_rows"])
        console.print(text(f"{rows} rows are like so many that some near repeats may be missed"))
    for finding in file["findings"] if places else ():
        _show_places(console, file["path"], finding, places)


def _what(finding: Mapping[str, Any]) -> str:
    """What is found, with the one number that says most."""
    facts = finding["facts"]
    if "largest_share" in facts:
        share = f"{one_line(facts['largest'])}: {facts['largest_share']:.0%}"
        return f"{finding['finds']} ({share} of {facts['labels']} labels)"
    if "share" in facts:
        return f"{finding['finds']} ({facts['share']:.0%}: as it seems on purpose)"
    return str(finding["finds"])


def _show_places(console: Console, path: str, finding: Mapping[str, Any], limit: int) -> None:
    if not finding["places"]:
        return
    console.print(text(f"{finding['rule']}", _STYLES[finding["severity"]]))
    for place in finding["places"][:limit]:
        where = f"{path}:{place['line']}" + (f" {place['path']}" if place["path"] else "")
        line = text(f"  {where}  ", "dim")
        line.append_text(text(one_line(place["shown"])))
        console.print(line, soft_wrap=True)
    hidden = finding["rows"] - len({place["line"] for place in finding["places"][:limit]})
    if hidden > 0:
        console.print(text(f"  and {counted(hidden, 'row')} more", "dim"))


def _show_fix(console: Console, fix: Mapping[str, Any]) -> None:
    kinds = ", ".join(f"{rule} {count(times)}" for rule, times in fix["by_rule"].items())
    rows = f"{counted(fix['rows_out'], 'row')} of {count(fix['rows_in'])}"
    changed = f"{counted(fix['rows_changed'], 'row')} changed ({kinds or 'nothing to do'})"
    console.print(text(f"{fix['out']}: {rows}, {changed}", "bold green"), soft_wrap=True)
    console.print(text(f"{fix['changes']} lists every change"), soft_wrap=True)
