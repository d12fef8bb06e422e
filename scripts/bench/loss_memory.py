"""One loss, once forward and backward, alone in a process: peak memory above its inputs.

python -m bench.loss_memory full|chunked float32|bfloat16 VOCABULARY POSITIONS WIDTH
"""

from __future__ import annotations

import json
import sys
import time

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from bench.turns import peak_rss
from tanren.loss import linear_cross_entropy


def loss_of(kind: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy, by our chunks or by all logits at once."""
    if kind == "chunked":
        return linear_cross_entropy(hidden, weight, targets).total
    logits = (hidden @ weight.t()).float()
    return functional.cross_entropy(logits, targets, reduction="sum")


def main() -> None:
    kind, dtype = sys.argv[1:3]
    vocabulary, positions, width = map(int, sys.argv[3:6])
    print(json.dumps(measure(kind, getattr(torch, dtype), vocabulary, positions, width)))


def measure(
    kind: str, dtype: torch.dtype, vocabulary: int, positions: int, width: int
) -> dict[str, float]:
    """Peak bytes above the inputs, CPU seconds and the loss."""
    torch.manual_seed(0)
    # Made in place and in the final type: no temporary may set the peak before the measurement.
    weight = torch.empty(vocabulary, width, dtype=dtype).normal_(std=0.02)
    hidden = torch.empty(positions, width, dtype=dtype).normal_().requires_grad_()
    targets = torch.randint(0, vocabulary, (positions,))
    # Once small: kernels are loaded, and their pages counted, before the measurement.
    small = loss_of(kind, hidden[:64], weight[:512], targets[:64] % 512)
    small.backward()
    hidden.grad = None
    before, cpu = psutil.Process().memory_info().rss, time.process_time()
    total = loss_of(kind, hidden, weight, targets)
    total.backward()
    assert hidden.grad is not None and bool(torch.isfinite(hidden.grad).all())
    return {
        "bytes": peak_rss() - before,
        "cpu": time.process_time() - cpu,
        "loss": float(total.detach()),
    }


if __name__ == "__main__":
    main()
