"""Training steps under measurement: the package's Trainer and TRL's, timed from end to end of a
step.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from gpu_checks.lab import Lab, encoded

LEARNING_RATE = 3e-4


@dataclass(frozen=True, slots=True)
class Work:
    """The rows of a measurement: every optimizer step takes all of them, so that steps cost the
    same and the loss must fall.
    """

    sequences: list[tuple[Any, Any]]
    steps: int

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids, _ in self.sequences]

    @property
    def tokens(self) -> int:
        """Of one step."""
        return sum(self.lengths)

    @property
    def labelled_share(self) -> float:
        return sum(int((labels != -100).sum()) for _, labels in self.sequences) / self.tokens


def make_work(*, steps: int, tokens: int, mean: int, vocabulary: int) -> Work:
    """Lognormal rows of about that mean, together at most `tokens`, 40% labelled."""
    from bench.inputs import chat_lengths, random_sequences

    rows = max(2, round(tokens / mean))
    drawn = np.array(chat_lengths(rows, mean=mean, seed=4, spread=0.8, most=4 * mean))
    lengths = np.maximum(4, np.floor(drawn * (tokens / drawn.sum()))).astype(int).tolist()
    return Work(random_sequences(lengths, vocabulary=vocabulary, seed=6, labelled=0.4), steps)


@dataclass
class Clock(TrainerCallback):
    """Seconds from the end of one step to the end of the next, and losses as logged."""

    lab: Lab
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    _since: float | None = None

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.lab.wait()
        now = time.perf_counter()
        if self._since is not None:
            self.seconds.append(now - self._since)
        self._since = now

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.norms.append(float(logs.get("grad_norm", math.nan)))

    def typical(self, *, warm: int) -> float:
        """Median over the steps after the warm ones."""
        return float(np.median(self.seconds[warm:] or self.seconds))

    @property
    def learned(self) -> bool:
        """Finite, falling, with a gradient: nobody is fast by not learning."""
        half = len(self.losses) // 2
        falling = np.mean(self.losses[half:]) < np.mean(self.losses[:half])
        return bool(np.isfinite(self.losses).all() and falling and max(self.norms) > 0)


def settings(lab: Lab, model: Path, method: Any, work: Work, **training: Any) -> Any:
    from tanren.config import load

    return load(
        None,
        base={
            "model": {"name": str(model), "dtype": str(lab.dtype).removeprefix("torch.")},
            "data": {"train": "made.jsonl"},
            "method": method.model_dump(),
            "training": {
                "batch_size": len(work.sequences),
                "num_epochs": work.steps,
                "schedule": "constant",
                "warmup_fraction": 0,
                "save_every": 10_000,
                **training,
            },
            "evaluation": {"samples": 0},
        },
    )


def our_trainer(
    lab: Lab,
    model: Any,
    method: Any,
    work: Work,
    clock: Clock,
    *,
    folder: Path,
    name: str,
    budget: int,
    side_by_side: bool,
) -> Any:
    """`tanren.sft.Trainer` as the pipeline builds it, on rows that lie encoded in memory."""
    from tanren.batches import Row, Step
    from tanren.model import load_tokenizer_from
    from tanren.rundir import RunDirectory
    from tanren.sft import Trainer

    optimizer = "paged_adamw_8bit" if method.storage == "nf4" and lab.cuda else "adamw"
    config = settings(lab, folder, method, work, optimizer=optimizer)
    run = RunDirectory.create(lab.work / f"run-{name}-{time.monotonic_ns()}", config)
    trainer = Trainer(
        model=model,
        tokenizer=load_tokenizer_from(folder),
        method=method,
        config=config,
        run=run,
        train=encoded(work.sequences),
        validation=None,
        step=Step(budget, side_by_side, 0),
        learning_rate=LEARNING_RATE,
        dtype=lab.dtype,
        on_cpu=not lab.cuda,
        save_weights=lambda folder: None,
        tell=run.event,
        callbacks=[clock],
    )
    trainer.prove_loss([Row.of(ids[:32], ids[:32]) for ids, _ in work.sequences[:2]])
    if not trainer.uses_own_loss:
        raise AssertionError("the package's loss was not shown to be the model's own")
    return trainer


def checkpoint_layers(base: Any, count: int) -> None:
    """Recompute the first `count` decoder layers in the backward pass, as the pipeline does."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if count == 0:
        return
    base.gradient_checkpointing_enable({"use_reentrant": False})
    layers = [m for m in base.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers[count:]:
        layer.gradient_checkpointing = False


def trl_trainer(
    lab: Lab,
    model: Any,
    work: Work,
    clock: Clock,
    *,
    rows_per_pass: int,
    checkpointing: bool,
    cast_inputs: bool = True,
) -> Any:
    """SFTTrainer with its own loss, padding and metrics."""
    from bench.inputs import word_tokenizer
    from datasets import Dataset
    from peft import LoraConfig
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": i.tolist(), "labels": labels.tolist()} for i, labels in work.sequences]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(lab.work / "trl"),
            per_device_train_batch_size=rows_per_pass,
            gradient_accumulation_steps=max(1, len(rows) // rows_per_pass),
            max_steps=work.steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            gradient_checkpointing=checkpointing,
            bf16=lab.cuda,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not lab.cuda,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=word_tokenizer(512),  # pads; the rows are token ids already
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"
        ),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    if not cast_inputs:
        for module in model.modules():  # the adapter was put into it in place
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False
    return trainer


def pass_loss(model: Any, base: Any, batch: Any) -> torch.Tensor:
    """Summed loss of one pass over the labelled positions, by the package's loss."""
    from tanren.loss import linear_cross_entropy

    kept: list[torch.Tensor] = []
    hook = base.get_decoder().register_forward_hook(
        lambda module, args, output: kept.append(output.last_hidden_state)
    )
    try:
        model(**batch.model_inputs(), logits_to_keep=1)
    finally:
        hook.remove()
    hidden = kept[0].reshape(-1, kept[0].shape[-1])[batch.labelled]
    head = base.get_output_embeddings()
    return linear_cross_entropy(hidden, head.weight, batch.targets).total


def rates(lab: Lab, name: str, work: Work, seconds: float, trained: int) -> dict[str, Any]:
    """Tokens per second, and the share of the device's arithmetic that went into the model's
    own.
    """
    from tanren.devices import this_device
    from tanren.estimate import mfu, model_flops_per_token, packed_length, shape_of

    per_token = model_flops_per_token(
        shape_of(lab.numbers(name)),
        adapter_parameters=trained,
        length=packed_length(work.lengths),
        supervised_fraction=work.labelled_share,
    )
    rate = work.tokens / seconds
    device = this_device()
    peaks = {"MFU of data sheet": device.peak_flops, "MFU of measured": device.measured_peak_flops}
    return {
        "tokens/s": rate,
        "labelled tokens/s": rate * work.labelled_share,
        **{what: mfu(rate, per_token, peak) if peak else None for what, peak in peaks.items()},
    }


def trained_parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
