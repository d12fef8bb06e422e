"""How near answer and reference are in meaning, for a given embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric

if TYPE_CHECKING:
    import numpy as np

Embed = Callable[[list[str]], "np.ndarray"]
"""Texts -> (texts, width), one vector each, of any length."""


@dataclass(frozen=True)
class Similarity(RowMetric):
    """Cosine of the two vectors, -1 to 1. Every text is embedded once; an empty answer is near to
    nothing (0) and not asked for. `model` is the embedding's name, for the record.
    """

    embed: Embed
    model: str = ""
    _vectors: dict[str, np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    name = "similarity"
    title = "Similarity in meaning"
    unit = "cosine"

    def measure(self, row: Answered) -> float:
        return self._cosine(row.answer, row.reference)

    def scores(self, rows: Sequence[Answered]) -> list[float | None]:
        said = [row for row in rows if self.says_something(row)]
        self._learn([text for row in said for text in (row.answer, row.reference)])
        return super().scores(rows)

    def _learn(self, texts: Sequence[str]) -> None:
        new = [t for t in dict.fromkeys(texts) if t.strip() and t not in self._vectors]
        if new:
            self._vectors.update(zip(new, self.embed(new), strict=True))

    def _cosine(self, answer: str, reference: str) -> float:
        import numpy as np

        self._learn([answer, reference])
        if not answer.strip():
            return 0.0
        a, b = self._vectors[answer], self._vectors[reference]
        scale = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(np.dot(a, b)) / scale if scale else 0.0

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        return {**super().details(rows), "model": self.model}
