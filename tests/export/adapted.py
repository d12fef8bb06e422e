"""Adapters as training leaves them, without the training: every trained number is nudged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tanren import adapter as adapters
from tanren import model as models
from tanren.config import ModelConfig
from tanren.methods import METHODS

PROBE = torch.tensor([[5, 9, 13, 2, 7, 21, 33, 4, 8, 40, 17, 3], [3] * 6 + [11, 30, 12, 6, 22, 19]])


@dataclass
class Adapted:
    """A base folder, an adapter folder, and the model in memory that both together must equal."""

    base: Path
    folder: Path
    model: Any

    def logits(self) -> Tensor:
        return logits(self.model)

    def base_logits(self) -> Tensor:
        with self.model.disable_adapter():
            return logits(self.model)


def logits(model: nn.Module) -> Tensor:
    """Of `PROBE`, (row, time, vocab) in float32."""
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=PROBE, use_cache=False).logits.float()
    return found


def adapt(
    base: Path, folder: Path, method: str, dtype: str = "float32", **settings: Any
) -> Adapted:
    """Put the method's adapter on the base, move every trained number, save it as a run does."""
    chosen = METHODS[method].model_validate({"name": method, "rank": 4, **settings})
    config = ModelConfig.model_validate({"name": str(base), "dtype": dtype})
    source = models.locate(config)
    model = adapters.add_adapter(models.load_base(source, chosen, config), source, chosen, seed=3)
    if chosen.initialisation == "eva":
        adapters.initialise_from_data(model, chosen, [{"input_ids": PROBE}] * 3)
    initial = folder / "initial"
    adapters.save_initial(model, chosen, initial)
    nudge(model)
    adapters.save_adapter(model, folder / "adapter", initial=initial if initial.is_dir() else None)
    return Adapted(base, folder / "adapter", model)


def nudge(model: nn.Module, amount: float = 0.05) -> None:
    """Move every trained number by seeded noise; tied ones together, as training would."""
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += amount * torch.randn(parameter.shape, generator=generator)
