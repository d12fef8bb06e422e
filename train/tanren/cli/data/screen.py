"""`tanren data screen`: secrets, personal data and unsafe messages found, redacted or dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tanren.cli.options import Json
from tanren.cli.output import Output, mistake, of

if TYPE_CHECKING:
    from tanren.data.screen import FileReport, Moderator, Plan, Target, WordList
    from tanren.endpoint import Journal

WORDS = "words:"


def screen(
    context: typer.Context,
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DATA.jsonl...", help="Chat files (JSONL).", show_default=False),
    ] = None,
    action: Annotated[
        str, typer.Option(metavar="report|redact|drop", help="What is done about every kind.")
    ] = "report",
    report: Annotated[
        str, typer.Option(metavar="KINDS", help="Kinds that are only reported: ip,address.")
    ] = "",
    redact: Annotated[
        str, typer.Option(metavar="KINDS", help="Kinds whose values are replaced: email,phone.")
    ] = "",
    drop: Annotated[
        str, typer.Option(metavar="KINDS", help="Kinds whose rows are left out: secret,unsafe.")
    ] = "",
    replacement: Annotated[
        str, typer.Option(metavar="TEXT", help="What is written instead; {KIND} is the kind.")
    ] = "[{KIND}]",
    numbered: Annotated[
        bool, typer.Option("--numbered", help="[EMAIL_1], [EMAIL_2]: one value, one number.")
    ] = False,
    moderator: Annotated[
        list[str] | None,
        typer.Option(
            "--moderator",
            metavar="words:FILE|guard:MODEL|URL#MODEL|M.yaml",
            help="Who else looks; may be given twice, once with words:.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="P", help="A moderator's score that means unsafe."),
    ] = None,
    keep_unjudged: Annotated[
        bool, typer.Option("--keep-unjudged", help="Pass on what a moderator did not judge.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="New file; for several files a folder. Ledger beside it."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what lies at --out.")
    ] = False,
    findings: Annotated[
        int, typer.Option(min=0, metavar="N", help="Findings shown; the ledger has them all.")
    ] = 20,
    json: Json = False,
) -> None:
    """Find secrets, personal data and unsafe messages before they are trained.

    Kinds: secret, email, phone, card, my_number, ssn, iban, passport, licence,
    postal_code, address, ip (a note), word, unsafe. Names of people are not
    found. Nothing leaves this machine unless a moderator's address is given.
    Values are masked everywhere. Rows without redactions stay as they are.

    \b
    tanren data screen chats.jsonl
    tanren data screen chats.jsonl --action redact --drop secret --out clean.jsonl
    tanren data screen chats.jsonl --redact email,phone --numbered --out clean.jsonl
    tanren data screen chats.jsonl --moderator words:bad-words.txt
    tanren data screen a.jsonl b.jsonl --moderator guard:MODEL --drop unsafe --out clean/
    """
    from tanren.data.screen import read_plan, targets

    output = of(context)
    if not data:
        remedy = "write `tanren data screen DATA.jsonl`"
        raise mistake("tanren data screen", "no file", "data (DATA.jsonl)", remedy)
    plan = read_plan(
        action,
        report=_listed(report),
        redact=_listed(redact),
        drop=_listed(drop),
        replacement=replacement,
        numbered=numbered,
    )
    _require_effect(plan, out, moderator or (), threshold)
    places = targets(data, out, overwrite=overwrite)
    reports = _screen(output, data, places, plan, moderator or (), threshold, keep_unjudged)
    document = {
        "files": [one.as_dict() for one in reports],
        "rows": sum(one.rows for one in reports),
        "redacted": sum(one.redacted for one in reports),
        "dropped": sum(one.dropped for one in reports),
    }

    def show(console: Console) -> None:
        from tanren.cli.data.screen_page import show_reports

        show_reports(console, reports, findings)

    output.give(document, show)


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _require_effect(
    plan: Plan, out: Path | None, moderators: Sequence[str], threshold: float | None
) -> None:
    """Wishes that would silently come to nothing."""
    if plan.changes and out is None:
        remedy = "add --out FILE (the data itself is never changed)"
        raise mistake("--out", "nothing", "where the changed rows go", remedy)
    judges = [word for word in moderators if not word.startswith(WORDS)]
    if len(judges) > 1 or len(moderators) - len(judges) > 1:
        expected = "one words: and one other"
        raise mistake("--moderator", " ".join(moderators), expected, "screen twice")
    if threshold is not None and not judges:
        remedy = "add --moderator, or leave --threshold away"
        raise mistake("--threshold", f"{threshold}", "a moderator with scores", remedy)
    if judges and plan.of("unsafe") == "redact":
        found = "redact for unsafe messages"
        remedy = "add --drop unsafe or --report unsafe: a message cannot be cut out of its row"
        raise mistake("--action", found, "report or drop for them", remedy)


def _screen(
    output: Output,
    data: Sequence[Path],
    places: Sequence[Target | None],
    plan: Plan,
    moderators: Sequence[str],
    threshold: float | None,
    keep_unjudged: bool,
) -> list[FileReport]:
    from tanren.cli.check import reading
    from tanren.data.screen import Screener

    with contextlib.ExitStack() as stack:
        journal = _journal(places[0], moderators)
        if journal is not None:
            stack.enter_context(journal)
        words, judge = _moderators(moderators, threshold, journal)
        screener = Screener(plan, words, judge, keep_unjudged)
        reports = []
        for source, target in zip(data, places, strict=True):
            with reading(output.errors) as on_progress:
                reports.append(screener.screen(source, target, on_progress))
    if journal is not None:
        journal.path.unlink(missing_ok=True)  # the work is done: a later one has its own budget
    return reports


def _moderators(
    words: Sequence[str], threshold: float | None, journal: Journal | None
) -> tuple[WordList | None, Moderator | None]:
    from tanren.data.screen import read_words

    listed, judge = None, None
    for word in words:
        if word.startswith(WORDS):
            listed = read_words(Path(word.removeprefix(WORDS)))
        else:
            from tanren import privacy

            privacy.apply()
            from tanren.moderate import named_moderator

            judge = named_moderator(word, threshold=threshold, journal=journal)
    return listed, judge


def _journal(target: Target | None, moderators: Sequence[str]) -> Journal | None:
    """What an endpoint's requests did cost, kept beside the output until the work is done."""
    remote = [word for word in moderators if not word.startswith((WORDS, "guard:"))]
    if target is None or not remote:
        return None
    from tanren.endpoint import Journal

    return Journal(target.rows.with_name(target.rows.name + ".spending.jsonl"))
