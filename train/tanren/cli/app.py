"""The commands, put together, and `main`: from words to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperGroup

from tanren.cli import (
    api_keys,
    chat,
    check,
    compare,
    data,
    eval,
    export,
    jobs,
    reference,
    runs,
    serve,
    streams,
    train,
)
from tanren.cli.options import Json
from tanren.cli.output import Output, mistake, of, opened
from tanren.cli.usage import usage_error
from tanren.errors import Interrupted, TanrenError

# The base of all that typer's parser raises; typer itself names only this one of them. All have
# `ctx` and `format_message`.
UsageMistake = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])


class Commands(TyperGroup):
    """Commands of one word, and of two: `eval import-ratings` stands beside `eval`, which takes any
    words.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        both = " ".join(args[:2])
        return super().resolve_command(ctx, [both, *args[2:]] if both in self.commands else args)


app = typer.Typer(
    name="tanren",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def tanren(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    json: Json = False,
) -> None:
    """Tune open models on your own chats, on your own machine, with proof of what was done.

    \b
    See what would be trained, train it, talk to it beside its base:
    tanren check chats.jsonl --model Qwen/Qwen3-0.6B
    tanren train chats.jsonl --model Qwen/Qwen3-0.6B
    tanren chat RUN --base
    """
    output = of(context)
    if version:
        _show_version(output)
    elif context.invoked_subcommand is None:
        if output.json:
            raise mistake("tanren", "no command", "one", "see tanren --help")
        typer.echo(context.get_help(), nl=False)


def _show_version(output: Output) -> None:
    from tanren import __version__

    output.give({"version": __version__}, lambda console: console.print(f"tanren {__version__}"))
    raise typer.Exit


app.command("check")(check.check)
app.command("train")(train.train)
app.command("run")(train.run)
app.command("chat")(chat.chat)
app.command("eval")(eval.evaluate)
app.command("eval import-ratings")(eval.import_ratings)
app.command("compare")(compare.compare)
app.command("sweep")(compare.sweep)
app.command("export")(export.export)
app.add_typer(runs.app, name="runs")
app.add_typer(data.app, name="data")
app.command("serve")(serve.serve)
app.add_typer(jobs.app, name="jobs")
app.add_typer(api_keys.app, name="keys")
app.command("config")(reference.config)
app.command("methods")(reference.methods)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code; it raises nothing."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    streams.prepare()
    _wait_calmly()
    with opened(as_json=_asks_for_json(words)) as output:
        code = _run(words, output)
    if arguments is None and code == Interrupted.exit_code:
        _leave(code)
    return code


def _wait_calmly() -> None:
    """Threads of torch that wait must not burn the core that another program works on.

    Read when torch is imported, which is later; what the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def _leave(code: int) -> NoReturn:
    """End the process with this code.

    After Ctrl-C in the middle of an import Python would end itself by SIGINT instead: it remembers
    an interrupted `exec`, which dataclasses use, although the exception was caught.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(words: list[str], output: Output) -> int:
    try:
        command = typer.main.get_command(app)
        with command.make_context("tanren", words, obj=output) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except UsageMistake as error:
        return output.fail(usage_error(error.format_message(), error.ctx, words))
    except TanrenError as error:
        return output.fail(error)
    except (KeyboardInterrupt, typer.Abort):
        return output.fail(Interrupted("interrupted"))
    except BrokenPipeError:  # the reader has left, which is its right
        return 0
    except Exception as error:  # the outermost wall: what nobody foresaw is told as our bug
        return output.fail_with_bug(error)
    return 0


def _asks_for_json(words: Sequence[str]) -> bool:
    if "--" in words:
        words = words[: words.index("--")]
    return "--json" in words and not {"-h", "--help"} & set(words)
