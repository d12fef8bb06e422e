"""What people are shown: single answers of several models, or two answers side by side."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tanren.errors import ConfigError, Fault
from tanren.evaluate.answered import Answered
from tanren.evaluate.judges.prompt import texts_of


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to rate. `models` and `answers` stand in the same order, one or two of each."""

    row: int
    models: tuple[str, ...]
    question: str
    reference: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """`model` and `against` are the two models of pairs, in the order in which results tell them;
    both are empty for single answers. `left_out` counts answers that cannot be shown: there is
    none, or no second one to compare with.
    """

    items: tuple[Item, ...]
    left_out: int
    model: str = ""
    against: str = ""

    def shuffled(self, seed: int) -> Items:
        """Items in random order, and the answers of each in random order."""
        draw = random.Random(seed)
        items = [_turned(item) if draw.random() < 0.5 else item for item in self.items]
        draw.shuffle(items)
        return Items(tuple(items), self.left_out, self.model, self.against)


def _turned(item: Item) -> Item:
    return Item(item.row, item.models[::-1], item.question, item.reference, item.answers[::-1])


def single_items(answers: Mapping[str, Sequence[Answered]]) -> Items:
    """Every answer of every model (by its name) on its own."""
    items, left_out = [], 0
    for model, rows in answers.items():
        for row in rows:
            if row.error is not None:
                left_out += 1
                continue
            texts = texts_of(row)
            question, reference = texts["question"], texts["reference"]
            items.append(Item(row.row, (model,), question, reference, (row.answer,)))
    return Items(tuple(items), left_out)


def pair_items(
    rows: Sequence[Answered], others: Sequence[Answered], *, model: str, against: str
) -> Items:
    """The answers of two models to the same rows. ConfigError if they have one name."""
    if model == against:
        found = f"{model!r} twice"
        raise ConfigError.of(Fault("sheet", found, "two models", "give one another name"))
    opposite = {row.row: row for row in others if row.error is None}
    items = []
    for row in rows:
        other = opposite.get(row.row)
        if row.error is None and other is not None:
            texts = texts_of(row)
            items.append(
                Item(
                    row.row,
                    (model, against),
                    texts["question"],
                    texts["reference"],
                    (row.answer, other.answer),
                )
            )
    left_out = len(rows) + len(others) - 2 * len(items)
    return Items(tuple(items), left_out, model, against)
