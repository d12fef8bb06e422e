"""Our names translated into the library's; the only place that knows both."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from tanren import privacy
from tanren.config import RunConfig
from tanren.rundir import RunDirectory
from tanren.schedule import total_steps

privacy.apply()

from transformers import TrainingArguments  # noqa: E402 - telemetry must be off before

ArgumentsT = TypeVar("ArgumentsT", bound=TrainingArguments)


def common_arguments(
    config: RunConfig,
    run: RunDirectory,
    kind: type[TrainingArguments],
    *,
    learning_rate: float,
    steps_per_epoch: int,
    on_cpu: bool,
) -> dict[str, Any]:
    """What arguments of any `kind` get."""
    training, evaluation = config.training, config.evaluation
    total = total_steps(training.num_epochs, steps_per_epoch, training.max_steps)
    watches = config.data.validation is not None
    optimizer = training.optimizer
    if optimizer == "auto":  # the gate resolves it for the device; this is for callers without one
        optimizer = "adamw_8bit" if config.method.storage == "nf4" else "adamw"
    known = {field.name for field in fields(kind)}
    checkpointing = "activation_checkpointing"
    if checkpointing not in known:
        checkpointing = "gradient_checkpointing"  # transformers before 5.20
    return dict(
        output_dir=str(run.path / "checkpoints"),
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=learning_rate,
        num_train_epochs=training.num_epochs,
        max_steps=total,
        lr_scheduler_type="constant",  # unused: create_scheduler makes our own
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim={"adamw": "adamw_torch"}.get(optimizer, optimizer),
        bf16=False,  # the step brings its own autocast
        seed=config.seed,
        data_seed=training.data_seed,
        logging_steps=training.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=training.save_every or steps_per_epoch,
        eval_strategy="steps" if watches else "no",
        eval_steps=(evaluation.every or steps_per_epoch) if watches else None,
        report_to=list(config.tracking.trackers) or "none",
        run_name=run.name,
        project=config.tracking.project,
        disable_tqdm=True,
        remove_unused_columns=False,
        max_length=None,
        router_aux_loss_coef=0.0,
        use_cpu=on_cpu,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not on_cpu,
        **{checkpointing: False},
    )


def on_one_device(made: ArgumentsT) -> ArgumentsT:
    """One process uses one GPU, whatever else is visible."""
    _ = made.device  # counts the GPUs
    made._n_gpu = min(made._n_gpu, 1)
    return made
