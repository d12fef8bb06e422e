"""Checkpoints: all that resuming needs, in a folder that is whole or absent (T14, T34)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from transformers.trainer_callback import ExportableState

from tanren.rundir import staged_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tanren.stepwise import Stepwise

AS_TRAINED = "as_trained"
"""Of a checkpoint: the weights to go on with, where those in the folder itself are written in
another form for others to load.
"""


def trained_weights(folder: Path) -> Path:
    """Where a checkpoint keeps the weights that training goes on with."""
    apart = folder / AS_TRAINED
    return apart if apart.is_dir() else folder


def save_checkpoint(trainer: Stepwise) -> None:
    """Weights, optimizer, schedule, random states and history of this step; the newest K stay.

    The first process writes, the others give it their random states and wait. Weights that are not
    finite raise DivergenceError instead.
    """
    step = trainer.state.global_step
    folder = trainer.run.checkpoints / f"step-{step:08d}"
    rank, ranks = trainer.args.process_index, trainer.args.world_size
    _require_finite(trainer)
    states = _random_states(trainer)
    if rank == 0:
        with staged_folder(folder, step=step, world_size=ranks) as staged:
            trainer.save_weights(staged)
            trainer._save_optimizer_and_scheduler(str(staged))
            for other, state in enumerate(states):
                name = f"rng_state_{other}.pth" if ranks > 1 else "rng_state.pth"
                torch.save(state, staged / name)
            _export_callbacks(trainer)
            trainer.state.save_to_json(str(staged / "trainer_state.json"))
            costs = {"tokens_seen": trainer.tokens_seen, **trainer.costs.as_dict()}
            trainer.step.save(staged, costs)
        trainer.tell("checkpoint", step=step, path=str(folder.relative_to(trainer.run.path)))
        trainer.run.rotate(trainer.run_config.training.keep_checkpoints)
    if ranks > 1:
        dist.barrier()


def _require_finite(trainer: Stepwise) -> None:
    for name, parameter in trainer.network.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            trainer.diverged(f"weights that are not finite ({name})")


def _random_states(trainer: Stepwise) -> list[dict[str, Any]]:
    """Of every process, in the form that the library's trainer reads back."""
    mine: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    ranks = trainer.args.world_size
    if trainer.args.device.type == "cuda":
        cuda = torch.cuda.random
        mine["cuda"] = cuda.get_rng_state_all() if ranks > 1 else cuda.get_rng_state()
    if ranks == 1:
        return [mine]
    states: list[Any] = [None] * ranks
    dist.all_gather_object(states, mine)
    return states


def _export_callbacks(trainer: Stepwise) -> None:
    for callback in [*trainer.callback_handler.callbacks, trainer.control]:
        if isinstance(callback, ExportableState):
            kept: Any = trainer.state.stateful_callbacks
            kept[type(callback).__name__] = callback.state()
