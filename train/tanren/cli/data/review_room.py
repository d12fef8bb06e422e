"""Reviewing in a terminal: a row, its keys, what was decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from tanren.chat import Example
from tanren.cli.data.editing import EditorFault, Sheet
from tanren.cli.data.editing import edited as in_editor
from tanren.cli.display import counted, one_line, show_faults, text
from tanren.cli.keys import END
from tanren.data.review import Progress, Review, Row
from tanren.errors import Fault

KEYS = {
    "a": "accept",
    "e": "edit",
    "r": "reject",
    "n": "note",
    "s": "skip",
    "u": "undo",
    "q": "quit",
    "?": "help",
}
HELP = {
    "a": "take the row as it is",
    "e": "open it in your editor ($VISUAL, $EDITOR); what you save is taken if it has no fault",
    "r": "put it into the file of rejected rows",
    "n": "write a note on it; the row stays open",
    "s": "leave it undecided; the next review asks again",
    "u": "back to the row before; its decision is taken back",
    "q": "write the files and leave; later the review goes on here",
}
_STYLES = {"system": "magenta", "developer": "magenta", "user": "cyan", "assistant": "green"}
_SHOWN_FAULTS = 20


class Typed(Protocol):
    """`tanren.cli.keys.Keys`, or what stands for it."""

    def key(self) -> str: ...

    def line(self) -> str: ...


def talk(
    console: Console,
    review: Review,
    typed: Typed,
    *,
    edit: Callable[[Sheet], Sheet] = in_editor,
) -> None:
    """Show row after row until all are decided, the user quits, or the input ends."""
    room = _Room(console, review, typed, edit)
    row = review.next()
    if row is None:
        console.print(text("every chosen row is decided"))
        return
    console.print(text(_hint(), "dim"))
    while not room.left:
        if row is None:
            row = room.ask_at_the_end()
        else:
            room.show(row)
            row = room.ask(row)


class _Room:
    def __init__(
        self, console: Console, review: Review, typed: Typed, edit: Callable[[Sheet], Sheet]
    ) -> None:
        self._console = console
        self._review = review
        self._typed = typed
        self._edit = edit
        self.left = False

    # --- the row ----------------------------------------------------------------------------------

    def show(self, row: Row) -> None:
        progress = self._review.progress
        where = f"{self._review.position(row)} of {progress.chosen:,}"
        title = f"{where} - {one_line(Path(self._review.source).name)}:{row.line}"
        self._console.print()
        self._console.print(Rule(text(title, "bold"), align="left"))
        self._console.print(text(said(progress), "dim"))
        for reason in row.why:
            self._console.print(text(f"found: {one_line(reason)}", "yellow"))
        if row.entry.note:
            self._console.print(text(f"note: {one_line(row.entry.note)}", "yellow"))
        if row.example is None:
            self._console.print(text(row.text))
            self._faults("this row has faults: edit or reject it", row.faults)
            return
        show_example(self._console, row.example)
        self._faults("", row.example.warnings)

    def _faults(self, title: str, faults: tuple[Fault, ...] | list[Fault]) -> None:
        if title:
            self._console.print(text(title, "bold red"))
        show_faults(self._console, faults, limit=_SHOWN_FAULTS)

    # --- what is decided --------------------------------------------------------------------------

    def ask(self, row: Row) -> Row | None:
        """Until a key leads on: the row to show next, None at the end."""
        while True:
            self._console.print(_prompt(), end=" ")
            key = self._typed.key()
            self._console.print(text(KEYS.get(key, "leave" if key == END else "?")))
            if key in (END, "q"):
                self.left = True
                return None
            if key == "a" and row.faults:
                self._say("it has faults: edit or reject it")
            elif key in ("a", "r", "s"):
                {"a": self._review.accept, "r": self._review.reject, "s": self._review.skip}[key](
                    row
                )
                return self._review.next()
            elif key == "e":
                if self._edited(row):
                    return self._review.next()
            elif key == "n":
                row = self._noted(row)
            elif key == "u":
                before = self._review.undo()
                if before is not None:
                    return before
                self._say("there is no row before this one")
            else:
                self._help()

    def ask_at_the_end(self) -> Row | None:
        """The last decision can still be taken back."""
        self._console.print()
        while True:
            self._console.print(text("That was the last row. [u]ndo [q]uit", "bold"), end=" ")
            key = self._typed.key()
            self._console.print(text(key if key in ("u", "q") else ""))
            if key in (END, "q"):
                self.left = True
                return None
            if key == "u":
                return self._review.undo()

    def _noted(self, row: Row) -> Row:
        self._console.print(text("note (empty: none)>"), end=" ")
        noted = self._review.note(row, self._typed.line())
        self._say("noted" if noted.entry.note else "no note")
        return noted

    def _edited(self, row: Row) -> bool:
        """Whether an edit was taken over."""
        sheet = first = Sheet.of(row.value())
        while True:
            try:
                sheet = self._edit(sheet)
            except EditorFault as error:
                self._faults("not edited", [error.fault])
                return False
            if sheet == first:
                self._say("nothing was changed; `a` accepts the row as it is")
                return False
            value, faults = sheet.read(f"{self._review.source}:{row.line}")
            faults = faults or self._review.faults_of(row, value)
            if not faults:
                return self._take(row, value)
            self._faults("the edited row cannot be used", faults)
            if not self._again():
                self._say("the edit was dropped; the row is as it was")
                return False

    def _take(self, row: Row, value: Mapping[str, Any]) -> bool:
        self._review.edit(row, value)
        return True

    def _again(self) -> bool:
        """Whether to open the editor again on what was written."""
        while True:
            self._console.print(text("[e]dit again, [d]rop the edit>", "bold"), end=" ")
            key = self._typed.key()
            self._console.print(text(key if key in ("e", "d") else ""))
            if key == "e":
                return True
            if key in ("d", END):
                return False

    def _help(self) -> None:
        for key, meaning in HELP.items():
            self._console.print(text(f"  {key}  {KEYS[key]:7} {meaning}"))

    def _say(self, words: str) -> None:
        self._console.print(text(words, "dim"))


def show_example(console: Console, example: Example) -> None:
    """Messages one below the other, as wide as the terminal is."""
    for tool in example.tools:
        function = tool.get("function", {})
        console.print(text(f"tool: {one_line(str(function.get('name')))}", "dim"))
    for message in example.messages:
        console.print(_speaker(message))
        for words, style in _parts(message):
            console.print(Padding(text(words, style), (0, 0, 0, 2)))


def _speaker(message: Mapping[str, Any]) -> Text:
    role = message["role"]
    words = role if "name" not in message else f"{role} {one_line(message['name'])}"
    if message.get("weight") == 0:
        words += " (not trained)"
    return text(words, f"bold {_STYLES.get(role, 'yellow')}")


def _parts(message: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = []
    if message.get("reasoning_content"):
        parts.append((str(message["reasoning_content"]), "dim italic"))
    if message.get("content"):
        parts.append((str(message["content"]), ""))
    for call in message.get("tool_calls", ()):
        function = call["function"]
        parts.append((f"calls {function['name']}({function['arguments']})", "yellow"))
    return parts or [("(empty)", "dim")]


def said(progress: Progress) -> str:
    """`9 accepted, 1 edited, 2 rejected; 288 of 300 undecided`."""
    chosen = ""
    if progress.chosen != progress.rows:
        chosen = f", {progress.left:,} of them among the {progress.chosen:,} chosen"
    noted = f", {counted(progress.noted, 'note')}" if progress.noted else ""
    return (
        f"{progress.accepted:,} accepted, {progress.edited:,} edited, {progress.rejected:,} "
        f"rejected{noted}; {progress.undecided:,} of {progress.rows:,} undecided{chosen}"
    )


def _prompt() -> Text:
    return text(" ".join(f"[{key}]{word[1:]}" for key, word in KEYS.items() if key != "?"), "bold")


def _hint() -> str:
    return "press a key; ? explains them"
