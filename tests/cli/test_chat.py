"""Laws of talking: who remembers what, what stops an answer, what is a command."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tanren.cli.conversation import BASE, TUNED, Asker, Conversation
from tanren.cli.streams import CalmConsole
from tanren.cli.talk import WIDE, talk
from tanren.errors import Fault, UserError


class Script:
    """A stream that gives pieces; `Ctrl-C` among them is a real SIGINT to this process."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = iter(pieces)
        self.closed = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = next(self._pieces)
        if piece == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        return piece

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Speaker:
    """Says what its script says and keeps what it was told."""

    name = "speaker"

    def __init__(self, *answers: list[str], has_base: bool = True) -> None:
        self._answers = iter(answers)
        self.has_base = has_base
        self.read: list[tuple[str, list[dict[str, Any]]]] = []
        self.streams: list[Script] = []

    def stream(self, messages: list[dict[str, Any]], decoding: object, *, side: str) -> Script:
        if messages[-1]["content"] == "too long":
            raise UserError.of(Fault("conversations[0]", "900 tokens", "1 to 511", "shorten it"))
        self.read.append((side, messages))
        self.streams.append(Script(next(self._answers)))
        return self.streams[-1]


def converse(
    speaker: Speaker, *lines: str, with_base: bool = False, width: int = 80
) -> tuple[str, Conversation]:
    """What is on the screen after these lines were typed; the end of them is Ctrl-D."""
    typed = iter(lines)

    def read(prompt: str) -> str:
        line = next(typed, None)
        if line is None:
            raise EOFError
        if line == "Ctrl-C":
            raise KeyboardInterrupt
        return line

    console = CalmConsole(
        file=io.StringIO(), markup=False, highlight=False, width=width, force_terminal=True,
        color_system=None,
    )  # fmt: skip
    conversation = Conversation("be [red]")
    asker = Asker(speaker, None)  # type: ignore[arg-type]
    talk(console, asker, conversation, with_base=with_base, read=read)
    return console.file.getvalue(), conversation  # type: ignore[attr-defined]


def test_each_side_remembers_its_own_answers() -> None:
    speaker = Speaker(["t1"], ["b1"], ["t2"], ["b2"])
    shown, _ = converse(speaker, "one", "two", with_base=True)
    told = dict(speaker.read[2:])
    for side, own in ((TUNED, "t1"), (BASE, "b1")):
        assert told[side] == [
            {"role": "system", "content": "be [red]"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": own},
            {"role": "user", "content": "two"},
        ]
    assert shown.index("tuned") < shown.index("t1") < shown.index("base") < shown.index("b1")


def test_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    speaker = Speaker(["half", "Ctrl-C", "never"], ["whole"])
    shown, conversation = converse(speaker, "one", "two")
    assert "half" in shown and "never" not in shown and "(stopped)" in shown and "whole" in shown
    assert all(stream.closed for stream in speaker.streams), "the model was given free"
    assert conversation.messages(TUNED, "?")[1:3] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "half"},
    ]


def test_ctrl_c_at_the_prompt_only_drops_the_line() -> None:
    shown, conversation = converse(Speaker(["a"]), "Ctrl-C", "one")
    assert conversation.turns == 1 and "a" in shown


def test_ctrl_c_with_base_stops_both() -> None:
    speaker = Speaker(["half", "Ctrl-C"], ["never"])
    shown, _ = converse(speaker, "one", with_base=True)
    assert "never" not in shown and len(speaker.streams) == 1


def test_wide_terminals_show_both_beside_each_other() -> None:
    shown, _ = converse(Speaker(["左"], ["右"]), "one", with_base=True, width=WIDE)
    last = [line for line in shown.splitlines() if "右" in line][-1]
    assert last.index("左") < last.index("右")
    narrow, _ = converse(Speaker(["左"], ["右"]), "one", with_base=True, width=WIDE - 1)
    assert not any("左" in line and "右" in line for line in narrow.splitlines())


def test_commands_do_what_help_says() -> None:
    speaker = Speaker(["a"], ["b"], ["c"], ["d"], ["e"])
    shown, _ = converse(
        speaker, "/help", "one", "/reset", "two", "/system 新しい", "three", "/system", "four",
        "/exit", "never read",
    )  # fmt: skip
    read = [[message["content"] for message in messages] for _, messages in speaker.read]
    assert read == [["be [red]", "one"], ["be [red]", "two"], ["新しい", "three"], ["four"]]
    for command in ("/exit", "/reset", "/system", "/base", "/help"):
        assert command in shown


def test_base_is_switched_on_and_off() -> None:
    speaker = Speaker(["a"], ["b"], ["c"], ["d"])
    converse(speaker, "one", "/base", "two", "/base", "three")
    assert [side for side, _ in speaker.read] == [TUNED, TUNED, BASE, TUNED]
    without, _ = converse(Speaker(has_base=False), "/base")
    assert "no base beside it" in without


def test_a_mistyped_command_is_no_message_and_a_path_is_one() -> None:
    speaker = Speaker(["a"])
    shown, conversation = converse(speaker, "/exti", "/etc/hosts は何ですか")
    assert "did you mean /exit?" in shown
    assert conversation.turns == 1 and speaker.read[0][1][-1]["content"] == "/etc/hosts は何ですか"


def test_a_conversation_that_grew_too_long_says_so_and_goes_on() -> None:
    shown, conversation = converse(Speaker(["a"]), "too long", "short")
    assert "900 tokens" in shown and "/reset" in shown and conversation.turns == 1


@pytest.mark.parametrize("piece", ["[red]x[/red]", "\x1b[31mx"])
def test_what_the_model_says_is_never_markup_nor_control(piece: str) -> None:
    shown, _ = converse(Speaker([piece]), "one")
    assert piece.replace("\x1b", "\\x1b") in shown and "\x1b[31m" not in shown
