"""Laws of lm-eval's benchmarks: the model's own prompts and numbers, one table, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
from evaluate.evaluating import Tuned, chat, records, write

from tanren.errors import ConfigError
from tanren.evaluate.benchmarks import (
    BenchmarkResult,
    Benchmarks,
    benchmark_metrics,
    ensure_benchmarks,
    results_of,
    unknown_task,
)
from tanren.evaluate.settings import BenchmarkConfig

FOLDER = os.environ.get("TANREN_LM_EVAL", "")
"""Where lm-eval lies, when it is not installed beside tanren."""
needs_lm_eval = pytest.mark.skipif(
    not FOLDER and find_spec("lm_eval") is None,
    reason="lm-eval is not installed (the extra tanren[lm-eval], or TANREN_LM_EVAL=its folder)",
)
RESULT = BenchmarkResult("colours", "acc", "none", 0.9, 0.1, True, 10, "2.0", 0)


# --- results --------------------------------------------------------------------------------------


def test_lm_evals_table_is_read_whole() -> None:
    done = {
        "results": {
            "math": {
                "name": "math", "alias": "math", "sample_len": 50,
                "exact_match,strict": 0.25, "exact_match_stderr,strict": 0.0625,
                "exact_match,loose": 0.5, "exact_match_stderr,loose": "N/A",
            },
            "all": {"name": "all", "alias": " - all", "acc,none": 0.75, "acc_stderr,none": 0.1},
            "blank": {"name": "blank", " ": " "},
        },
        "versions": {"math": 3.0},
        "n-shot": {"math": 5},
        "n-samples": {"math": {"original": 100, "effective": 50}},
        "higher_is_better": {"math": {"exact_match": True}},
    }  # fmt: skip
    strict, loose, group = results_of(done)
    assert strict == BenchmarkResult(
        "math", "exact_match", "strict", 0.25, 0.0625, True, 50, "3.0", 5
    )
    assert (loose.value, loose.stderr, loose.name) == (0.5, None, "lm_eval:math:exact_match:loose")
    assert (group.name, group.rows, group.higher_is_better) == ("lm_eval:all:acc", None, None)


def test_intervals_are_two_standard_errors_and_never_beyond_a_share() -> None:
    assert RESULT.interval == (pytest.approx(0.9 - 0.195996, abs=1e-6), 1.0)
    points = replace(RESULT, metric="bleu", value=31.0, stderr=2.0)
    assert points.unit == "points"
    assert points.interval == pytest.approx((31 - 3.919928, 31 + 3.919928))
    for unsure in (None, 0.0):
        assert replace(RESULT, stderr=unsure).interval == (None, None)


def test_models_that_were_not_asked_stand_in_the_table_with_nothing() -> None:
    found = {"a": Benchmarks((RESULT,), "0.4.13"), "b": Benchmarks((), "0.4.13")}
    (metric,) = benchmark_metrics(found, ["endpoint", "a", "b"])
    assert (metric.name, metric.title, metric.unit) == (
        "lm_eval:colours:acc", "colours (acc)", "share",
    )  # fmt: skip
    values = {name: value.value for name, value in metric.values.items()}
    assert values == {"endpoint": None, "a": 0.9, "b": None}
    assert metric.values["a"].rows == 10


def test_without_lm_eval_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # Python's own way to say: not there
    ensure_benchmarks(BenchmarkConfig())
    with pytest.raises(ConfigError, match=r'pip install "tanren\[lm-eval\]"'):
        ensure_benchmarks(BenchmarkConfig(tasks=("arc_easy",)))


def test_a_mistyped_task_is_told_the_near_one() -> None:
    assert "did you mean 'arc_easy'?" in str(unknown_task("arc_esay", ["gsm8k", "arc_easy"]))


# --- lm-eval itself -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


def python(*words: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    source = str(Path(__file__).parents[2] / "train")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (source, FOLDER))),
        "HF_HOME": str(home / "hf"),
        "TANREN_HOME": str(home),
        "TANREN_DEVICE": "cpu",
    }
    return subprocess.run(
        [sys.executable, "-P", *map(str, words)],
        cwd=home, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def told(tuned: Tuned, folder: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("lm_eval_alone.py")
    done = python(script, tiny.TINY_CHAT, tuned.run, folder, home=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)  # nothing else was printed
    return found


def values(told: dict[str, Any], run: str) -> dict[str, float]:
    return {one["metric"]: one["value"] for one in told["benchmarks"][run]["results"]}


@needs_lm_eval
def test_choices_are_weighed_after_the_prompt_that_the_model_knows(told: dict[str, Any]) -> None:
    """T1: the likelihoods are those after the chat template's own tokens, padded or not."""
    expected = told["expected"]
    assert expected["measured"] == pytest.approx(expected["likelihoods"], rel=1e-3, abs=1e-2)
    assert values(told, "picks None")["acc"] == pytest.approx(expected["acc"])


@needs_lm_eval
def test_answers_are_the_models_own_greedy_ones(told: dict[str, Any]) -> None:
    """Every second document expects what the model says to it."""
    assert values(told, "says None") == {"exact_match": 0.5}


@needs_lm_eval
def test_the_base_is_measured_with_the_adapter_switched_off(told: dict[str, Any]) -> None:
    assert told["switched_off"] == pytest.approx(told["plain"], rel=1e-4)
    assert told["tuned"] != pytest.approx(told["plain"], rel=1e-3)
    plain, tuned, switched_off = told["reads"]
    assert switched_off == pytest.approx(plain, rel=1e-4) != pytest.approx(tuned, rel=1e-3)
    assert told["tokenizer_kept"] is True


@needs_lm_eval
def test_what_was_asked_is_recorded_and_what_was_cut_is_counted(told: dict[str, Any]) -> None:
    short, long = told["benchmarks"]["picks 2"], told["benchmarks"]["picks_long None"]
    assert {one["rows"] for one in short["results"]} == {2}
    assert {one["version"] for one in short["results"]} == {"3.5"}
    assert short["settings"]["limit"] == 2 and short["settings"]["chat_template"] is True
    assert (short["shortened"], long["shortened"]) == (0, 4)
    assert short["progress"] == [[i, 8] for i in range(1, 9)]


@needs_lm_eval
def test_tasks_that_cannot_be_run_are_refused_with_their_reasons(told: dict[str, Any]) -> None:
    gone, hub = told["faults"]["gone hub"]
    assert gone.startswith("--lm-eval gone") and "nowhere.json" in gone
    assert hub.startswith("--lm-eval hub") and "HF_DATASETS_OFFLINE=0" in hub
    assert "--lm-eval unsafe" in told["faults"]["unsafe"][0]
    (endless,) = told["faults"]["endless"]
    assert "5000 new tokens" in endless and "1024" in endless


@needs_lm_eval
def test_benchmarks_stand_in_the_table_and_are_not_run_twice(
    told: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "test.jsonl", chat("Why?", "So."), chat("なぜ？", "そう。"))
    words = [
        "-m", "tanren", "eval", tiny.TINY_CHAT, "--data", data, "--max-new-tokens", "8",
        "--lm-eval", "picks,says", "--lm-eval-include", folder, "--json", "--out", tmp_path / "e",
    ]  # fmt: skip
    first = python(*words, home=tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    document = json.loads(first.stdout)
    found = {one["name"]: one["values"]["tiny-chat"] for one in document["metrics"]}
    assert found["lm_eval:says:exact_match"]["value"] == 0.5
    assert found["lm_eval:picks:acc"]["value"] == values(told, "picks None")["acc"]
    assert "picks (acc)" in (tmp_path / "e" / "report.md").read_text(encoding="utf-8")
    again = python(*words, "--resume", home=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    (journal,) = (tmp_path / "e" / "answers").glob("tiny-chat*.jsonl")
    assert sum("benchmarks" in record for record in records(journal)) == 1
