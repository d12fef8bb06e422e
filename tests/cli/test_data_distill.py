"""Laws of `tanren data distill`: what a person sees, what a program reads, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.commands import ROOT, Ended
from distill.distilling import settings, write_settings, write_texts
from distill.teacher import ideas, running_teacher
from endpoint.chat_server import Answer, ChatServer

from tanren.distill.distillation import Request
from tanren.distill.settings import load_distillation

Tanren = Callable[..., Ended]
CONFIGS = sorted((ROOT / "configs" / "distill").glob("*.yaml"))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with running_teacher() as running:
        yield running


@pytest.fixture
def config(home: Path, server: ChatServer) -> Path:
    source = write_texts(home / "texts", 8)
    return write_settings(home / "distill.yaml", settings(server.url, source))


def test_a_page_and_a_document_of_one_distillation(
    tanren: Tanren, config: Path, server: ChatServer
) -> None:
    ended = tanren("data", "distill", str(config), "--out", "o")
    assert ended.code == 0, ended.err
    for shown in ("accepted", "at first", "after repair", "median", "sd", "o/train.jsonl"):
        assert shown in ended.out
    asked = len(server.bodies)
    document = tanren("data", "distill", str(config), "--out", "o", "--json").document
    assert len(server.bodies) == asked, "the same command goes on, and there is nothing left"
    assert (document["rows"], document["accepted"], document["left"]) == (8, 8, 0)
    assert document["complete"] and document["folder"] == "o"
    assert document["lengths"]["least"] >= 95 and document["lengths"]["most"] <= 105
    assert json.loads(Path("o/summary.json").read_text(encoding="utf-8")) == document
    assert tanren("check", "o/train.jsonl").code == 0


def test_a_spent_budget_ends_with_1_and_says_how_to_go_on(
    tanren: Tanren, config: Path, server: ChatServer, home: Path
) -> None:
    values = settings(server.url, home / "texts", budget={"requests": 6}, concurrency=1)
    write_settings(config, values)
    ended = tanren("data", "distill", str(config), "--out", "o")
    assert ended.code == 1
    assert "budget.requests is 6" in ended.err and "raise the budget" in ended.err
    assert "8 rows are left" in ended.err and "left" in ended.out
    kept = Path("o/train.jsonl").read_text(encoding="utf-8").splitlines()
    assert 0 < len(kept) < 8
    write_settings(config, {**values, "budget": {"requests": 600}})
    assert tanren("data", "distill", str(config), "--out", "o").code == 0


def test_new_pairs_from_seeds(tanren: Tanren, config: Path, server: ChatServer) -> None:
    server.behave = ideas
    ended = tanren(
        "data", "distill", str(config), "--out", "o", "--count", "9", "--near", "0.7",
        "--from-ideas", str(ROOT / "data" / "taro.jsonl"),
    )  # fmt: skip
    assert ended.code == 1 or ended.code == 0, ended.err
    assert "nearly a seed" in ended.out and "candidates" in ended.out


@pytest.mark.parametrize(
    ("changes", "words", "where"),
    [
        ({}, ["gone.yaml"], "gone.yaml"),
        ({"out": None}, [], "out"),
        ({"source": "gone"}, ["--out", "o"], "gone"),
        ({"source": None}, ["--out", "o"], "source"),
        ({"constraints": [{"python": "a.py:f"}]}, ["--out", "o"], "constraints[0].python"),
        ({"teacher": "gone.yaml"}, ["--out", "o"], "gone.yaml"),
    ],
)
def test_mistakes_end_with_2_and_say_where(
    tanren: Tanren,
    config: Path,
    server: ChatServer,
    home: Path,
    changes: dict[str, Any],
    words: list[str],
    where: str,
) -> None:
    write_settings(config, {**settings(server.url, home / "texts"), **changes})
    given = words if words and words[0].endswith(".yaml") else [str(config), *words]
    ended = tanren("data", "distill", *given, "--json")
    assert ended.code == 2, ended.err
    assert any(where in fault["where"] for fault in ended.faults), ended.faults
    assert not server.bodies


def test_a_wrong_key_ends_with_the_remedy(tanren: Tanren, config: Path, server: ChatServer) -> None:
    server.behave = lambda _: Answer(status=401, body={"error": {"message": "bad key"}})
    ended = tanren("data", "distill", str(config), "--out", "o")
    assert ended.code == 2 and "bad key" in ended.err and "api_key_env" in ended.err


def test_limit_takes_the_first_rows(tanren: Tanren, config: Path) -> None:
    document = tanren(
        "data", "distill", str(config), "--out", "o", "--limit", "3", "--json"
    ).document
    assert document["rows"] == 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_ready_settings_are_sound(path: Path) -> None:
    from_ideas = "ideas" in path.stem
    loaded = load_distillation(path, {"out": "x"})
    request = Request.read(loaded, path, from_ideas=from_ideas, allow_python=False)
    assert request.constraints.length is not None
    assert "Change first" in path.read_text(encoding="utf-8")


def test_there_are_ready_settings() -> None:
    assert {path.stem for path in CONFIGS} >= {"summaries", "taro_ideas"}


def test_an_endpoint_needs_no_torch(config: Path, home: Path) -> None:
    code = (
        "import sys\nfrom tanren.cli import main\n"
        f"assert main(['data', 'distill', {str(config)!r}, '--out', 'o']) == 0\n"
        "heavy = ('torch', 'transformers', 'datasets')\n"
        "assert not [h for h in heavy if h in sys.modules]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "train"), "PATH": "", "PYTHONUTF8": "1"},
        cwd=home,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
