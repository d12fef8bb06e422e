"""Laws of `tanren compare` and `tanren sweep`: what a person sees and a program reads, and how they
end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from cli.commands import Ended, run

from tanren.compare.data import Comparison
from tanren.config import load

Tanren = Callable[..., Ended]

ASCII: dict[str, str | None] = {"LC_ALL": "C", "LANG": None, "PYTHONIOENCODING": None}
HARD_ASCII = {**ASCII, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANREN_DEVICE", "cpu")


@pytest.fixture
def mine(home: Path, tiny_model: Callable[..., Path]) -> Path:
    """A run's settings that end after two steps, beside data whose names are no ASCII."""
    tiny.write_rows(home / "学習[bold].jsonl", 6)
    tiny.write_rows(home / "検証.jsonl", 2, turns=2)
    values: dict[str, Any] = {
        "model": {"name": str(tiny_model())},
        "data": {"train": "学習[bold].jsonl", "validation": "検証.jsonl"},
        "method": {"name": "lora", "rank": 4},
        "training": {"batch_size": 2, "max_steps": 2, "warmup_fraction": 0.0},
    }
    return _yaml(home / "mine.yaml", values)


def _yaml(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")  # YAML has all JSON
    return path


def entries(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


# --- what would be done ---------------------------------------------------------------------------


def test_a_dry_run_lists_the_arms_and_leaves_nothing(
    tanren: Tanren, mine: Path, home: Path
) -> None:
    before = entries(home)
    ended = tanren("compare", str(mine), "--methods", "lora,dora,lora_plus", "--dry-run")
    assert ended.code == 0, ended.err
    for shown in ("3 arms", "method=dora", "searched around", "Nothing was trained"):
        assert shown in ended.out
    assert "at most 24 runs: 3 seeds an arm and the search" in ended.out, "3 arms x (5 + 3)"
    found = tanren("compare", str(mine), "--dry-run", "--json", "--trials", "0").document
    assert [arm["name"] for arm in found["arms"]] == ["lora", "qlora", "dora", "lora_plus"]
    assert found["most_runs"] == 12 and not any(arm["searched"] for arm in found["arms"])
    assert {arm["steps"] for arm in found["arms"]} == {2}, "no method trains longer than another"
    assert entries(home) == before


def test_a_sweep_is_a_comparison_of_values(tanren: Tanren, mine: Path, home: Path) -> None:
    """A setting with one value is the same for all; where the rate is the axis none is searched."""
    before = entries(home)
    words = ("training.learning_rate=1e-4,1e-3", "data.rows=3,6", "method.rank=2")
    ended = tanren("sweep", str(mine), *words, "--seeds", "7,9", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    arms = {arm["name"]: arm for arm in ended.document["arms"]}
    assert list(arms) == [
        f"learning_rate {rate} rows {rows}" for rate in ("0.0001", "0.001") for rows in (3, 6)
    ]
    assert arms["learning_rate 0.001 rows 3"]["learning_rate"] == 1e-3
    assert ended.document["most_runs"] == 8 and not any(arm["searched"] for arm in arms.values())
    assert entries(home) == before, "the files of fewer rows are gone too"


# --- requests that cannot be carried out ----------------------------------------------------------

WRONG = {
    "no file": (["compare"], "tanren compare", "CONFIG.yaml"),
    "no such file": (["compare", "no.yaml"], "no.yaml", ""),
    "a folder": (["compare", "."], ".", "CONFIG.yaml"),
    "two files": (["compare", "mine.yaml", "other.yaml"], "arguments", "name one"),
    "no model": (["compare", "学習[bold].jsonl"], "--model", "add --model"),
    "unknown method": (["compare", "mine.yaml", "--methods", "lora,dorra"], "dorra", "'dora'"),
    "one arm": (["compare", "mine.yaml", "--methods", "lora"], "arms", "add a method"),
    "a method twice": (["compare", "mine.yaml", "--methods", "lora,lora"], "grid", ""),
    "no method": (["compare", "mine.yaml", "--methods", ""], "--methods", "write a value"),
    "two axes of one name": (
        ["compare", "mine.yaml", "--grid", "method.rank=2,4", "--grid", "method.rank=8,16"],
        "method.rank", "join them",
    ),
    "an axis without values": (["compare", "mine.yaml", "--grid", "method.rank"], "rank", "8,16"),
    "an unknown axis": (["compare", "mine.yaml", "--grid", "method.rnk=2,4"], "rnk", "'rank'"),
    "a seed as an axis": (["compare", "mine.yaml", "--grid", "seed=2,4"], "seed", "seeds"),
    "an unknown setting": (["compare", "mine.yaml", "data.trian=a"], "data.trian", "'train'"),
    "bad seeds": (["compare", "mine.yaml", "--seeds", "many"], "--seeds", "--seeds 3"),
    "a seed twice": (["compare", "mine.yaml", "--seeds", "1,1"], "seeds", "change"),
    "no seed": (["compare", "mine.yaml", "--seeds", "0"], "seeds", "change"),
    "no validation": (
        ["compare", "mine.yaml", "data.validation=null"], "data.validation", "name a file",
    ),
    "missing validation": (["compare", "mine.yaml", "--valid", "no.jsonl"], "no.jsonl", "検証"),
    "missing test file": (["compare", "mine.yaml", "--test", "no.jsonl"], "no.jsonl", "検証"),
    "a metric without a test": (["compare", "mine.yaml", "--metric", "bleu"], "test.data", "add"),
    "unknown metric": (
        ["compare", "mine.yaml", "--test", "検証.jsonl", "--metric", "blue"], "metric", "'bleu'",
    ),
    "unknown main": (["compare", "main.yaml"], "main", "choose"),
    "unknown reference": (["compare", "mine.yaml", "--reference", "dola"], "reference", "name one"),
    "no process": (["compare", "mine.yaml", "--parallel", "0"], "--parallel", "--help"),
    "bad parallel": (["compare", "mine.yaml", "--parallel", "x"], "--parallel", "--help"),
    "bad parallel in the file": (["compare", "parallel.yaml"], "parallel", "change"),
    "too many rows": (["sweep", "mine.yaml", "data.rows=2,7"], "学習[bold].jsonl", "at most 6"),
    "something else there": (["compare", "mine.yaml", "--out", "taken"], "taken", "--out"),
    "a sweep without values": (["sweep", "mine.yaml"], "tanren sweep", "method.rank=4,16,64"),
    "a sweep of one value": (["sweep", "mine.yaml", "method.rank=4"], "tanren sweep", "4,16,64"),
    "a sweep without a file": (["sweep", "method.rank=4,8"], "tanren sweep", "CONFIG.yaml"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "where", "remedy"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_ends_with_2_and_leaves_nothing(
    tanren: Tanren, mine: Path, home: Path, words: list[str], where: str, remedy: str
) -> None:
    arms = {"arms": {"a": {"method": "lora"}, "b": {"method": "dora"}}, "base": "mine.yaml"}
    _yaml(home / "main.yaml", {**arms, "main": "blue"})
    _yaml(home / "parallel.yaml", {**arms, "parallel": 0})
    (home / "taken").mkdir()
    (home / "taken" / "notes.txt").write_text("kept", encoding="utf-8")
    before = entries(home)
    ended = tanren(*words, "--json")
    assert ended.code == 2, ended.out + ended.err
    faults = [fault for fault in ended.faults if where in f"{fault['where']} {fault['found']}"]
    assert any(remedy in fault["remedy"] for fault in faults), ended.faults
    assert "Traceback" not in ended.err
    assert entries(home) == before


def test_faults_of_the_file_are_told_all_at_once(tanren: Tanren, mine: Path, home: Path) -> None:
    wrong = {"base": "mine.yaml", "arms": {}, "serach": {}, "search": {"trails": 3}, "seeds": "x"}
    ended = tanren("compare", str(_yaml(home / "wrong.yaml", wrong)))
    assert ended.code == 2
    for told in ("serach", "'search'", "search.trails", "'trials'", "wrong.yaml seeds"):
        assert told in ended.err


def test_the_folder_of_a_comparison_is_no_settings(tanren: Tanren, home: Path) -> None:
    _yaml(home / "comparison.yaml", {})
    ended = tanren("compare", str(home))
    assert ended.code == 2 and f"tanren compare {home}/comparison.yaml" in ended.err


# --- comparisons that are carried out -------------------------------------------------------------


def test_two_arms_are_trained_once_and_then_kept(tanren: Tanren, mine: Path, home: Path) -> None:
    """The first start is in an ASCII locale (T26): names of arms and files are Japanese."""
    words = _comparison(mine, home)
    first = run(*words, **ASCII, COLUMNS="120")
    assert first.code == 0, first.err
    assert "[2/2]" in first.out and "kept from before" not in first.out
    found = Comparison.read(home / "comparisons" / "比べる" / "results.json")
    assert [(arm.name, len(arm.finished)) for arm in found.arms] == [("小さい", 1), ("大きい", 1)]
    for shown in (*found.sentences, "One seed", "(reference)", "1/1"):
        assert shown in first.out
    for arm in found.arms:
        loss = arm.measures["validation_loss"].mean
        assert loss is not None and f"{loss:.4f}" in first.out
    assert first.out.count("recommended.yaml") == 1
    _trains_nothing(tanren, words, home, found)
    recommended = load(home / "comparisons" / "比べる" / "recommended.yaml")
    assert recommended.method.name == "lora" and recommended.data.train == "学習[bold].jsonl"


def _comparison(mine: Path, home: Path) -> tuple[str, ...]:
    values = {
        "base": str(mine),
        "arms": {"小さい": {"method.rank": 2}, "大きい": {"method.rank": 8}},
    }
    file = _yaml(home / "比べる.yaml", values)
    return ("compare", file.name, "--trials", "0", "--seeds", "1", "--parallel", "2")


def _trains_nothing(tanren: Tanren, words: tuple[str, ...], home: Path, before: Comparison) -> None:
    runs = home / "comparisons" / "比べる" / "runs"
    stamps = {file: file.stat().st_mtime_ns for file in runs.rglob("*") if file.is_file()}
    page = tanren(*words)
    assert page.code == 0, page.err
    assert page.out.count("kept from before") == 2
    for sentence in before.sentences:
        assert sentence in " ".join(page.out.split())
    ended = tanren(*words, "--json")
    assert ended.code == 0 and "kept from before" in ended.err
    document = ended.document
    assert document["folder"] == "comparisons/比べる" or Path(document["folder"]).is_dir()
    assert document["sentences"] == list(before.sentences)
    assert [arm["name"] for arm in document["arms"]] == [arm.name for arm in before.arms]
    assert not any("steps" in run for arm in document["arms"] for run in arm["runs"])
    assert {f: f.stat().st_mtime_ns for f in runs.rglob("*") if f.is_file()} == stamps


def test_where_no_run_finishes_it_ends_with_1_and_the_reasons(
    tanren: Tanren, mine: Path, home: Path
) -> None:
    """Every rate of every search diverges: nothing is left to compare."""
    wild = ("training.max_grad_norm=1e9", "method.alpha=1e30")
    words = ("--methods", "lora,lora_plus", "--trials", "1", "--seeds", "1", "--parallel", "2")
    ended = tanren("compare", str(mine), *words, *wild)
    assert ended.code == 1, ended.out + ended.err
    assert "No run finished: there is nothing to compare" in ended.out
    for arm in ("lora", "lora_plus"):
        assert re.search(rf"{arm}, trial at \S+: diverged: training diverged", ended.out)
        assert f"{arm}: every learning rate that was tried failed" in ended.out
    assert "recommended" not in ended.out and "Traceback" not in ended.err
    (folder,) = (home / "comparisons").iterdir()
    assert (folder / "report.html").is_file() and not (folder / "recommended.yaml").exists()


def test_a_locale_that_cannot_name_the_file_is_told_how(mine: Path, home: Path) -> None:
    """T26: settings are text, and bytes in disguise would not survive in them."""
    ended = run("compare", "学習[bold].jsonl", "--model", "m", "--json", **HARD_ASCII)
    assert ended.code == 2 and "PYTHONUTF8=1" in ended.faults[0]["remedy"]
