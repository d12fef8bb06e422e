"""Talking in a terminal: prompt, commands, answers while they are written."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tanren.cli.conversation import BASE, TUNED, Asker, Conversation, Side
from tanren.cli.display import clean, text
from tanren.errors import UserError

WIDE = 100
"""Columns of a terminal from which on two answers stand beside each other."""

COMMANDS = {
    "/exit": "leave (or Ctrl-D)",
    "/reset": "begin a new conversation",
    "/system": "begin anew with the system message that follows; alone: without one",
    "/base": "show or hide the base's answer",
    "/help": "this list",
}


def talk(
    console: Console,
    asker: Asker,
    conversation: Conversation,
    *,
    with_base: bool,
    read: Callable[[str], str] = input,
) -> None:
    """Read and answer until /exit or the end of input. `read` shows a prompt, returns a line."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` editing and history
    console.print(text(f"{asker.session.name}: /help lists commands, Ctrl-D leaves", "dim"))
    room = _Room(console, asker, conversation, with_base)
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:  # an unfinished line is thrown away, as in a shell
            console.print()
            continue
        if line == "/exit":
            return
        if line and not room.obeys(line):
            room.answer(line)


class _Room:
    """What lasts from turn to turn."""

    def __init__(
        self, console: Console, asker: Asker, conversation: Conversation, with_base: bool
    ) -> None:
        self._console = console
        self._asker = asker
        self._conversation = conversation
        self._with_base = with_base

    def obeys(self, line: str) -> bool:
        """Carry out a command. False for a message, also one that merely begins with a slash."""
        word, _, rest = line.partition(" ")
        if word == "/help":
            for name, meaning in COMMANDS.items():
                self._console.print(text(f"{name:8} {meaning}"))
        elif word == "/reset":
            self._conversation.reset(self._conversation.system)
            self._say("a new conversation")
        elif word == "/system":
            self._conversation.reset(rest.strip() or None)
            self._say(
                "a new conversation "
                + ("with" if rest.strip() else "without")
                + " a system message"
            )
        elif word == "/base":
            self._toggle_base()
        else:
            return self._is_mistyped(word)
        return True

    def _toggle_base(self) -> None:
        if not self._asker.session.has_base:
            self._say("this model has no base beside it")
            return
        self._with_base = not self._with_base
        self._say("the base answers too" if self._with_base else "the tuned model alone answers")

    def _is_mistyped(self, word: str) -> bool:
        near = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.7)
        if word.startswith("/") and near:
            self._say(f"no command {word}; did you mean {near[0]}?")
            return True
        return False

    def _say(self, words: str) -> None:
        self._console.print(text(words, "dim"))

    def answer(self, message: str) -> None:
        """Show answers while they are written. One that Ctrl-C stopped is remembered so far."""
        sides = [TUNED, BASE] if self._with_base else [TUNED]
        answers: dict[str, str] = {}
        wide = len(sides) > 1 and self._console.width >= WIDE
        try:
            write = self._write_beside if wide else self._write_below
            write(message, sides, answers)
        except KeyboardInterrupt:
            self._console.print(text(" (stopped)", "dim"))
        except (
            UserError
        ) as error:  # too long for the model's context, or a role that its template refuses
            self._console.print(text(str(error), "bold red"), soft_wrap=True)
            self._say("/reset begins a new conversation")
        self._conversation.add(message, answers)

    def _write_below(self, message: str, sides: list[Side], answers: dict[str, str]) -> None:
        for side in sides:
            if len(sides) > 1:
                self._console.print(text(side, "bold"))
            with self._asker.pieces(self._conversation, message, side) as stream:
                for piece in stream:
                    answers[side] = answers.get(side, "") + piece
                    self._console.out(clean(piece), end="", highlight=False)
                    self._console.file.flush()
            self._console.print()

    def _write_beside(self, message: str, sides: list[Side], answers: dict[str, str]) -> None:
        with Live(
            columns(answers), console=self._console, refresh_per_second=12, auto_refresh=False
        ) as live:
            for side in sides:
                with self._asker.pieces(self._conversation, message, side) as stream:
                    for piece in stream:
                        answers[side] = answers.get(side, "") + piece
                        live.update(columns(answers), refresh=True)


def columns(answers: Mapping[str, str]) -> Table:
    """Tuned and base beside each other, half of the width each."""
    made = Table.grid(padding=(0, 2), expand=True)
    made.add_column(ratio=1, overflow="fold")
    made.add_column(ratio=1, overflow="fold")
    made.add_row(text(TUNED, "bold"), text(BASE, "bold dim"))
    made.add_row(text(answers.get(TUNED, "")), text(answers.get(BASE, ""), "dim"))
    return made


def show_answers(console: Console, answers: Mapping[str, str]) -> None:
    """Finished answers to one message."""
    if BASE not in answers:
        console.print(text(answers[TUNED]), soft_wrap=True)
    elif console.is_terminal and console.width >= WIDE:
        console.print(columns(answers))
    else:
        for side in (TUNED, BASE):
            line = Text(f"{side}: ", style="bold")
            console.print(line.append_text(text(answers[side])), soft_wrap=True)
