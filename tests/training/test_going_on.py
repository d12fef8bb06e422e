"""A run that begins with an adapter of an earlier one (`model.adapter`)."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training.rig import of_kind
from training.test_preference import write_preferences

from tanren.errors import ModelError
from tanren.pipeline import execute
from tanren.rundir import RunDirectory
from tanren.session import open_session

MakeRun = Callable[..., RunDirectory]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def first(make_run: MakeRun) -> RunDirectory:
    """A finished run whose adapter does something."""
    run = make_run("training.learning_rate=5e-2", name="first")
    execute(run)
    return run


def _loss_of(run: RunDirectory) -> float:
    return float(of_kind(run, "step")[0]["loss"])


def test_the_first_step_is_that_of_the_adapter(make_run: MakeRun, first: RunDirectory) -> None:
    """The loss before the first update is that of the tuned model, not of the base; and with a
    rate of next to nothing the result is the adapter it began with.
    """
    one = "training.max_steps=1"
    still = "training.learning_rate=1e-12"
    again = make_run(one, still, f"model.adapter={first.adapter}", name="again")
    fresh = make_run(one, name="fresh")
    execute(again)
    execute(fresh)
    assert _loss_of(again) < _loss_of(fresh) - 0.05
    before, after = load_file(first.adapter / WEIGHTS), load_file(again.adapter / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-8) for name in before)


def test_preferences_are_compared_with_the_adapter_it_began_with(
    make_run: MakeRun, first: RunDirectory, tmp_path: Path
) -> None:
    """The reference is the tuned model: the first loss is ln 2, every reward 0."""
    rows = write_preferences(tmp_path / "preferences.jsonl", 4)
    run = make_run(
        *("objective=dpo", f"data.train={rows}", "training.max_steps=1"),
        f"model.adapter={first.adapter}",
        name="preferences",
    )
    execute(run)
    (step,) = of_kind(run, "step")
    assert step["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(step["rewards_chosen"]) < 1e-5


def _faults(run: RunDirectory) -> str:
    with pytest.raises(ModelError) as caught:
        execute(run)
    return " ".join(map(str, caught.value.faults))


def test_t8_an_adapter_of_another_base_is_refused(
    make_run: MakeRun, first: RunDirectory, tmp_path: Path
) -> None:
    """Of the same shape, so that every tensor would fit."""
    other = tmp_path / "other base"
    shutil.copytree(first.config().model.name, other)
    weights = load_file(other / "model.safetensors")
    moved = {name: tensor * 1.01 for name, tensor in weights.items()}
    save_file(moved, other / "model.safetensors", metadata={"format": "pt"})
    run = make_run(f"model.name={other}", f"model.adapter={first.adapter}", name="other")
    assert "made on a base with the fingerprint" in _faults(run)


def test_an_adapter_that_does_not_name_its_base_is_refused(
    make_run: MakeRun, first: RunDirectory, tmp_path: Path
) -> None:
    folder = tmp_path / "plain adapter"
    shutil.copytree(first.adapter, folder)
    (folder / "tanren.json").unlink()
    assert "(not told)" in _faults(make_run(f"model.adapter={folder}", name="plain"))


@pytest.mark.parametrize("change", ["missing", "more", "scale"])
def test_t8_nothing_of_an_adapter_is_left_out_or_read_otherwise(
    make_run: MakeRun, first: RunDirectory, tmp_path: Path, change: str
) -> None:
    folder = tmp_path / "changed adapter"
    shutil.copytree(first.adapter, folder)
    weights: dict[str, Any] = load_file(folder / WEIGHTS)
    name = sorted(weights)[0]
    if change == "missing":
        del weights[name]
    elif change == "more":
        weights[f"{name}.other"] = weights[name].clone()
    else:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        settings["alpha_pattern"] = {"q_proj": 64}
        (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    told = _faults(make_run(f"model.adapter={folder}", name="changed"))
    assert ("alpha_pattern" if change == "scale" else name) in told


def test_the_result_opens_like_any_other(make_run: MakeRun, first: RunDirectory) -> None:
    run = make_run("training.max_steps=1", f"model.adapter={first.adapter}", name="second")
    execute(run)
    assert open_session(str(run.adapter)).tokenizer is not None
