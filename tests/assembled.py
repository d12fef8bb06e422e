"""A trainer put together from the parts, with everything between them in the test's hands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tanren import adapter as adapters
from tanren import attention
from tanren import model as models
from tanren.batches import Row, assemble
from tanren.config import RunConfig
from tanren.gate import Gate, examine, quiet
from tanren.rundir import RunDirectory
from tanren.sft import Step, Trainer


@dataclass
class Assembled:
    """`base` and `model` share their weights; `model` is the base with its adapter."""

    gate: Gate
    base: Any
    model: Any

    def rows(self) -> list[Row]:
        return [Row.of(*self.gate.train.row(i)) for i in range(len(self.gate.train))]

    def trainer(self, run: RunDirectory) -> Trainer:
        """Not yet fitted. Rows are laid side by side; the loss is our own."""
        config, gate = self.gate.config, self.gate
        trainer = Trainer(
            model=self.model,
            tokenizer=gate.tokenizer,
            method=config.method,
            config=config,
            run=run,
            train=gate.train,
            validation=gate.validation,
            step=Step(gate.plan.micro_batch_tokens, True, int(gate.tokenizer.pad_token_id)),
            learning_rate=gate.plan.learning_rate,
            dtype=getattr(torch, gate.plan.dtype),
            on_cpu=True,
            tell=quiet,
            save_weights=lambda folder: adapters.save_adapter(self.model, folder),
        )
        trainer.prove_loss(self.rows()[:2])
        return trainer

    def logits(self) -> Tensor:
        """Of `PROBE`, (time, vocab) float32, from the model as it is now."""
        return logits(self.model)


PROBE = [5, 17, 9, 33, 21, 8, 40, 12, 3, 27, 64, 99, 150, 7]


def logits(model: nn.Module, probe: list[int] | None = None) -> Tensor:
    """(time, vocab) float32 logits of one row in evaluation mode."""
    model.eval()
    with torch.no_grad():
        out = model(input_ids=torch.tensor([probe or PROBE]), use_cache=False).logits[0].float()
    return out.clone()


def load(gate: Gate, implementation: str | None = None) -> Any:
    """A fresh base for the gate's model, stored as its method asks."""
    config = gate.config
    return models.load_base(
        gate.source, config.method, config.model, attention=implementation or attention.register()
    )


def assemble_model(config: RunConfig, *, seed: int | None = None) -> Assembled:
    """Through the gate, onto a fresh base, with the adapter initialised as a run does it."""
    gate = examine(config)
    base = load(gate)
    model = adapters.add_adapter(
        base, gate.source, config.method, seed=config.seed if seed is None else seed
    )
    adapters.initialise_from_data(model, config.method, _inputs(gate))
    return Assembled(gate, base, model)


def _inputs(gate: Gate) -> Iterator[dict[str, Any]]:
    rows = [Row.of(*gate.train.row(i)) for i in range(len(gate.train))]
    pad = int(gate.tokenizer.pad_token_id)
    for row in rows:
        inputs = assemble([row], side_by_side=False, pad_id=pad).model_inputs()
        yield {k: v for k, v in inputs.items() if isinstance(v, Tensor)}


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors that have a gradient, by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """Copies of everything else, buffers included. 4-bit weights are their stored bytes."""
    still = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    return still | {f"buffer {n}": b.detach().clone() for n, b in model.named_buffers()}


def with_settings(config: RunConfig, part: str, **changes: Any) -> RunConfig:
    """The config with fields of one part replaced."""
    inner = getattr(config, part).model_copy(update=changes)
    return config.model_copy(update={part: inner})


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value of the first."""
    return float((a - b).abs().max() / a.abs().max())


def replaced(step: Step, **changes: Any) -> Step:
    return dataclasses.replace(step, **changes)
