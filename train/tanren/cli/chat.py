"""`tanren chat`: talk to a tuned model, if wanted beside its base."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tanren.cli.conversation import BASE, TUNED, Asker, Conversation
from tanren.cli.display import text
from tanren.cli.options import Json
from tanren.cli.output import Output, of
from tanren.cli.request import require_text, require_values
from tanren.errors import DataError, Fault, ModelError


def chat(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL", help="A run, an adapter, a model folder or a hub name."
        ),
    ],
    base: Annotated[
        bool, typer.Option("--base", help="Show the base model's answer beside the tuned one.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="System message.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most tokens of an answer.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, metavar="T", help="0: the likeliest words; above: by chance.")
    ] = 0.0,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Makes answers by chance repeatable.")
    ] = None,
    message: Annotated[
        list[str] | None,
        typer.Option("--message", "-m", metavar="TEXT", help="Ask this and leave; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Talk to a run or a model; the answer is shown while it is written.

    In the terminal: /reset begins a new conversation, /system TEXT gives a
    system message, /base shows or hides the base's answer, Ctrl-C stops an
    answer, /exit or Ctrl-D leaves.

    Each --message begins a conversation of its own. Where stdin is no
    terminal, each of its lines is one turn of one conversation.

    \b
    tanren chat runs/mine --base
    tanren chat runs/mine --message "こんにちは" --message "お名前は？" --json
    tanren chat Qwen/Qwen3-0.6B < questions.txt
    """
    output = of(context)
    require_values({"RUN|MODEL": target})
    require_text([target, system, *(message or ())])
    asker = _asker(
        output, target, base, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    if message:
        conversations = [(Conversation(system), text) for text in message]
        _answer_all(output, asker, conversations, base)
    elif sys.stdin.isatty() and not output.json:
        from tanren.cli.talk import talk

        talk(output.console, asker, Conversation(system), with_base=base)
    else:
        one = Conversation(system)
        _answer_all(output, asker, ((one, line) for line in piped_turns()), base)


def _asker(
    output: Output,
    target: str,
    base: bool,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int | None,
) -> Asker:
    with output.errors.status(Text(f"loading {target}")):
        from tanren.generate import Decoding
        from tanren.session import open_session

        decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        session = open_session(target)
    if base and not session.has_base:
        raise ModelError.of(
            Fault(
                target,
                "a model with no base beside it",
                "a run or an adapter with --base",
                "leave --base away",
            )
        )
    return Asker(session, decoding)


def piped_turns() -> Iterator[str]:
    """The lines of stdin that are not blank. Raises DataError for text that is not UTF-8."""
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise DataError.of(
                Fault(
                    f"stdin:{number}", "bytes that are not UTF-8", "UTF-8 text", "convert it first"
                )
            ) from None
        if line:
            yield line


def _answer_all(
    output: Output,
    asker: Asker,
    turns: Sequence[tuple[Conversation, str]] | Iterator[tuple[Conversation, str]],
    base: bool,
) -> None:
    from tanren.cli.talk import show_answers

    answers: list[dict[str, Any]] = []
    for conversation, message in turns:
        if not output.json:
            output.console.print(text(f"> {message}", "bold"), soft_wrap=True)
        found = {"message": message, TUNED: asker.ask(conversation, message, TUNED)}
        if base:
            found[BASE] = asker.ask(conversation, message, BASE)
        conversation.add(message, found)
        answers.append(found)
        if not output.json:
            show_answers(output.console, found)
    output.give({"answers": answers}, _nothing_more)


def _nothing_more(console: Console) -> None:
    """Each answer was shown as soon as it was there."""
