"""BLEU and chrF as sacrebleu (Post 2018, arXiv:1804.08771) computes them, 0 to 100."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import SumMetric, missing_extra, refused
from tanren.evaluate.metrics.text import require_mecab, script_of

if TYPE_CHECKING:
    import numpy as np
    from sacrebleu.metrics import BLEU, CHRF

TOKENIZERS = {"japanese": "ja-mecab", "chinese": "zh", "korean": "char", "other": "13a"}
"""By the references' script. Korean words would need one more dictionary (`ko-mecab`)."""

_BLEU_ORDER = 4
_CHRF_ORDER, _CHRF_BETA = 6, 2


@dataclass(frozen=True)
class Bleu(SumMetric):
    """`tokenize` is sacrebleu's; without one it is chosen from the script of the references. The
    score of a row is sacrebleu's sentence BLEU (effective order) and only good for sorting.
    """

    tokenize: str | None = None

    name = "bleu"
    title = "BLEU"
    unit = "points"

    def __post_init__(self) -> None:
        if self.tokenize is not None:
            self._sacrebleu()

    def fitted(self, rows: Sequence[Answered]) -> Self:
        if self.tokenize is not None:
            return self
        return replace(self, tokenize=TOKENIZERS[script_of(row.reference for row in rows)])

    def _sacrebleu(self, effective_order: bool = False) -> BLEU:
        try:
            from sacrebleu.metrics import BLEU
        except ImportError:
            raise missing_extra("sacrebleu", "metric bleu") from None
        if self.tokenize == "ja-mecab":
            require_mecab("metric bleu on Japanese")
        if self.tokenize not in BLEU.TOKENIZERS:
            expected = "one of " + ", ".join(BLEU.TOKENIZERS)
            raise refused("bleu.tokenize", self.tokenize, expected, "choose one of them")
        return BLEU(tokenize=self.tokenize, effective_order=effective_order, force=True)

    def measure(self, row: Answered) -> float:
        chosen = self.fitted([row])._sacrebleu(effective_order=True)
        return float(chosen.sentence_score(row.answer, [row.reference]).score)

    def scores(self, rows: Sequence[Answered]) -> list[float | None]:
        chosen = self.fitted(rows)._sacrebleu(effective_order=True)
        return [
            float(chosen.sentence_score(row.answer, [row.reference]).score)
            if self.says_something(row)
            else None
            for row in rows
        ]

    def parts(self, rows: Sequence[Answered]) -> np.ndarray:
        """Right and all n-grams of the orders 1 to 4, and both lengths, in words."""
        import numpy as np

        chosen = self.fitted(rows)._sacrebleu()
        parts = np.zeros((len(rows), 2 * _BLEU_ORDER + 2))
        for i, row in enumerate(rows):
            if self.says_something(row):
                found = chosen.corpus_score([row.answer], [[row.reference]])
                parts[i] = [*found.counts, *found.totals, found.sys_len, found.ref_len]
        return parts

    def from_sums(self, sums: np.ndarray) -> np.ndarray:
        import numpy as np
        from sacrebleu.metrics import BLEU

        def one(line: list[int]) -> float:
            right, total = line[:_BLEU_ORDER], line[_BLEU_ORDER : 2 * _BLEU_ORDER]
            if line[-1] == 0:  # no reference at all
                return float("nan")
            said, meant = line[-2:]
            return float(BLEU.compute_bleu(right, total, said, meant, smooth_method="exp").score)

        return np.array([one(line) for line in sums.round().astype(int).tolist()])

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`signature` and sacrebleu's own line of precisions and brevity penalty."""
        said = [row for row in rows if self.says_something(row)]
        return {**super().details(rows), **_told(self.fitted(rows)._sacrebleu(), said)}


@dataclass(frozen=True)
class Chrf(SumMetric):
    """Character n-grams 1 to 6 without white space, recall counting twice (chrF2)."""

    name = "chrf"
    title = "chrF"
    unit = "points"

    def _sacrebleu(self) -> CHRF:
        try:
            from sacrebleu.metrics import CHRF
        except ImportError:
            raise missing_extra("sacrebleu", "metric chrf") from None
        return CHRF(char_order=_CHRF_ORDER, beta=_CHRF_BETA)

    def measure(self, row: Answered) -> float:
        return float(self._sacrebleu().sentence_score(row.answer, [row.reference]).score)

    def value(self, rows: Sequence[Answered]) -> float | None:
        said = [row for row in rows if self.says_something(row)]
        if not said:
            return None
        references = [[row.reference for row in said]]
        return float(self._sacrebleu().corpus_score([row.answer for row in said], references).score)

    def parts(self, rows: Sequence[Answered]) -> np.ndarray:
        """For each order the n-grams of the answer (none where the reference is too short to have
        any), of the reference, and those in both; then one for the row.
        """
        import numpy as np

        parts = np.zeros((len(rows), 3 * _CHRF_ORDER + 1))
        for i, row in enumerate(rows):
            if self.says_something(row):
                parts[i] = [*_chrf_counts(row.answer, row.reference), 1]
        return parts

    def from_sums(self, sums: np.ndarray) -> np.ndarray:
        """F2 of the mean precision and mean recall over the orders that both sides have."""
        import numpy as np

        said, meant, both = np.moveaxis(sums[:, :-1].reshape(len(sums), _CHRF_ORDER, 3), 2, 0)
        seen = (said > 0) & (meant > 0)
        orders = np.maximum(seen.sum(axis=1), 1)
        zeros = np.zeros_like(both)
        precision = np.divide(both, said, out=zeros.copy(), where=seen).sum(axis=1) / orders
        recall = np.divide(both, meant, out=zeros.copy(), where=seen).sum(axis=1) / orders
        weighted = _CHRF_BETA**2 * precision + recall
        score = np.divide(
            100 * (1 + _CHRF_BETA**2) * precision * recall,
            weighted,
            out=np.zeros_like(weighted),
            where=weighted > 0,
        )
        return np.where(sums[:, -1] > 0, score, np.nan)

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        said = [row for row in rows if self.says_something(row)]
        return {**super().details(rows), **_told(self._sacrebleu(), said)}


def _told(metric: BLEU | CHRF, rows: Sequence[Answered]) -> dict[str, Any]:
    """sacrebleu's signature and line; without rows it has neither."""
    if not rows:
        return {"signature": None, "told": None}
    found = metric.corpus_score([row.answer for row in rows], [[row.reference for row in rows]])
    return {"signature": str(metric.get_signature()), "told": str(found)}


def _chrf_counts(answer: str, reference: str) -> list[int]:
    counts: list[int] = []
    said, meant = "".join(answer.split()), "".join(reference.split())
    for order in range(1, _CHRF_ORDER + 1):
        a, b = _grams(said, order), _grams(meant, order)
        counts += [a.total() if b else 0, b.total(), (a & b).total()]
    return counts


def _grams(text: str, order: int) -> Counter[str]:
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))
