"""Reviewing from the keyboard: by a list of keys, through a pipe, and on a real terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.commands import ROOT, Ended, chat_line
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tanren.cli.data.editing import EditorFault, Sheet
from tanren.cli.data.review_room import talk
from tanren.cli.keys import END, Keys
from tanren.data.review import Review

Tanren = Callable[..., Ended]


class Pressed:
    """Keys from a list; a note is one item of several characters."""

    def __init__(self, *keys: str) -> None:
        self._keys = iter(keys)

    def key(self) -> str:
        return next(self._keys, END)

    def line(self) -> str:
        return next(self._keys, "")


@pytest.fixture
def data(home: Path) -> Path:
    path = home / "質問.jsonl"
    rows = [
        chat_line("空はなぜ青いの？" * 20, "[bold]光[/bold]。"),
        chat_line("a", "b"),
        chat_line("c", "d"),
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def out(home: Path) -> Path:
    return home / "out.jsonl"


def press(
    data: Path, out: Path, *keys: str, edit: Callable[[Sheet], Sheet] | None = None, width: int = 60
) -> str:
    """The page after these keys."""
    page = Console(file=io.StringIO(), width=width, record=True, markup=False, highlight=False)
    with Review(data, out, overwrite=False) as review:
        talk(page, review, Pressed(*keys), edit=edit or _no_editor)
        review.write()
    return page.export_text()


def _no_editor(sheet: Sheet) -> Sheet:
    raise AssertionError("nobody asked for an editor")


def replaced(old: str, new: str) -> Callable[[Sheet], Sheet]:
    """An editor that replaces text."""

    def edit(sheet: Sheet) -> Sheet:
        return Sheet(sheet.text.replace(old, new), sheet.suffix)

    return edit


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_row_its_place_and_the_state_are_shown_and_wrapped(data: Path, out: Path) -> None:
    page = press(data, out, "a", "r", "q")
    lines = page.splitlines()
    assert any("2 of 3 - 質問.jsonl:2" in line for line in lines)
    assert "1 accepted, 0 edited, 1 rejected; 1 of 3 undecided" in page
    assert "[bold]光[/bold]。" in page  # shown as it is, never as markup
    widths = [Console().measure(line).maximum for line in lines]
    assert max(widths) <= 60
    assert "".join(part.strip() for part in lines).count("空はなぜ青いの？") == 20  # nothing is cut


def test_each_key_does_what_it_says(data: Path, out: Path) -> None:
    page = press(data, out, "?", "n", "変だ", "s", "a", "r", "u", "a")
    assert "put it into the file of rejected rows" in page and "note: 変だ" not in page
    assert rows_of(out) == rows_of(data)[1:]
    assert "That was the last row" in page
    page = press(data, out, "x", "r")
    assert "note: 変だ" in page
    assert rows_of(out.with_name("out.jsonl.rejected.jsonl")) == rows_of(data)[:1]


def test_an_edit_is_taken_in_place_of_the_row(data: Path, out: Path) -> None:
    press(data, out, "e", "a", "a", edit=replaced("光", "ひかり"))
    assert rows_of(out)[0]["messages"][1]["content"] == "[bold]ひかり[/bold]。"
    assert rows_of(out)[1:] == rows_of(data)[1:]


def test_a_faulty_edit_is_shown_and_edited_again(data: Path, out: Path) -> None:
    edits = iter([replaced("assistant", "bot"), replaced("bot", "assistant"), replaced("光", "灯")])
    page = press(data, out, "e", "e", "u", "e", "q", edit=lambda sheet: next(edits)(sheet))
    assert "rename it to" in page or "assistant" in page
    assert "the edited row cannot be used" in page and "nothing was changed" in page
    assert rows_of(out)[0]["messages"][1]["content"] == "[bold]灯[/bold]。"


def test_a_faulty_edit_can_be_dropped(data: Path, out: Path) -> None:
    page = press(data, out, "e", "d", "a", "q", edit=replaced("assistant", "bot"))
    assert "the edit was dropped" in page
    assert rows_of(out) == rows_of(data)[:1]


@pytest.mark.parametrize("text", ["messages: [", "messages: []\nmessages: []\n", "- 1\n", "words"])
def test_what_is_no_row_is_said_with_its_place(data: Path, out: Path, text: str) -> None:
    page = press(data, out, "e", "d", "q", edit=lambda sheet: Sheet(text, sheet.suffix), width=300)
    assert "質問.jsonl:1" in page.partition("cannot be used")[2]
    assert "model:" not in page  # no advice that is meant for settings


def test_an_editor_that_fails_leaves_the_row_open(data: Path, out: Path) -> None:
    page = press(data, out, "e", "r", "q", edit=_broken)
    assert "not edited" in page and "exit code 3" in page
    assert rows_of(out.with_name("out.jsonl.rejected.jsonl")) == rows_of(data)[:1]


def _broken(sheet: Sheet) -> Sheet:
    from tanren.errors import Fault

    raise EditorFault(Fault("ed", "exit code 3", "0", "try again"))


def test_a_faulty_row_can_be_mended(home: Path, out: Path) -> None:
    data = home / "d.jsonl"
    data.write_text(chat_line("a", "b").replace("assistant", "bot") + "\n{nonsense\n", "utf-8")
    page = press(data, out, "a", "e", "r", edit=replaced("bot", "assistant"))
    assert "this row has faults" in page and "it has faults: edit or reject it" in page
    assert rows_of(out) == [json.loads(chat_line("a", "b"))]


TEXT = st.text(max_size=30) | st.sampled_from(
    ["no", "1e5", "2026-01-31", "a: b", "  x\n y \n", "~"]
)


@given(
    st.dictionaries(
        TEXT, TEXT | st.integers(-9, 9) | st.none() | st.lists(TEXT, max_size=2), max_size=3
    )
)
def test_a_sheet_says_exactly_the_row(row: dict[str, Any]) -> None:
    sheet = Sheet.of(row)
    assert sheet.read("here") == (row, [])


# --- keys -----------------------------------------------------------------------------------------


@pytest.fixture
def piped() -> Iterator[Callable[[bytes], Keys]]:
    descriptors = []

    def keys(typed: bytes) -> Keys:
        reading, writing = os.pipe()
        descriptors.append(reading)
        os.write(writing, typed)
        os.close(writing)
        return Keys(reading)

    yield keys
    for descriptor in descriptors:
        os.close(descriptor)


def test_keys_and_lines_of_a_pipe(piped: Callable[[bytes], Keys]) -> None:
    keys = piped("a\nR\r\nn日本語の注\nq\x1b[Ax".encode())
    assert [keys.key() for _ in range(3)] == ["a", "r", "n"]
    assert keys.line() == "日本語の注"
    assert [keys.key() for _ in range(4)] == ["q", "\x00", "x", END]
    assert keys.line() == ""


def test_the_end_of_input_leaves(piped: Callable[[bytes], Keys]) -> None:
    assert piped(b"").key() == END and piped(b"\x04a").key() == END


# --- the command ----------------------------------------------------------------------------------


def start(*words: str, **streams: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "train"), **streams.pop("env", {})}
    command = [sys.executable, "-P", "-m", "tanren", "data", "review", *words]
    return subprocess.Popen(command, env=environment, **streams)


def test_a_pipe_of_keys_reviews_and_gives_one_document(data: Path, out: Path, home: Path) -> None:
    pipe = subprocess.PIPE
    process = start(data.name, "--out", out.name, "--json", stdin=pipe, stdout=pipe, stderr=pipe)
    printed, page = process.communicate("anメモ\nr".encode(), timeout=60)
    assert process.returncode == 0, page.decode()
    found = json.loads(printed)
    counts = {name: found[name] for name in ("accepted", "edited", "rejected", "undecided", "rows")}
    assert counts == {"accepted": 1, "edited": 0, "rejected": 1, "undecided": 1, "rows": 3}
    assert "質問.jsonl:2" in page.decode()
    assert rows_of(out) == rows_of(data)[:1]


def test_a_note_survives_an_ascii_locale(data: Path, out: Path) -> None:
    """T26."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    pipe = subprocess.PIPE
    words = (data.name, "--out", out.name)
    process = start(*words, stdin=pipe, stdout=pipe, stderr=pipe, env=plain)
    printed, errors = process.communicate("nメモ\na".encode(), timeout=60)
    assert process.returncode == 0, errors
    assert "空はなぜ青いの？" in printed.decode("utf-8")
    journal = out.with_name("out.jsonl.review.jsonl").read_text(encoding="utf-8")
    assert json.loads(journal.splitlines()[0])["note"] == "メモ"


def test_without_a_decision_nothing_is_written(tanren: Tanren, data: Path, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tanren", "data", "review", data.name],
        env={**os.environ, "PYTHONPATH": str(ROOT / "train")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert b"nothing was decided" in done.stdout
    assert sorted(path.name for path in home.iterdir()) == [data.name]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["--only", "p", "--sample", "3"], "--only and --sample"),
        (["--only", "none.txt"], "none.txt"),
        (["--from-lint", "質問.jsonl"], "質問.jsonl"),
        (["--out", "no/such/out.jsonl"], "no/such/out.jsonl"),
        (["--out", "質問.jsonl"], "質問.jsonl"),
    ],
)
def test_mistakes_end_with_2(tanren: Tanren, data: Path, words: list[str], where: str) -> None:
    ended = tanren("data", "review", data.name, *words, "--json")
    assert ended.code == 2 and ended.faults[0]["where"] == where


class Terminal:
    """A program on a pseudo terminal."""

    def __init__(self, *words: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        screen = {"COLUMNS": "70", **environment}
        self.process = start(*words, stdin=slave, stdout=slave, stderr=slave, env=screen)
        os.close(slave)
        self.page = ""
        self._read = 0

    def expect(self, words: str, seconds: float = 60) -> None:
        """These words, behind all that was expected before."""
        end = time.monotonic() + seconds
        while (found := self.page.find(words, self._read)) < 0:
            assert time.monotonic() < end, self.page
            if select.select([self._master], [], [], 0.2)[0]:
                self.page += os.read(self._master, 65536).decode("utf-8", "replace")
        self._read = found + len(words)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def end(self) -> int:
        return self.process.wait(60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened = []

    def open_one(*words: str, **environment: str) -> Terminal:
        opened.append(Terminal(*words, **environment))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_on_a_real_terminal_keys_count_at_once_and_the_editor_opens(
    data: Path, out: Path, home: Path, terminal: Callable[..., Terminal]
) -> None:
    """No Enter is pressed; $VISUAL goes before $EDITOR and may have arguments."""
    script = home / "my editor.py"
    script.write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[2])\nassert sys.argv[1] == '-w'\n"
        "p.write_text(p.read_text('utf-8').replace('光', '灯'), 'utf-8')\n",
        encoding="utf-8",
    )
    editor = f"{sys.executable} '{script}' -w"
    screen = terminal(data.name, "--out", out.name, VISUAL=editor, EDITOR="false")
    screen.expect("[q]uit")
    screen.press("e")
    screen.expect("2 of 3")
    screen.expect("[q]uit")
    screen.press("n")
    screen.expect("note (empty: none)>")
    screen.press("短い\n")
    screen.expect("[q]uit")
    screen.press("\x1b[A")  # an arrow means nothing
    screen.expect("[q]uit")
    screen.press("aq")  # typed ahead
    screen.expect("go on:")
    assert screen.end() == 0
    assert rows_of(out)[0]["messages"][1]["content"] == "[bold]灯[/bold]。"
    assert rows_of(out)[1:] == rows_of(data)[1:2]
    journal = out.with_name("out.jsonl.review.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["do"] for line in journal.splitlines()] == ["edit", "note", "accept"]


def test_ctrl_c_keeps_every_decision(
    data: Path, out: Path, home: Path, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal(data.name, "--out", out.name)
    screen.expect("[q]uit")
    screen.press("a")
    screen.expect("2 of 3")
    screen.expect("[q]uit")
    screen.process.send_signal(signal.SIGINT)
    screen.expect("every decision is kept")
    assert screen.end() == 130
    assert rows_of(out) == rows_of(data)[:1]
