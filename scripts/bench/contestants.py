"""The contestants of the step-time comparison; each is one process started by the referee.

All train the same base with LoRA on all linear layers, on the same rows in the same order with the
same AdamW, clipping and constant rate, and log every step.

hand         what a good engineer writes: PEFT, one padded batch or length-sorted parts of it, the
             head at labelled positions only
trl-default  SFTTrainer with its defaults: base in float32, all activations recomputed
trl-tuned    SFTTrainer with the best of its own options
tanren       `tanren.pipeline.execute`, as `tanren train` calls it
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bench.turns import Turns

Row = tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a contestant is told."""

    kind: Literal["hand", "trl-default", "trl-tuned", "tanren"]
    work: str
    model: str
    data: str
    rows: str
    dtype: Literal["float32", "bfloat16"]
    steps: int
    batch_size: int
    rank: int
    learning_rate: float
    threads: int
    seed: int
    parts: int = 1
    padding_free: bool = False
    bf16_weights: bool = True

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    def batches(self) -> list[list[Row]]:
        """The rows of each step, in the order in which tanren takes them."""
        rows = json.loads(Path(self.rows).read_text(encoding="utf-8"))
        starts = range(0, len(rows), self.batch_size)
        return [rows[i : i + self.batch_size] for i in starts][: self.steps]


def main() -> None:
    turns = Turns()
    spec = Spec(**json.loads(sys.argv[1]))
    torch.set_num_threads(spec.threads)
    {"hand": hand, "trl-default": trl, "trl-tuned": trl, "tanren": tanren}[spec.kind](spec, turns)


def lora_settings(spec: Spec) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=2 * spec.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        bias="none",
    )


def adapter_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    return {k: v.detach().float().cpu() for k, v in get_peft_model_state_dict(model).items()}


def keep_adapter(spec: Spec, adapter: dict[str, torch.Tensor]) -> str:
    from safetensors.torch import save_file

    path = Path(spec.work) / f"{spec.kind}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, path)
    return str(path)


# --- the hand-written loop ------------------------------------------------------------------------


def hand(spec: Spec, turns: Turns) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    weights = spec.torch_dtype if spec.bf16_weights else torch.float32
    base = AutoModelForCausalLM.from_pretrained(spec.model, dtype=weights)
    base.requires_grad_(False)
    torch.manual_seed(spec.seed)
    model = get_peft_model(base, lora_settings(spec))
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    model.train()
    optimizer = torch.optim.AdamW(trained, lr=spec.learning_rate, weight_decay=0.0, fused=True)
    batches = spec.batches()
    turns.ready()
    for rows in batches:
        labelled = sum(label != -100 for _, labels in rows for label in labels[1:])
        total = torch.zeros(())
        for part in sorted_parts(rows, spec.parts):
            ids, mask, targets = padded(part)
            with torch.autocast("cpu", torch.bfloat16, enabled=spec.dtype == "bfloat16"):
                loss = labelled_loss(base, ids, mask, targets) / labelled
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        turns.lap(float(total))
    turns.done(
        adapter=keep_adapter(spec, adapter_of(model)), trained=sum(map(torch.numel, trained))
    )


def sorted_parts(rows: list[Row], parts: int) -> list[list[Row]]:
    """The step's rows in `parts` equal parts of like length; one part is the batch as it came."""
    if parts == 1:
        return [rows]
    ordered = sorted(rows, key=lambda row: len(row[0]))
    size = -(-len(ordered) // parts)
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def padded(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, attention mask and targets, each (rows, longest)."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full((len(rows), longest), -100)
    for i, (row, labels) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        targets[i, : len(row) - 1] = torch.tensor(labels[1:])
    return ids, mask, targets


def labelled_loss(
    base: Any, ids: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Summed cross-entropy; all logits of the labelled positions, none of the others."""
    hidden = base.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    wanted = targets != -100
    logits = base.lm_head(hidden[wanted])
    return torch.nn.functional.cross_entropy(logits.float(), targets[wanted], reduction="sum")


# --- TRL ------------------------------------------------------------------------------------------


def trl(spec: Spec, turns: Turns) -> None:
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    rows = [row for batch in spec.batches() for row in batch]
    data = Dataset.from_list([{"input_ids": ids, "labels": labels} for ids, labels in rows])
    tuned = spec.kind == "trl-tuned"
    wanted: dict[str, Any] = {"bf16": spec.dtype == "bfloat16"}
    if tuned:
        wanted |= {"gradient_checkpointing": False}
        if spec.padding_free:
            wanted |= {"padding_free": True, "max_length": None}
    arguments = SFTConfig(
        output_dir=str(Path(spec.work) / spec.kind),
        per_device_train_batch_size=spec.batch_size,
        max_steps=spec.steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",  # the same rows in the same order
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=spec.seed,
        **wanted,
    )

    class Laps(TrainerCallback):
        """Takes turns; the step's loss comes with the log that follows it."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.ready()

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if "loss" in kwargs["logs"]:
                turns.lap(kwargs["logs"]["loss"])

    base: Any = spec.model
    if tuned and spec.bf16_weights:
        base = AutoModelForCausalLM.from_pretrained(spec.model, dtype=spec.torch_dtype)
    torch.manual_seed(spec.seed)
    trainer = SFTTrainer(
        model=base,
        args=arguments,
        train_dataset=data,
        peft_config=lora_settings(spec),
        callbacks=[Laps()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    network = trainer.model
    assert isinstance(network, torch.nn.Module)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    turns.done(adapter=keep_adapter(spec, adapter_of(network)), trained=trained)


# --- tanren ---------------------------------------------------------------------------------------


def settings(spec: Spec) -> Any:
    from tanren.config import load

    return load(
        None,
        base={
            "model": {"name": spec.model, "dtype": spec.dtype},
            "data": {"train": spec.data},
            "method": {"name": "lora", "rank": spec.rank, "alpha": 2 * spec.rank},
            "training": {
                "learning_rate": spec.learning_rate,
                "batch_size": spec.batch_size,
                "num_epochs": 1000,
                "max_steps": spec.steps,
                "warmup_fraction": 0,
                "schedule": "constant",
            },
            "evaluation": {"samples": 0},
            "seed": spec.seed,
        },
    )


def tanren(spec: Spec, turns: Turns) -> None:
    from safetensors.torch import load_file

    from tanren import pipeline
    from tanren.rundir import RunDirectory

    def observe(event: dict[str, Any]) -> None:
        if event["event"] == "stage" and event["name"] == "train":
            turns.ready()
        elif event["event"] == "step":
            turns.lap(event["loss"])

    run = RunDirectory.create(Path(spec.work) / "run", settings(spec))
    result = pipeline.execute(run, observer=observe)
    saved = load_file(run.adapter / "adapter_model.safetensors")
    turns.done(
        adapter=keep_adapter(spec, {name: t.float() for name, t in saved.items()}),
        trained=result["trained_parameters"],
        side_by_side=result["side_by_side"],
        micro_batch_tokens=result["micro_batch_tokens"],
        proof=result["proof"]["passed"],
    )


if __name__ == "__main__":
    main()
