"""Folders, data and runs for the tests of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.commands import Ended, chat_line, make_run

from tanren.cli import main
from tanren.rundir import RunDirectory


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, where runs lie too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANREN_HOME", str(tmp_path))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "RANK", "TANREN_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def tanren(home: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The command line in this process."""

    def call(*words: str) -> Ended:
        capfd.readouterr()
        code = main(words)
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return call


@pytest.fixture
def good(home: Path) -> Path:
    """Three rows, one of them with markup of two kinds in it."""
    rows = [chat_line("日本語", "はい"), chat_line("[red]?", "[/red]!"), chat_line("a", "b")]
    path = home / "良い[bold].jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def bad(home: Path) -> Path:
    """Thirty rows with a fault each."""
    rows = [json.dumps({"messages": [{"role": f"[red]{i}", "content": "x"}]}) for i in range(30)]
    path = home / "bad.jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def finished(home: Path) -> RunDirectory:
    return make_run(home / "runs" / "done")
