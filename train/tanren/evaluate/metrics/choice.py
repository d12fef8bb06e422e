"""Multiple choice, where every row has its own options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric, mean, refused
from tanren.evaluate.metrics.classification import By
from tanren.evaluate.metrics.options import Choices
from tanren.evaluate.metrics.text import normalised

Normalise = Literal["token", "sum", "character"]
_DIVISORS = ("token", "sum", "character")


@dataclass(frozen=True)
class Choice(RowMetric):
    """The share of rows in which the right option was chosen. Options are the row's own, else those
    that its last user turn lists. An answer that names no option is wrong and counted as `other`.

    By likelihood, the option with the smallest loss: its mean over tokens (`token`, as measured),
    its `sum`, or its sum over `character`s, for options of different lengths; the last two need
    the number of each option's tokens.
    """

    by: By = "generation"
    normalise: Normalise = "token"

    def __post_init__(self) -> None:
        if self.by not in ("generation", "likelihood"):
            raise refused("choice.by", self.by, "generation or likelihood", "choose one of them")
        if self.normalise not in _DIVISORS:
            expected = ", ".join(_DIVISORS)
            raise refused("choice.normalise", self.normalise, expected, "choose one of them")

    @property
    def name(self) -> str:  # type: ignore[override]
        if self.by == "generation":
            return "choice"
        return "choice_by_likelihood" + ("" if self.normalise == "token" else f"_{self.normalise}")

    @property
    def title(self) -> str:  # type: ignore[override]
        if self.by == "generation":
            return "Right choice"
        return f"Right choice (by likelihood, per {self.normalise})".replace("per sum", "sum")

    def measure(self, row: Answered) -> float | None:
        wanted = _choices(row).named_by(row.reference)
        if wanted is None or (self.by == "likelihood" and self._losses(row) is None):
            return None
        return float(self.chosen(row) == wanted)

    def chosen(self, row: Answered) -> int | None:
        """The index of the option that the model chose."""
        if self.by == "generation":
            return _choices(row).named_by(row.answer)
        losses = self._losses(row)
        return None if losses is None else losses.index(min(losses))

    def _losses(self, row: Answered) -> list[float] | None:
        """What is compared; None where it was not measured."""
        losses, tokens = row.option_losses, row.option_tokens
        if not losses or len(losses) != len(row.options):
            return None
        if self.normalise == "token":
            return list(losses)
        if len(tokens) != len(losses):
            return None
        sums = [loss * count for loss, count in zip(losses, tokens, strict=True)]
        if self.normalise == "sum":
            return sums
        return [s / max(len(option), 1) for s, option in zip(sums, row.options, strict=True)]

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`chance`: what guessing would reach. `chosen_places` and `right_places`: how often each
        place was chosen and was right (a model may love the first). `other`: answers that name no
        option; of these `other_naming_one_option` hold exactly one option's text.
        """
        scored = [row for row in rows if self.score(row) is not None]
        chosen = [self.chosen(row) for row in scored]
        others = [row for row, place in zip(scored, chosen, strict=True) if place is None]
        return {
            **super().details(rows),
            "chance": mean([1 / len(_choices(row).texts) for row in scored]),
            "chosen_places": _places(place for place in chosen if place is not None),
            "right_places": _places(_right_place(row) for row in scored),
            "other": len(others),
            "other_naming_one_option": sum(_names_one(row) for row in others),
        }


def _choices(row: Answered) -> Choices:
    return Choices.of(row.options, row.question)


def _right_place(row: Answered) -> int:
    place = _choices(row).named_by(row.reference)
    assert place is not None, "only rows with a score have their reference among the options"
    return place


def _places(indices: Any) -> dict[str, int]:
    """From 1, as people count."""
    return {str(place + 1): count for place, count in sorted(Counter(indices).items())}


def _names_one(row: Answered) -> bool:
    said = normalised(row.answer)
    return sum(normalised(option) in said for option in _choices(row).texts) == 1
