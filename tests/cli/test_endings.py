"""How commands end: exit codes, bugs, interruptions, readers that leave, ASCII locales."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.commands import ROOT, Ended, chat_line, run, start

from tanren.cli.output import Output
from tanren.cli.streams import CalmConsole
from tanren.errors import DivergenceError, Fault, Interrupted
from tanren.rundir import RunDirectory

Tanren = Callable[..., Ended]

BUG = textwrap.dedent(
    """
    import sys
    from tanren.cli.app import app, main

    @app.command("explode")
    def explode(json: bool = False) -> None:
        raise ZeroDivisionError("[red]日本語")

    sys.exit(main(sys.argv[1:]))
    """
)


def explode(*words: str, **environment: str) -> Ended:
    ended = subprocess.run(
        [sys.executable, "-P", "-c", BUG, "explode", *words],
        capture_output=True,
        encoding="utf-8",
        env={"PYTHONPATH": str(ROOT / "train"), "PYTHONUTF8": "1", **environment},
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_an_unforeseen_exception_is_called_our_bug() -> None:
    """T25: cause and traceback, for people and in the document."""
    ended = explode()
    assert ended.code == 1
    assert ended.out == ""
    assert "Traceback" in ended.err and "not your mistake" in ended.err
    assert "ZeroDivisionError: [red]日本語" in ended.err
    error = explode("--json").document["error"]
    assert error["exit_code"] == 1
    assert "ZeroDivisionError" in error["message"] and "Traceback" in error["traceback"]


def test_a_mistake_has_no_traceback_unless_debugging(home: Path) -> None:
    assert "Traceback" not in run("runs", "show", "nowhere").err
    assert "Traceback" in run("runs", "show", "nowhere", TANREN_DEBUG="1").err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DivergenceError("x", [Fault("a", "b", "c", "d")]), 1),
        (Interrupted("stopped; go on with: tanren train --resume runs/x"), 130),
    ],
)
def test_failing_returns_the_code_of_the_error(
    error: DivergenceError | Interrupted, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output(CalmConsole(), CalmConsole(stderr=True, width=200), None)
    assert output.fail(error) == code
    assert error.message in capsys.readouterr().err


@pytest.mark.parametrize("pause", [0.02, 0.2, 1.0])
def test_ctrl_c_ends_with_130_and_a_document(home: Path, pause: float) -> None:
    """The survey waits for more rows; with a short pause the signal also meets imports."""
    pipe = home / "pipe.jsonl"
    os.mkfifo(pipe)
    process = start("check", str(pipe), "--json")
    with open(pipe, "wb") as writer:  # opens when the command has opened its end
        writer.write(chat_line("a", "b").encode() + b"\n")
        writer.flush()
        time.sleep(pause)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    ended = Ended(process.returncode, out.decode(), err.decode())
    assert ended.code == 130
    assert ended.document["error"] == {"message": "interrupted", "faults": [], "exit_code": 130}
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("words", ["config", "methods", "config --json"])
def test_a_reader_that_leaves_is_no_failure(words: str) -> None:
    command = f'set -o pipefail; "{sys.executable}" -P -m tanren {words} | head -c 10'
    ended = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "train")},
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stderr == b""
    assert len(ended.stdout) == 10


def test_closed_streams_are_no_failure() -> None:
    command = f'"{sys.executable}" -P -m tanren config >&- 2>&-'
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "train")}
    assert subprocess.run(["bash", "-c", command], env=environment).returncode == 0


ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": None, "LANG": None}
HARD_ASCII = {**ASCII, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("environment", [ASCII, HARD_ASCII], ids=["LC_ALL=C", "no UTF-8 mode"])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["page", "document"])
def test_ascii_locales_show_japanese(
    home: Path, finished: RunDirectory, environment: dict[str, str | None], form: list[str]
) -> None:
    """T26."""
    ended = run("runs", "show", "done", *form, **environment)
    assert ended.code == 0, ended.err
    assert "[red]日本語" in ended.out


@pytest.mark.parametrize("environment", [ASCII, HARD_ASCII], ids=["LC_ALL=C", "no UTF-8 mode"])
def test_ascii_locales_read_japanese_paths(good: Path, environment: dict[str, str | None]) -> None:
    """T26: rows and the file's name come through, as a page and as a document."""
    page = run("check", good.name, **environment)
    assert page.code == 0, page.err
    document = run("check", good.name, "--json", **environment)
    assert document.code == 0, document.err
    assert document.document["train"]["counts"]["examples"] == 3


def test_a_locale_that_cannot_name_the_file_is_told_how(good: Path) -> None:
    """T26: settings are text, and bytes in disguise would not survive in config.yaml."""
    ended = run("train", good.name, "--model", "m", "--json", **HARD_ASCII)
    assert ended.code == 2
    assert "PYTHONUTF8=1" in ended.faults[0]["remedy"] and ended.faults[0]["where"].isascii()


def test_an_encoding_that_was_asked_for_is_kept(home: Path, finished: RunDirectory) -> None:
    """Nothing is lost and nothing raised: what ASCII cannot hold is escaped."""
    ended = run("runs", "show", "done", PYTHONIOENCODING="ascii")
    assert ended.code == 0, ended.err
    assert ended.out.isascii() and "\\u65e5\\u672c\\u8a9e" in ended.out
    assert run("runs", "show", "done", "--json", PYTHONIOENCODING="ascii").document["id"] == "done"


def test_the_other_processes_of_torchrun_are_silent(home: Path) -> None:
    """T35: N processes do not say the same thing N times."""
    for form in ([], ["--json"]):
        first, other = (run("train", "x.jsonl", *form, RANK=rank) for rank in ("0", "1"))
        assert first.code == other.code == 2
        assert first.out + first.err and not other.out + other.err


def test_a_bug_in_another_process_is_not_hidden() -> None:
    assert "Traceback" in explode(RANK="1").err


def test_no_color_is_respected(home: Path, finished: RunDirectory) -> None:
    assert "\x1b[3" in run("runs", FORCE_COLOR="1").out
    assert "\x1b[3" not in run("runs", FORCE_COLOR="1", NO_COLOR="1").out
    assert "\x1b" not in run("runs").out
