"""`tanren data convert`: rows of any usual form become chats."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from tanren.cli.display import (
    count,
    counted,
    duration,
    heading,
    one_line,
    row,
    shell,
    show_faults,
    size,
    table,
    text,
)
from tanren.cli.options import Json
from tanren.cli.output import Output, mistake, of

if TYPE_CHECKING:
    from tanren.data.convert import Conversion, Settings

_Word = TypeVar("_Word", bound=str)
_SHOWN_CHARACTERS = 160
_LISTED_PLACES = 3


def convert(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Files (CSV, TSV, .xlsx, Parquet, JSON, JSONL; .gz), a folder, OWNER/DATASET, "
            "or - for standard input.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="Where to write; - is stdout. Without it: a preview."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    shape: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SHAPE",
            help="alpaca, sharegpt, prompt-completion, chat, columns, turns, choices or legacy.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="csv, tsv, xlsx, parquet, json or jsonl."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="COLUMN|TEMPLATE", help="The question: a column or Jinja."),
    ] = None,
    assistant: Annotated[
        str | None,
        typer.Option("--assistant", metavar="COLUMN|TEMPLATE", help="The answer, likewise."),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system", metavar="TEXT|@COLUMN", help="For every row without a system message."
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option("--template", metavar="FILE.yaml", help="A Jinja template per message."),
    ] = None,
    conversation: Annotated[
        str | None,
        typer.Option(
            "--conversation", metavar="COLUMN", help="Rows are messages; this is whose they are."
        ),
    ] = None,
    role: Annotated[
        str | None, typer.Option("--role", metavar="COLUMN", help="Who speaks in the row.")
    ] = None,
    content: Annotated[
        str | None, typer.Option("--content", metavar="COLUMN", help="What is said in the row.")
    ] = None,
    order: Annotated[
        str | None,
        typer.Option("--order", metavar="COLUMN", help="A number that orders a conversation."),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option("--roles", metavar="NAME=ROLE,...", help="Who is user, who is assistant."),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", metavar="NAME", help="Of text that is not UTF-8: cp932, ..."),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option("--delimiter", metavar="CHARACTER", help="Of a CSV file.")
    ] = None,
    header: Annotated[
        bool, typer.Option("--header/--no-header", help="Whether the first row names columns.")
    ] = True,
    sheet: Annotated[
        str | None, typer.Option("--sheet", metavar="NAME", help="Of an Excel file.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="The array of a JSON object.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Of a data set or folder.")
    ] = None,
    subset: Annotated[
        str | None, typer.Option("--subset", metavar="NAME", help="Configuration of a data set.")
    ] = None,
    keep_empty: Annotated[
        bool, typer.Option("--keep-empty", help="Keep rows with an empty question.")
    ] = False,
    keep_whitespace: Annotated[
        bool, typer.Option("--keep-whitespace", help="Do not trim texts.")
    ] = False,
    faulty: Annotated[
        str, typer.Option("--faulty", metavar="refuse|skip", help="What to do with faulty rows.")
    ] = "refuse",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Rows read at most.")
    ] = None,
    json: Json = False,
) -> None:
    """Make chat JSONL of rows in any usual form, and say how they were read.

    Format and shape are found out: Alpaca, ShareGPT, prompt/completion, chats,
    question and answer columns, multiple choice, one message a row. Without
    --out the first chats are shown and nothing is written. Rows without an
    answer are left out; rows that are faulty refuse the whole (exit code 2).

    \b
    tanren data convert kids_why.csv
    tanren data convert kids_why.csv --out kids_why.jsonl
    tanren data convert faq.xlsx --user 質問 --assistant 回答 --out faq.jsonl
    tanren data convert old.csv --encoding cp932 --out old.jsonl
    tanren data convert log.csv --conversation id --role who --content text \\
        --roles 客=user,店員=assistant --out log.jsonl
    tanren data convert qa.jsonl --user '{{ question }} ({{ topic }})' \\
        --assistant answer --system '短く答えてください。' --out qa.chat.jsonl
    """
    from tanren.data.convert import FORMATS, SHAPES, Settings

    output = of(context)
    if not inputs:
        remedy = "write `tanren data convert FILE`"
        raise mistake("tanren data convert", "no input", "a file or data set", remedy)
    if out == "-" and output.json:
        remedy = "name a file, or leave --json out"
        raise mistake("--out", "stdout, where the JSON document goes", "a file", remedy)
    settings = Settings(
        shape=_one_of("--from", shape, SHAPES),
        format=_one_of("--format", format, FORMATS),
        system=system,
        user=user,
        assistant=assistant,
        template=None if template is None else Path(template),
        conversation=conversation,
        role=role,
        content=content,
        order=order,
        roles=_roles(roles),
        encoding=encoding,
        delimiter=delimiter,
        header=header,
        sheet=sheet,
        key=key,
        split=split,
        subset=subset,
        keep_empty=keep_empty,
        keep_whitespace=keep_whitespace,
        skip_faulty=_one_of("--faulty", faulty, ("refuse", "skip")) == "skip",
        limit=limit,
        command=_as_written(context, leave_out=("json",)),
    )
    _carry_out(output, inputs, out, settings, overwrite=overwrite)


def _carry_out(
    output: Output, inputs: Sequence[str], out: str | None, settings: Settings, *, overwrite: bool
) -> None:
    from tanren.cli.check import reading
    from tanren.data import convert as converting

    if out is None:
        made = converting.preview(inputs, settings)
        refusal = None if settings.skip_faulty else converting.refusal(made.ledger)
        if refusal is not None and output.json:
            raise refusal
        output.give(made.as_dict(), lambda console: _show_preview(console, made, settings, inputs))
        if refusal is not None:
            raise refusal
        return
    with reading(output.errors) as on_progress:
        if out == "-":
            made = converting.convert_to(
                inputs, sys.stdout.buffer, settings, on_progress=on_progress
            )
            sys.stdout.buffer.flush()
        else:
            made = converting.convert(
                inputs, Path(out), settings, overwrite=overwrite, on_progress=on_progress
            )
    if out == "-":
        _show_result(output.errors, made)
    else:
        output.give(made.as_dict(), lambda console: _show_result(console, made))


# --- the words of the command line ----------------------------------------------------------------


def _one_of(option: str, written: str | None, known: Sequence[_Word]) -> _Word | None:
    if written is None:
        return None
    for word in known:
        if word == written:
            return word
    from tanren.strict_json import close_match

    meant = close_match(written, known)
    remedy = f"write {option} {meant}" if meant else "write one of them"
    raise mistake(option, repr(written), "|".join(known), remedy)


def _roles(written: str | None) -> Mapping[str, str]:
    found = {}
    for pair in (written or "").split(",") if written else ():
        name, equals, role = pair.rpartition("=")
        if not equals or not name.strip():
            remedy = "write --roles NAME=user,NAME=assistant"
            raise mistake("--roles", repr(pair), "NAME=ROLE", remedy)
        meant = _one_of("--roles", role.strip(), ("system", "user", "assistant", "tool"))
        assert meant is not None
        found[name.strip()] = meant
    return found


def _as_written(context: typer.Context, *, leave_out: Sequence[str]) -> str:
    """The command line as it could be typed again, for remedies that add to it."""
    words = ["tanren", "data", "convert"]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in leave_out:
            continue
        value = context.params.get(name)
        if parameter.param_type_name == "argument":
            words += value or []
        elif isinstance(value, bool):
            words.append(parameter.opts[0] if value else _off(parameter))
        else:
            words += [parameter.opts[0], str(value)]
    return shlex.join(words)


def _off(parameter: Any) -> str:
    return str((parameter.secondary_opts or parameter.opts)[0])


# --- pages ----------------------------------------------------------------------------------------


def _show_result(console: Console, made: Conversion) -> None:
    _show_reading(console, made)
    _show_ledger(console, made)
    words = counted(made.chats, "chat")
    if made.out is not None:
        words += f" in {made.out} ({size(made.bytes)})"
    rate = f", {duration(made.seconds)}" if made.seconds >= 1 else ""
    console.print(text(words + rate, "bold green"), soft_wrap=True)
    if made.ledger_file is not None:
        console.print(text(f"every row left out: {made.ledger_file}"), soft_wrap=True)
    if made.out is not None:
        command = f"tanren check {shell(made.out)}"
        more = f" ({counted(made.warnings, 'warning')} to look at)" if made.warnings else ""
        console.print(text(f"next: {command}{more}"), soft_wrap=True)


def _show_preview(
    console: Console, made: Conversion, settings: Settings, inputs: Sequence[str]
) -> None:
    _show_reading(console, made)
    for number, chat in enumerate(made.first, 1):
        heading(console, f"chat {number}")
        for message in chat["messages"]:
            said = message.get("content") or message.get("tool_calls") or ""
            words = one_line(str(said))
            cut = f"{words[:_SHOWN_CHARACTERS]}…" if len(words) > _SHOWN_CHARACTERS else words
            console.print(text(f"  {message['role']:>9}  {cut}"), soft_wrap=True)
    console.print()
    _show_ledger(console, made)
    if made.ledger.faulty_rows and settings.skip_faulty:
        show_faults(console, made.ledger.faults, limit=5)
    seen = "the first rows were read" if made.partial else "all rows were read"
    console.print(text(f"a preview: {seen}, nothing was written", "bold"))
    console.print(
        text(f"to write: {settings.command} --out {shell(_name(inputs))}"), soft_wrap=True
    )


def _name(inputs: Sequence[str]) -> str:
    """A name for the output that is none of the inputs."""
    stem = Path(inputs[0].removesuffix(".gz")).stem if inputs[0] != "-" else "chats"
    name = f"{stem or 'chats'}.jsonl"
    taken = {Path(word).name for word in inputs}
    return f"{stem}.chat.jsonl" if name in taken else name


def _show_reading(console: Console, made: Conversion) -> None:
    for part in made.parts:
        console.print(text(part.name, "bold"), soft_wrap=True)
        console.print(text(f"  {part.format}"), soft_wrap=True)
        console.print(text(f"  read as {part.shape}"), soft_wrap=True)
        if part.unused:
            named = ", ".join(
                f"{one_line(n)} ({counted(r, 'row')})" for n, r in part.unused.items()
            )
            console.print(text(f"  not used: {named}", "yellow"), soft_wrap=True)
        if part.blank:
            console.print(text(f"  {counted(part.blank, 'blank row')}"), soft_wrap=True)
    for words, times in made.tally.items():
        if times:
            console.print(text(f"  {words}: {count(times)}", "yellow"), soft_wrap=True)


def _show_ledger(console: Console, made: Conversion) -> None:
    ledger = made.ledger
    merged = "" if made.chats == ledger.rows_used else f" in {counted(made.chats, 'chat')}"
    words = f"{counted(ledger.rows_in, 'row')}: {count(ledger.rows_used)} used{merged}"
    console.print(text(f"{words}, {count(ledger.rows_left_out)} left out"), soft_wrap=True)
    if not ledger.reasons:
        return
    listed = table("Left out", "rows", "where", right=(1,))
    for name, reason in ledger.reasons.items():
        places = [one_line(place) for place in reason.places[:_LISTED_PLACES]]
        more = ", …" if reason.rows > len(places) else ""
        row(listed, name, count(reason.rows), ", ".join(places) + more)
    console.print(listed)
