"""Comparisons carried out with real runs of a tiny model in processes of their own.

A start of Python with torch takes seconds, so that one comparison serves several laws.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from tanren.compare.audit import EDGE
from tanren.compare.carry_out import Compared, compare
from tanren.compare.data import Comparison
from tanren.compare.prepare import Prepared, prepare
from tanren.compare.settings import load_comparison
from tanren.config import load
from tanren.errors import RunError, UserError
from tanren.rundir import RunDirectory

STEPS = 4


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """A folder with rows to train on, to choose by and to test with."""
    folder = tmp_path_factory.mktemp("ground")
    tiny.write_rows(folder / "train.jsonl", 8)
    tiny.write_rows(folder / "valid.jsonl", 2, turns=2)
    tiny.write_rows(folder / "test.jsonl", 3)
    return folder


def asked(ground: Path, model: Path, **settings: Any) -> dict[str, Any]:
    base = {
        "model": {"name": str(model)},
        "data": {"train": str(ground / "train.jsonl"), "validation": str(ground / "valid.jsonl")},
        "method": {"name": "lora", "rank": 4},
        "training": {"batch_size": 2, "num_epochs": 1, "warmup_fraction": 0.0},
    }
    return {"base": base, **settings}


def silent(event: str, /, **fields: Any) -> None:
    """Tells nobody."""


def prepared(values: dict[str, Any], out: Path, tell: Any = silent) -> Prepared:
    return prepare(load_comparison(values), {}, out, "named", tell)


@pytest.fixture(scope="module")
def done(ground: Path, tiny_model: Callable[..., Path]) -> Compared:
    """Two methods, two seeds, a search of three rates for each, and a test."""
    values = asked(
        ground,
        tiny_model(),
        arms={
            "lora": {"method": "lora"},
            "lora_plus": {"method": "lora_plus"},
        },
        seeds=2,
        search={"trials": 3},
        test={"data": str(ground / "test.jsonl"), "max_new_tokens": 8, "retention": False},
        parallel=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANREN_DEVICE", "cpu")
        return compare(prepared(values, ground / "comparison"), silent)


def runs_of(done: Compared, arm: str) -> list[RunDirectory]:
    return [RunDirectory(run.path) for run in done.comparison.arm(arm).runs]


# --- what was run ---------------------------------------------------------------------------------


def test_every_arm_has_every_seed_and_ordinary_runs(done: Compared) -> None:
    for arm in done.comparison.arms:
        assert [(run.seed, run.outcome) for run in arm.runs] == [(1, "succeeded"), (2, "succeeded")]
        for run in arm.runs:
            folder = RunDirectory(run.path)
            assert folder.state() == "succeeded" and folder.proof_file.is_file()


def test_within_a_seed_arms_see_the_same_rows_in_the_same_order(done: Compared) -> None:
    orders = {
        arm.name: [run.facts["order_sha256"] for run in arm.runs] for arm in done.comparison.arms
    }
    assert orders["lora"] == orders["lora_plus"]
    assert len(set(orders["lora"])) == 2, "seeds differ in the order"


def test_settings_of_runs_differ_in_what_the_arms_say(done: Compared) -> None:
    for seed in (0, 1):
        one, other = (
            runs_of(done, name)[seed].config().model_dump() for name in ("lora", "lora_plus")
        )
        apart = {key for part in one for key in _apart(part, one[part], other[part])}
        assert apart == {
            "method.name",
            "method.lr_ratio",
            "method.embedding_learning_rate",
            "training.learning_rate",
        }


def _apart(name: str, one: Any, other: Any) -> set[str]:
    if isinstance(one, dict):
        keys = one.keys() | other.keys()
        return {f"{name}.{key}" for key in keys if one.get(key) != other.get(key)}
    return {name} if one != other else set()


def test_the_rate_is_the_best_of_the_search(done: Compared) -> None:
    arm = done.comparison.arm("lora_plus")
    assert arm.rate_source == "searched" and len(arm.tried) == 3
    best = min((one for one in arm.tried if one.loss is not None), key=lambda one: one.loss)
    assert arm.learning_rate == best.learning_rate
    assert {run.learning_rate for run in arm.runs} == {arm.learning_rate}


def test_trials_have_luck_of_their_own(done: Compared) -> None:
    trials = done.comparison.arm("lora_plus").tried
    seeds = {RunDirectory(trial.path).config().seed for trial in trials}
    assert seeds == {3} and not seeds & set(done.comparison.seeds)


def test_the_test_rows_were_asked_of_every_run_and_the_base(done: Compared) -> None:
    found = json.loads(
        next(done.folder.evaluations.glob("lora-*/evaluation.json")).read_text("utf-8")
    )
    assert list(found["answers"]) == ["base", "lora seed 1", "lora seed 2"]
    assert done.comparison.base, "measures of the model before tuning"


def test_the_folder_holds_the_whole_report(done: Compared) -> None:
    folder = done.folder.path
    for name in ("results.json", "results.csv", "report.md", "report.html", "recommended.yaml"):
        assert (folder / name).stat().st_size > 0, name
    assert Comparison.read(folder / "results.json") == done.comparison
    recommended = load(folder / "recommended.yaml")
    assert recommended.method.name in ("lora", "lora_plus")
    assert recommended.evaluation.samples == 4, "a person wants to see answers"


def test_it_is_fair_and_says_so(done: Compared) -> None:
    failed = {check.name for check in done.comparison.audit if not check.passed}
    assert failed <= {EDGE}, "three rates on four steps may well end at an edge"


# --- once more ------------------------------------------------------------------------------------


def test_the_same_comparison_again_trains_nothing(
    done: Compared, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = asked(
        ground,
        Path(done.comparison.shared["model.name"]),
        arms={
            "lora": {"method": "lora"},
            "lora_plus": {"method": "lora_plus"},
        },
        seeds=2,
        search={"trials": 3},
        parallel=1,
    )
    before = _stamps(done.folder.path)
    told: list[dict[str, Any]] = []

    def tell(event: str, /, **fields: Any) -> None:
        told.append({"event": event, **fields})

    again = compare(prepared(values, done.folder.path, tell), tell)
    runs = [event for event in told if event["event"] == "run"]
    assert len(runs) == 10 and all(run["kept"] for run in runs)
    assert _stamps(done.folder.path) == before
    assert [arm.runs for arm in again.comparison.arms] == [arm.runs for arm in done.comparison.arms]


def _stamps(folder: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in (folder / "runs").rglob("*") if f.is_file()}


def test_a_changed_row_is_another_run(
    done: Compared, ground: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """Kept runs are known by what was in the files, not by their names."""
    lines = (ground / "train.jsonl").read_text("utf-8").splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:-1]) + "\n", "utf-8")
    (tmp_path / "valid.jsonl").write_bytes((ground / "valid.jsonl").read_bytes())
    arms = {"a": {"method.rank": 2}, "b": {"method.rank": 4}}
    one = prepared(asked(ground, tiny_model(), arms=arms), tmp_path / "one")
    other = prepared(asked(tmp_path, tiny_model(), arms=arms), tmp_path / "other")
    moved = prepared(asked(ground, tiny_model(), arms=arms), tmp_path / "moved")

    def key(found: Prepared) -> str:
        arm = found.plan.arms[0]
        config = arm.config(rate=1e-3, seed=1)
        return found.folder.run(arm.name, config, arm.hashes).path.name

    assert key(one) == key(moved) != key(other)


# --- data size ------------------------------------------------------------------------------------


def test_arms_with_fewer_rows_make_as_many_steps(
    ground: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    grid = {"data.rows": [4, 8]}
    steps = prepared(asked(ground, tiny_model(), grid=grid, reference="rows 8"), tmp_path / "s")
    assert [arm.steps for arm in steps.plan.arms] == [STEPS, STEPS]
    small = steps.plan.arms[0].config(rate=1e-3, seed=1)
    from tanren.gate import examine

    assert examine(small).plan.steps == STEPS, "two passes over half of the rows"
    epochs = prepared(asked(ground, tiny_model(), grid=grid, equal="epochs"), tmp_path / "e")
    assert [arm.steps for arm in epochs.plan.arms] == [STEPS // 2, STEPS]


# --- refused before anything is trained -----------------------------------------------------------


def test_a_fault_in_the_last_arm_is_told_before_the_first_one_runs(
    ground: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    arms = {"fine": {}, "bogus": {"method.target_modules": ["no_such_layer"]}}
    with pytest.raises(UserError, match="no_such_layer"):
        prepared(asked(ground, tiny_model(), arms=arms), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_rows_are_a_fault(
    ground: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match="9"):
        prepared(asked(ground, tiny_model(), grid={"data.rows": [4, 9]}), tmp_path / "out")


def test_somebody_elses_folder_is_left_alone(
    ground: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(RunError, match="something else"):
        prepared(asked(ground, tiny_model(), grid={"method.rank": [1, 2]}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


# --- failures are results -------------------------------------------------------------------------


def test_an_arm_that_diverges_is_a_result(
    ground: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """A rate of 10 without a limit for the gradient: losses are no longer finite or absurd."""
    arms: dict[str, Any] = {
        "calm": {"training.learning_rate": 1e-3},
        "wild": {"training.learning_rate": 10.0, "training.max_grad_norm": 1e9,
                 "method.alpha": 1e30},
    }  # fmt: skip
    values = asked(ground, tiny_model(), arms=arms, seeds=1, parallel=2)
    found = compare(prepared(values, tmp_path / "out"), silent).comparison
    assert [run.outcome for run in found.arm("calm").runs] == ["succeeded"]
    (wild,) = found.arm("wild").runs
    assert wild.outcome == "diverged"
    assert "nan" in wild.why.lower() or "inf" in wild.why.lower()
    assert found.recommendation is not None and found.recommendation.arm == "calm"


# --- stopped and killed ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_comparison_that_was_ended_goes_on_and_comes_to_the_same(
    ground: Path, tmp_path: Path, tiny_model: Callable[..., Path], number: signal.Signals
) -> None:
    arms = {"a": {"training.learning_rate": 1e-3}, "b": {"training.learning_rate": 1e-2}}
    values = asked(ground, tiny_model(), arms=arms, seeds=2, parallel=2)
    settings = tmp_path / "c.yaml"
    settings.write_text(json.dumps(values), "utf-8")
    whole = compare(prepared(values, tmp_path / "whole"), silent).comparison
    out = tmp_path / "ended"
    words = [sys.executable, "-P", "-m", "tanren", "compare", str(settings), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(tiny.__file__).parents[1] / "train")}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    while not list(out.glob("runs/*/events.jsonl")):
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(number)
    process.wait()
    ended = subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=False)
    assert ended.returncode == 0
    found = Comparison.read(out / "results.json")
    for arm in whole.arms:
        assert [run.best_loss for run in found.arm(arm.name).runs] == [
            run.best_loss for run in arm.runs
        ]


# --- halving --------------------------------------------------------------------------------------


def test_halving_ends_the_arms_that_are_behind(
    ground: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """The reference stays whatever it is worth; who stays goes on with the very same run."""
    rates = {"slow": 1e-6, "idle": 1e-5, "good": 1e-2}
    arms = {name: {"training.learning_rate": rate} for name, rate in rates.items()}
    values = asked(
        ground, tiny_model(), arms=arms, seeds=1, reference="slow", parallel=2,
        halving={"eta": 3, "min_steps": 2},
    )  # fmt: skip
    found = compare(prepared(values, tmp_path / "out"), silent).comparison
    assert {arm.name: len(arm.finished) for arm in found.arms} == {"slow": 1, "idle": 0, "good": 1}
    assert "after 2 of 4 steps" in found.arm("idle").stopped
    (good,) = found.arm("good").runs
    events = [event["event"] for event in RunDirectory(good.path).events()]
    assert events.count("started") == 2, "paused at the rung, then gone on with"
    assert [step.step for step in good.steps] == [1, 2, 3, 4]
