"""How surprised a model is by the references: loss and perplexity, weighted by tokens, so that they
do not depend on how rows were batched (T31).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import SumMetric

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Loss(SumMetric):
    """Nats per token of the references: every token counts alike, so long rows count more. A row
    without its number of tokens has no weight and no score.
    """

    name = "loss"
    title = "Held-out loss"
    higher_is_better = False
    unit = "nats"

    def measure(self, row: Answered) -> float | None:
        return row.loss if row.reference_tokens else None

    def parts(self, rows: Sequence[Answered]) -> np.ndarray:
        """Nats and tokens."""
        import numpy as np

        weights = [(row.reference_tokens or 0) if self._has_loss(row) else 0 for row in rows]
        nats = [weight * (row.loss or 0) for row, weight in zip(rows, weights, strict=True)]
        return np.array([nats, weights], dtype=float).T

    def _has_loss(self, row: Answered) -> bool:
        return self.says_something(row) and row.loss is not None

    def from_sums(self, sums: np.ndarray) -> np.ndarray:
        import numpy as np

        nats, tokens = sums.T
        return np.divide(nats, tokens, out=np.full(len(sums), np.nan), where=tokens > 0)

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        return {**super().details(rows), "tokens": int(self.parts(rows)[:, 1].sum())}


@dataclass(frozen=True)
class Perplexity(Loss):
    """exp of the loss: among how many tokens the model hesitates. Comparable only between models
    with the same tokenizer.
    """

    name = "perplexity"
    title = "Perplexity"
    unit = "tokens"

    def measure(self, row: Answered) -> float | None:
        loss = super().measure(row)
        return None if loss is None else math.exp(min(loss, 700.0))  # a float holds exp(709)

    def from_sums(self, sums: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.exp(np.minimum(super().from_sums(sums), 700.0))
