"""What a screening found, as a page. Values are masked already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from rich.console import Console

from tanren.cli.display import count, counted, one_line, row, show_warnings, table, text
from tanren.data.screen import KINDS, FileReport


def show_reports(console: Console, reports: Sequence[FileReport], most: int) -> None:
    """`most`: findings named one by one."""
    _show_rows(console, reports)
    _show_kinds(console, reports)
    _show_findings(console, reports, most)
    unjudged = sum(report.unjudged for report in reports)
    if unjudged:
        words = next(report.unjudged_words for report in reports if report.unjudged)
        said = f"{counted(unjudged, 'message')} passed on without a verdict: {words}"
        show_warnings(console, [said])
    for report in reports:
        if report.target is not None:
            said = f"wrote {report.target.rows} and {report.target.ledger}"
            console.print(text(said), soft_wrap=True)
    _show_end(console, reports)


def _show_rows(console: Console, reports: Sequence[FileReport]) -> None:
    made = table("", *(one_line(report.source) for report in reports), title="Rows", right=(1, 2))
    for words, name in (
        ("rows", "rows"),
        ("with findings", "rows_with_findings"),
        ("left as they were", "untouched"),
        ("redacted", "redacted"),
        ("dropped", "dropped"),
    ):
        row(made, words, *(count(getattr(report, name)) for report in reports))
    console.print(made)


def _show_kinds(console: Console, reports: Sequence[FileReport]) -> None:
    findings, rows = Counter[str](), Counter[str]()
    actions: dict[str, str] = {}
    for report in reports:
        findings += report.findings
        rows += report.rows_by_kind
        actions |= dict(report.actions.keys())
    if not findings:
        return
    made = table("Kind", "findings", "rows", "action", "meaning", right=(1, 2))
    for kind, meaning in KINDS.items():
        if findings[kind]:
            row(made, kind, count(findings[kind]), count(rows[kind]), actions[kind], meaning)
    console.print(made)


def _show_findings(console: Console, reports: Sequence[FileReport], most: int) -> None:
    found = [(report.source, line, entry) for report in reports for line, entry in report.first]
    if not found or not most:
        return
    made = table("First findings", "kind", "masked", "found by")
    for source, line, entry in islice(found, most):
        place = f"{source}:{line} {entry.path}"
        row(made, one_line(place), entry.kind, entry.masked, one_line(entry.rule))
    console.print(made)
    total = sum(sum(report.findings.values()) for report in reports)
    if total > most:
        console.print(text(f"and {total - most:,} more (the ledger of --out has them all)", "dim"))


def _show_end(console: Console, reports: Sequence[FileReport]) -> None:
    rows = sum(report.rows for report in reports)
    found = sum(sum(report.findings.values()) for report in reports)
    if found:
        console.print(text(f"{counted(rows, 'row')}, {counted(found, 'finding')}", "bold yellow"))
    else:
        console.print(text(f"{counted(rows, 'row')}, nothing found", "bold green"))
    note = "Names of people are not looked for, and addresses only as well as patterns can."
    console.print(text(note, "dim"))
