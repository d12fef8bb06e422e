"""What happens while training, told as events: steps, evaluations, early stopping, the best
checkpoint, a wish to stop.

The decisions (best so far, patience used up) are read from the trainer's own history, which every
checkpoint keeps, so that a resumed run decides as if it had never stopped.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tanren.config import EvaluationConfig
from tanren.rundir import staged_folder
from tanren.verdict import evaluations, judge

if TYPE_CHECKING:
    from tanren.stepwise import Stepwise

Tell = Callable[..., None]

REWARDS = ("rewards_chosen", "rewards_rejected", "reward_accuracy", "reward_margin")
"""What preference optimisation measures besides."""


class Watch(TrainerCallback):
    """Turns the trainer's calls into events and carries out `evaluation`'s rules."""

    def __init__(
        self,
        tell: Tell,
        evaluation: EvaluationConfig,
        *,
        flops_per_token: float,
        peak_flops: float | None,
    ) -> None:
        self.tell = tell
        self.evaluation = evaluation
        self.flops_per_token = flops_per_token
        self.peak_flops = peak_flops
        self.trainer: Stepwise | None = None
        self._elapsed_before = 0.0
        self._tokens_before = 0
        self._step_before = 0
        self._seconds_per_step: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.trainer is not None
        self.trainer.costs.start()
        self._elapsed_before = self.trainer.costs.elapsed
        self._tokens_before = self.trainer.tokens_seen
        self._step_before = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.trainer is not None
        self.trainer.costs.stop()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.trainer is not None
        if state.global_step >= state.max_steps:
            control.should_log = True  # whatever log_every says, the last loss is known
        if self.trainer.until_step is not None and state.global_step >= self.trainer.until_step:
            control.should_save = state.global_step < state.max_steps
            control.should_training_stop = True
        if agreed(self.trainer.stop_requested is not None, args):
            self.trainer.stop_requested = self.trainer.stop_requested or "another process"
            control.should_save = state.global_step < state.max_steps
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        assert self.trainer is not None
        if not logs or "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                self.trainer.diverged(f"{name} of {logs[name]}")
        costs = self.trainer.costs
        costs.saw_memory(memory_in_use(args.device))
        steps = max(state.global_step - self._step_before, 1)
        seconds = max(costs.elapsed - self._elapsed_before, 1e-9)
        tokens = self.trainer.tokens_seen - self._tokens_before
        rate = tokens / seconds
        if self._seconds_per_step is not None:
            costs.measured(tokens, seconds)
        # The first step pays for warm-up of kernels and caches: it does not speak for the rest.
        smoothed = self._seconds_per_step
        self._seconds_per_step = (
            seconds / steps
            if smoothed is None or self._step_before <= 1
            else 0.8 * smoothed + 0.2 * seconds / steps
        )
        self._elapsed_before += seconds
        self._tokens_before = self.trainer.tokens_seen
        self._step_before = state.global_step
        self.tell(
            "step",
            step=state.global_step,
            steps=state.max_steps,
            epoch=round(float(state.epoch or 0), 4),
            loss=logs["loss"],
            token_accuracy=logs["token_accuracy"],
            **{name: logs[name] for name in REWARDS if name in logs},
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm"),
            tokens=self.trainer.tokens_seen,
            tokens_per_second=round(rate, 1),
            train_seconds=costs.train_seconds,
            mfu=self._mfu(rate),
            eta_seconds=round(self._seconds_per_step * (state.max_steps - state.global_step), 1),
            memory_bytes=costs.peak_memory_bytes,
            evaluation_follows=control.should_evaluate,
        )

    def _mfu(self, tokens_per_second: float) -> float | None:
        if not self.peak_flops:
            return None
        return round(tokens_per_second * self.flops_per_token / self.peak_flops, 4)

    def costs(self) -> dict[str, Any]:
        """What training took, over all attempts of a run. Speed is that of all steps but the first
        of each attempt, which warms caches up; None after a single step.
        """
        assert self.trainer is not None
        costs = self.trainer.costs
        rate = costs.tokens_per_second()
        return {
            "train_seconds": costs.train_seconds,
            "tokens_per_second": rate,
            "mfu": None if rate is None else self._mfu(rate),
            "peak_memory_bytes": costs.peak_memory_bytes,
            "peak_host_bytes": costs.peak_host_bytes,
            "energy_joules": costs.energy_joules,
        }

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        assert self.trainer is not None and metrics is not None
        history = evaluations(state, self.evaluation.metric)
        best_step, best, waited = judge(history, self.evaluation)
        is_best = best_step == state.global_step
        self.tell(
            "evaluation",
            step=state.global_step,
            tokens=self.trainer.tokens_seen,
            train_seconds=self.trainer.costs.train_seconds,
            loss=metrics["eval_loss"],
            token_accuracy=metrics["eval_token_accuracy"],
            **{name: metrics[f"eval_{name}"] for name in REWARDS if f"eval_{name}" in metrics},
            best=is_best,
            best_step=best_step,
            evaluations_since_best=waited,
            metric=self.evaluation.metric,
            **self._answered(),
        )
        if is_best and self.evaluation.keep_best:
            if args.process_index == 0:
                with staged_folder(
                    self.trainer.run.checkpoints / "best", step=state.global_step
                ) as staged:
                    self.trainer.save_weights(staged)
            if args.world_size > 1:
                dist.barrier()
        patience = self.evaluation.early_stopping_patience
        if patience is not None and waited >= patience:
            self.trainer.stopped_early = True
            self.tell(
                "early_stopping",
                step=state.global_step,
                best_step=best_step,
                best=best,
                patience=patience,
            )
            control.should_training_stop = True

    def _answered(self) -> dict[str, Any]:
        """What an evaluation says besides the loss: its time, and what became of the answers."""
        assert self.trainer is not None
        facts: dict[str, Any] = {"seconds": round(self.trainer.evaluation_seconds[-1], 3)}
        measured = self.trainer.measured
        if measured is not None:
            facts["metrics"] = measured.values
            facts["metric_rows"] = len(measured.rows)
            facts["answer_seconds"] = round(measured.seconds, 3)
            facts["answers"] = measured.samples(self.evaluation.samples)
        return facts


def agreed(mine: bool, args: TrainingArguments) -> bool:
    """Whether any process wants it; all get the same answer, or one would wait for the others for
    ever.
    """
    if args.world_size <= 1:
        return mine
    flag = torch.tensor([int(mine)], device=args.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def memory_in_use(device: torch.device) -> int:
    """Peak bytes of the device's allocator, or the resident bytes of this process on CPUs."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C: by an exception, so that files are closed and the run says so.

    Only the main thread may set handlers; elsewhere nothing changes.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_on_signals(trainer: Stepwise) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a checkpoint and an orderly end; asked twice, they end at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if trainer.stop_requested is not None:
            raise KeyboardInterrupt
        trainer.stop_requested = signal.Signals(number).name

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
