"""Help answers at once, because nothing heavy is imported before there is work."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from cli.commands import ROOT, Ended, run

HEAVY = {"torch", "transformers", "peft", "datasets", "trl", "bitsandbytes", "accelerate"}
SECONDS = 0.4


def imported_by(*words: str, home: Path) -> set[str]:
    """Top-level modules that are loaded after a command."""
    code = (
        "import sys; from tanren.cli import main; main(sys.argv[1:]); "
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        capture_output=True,
        encoding="utf-8",
        cwd=home,
        env={"PYTHONPATH": str(ROOT / "train"), "PYTHONUTF8": "1"},
        check=True,
    )
    return set(ended.stderr.split())


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["check", "--help"],
        ["train", "--help"],
        ["chat", "--help"],
        ["eval", "--help"],
        ["eval", "import-ratings", "--help"],
        ["export", "--help"],
        ["runs", "--help"],
        ["runs"],
        ["runs", "show", "done"],
        ["runs", "diff", "done", "done"],
        ["config"],
        ["methods"],
        ["check", "良い[bold].jsonl"],
        ["train", "x.jsonl"],
        ["export", "x", "--dry-run"],
    ],
    ids=" ".join,
)
def test_no_command_imports_torch_before_it_needs_it(
    words: list[str], good: Path, finished: object, home: Path
) -> None:
    assert not HEAVY & imported_by(*words, home=home)


@pytest.mark.parametrize("words", [["--help"], ["check", "--help"]], ids=" ".join)
def test_help_answers_at_once(words: list[str], home: Path) -> None:
    """The best of several, in processor time: other work on the machine is not the subject."""
    assert min(processor_seconds(*words) for _ in range(5)) < SECONDS


def processor_seconds(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run(*words).code == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "command",
    [
        "check",
        "train",
        "run",
        "chat",
        "eval",
        "eval import-ratings",
        "export",
        "runs",
        "runs show",
        "runs diff",
        "config",
        "methods",
    ],
)
def test_every_command_explains_itself(command: str, home: Path) -> None:
    ended: Ended = run(*command.split(), "--help", COLUMNS="100")
    assert ended.code == 0
    assert "--json" in ended.out
    if command not in ("config", "methods"):
        assert f"tanren {command}" in ended.out.replace("Usage: ", "", 1), "an example stands there"


def test_no_command_at_all_shows_the_commands(home: Path) -> None:
    ended = run()
    assert ended.code == 0
    for command in ("check", "train", "chat", "eval", "export", "runs", "config", "methods"):
        assert command in ended.out
