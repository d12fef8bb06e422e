"""Which of a few labels: by the text that was generated, or by the label that costs least.

An answer that is no label is "other": its own column of the confusion matrix, wrong in every score,
never left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric, SumMetric, refused
from tanren.evaluate.metrics.text import normalised

if TYPE_CHECKING:
    import numpy as np

By = Literal["generation", "likelihood"]
OTHER = "other"
SHOWN_OTHERS = 10
"""Different answers that are no label and stand in the details, the most frequent first."""

_WAYS = ("generation", "likelihood")


def predicted(row: Answered, by: By) -> str | None:
    """What the row's model said, normalised. None where a likelihood was not measured."""
    if by == "generation":
        return normalised(row.answer)
    if not row.option_losses or len(row.option_losses) != len(row.options):
        return None
    cheapest = min(range(len(row.options)), key=row.option_losses.__getitem__)
    return normalised(row.options[cheapest])


def labels_of(rows: Sequence[Answered]) -> tuple[str, ...]:
    """All references and options of the rows, normalised, in the order of their letters."""
    found = {normalised(row.reference) for row in rows if row.reference.strip()}
    found.update(normalised(option) for row in rows for option in row.options)
    return tuple(sorted(found))


@dataclass(frozen=True)
class _OfLabels:
    """What accuracy and the F1 scores share. Labels are compared normalised; without `labels`
    (or with an empty list) they are the references and options of the data.
    """

    labels: tuple[str, ...] | None = None
    by: By = "generation"

    def __post_init__(self) -> None:
        if self.by not in _WAYS:
            raise refused("by", self.by, " or ".join(_WAYS), "choose one of them")
        if isinstance(self.labels, str):
            raise refused("labels", self.labels, "a list of labels", "make it a list")
        if self.labels is not None:
            plain = tuple(dict.fromkeys(normalised(label) for label in self.labels))
            object.__setattr__(self, "labels", plain or None)

    def fitted(self, rows: Sequence[Answered]) -> Self:
        return self if self.labels is not None else replace(self, labels=labels_of(rows))

    def names(self, rows: Sequence[Answered]) -> tuple[str, ...]:
        return labels_of(rows) if self.labels is None else self.labels

    def _named(self, name: str) -> str:
        return name if self.by == "generation" else f"{name}_by_likelihood"

    def _titled(self, title: str) -> str:
        return title if self.by == "generation" else f"{title} (by likelihood)"


@dataclass(frozen=True)
class Accuracy(_OfLabels, RowMetric):
    """The share of rows whose label is right. A reference that is none of the given labels leaves
    the row out (`without_score`).
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._named("accuracy")

    @property
    def title(self) -> str:  # type: ignore[override]
        return self._titled("Accuracy")

    def measure(self, row: Answered) -> float | None:
        wanted, said = normalised(row.reference), predicted(row, self.by)
        if said is None or (self.labels is not None and wanted not in self.labels):
            return None
        return float(wanted == said)

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`labels`, `confusion` (a line per reference, a column per label and one for `other`),
        `per_label`, both averages, and the answers that were no label.
        """
        labels = self.names(rows)
        scored = [row for row in rows if self.score(row) is not None]
        matrix = confusion(scored, labels, self.by)
        return {
            **super().details(rows),
            "labels": list(labels),
            "columns": [*labels, OTHER],
            "confusion": matrix,
            "per_label": per_label(matrix, labels),
            "macro_f1": MacroF1(labels, self.by).value(scored),
            "micro_f1": MicroF1(labels, self.by).value(scored),
            **self._others(scored, labels),
        }

    def _others(self, rows: Sequence[Answered], labels: Sequence[str]) -> dict[str, Any]:
        """`other_naming_one_label`: of these answers, those in which exactly one label stands, so
        that the form is wrong and not the thought.
        """
        said = [predicted(row, self.by) or "" for row in rows]
        strange = [text for text in said if text not in labels]
        naming = sum(sum(label in text for label in labels) == 1 for text in strange)
        return {
            "other": len(strange),
            "other_naming_one_label": naming,
            "other_answers": dict(Counter(strange).most_common(SHOWN_OTHERS)),
        }


class _F1(_OfLabels, SumMetric):
    """Sums per label: right (true positives), said, and meant (the support)."""

    def score(self, row: Answered) -> float | None:
        return Accuracy(self.labels, self.by).score(row)

    def measure(self, row: Answered) -> float | None:
        return self.score(row)

    def parts(self, rows: Sequence[Answered]) -> np.ndarray:
        import numpy as np

        labels = self.names(rows)
        place = {label: i for i, label in enumerate(labels)}
        parts = np.zeros((len(rows), 3, len(labels)))
        for i, row in enumerate(rows):
            if not self.says_something(row) or (said := predicted(row, self.by)) is None:
                continue
            wanted = normalised(row.reference)
            if wanted not in place:
                continue
            parts[i, 2, place[wanted]] = 1
            if said in place:
                parts[i, 1, place[said]] = 1
                parts[i, 0, place[said]] = said == wanted
        return parts.reshape(len(rows), -1)


class MacroF1(_F1):
    """The mean of the labels' F1; labels that are neither meant nor said do not count."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._named("macro_f1")

    @property
    def title(self) -> str:  # type: ignore[override]
        return self._titled("Macro F1")

    def from_sums(self, sums: np.ndarray) -> np.ndarray:
        import numpy as np

        right, said, meant = np.moveaxis(sums.reshape(len(sums), 3, -1), 1, 0)
        seen = said + meant > 0
        f1 = np.divide(2 * right, said + meant, out=np.zeros_like(right), where=seen)
        count = seen.sum(axis=1)
        return np.divide(f1.sum(axis=1), count, out=np.full(len(sums), np.nan), where=count > 0)


class MicroF1(_F1):
    """F1 of all labels counted together; it is above the accuracy where answers are no label."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._named("micro_f1")

    @property
    def title(self) -> str:  # type: ignore[override]
        return self._titled("Micro F1")

    def from_sums(self, sums: np.ndarray) -> np.ndarray:
        import numpy as np

        right, said, meant = np.moveaxis(sums.reshape(len(sums), 3, -1).sum(axis=2), 1, 0)
        both = said + meant
        return np.divide(2 * right, both, out=np.full(len(sums), np.nan), where=both > 0)


def confusion(rows: Sequence[Answered], labels: Sequence[str], by: By) -> list[list[int]]:
    """A line per reference in the order of `labels`, a column per label, the last one `other`."""
    place = {label: i for i, label in enumerate(labels)}
    matrix = [[0] * (len(labels) + 1) for _ in labels]
    for row in rows:
        said = predicted(row, by)
        matrix[place[normalised(row.reference)]][place.get(said or "", len(labels))] += 1
    return matrix


def per_label(matrix: list[list[int]], labels: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Precision (None where the label was never said), recall (None where it was never meant), F1,
    `support` and `said`.
    """
    report: dict[str, dict[str, float | None]] = {}
    for i, label in enumerate(labels):
        right, meant = matrix[i][i], sum(matrix[i])
        said = sum(line[i] for line in matrix)
        report[label] = {
            "precision": right / said if said else None,
            "recall": right / meant if meant else None,
            "f1": 2 * right / (said + meant) if said + meant else None,
            "support": meant,
            "said": said,
        }
    return report
