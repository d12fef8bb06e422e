"""What goes wrong in training ends with cause, remedy, and the last good checkpoint (T3, T28)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training.rig import (
    build_trainer,
    give_weights_to_b,
    gradients,
    largest_difference,
    of_kind,
    trained,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import tanren.loss as losses
from tanren.batches import Pass, Row
from tanren.errors import DivergenceError, OutOfMemoryError, WorkError
from tanren.pipeline import execute
from tanren.rundir import RunDirectory
from tanren.sft import Trainer

MakeRun = Callable[..., RunDirectory]
SETTINGS = ("training.num_epochs=2", "training.save_every=2", "training.batch_size=2")


# --- numbers that are no longer finite ------------------------------------------------------------


class _Plant(TrainerCallback):
    """Does something to the model once `step` steps are made."""

    def __init__(self, step: int, act: Callable[[nn.Module], object]) -> None:
        self.step, self.act = step, act

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == self.step:
            self.act(kwargs["model"])


def spoil_a_weight(model: nn.Module) -> None:
    parameter = next(p for p in model.parameters() if p.requires_grad)
    parameter.data.view(-1)[0] = math.nan


def spoil_a_gradient(model: nn.Module) -> None:
    parameter = next(p for p in model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf)


def assert_nothing_spoilt_was_kept(run: RunDirectory) -> None:
    files = list(run.path.rglob("*.safetensors"))
    assert files
    for file in files:
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(file).values()), file


@pytest.mark.parametrize("act", [spoil_a_weight, spoil_a_gradient])
@pytest.mark.parametrize("after", [2, 3])
def test_numbers_that_are_not_finite_end_the_run(
    make_run: MakeRun, act: Callable[[nn.Module], object], after: int
) -> None:
    """T3: a weight or a gradient that is no longer finite, in a step that saves and in another,
    stops the run; the fault names the step and the last good checkpoint; no file holds a number
    that is not finite.
    """
    run = make_run(*SETTINGS, rows=6)
    trainer = build_trainer(run, callbacks=[_Plant(after, act)])
    with pytest.raises(DivergenceError) as raised:
        trainer.fit()
    (fault,) = raised.value.faults
    kept = run.complete_checkpoints()
    spoilt_before_saving = act is spoil_a_weight and after == 2
    assert [checkpoint.step for checkpoint in kept] == ([] if spoilt_before_saving else [2])
    if kept:
        assert str(kept[-1].path) in fault.remedy
        assert_nothing_spoilt_was_kept(run)
    assert "learning_rate" in fault.remedy
    step = int(fault.where.removeprefix("step "))
    assert after <= step <= after + 1
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("act", [spoil_a_weight, spoil_a_gradient])
def test_an_evaluation_of_spoilt_weights_is_no_best(
    make_run: MakeRun, act: Callable[[nn.Module], object]
) -> None:
    """T3: an evaluation that gives no number ends the run too, and never becomes the best."""
    run = make_run(*SETTINGS, "evaluation.every=1", rows=6, validation=3)
    trainer = build_trainer(run, callbacks=[_Plant(1, act)])
    with pytest.raises(DivergenceError):
        trainer.fit()
    for event in run.events():
        for value in event.values():
            assert not (isinstance(value, float) and not math.isfinite(value)), event
    if (run.checkpoints / "best").exists():
        assert_nothing_spoilt_was_kept(run)


def test_a_model_that_is_spoilt_from_the_start_ends_the_run(
    make_run: MakeRun, tiny_model: Callable[..., Any], tmp_path: Any
) -> None:
    """T3 through the pipeline: weights that overflow give no loss; the event says why, in the
    pipeline's own words and without a traceback.
    """
    model = tiny_model("qwen3", initializer_range=1e30)
    run = make_run(*SETTINGS, f"model.name={model}")
    with pytest.raises(DivergenceError):
        execute(run)
    failed = run.last_event("failed")
    assert failed is not None and failed["kind"] == "DivergenceError"
    assert failed["faults"] and failed["traceback"] is None
    assert run.state() == "failed"


# --- memory ---------------------------------------------------------------------------------------


class _Small(Trainer):
    """A device on which a pass of more than `room` tokens does not fit, padding counted.

    It keeps the size of every pass that was tried. `room` is set when the Trainer is made.
    """

    room: float = math.inf
    tried: list[int] | None = None

    def _loss(self, model: nn.Module, batch: Pass, *, scale: float = 1.0) -> losses.Loss:
        size = batch.input_ids.numel()
        self.tried = [*(self.tried or []), size]
        found = super()._loss(model, batch, scale=scale)
        if size > self.room:
            raise torch.OutOfMemoryError(f"tried to allocate {size} tokens")
        return found


ROOM = 60


def on_little_memory(run: RunDirectory, room: int = ROOM, **options: Any) -> _Small:
    trainer = build_trainer(run, kind=_Small, **options)
    assert isinstance(trainer, _Small)
    trainer.room, trainer.tried = room, []
    return trainer


def rows_of(trainer: Trainer) -> list[Row]:
    return [row for step in trainer.step_loader for row in step]


@pytest.mark.parametrize("side_by_side", [False, True], ids=["padded", "side by side"])
def test_when_memory_runs_out_passes_shrink_and_the_step_stays(
    make_run: MakeRun, side_by_side: bool
) -> None:
    """T28: the pass is halved until it fits, and the gradient and loss of the step are those of a
    device with room for all; each shrinking is an event.
    """
    run = make_run("training.batch_size=8", rows=8)
    roomy = build_trainer(run, prepare=give_weights_to_b, side_by_side=side_by_side)
    rows = rows_of(roomy)
    roomy.step = type(roomy.step)(1000, side_by_side, roomy.step.pad_id)
    loss = roomy.training_step(roomy.network, rows)
    expected = gradients(roomy.network)

    small_run = make_run("training.batch_size=8", rows=8, name="small")
    small = on_little_memory(small_run, prepare=give_weights_to_b)
    small.step = roomy.step
    found = small.training_step(small.network, rows)
    assert float(found) == pytest.approx(float(loss), abs=1e-6)
    assert largest_difference(gradients(small.network), expected) <= 1e-6
    assert small.tokens_seen == roomy.tokens_seen == sum(map(len, rows))

    shrunk = of_kind(small_run, "out_of_memory")
    assert shrunk, "an event for each halving"
    budgets = [shrunk[0]["before"], *(event["micro_batch_tokens"] for event in shrunk)]
    longest = max(map(len, rows))
    assert budgets[0] == 1000
    assert all(after == max(before // 2, longest) for before, after in pairwise(budgets))
    assert small.step.micro_batch_tokens == budgets[-1]
    assert small.step.side_by_side is side_by_side
    assert small.tried is not None
    assert sum(size > ROOM for size in small.tried) == len(shrunk), "no more often than needed"


def test_a_whole_run_on_little_memory_ends_where_a_roomy_one_does(make_run: MakeRun) -> None:
    """T28: the effective batch stays over the run: the same steps, losses and weights; the smaller
    pass is kept, also in the checkpoints, so that resuming does not run out again.
    """
    roomy, run = (
        make_run(
            "training.batch_size=6",
            "training.num_epochs=2",
            "training.micro_batch_tokens=500",
            rows=12,
            name=name,
        )
        for name in ("roomy", "small")
    )
    trainers = [build_trainer(roomy, side_by_side=True), on_little_memory(run, side_by_side=True)]
    ends = []
    for trainer in trainers:
        trainer.fit()
        history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        ends.append((history, trained(trainer.network)))
        assert trainer.state.global_step == 4
    assert ends[0][0] == pytest.approx(ends[1][0], abs=1e-6)
    assert largest_difference(ends[0][1], ends[1][1]) < 1e-5
    assert of_kind(run, "out_of_memory") and not of_kind(roomy, "out_of_memory")

    resumed = on_little_memory(run, side_by_side=True)
    resumed.fit(run.checkpoints / "step-00000002")
    assert resumed.tried and max(resumed.tried) <= ROOM


def test_a_row_that_alone_does_not_fit_ends_the_run(make_run: MakeRun) -> None:
    """T28: when one row is too much there is nothing left to shrink: our error, exit code 1, and
    what can be done.
    """
    trainer = on_little_memory(make_run(rows=6), room=10, side_by_side=True)
    assert max(len(row) for row in rows_of(trainer)) > 10
    with pytest.raises(OutOfMemoryError) as raised:
        trainer.fit()
    assert isinstance(raised.value, WorkError) and raised.value.exit_code == 1
    (fault,) = raised.value.faults
    assert "data.max_length" in fault.remedy and "qlora" in fault.remedy
    assert trainer.state.global_step == 0


def test_an_evaluation_that_runs_out_of_memory_shrinks_too(make_run: MakeRun) -> None:
    """T13, T28: evaluation passes are halved the same way, and the measured loss is the same."""
    run = make_run("training.micro_batch_tokens=500", rows=6, validation=6)
    roomy = build_trainer(run, prepare=give_weights_to_b, side_by_side=True)
    assert roomy.validation is not None
    expected = roomy.measure(roomy.validation)
    small = on_little_memory(run, room=70, prepare=give_weights_to_b, side_by_side=True)
    found = small.measure(roomy.validation)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert found["tokens"] == expected["tokens"]
    assert of_kind(run, "out_of_memory")
