"""What a survey of the data found, as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from tanren.cli.display import count, one_line, row, show_warnings, table, text

Summary = Mapping[str, Any]

_WITHIN = (
    ("identical", "the same row again"),
    ("near", "nearly the same row again"),
    ("contradictions", "the same question, another answer"),
)
_LEAKS = (
    ("identical", "validation row that is a training row"),
    ("same_prompt", "validation question that is trained"),
    ("near", "validation row that is nearly a training row"),
)


def show_survey(console: Console, survey: Summary) -> None:
    """`survey` is `Survey.as_dict()`."""
    files = [survey[name] for name in ("train", "validation") if survey[name]]
    made = table("", *(file["path"] for file in files), title="Rows", right=(1, 2))
    for words, key in (
        ("lines", "lines"),
        ("blank", "blank_lines"),
        ("rows", "examples"),
        ("faulty rows", "refused"),
        ("faults", "faults"),
    ):
        row(made, words, *(count(file["counts"][key]) for file in files))
    for words, key in (
        ("replies", "turns"),
        ("  of them trained", "trained_turns"),
        ("rows with a system message", "with_system"),
        ("rows with tools", "with_tools"),
        ("rows with reasoning", "with_reasoning"),
    ):
        row(made, words, *(count(file[key]) for file in files))
    console.print(made)
    show_duplicates(console, survey["duplicates"])
    if survey["warnings"]:
        console.print()
        show_warnings(console, survey["warnings"])


def show_duplicates(console: Console, duplicates: Summary) -> None:
    """What repeats, within the files and between them, with the first place of each kind."""
    made = table("Repeats", "rows", "first", right=(1,))
    for group, kinds in (("train", _WITHIN), ("validation", _WITHIN), ("leaks", _LEAKS)):
        for kind, words in kinds:
            finding = duplicates[group][kind]
            if finding["count"]:
                of = "" if group == "leaks" else f"{group}: "
                row(made, of + words, count(finding["count"]), _first(finding["pairs"][0]))
    if made.row_count:
        console.print(made)
    else:
        console.print(text("no row repeats another"))
    for name in ("train", "validation"):
        within = duplicates[name]
        if within["rows"] > within["near_rows"]:
            console.print(
                text(
                    f"{name}: near repeats were looked for in {count(within['near_rows'])} of "
                    f"{count(within['rows'])} rows"
                )
            )


def _first(pair: Summary) -> str:
    first, second = pair["first"], pair["second"]
    return one_line(
        f"{second['source']}:{second['line']} repeats {first['source']}:{first['line']}"
    )
