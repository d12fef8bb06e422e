"""What a run directory says of itself: written here by hand as runs write it, and once for real."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tanren.compare.data import Checked, Step
from tanren.compare.trained import flat, read_run
from tanren.pipeline import execute
from tanren.rundir import RunDirectory, write_json

GROUPS = [
    {"name": "A", "tensors": 4, "elements": 10, "learning_rate": 1e-3, "weight_decay": 0.0},
    {"name": "B", "tensors": 4, "elements": 20, "learning_rate": 1.6e-2, "weight_decay": 0.1},
]
GATE = {
    "summary": {
        "model": {"fingerprint": "base"},
        "plan": {"learning_rate": 1e-3, "steps": 4},
        "groups": GROUPS,
        "coverage": {"trained_parameters": 30, "all_parameters": 1000},
    }
}


def fresh(folder: Path) -> RunDirectory:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        "model: {name: tiny}\nmethod: {name: lora, target_modules: [q_proj]}\nseed: 3\n",
        encoding="utf-8",
    )
    made = RunDirectory(folder)
    made.event("created")
    made.event("gate", **GATE)
    return made


def step(made: RunDirectory, number: int, loss: float, **more: Any) -> None:
    seconds = more.pop("train_seconds", float(number))
    made.event(
        "step", step=number, loss=loss, tokens=100 * number, memory_bytes=1000 + number,
        learning_rate=1e-3, train_seconds=seconds, **more,
    )  # fmt: skip


def check(made: RunDirectory, number: int, loss: float) -> None:
    made.event(
        "evaluation", step=number, loss=loss, token_accuracy=0.5, tokens=100 * number,
        train_seconds=float(number), seconds=99.0, metrics={"bleu": 3.0},
    )  # fmt: skip


def test_a_killed_and_resumed_run_has_the_history_of_its_weights(tmp_path: Path) -> None:
    """Steps 3 and 4 and an evaluation were done twice; step 5 was lost with the process (T6)."""
    made = fresh(tmp_path)
    made.event("started", resumed_from=None)
    for number in (1, 2, 3, 4, 5):
        step(made, number, 10.0 - number)
    check(made, 2, 5.0)
    check(made, 4, 4.0)
    made.event("gate", **GATE)
    made.event("started", resumed_from=2)
    for number in (3, 4):
        step(made, number, 1.0 / number)
    check(made, 4, 3.5)
    made.event("succeeded")
    found = read_run(made, "lora", 3)
    assert [(s.step, s.loss) for s in found.steps] == [(1, 9.0), (2, 8.0), (3, 1 / 3), (4, 0.25)]
    assert [(c.step, c.loss) for c in found.checks] == [(2, 5.0), (4, 3.5)]
    assert found.checks[0] == Checked(2, 200, 5.0, 0.5, 2.0, {"bleu": 3.0})
    assert found.steps[0] == Step(1, 100, 9.0, 1.0)
    assert (found.best_loss, found.num_steps, found.tokens) == (3.5, 4, 400)


def test_a_start_from_nothing_forgets_the_attempt_before(tmp_path: Path) -> None:
    made = fresh(tmp_path)
    made.event("started", resumed_from=None)
    step(made, 1, 9.0)
    step(made, 2, 8.0)
    made.event("started", resumed_from=None)
    step(made, 1, 7.0)
    made.event("succeeded")
    assert [s.loss for s in read_run(made, "lora", 3).steps] == [7.0]


def test_a_step_that_stands_twice_counts_as_it_was_done_last(tmp_path: Path) -> None:
    made = fresh(tmp_path)
    made.event("started", resumed_from=None)
    step(made, 1, 9.0)
    step(made, 1, 8.0)
    made.event("succeeded")
    assert [s.loss for s in read_run(made, "lora", 3).steps] == [8.0]


ENDINGS: dict[str, tuple[Callable[[RunDirectory], None], str, str]] = {
    "memory": (
        lambda r: r.event("failed", error="out of memory", kind="OutOfMemoryError", faults=[]),
        "out_of_memory",
        "out of memory",
    ),
    "divergence": (
        lambda r: r.event(
            "failed", error="training diverged", kind="DivergenceError",
            faults=[{"where": "step 2", "found": "a loss of nan", "expected": "", "remedy": ""}],
        ),
        "diverged",
        "training diverged: step 2: a loss of nan",
    ),
    "another failure": (
        lambda r: r.event("failed", error="KeyError('x')\nmore", kind="KeyError", faults=[]),
        "failed",
        "KeyError('x') more",
    ),
    "vanished": (
        lambda r: None,
        "killed",
        "its process vanished after step 2: killed, or out of the machine's memory",
    ),
    "stopped": (
        lambda r: r.event("interrupted", message="stopped by SIGTERM after step 2"),
        "killed",
        "not finished: stopped by SIGTERM after step 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_a_run_ended_and_why(tmp_path: Path, ending: str) -> None:
    """T25: never only that it failed."""
    end, outcome, why = ENDINGS[ending]
    made = fresh(tmp_path)
    made.event("started", resumed_from=None)
    step(made, 1, 2.0)
    step(made, 2, 1.5)
    end(made)
    found = read_run(made, "lora", 3)
    assert (found.outcome, found.why) == (outcome, why)
    assert not found.succeeded and found.adapter_bytes is None
    assert (found.num_steps, found.peak_memory_bytes, found.train_seconds) == (2, 1002, 2.0)
    assert found.learning_rate == 1e-3 and [g.name for g in found.groups] == ["A", "B"]
    assert found.groups[1].learning_rate == 1.6e-2 and found.groups[1].elements == 20
    assert found.trained_parameters == 30 and found.facts["base"] == "base"


@pytest.mark.parametrize("kind", ["DataError", "ConfigError", "ModelError"])
def test_turned_away_before_training_is_no_failure_of_training(tmp_path: Path, kind: str) -> None:
    made = fresh(tmp_path)
    faults = [{"where": f"a.jsonl:{i}", "found": "x", "expected": "", "remedy": ""} for i in (7, 8)]
    made.event("failed", error="2 faults found", kind=kind, faults=faults)
    found = read_run(made, "lora", 3)
    assert found.outcome == "refused"
    assert found.why == "2 faults found: a.jsonl:7: x (and 1 more)"


def test_refused_and_never_begun(tmp_path: Path) -> None:
    refused = fresh(tmp_path / "refused")
    refused.event("refused", error="1 fault found", faults=[])
    assert read_run(refused, "lora", 3).outcome == "refused"
    assert read_run(refused, "lora", 3).why == "1 fault found"
    created = RunDirectory(tmp_path / "created")
    fresh(created.path)
    created.events_file.write_text('{"event": "created"}\n', encoding="utf-8")
    found = read_run(created, "lora", 3)
    assert (found.outcome, found.why) == ("killed", "not finished: it never began")


def test_a_refused_second_start_leaves_a_finished_run_finished(tmp_path: Path) -> None:
    made = fresh(tmp_path)
    made.event("started", resumed_from=None)
    step(made, 1, 2.0)
    made.event("succeeded")
    made.event("refused", error="checkpoints of an earlier attempt", faults=[])
    assert read_run(made, "lora", 3).outcome == "succeeded"


def test_runs_of_older_versions_lack_what_they_did_not_record(tmp_path: Path) -> None:
    made = fresh(tmp_path)
    made.event("started", resumed_from=None)
    for number in (5, 10):
        made.event("step", step=number, loss=1.0, tokens=10 * number)
        made.event("evaluation", step=number + 2, loss=2.0, token_accuracy=0.1)
    made.event("succeeded")
    write_json(made.result_file, {"steps": 12, "seconds": {"all": 7.5}, "optimizer_groups": GROUPS})
    found = read_run(made, "lora", 3)
    assert [c.tokens for c in found.checks] == [50, 100], "of the last step told before"
    assert found.train_seconds is None and found.checks[0].seconds is None
    assert (found.all_seconds, found.num_steps, found.mfu) == (7.5, 12, None)


def test_settings_are_flat_and_lists_stay_whole(tmp_path: Path) -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": [1, {"e": 2}], "f": {}}) == {
        "a.b.c": 1,
        "d": [1, {"e": 2}],
    }
    assert read_run(fresh(tmp_path), "lora", 3).settings == {
        "model.name": "tiny",
        "method.name": "lora",
        "method.target_modules": ["q_proj"],
        "seed": 3,
    }


def test_a_real_run(make_run: Callable[..., Any]) -> None:
    """Everything it says agrees with its files."""
    made = make_run(
        "training.num_epochs=2", "evaluation.every=2", "training.log_every=1",
        method={"name": "lora_plus", "lr_ratio": 4.0}, validation=3,
    )  # fmt: skip
    result = execute(made)
    found = read_run(made, "plus", 7)
    assert found.outcome == "succeeded" and found.why == ""
    assert (found.arm, found.seed, found.path) == ("plus", 7, str(made.path))
    assert found.num_steps == result["steps"] == 6
    assert [s.step for s in found.steps] == [1, 2, 3, 4, 5, 6]
    assert [c.step for c in found.checks] == [2, 4, 6]
    assert found.steps[-1].tokens == found.tokens == result["tokens"]
    assert found.best_loss == pytest.approx(min(c.loss for c in found.checks))
    rates = {group.name: group.learning_rate for group in found.groups}
    assert rates["B"] / rates["A"] == pytest.approx(4.0)
    assert found.learning_rate == rates["A"] == 1e-3
    assert found.adapter_bytes == (made.adapter / "adapter_model.safetensors").stat().st_size
    assert sum(group.elements for group in found.groups) == found.trained_parameters
    assert found.settings["method.lr_ratio"] == 4.0 and found.settings["seed"] == 7
    data = json.loads(made.data_file.read_text(encoding="utf-8"))
    assert found.facts["train_sha256"] == data["train"]["sha256"]
    assert found.facts["train_rows"] == 6 and found.facts["cut_rows"] == 0
    assert found.facts["trained_tokens"] == data["train"]["ledger"]["trained_tokens"]
    assert found.facts["validation_tokens"] == data["validation"]["ledger"]["trained_tokens"]
    assert found.facts["base"] == data["base"] and found.facts["steps"] == 6
    assert found.facts["versions"].startswith("tanren ")
    assert {"device", "threads", "world_size", "template"} <= found.facts.keys()
    assert replace(found, arm="x") == replace(read_run(made, "plus", 7), arm="x"), "read alike"
