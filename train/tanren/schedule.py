"""The learning rate over the steps, as a factor on every group's peak rate."""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["cosine", "constant", "linear"]


def factor(step: int, *, steps: int, warmup_steps: int, kind: Kind) -> float:
    """Factor of optimizer step number `step`, counted from 0.

    It rises to 1 over `warmup_steps` and then follows `kind` down to 0 after the last step. The
    first step already has a rate (1 / warmup_steps): a step with a rate of 0 reads its rows and
    learns nothing from them.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if kind == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return 1.0 - progress if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def total_steps(num_epochs: float, steps_per_epoch: int, max_steps: int | None) -> int:
    """Optimizer steps of a whole run: a fraction of an epoch is rounded up to whole steps."""
    steps = max(1, math.ceil(num_epochs * steps_per_epoch - 1e-9))
    return steps if max_steps is None else min(steps, max_steps)
