"""How long answers took. Both depend on the machine and what else ran on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric, SumMetric

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Latency(RowMetric):
    """Mean seconds an answer took; p50 and p95 stand in the details."""

    name = "latency"
    title = "Seconds per answer"
    higher_is_better = False
    unit = "seconds"
    needs_reference = False

    def measure(self, row: Answered) -> float | None:
        return row.seconds

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        import numpy as np

        seconds = [score for score in self.scores(rows) if score is not None]
        told: dict[str, float | None] = {"p50": None, "p95": None, "max": None, "total": None}
        if seconds:
            p50, p95 = (float(v) for v in np.percentile(seconds, (50, 95)))
            told = {"p50": p50, "p95": p95, "max": max(seconds), "total": sum(seconds)}
        return {**super().details(rows), **told}


@dataclass(frozen=True)
class TokensPerSecond(SumMetric):
    """All tokens of answers over all their seconds: how fast one answer comes. Of answers made in
    batches the machine makes several at a time.
    """

    name = "tokens_per_second"
    title = "Tokens per second"
    unit = "tokens/s"
    needs_reference = False

    def measure(self, row: Answered) -> float | None:
        if row.answer_tokens is None or not row.seconds:
            return None
        return row.answer_tokens / row.seconds

    def parts(self, rows: Sequence[Answered]) -> np.ndarray:
        """Tokens and seconds."""
        import numpy as np

        measured = [self.score(row) is not None for row in rows]
        pairs = [
            (row.answer_tokens, row.seconds) if known else (0, 0)
            for row, known in zip(rows, measured, strict=True)
        ]
        return np.array(pairs, dtype=float).reshape(-1, 2)

    def from_sums(self, sums: np.ndarray) -> np.ndarray:
        import numpy as np

        tokens, seconds = sums.T
        return np.divide(tokens, seconds, out=np.full(len(sums), np.nan), where=seconds > 0)
