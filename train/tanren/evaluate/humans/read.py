"""Reads filled sheets back, uncovers who gave which answer, and tells all faults at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tanren.errors import DataError, Fault
from tanren.evaluate.humans.filled import Filled, FilledItem, read_filled
from tanren.evaluate.humans.key import Key, read_key
from tanren.evaluate.humans.marks import EXPECTED, marked_value
from tanren.evaluate.humans.ratings import Comment, Rating, Ratings
from tanren.strict_json import quoted

_Unit = tuple[str, str, str]
"""Rater, item, criterion."""


def read_ratings(files: Sequence[Path], key: Path) -> Ratings:
    """The ratings in filled sheets (CSV, also saved by Excel, or the form's JSON), several people's
    in any number of files.

    Raises DataError with every fault of every file; empty cells are no fault, they are counted.
    """
    opened = read_key(key)
    filled = [read_filled(path, opened.criteria) for path in files]
    faults = [fault for one in filled for fault in one.faults]
    faults += _same_names(filled)
    if not files:
        faults.append(Fault("ratings", "no file", "at least one filled sheet", "name the files"))
    reading = _Reading(opened)
    for one in filled:
        reading.take(one)
    faults += reading.faults
    if faults:
        raise DataError.of(*faults)
    return reading.result([note for one in filled for note in one.notes])


def _same_names(filled: Sequence[Filled]) -> Iterator[Fault]:
    """Files without a rater's name are told apart by their own; equal ones would be one person."""
    stems = Counter(one.path.stem for one in filled if not one.named)
    for one in filled:
        if not one.named and stems[one.path.stem] > 1:
            found = f"the same file name as another, {quoted(one.path.stem)}"
            remedy = "rename it after its rater, or fill the column rater"
            yield Fault(str(one.path), found, "one name for each rater", remedy)


class _Reading:
    """Marks of all files together, so that the same thing rated twice is seen."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.faults: list[Fault] = []
        self.comments: list[Comment] = []
        self._ratings: dict[_Unit, Rating] = {}
        self._places: dict[_Unit, str] = {}
        self._repeated = 0
        self._raters: dict[str, None] = {}

    def take(self, filled: Filled) -> None:
        strangers = {i.sheet: i for i in reversed(filled.items) if i.sheet != self.key.sheet}
        for stranger in strangers.values():
            found, expected = f"the sheet {quoted(stranger.sheet)}", quoted(self.key.sheet)
            self._fault(stranger.where, found, expected, "name the key of that sheet")
        for item in filled.items:
            if item.sheet == self.key.sheet:
                self._take_item(item)

    def _take_item(self, item: FilledItem) -> None:
        if item.item not in self.key.places:
            expected = f"an item of the sheet (q1 to q{len(self.key.places)})"
            self._fault(item.where, f"the item {quoted(item.item)}", expected, "restore the cell")
            return
        self._raters[item.rater] = None
        row, models = self.key.places[item.item]
        if item.comment:
            self.comments.append(Comment(item.rater, row, models, item.comment))
        for criterion, mark in item.marks.items():
            if criterion not in self.key.criteria:
                expected = "one of " + ", ".join(self.key.criteria)
                self._fault(item.where, f"the criterion {quoted(criterion)}", expected, "remove it")
            elif mark:
                self._take_mark(item, criterion, mark)

    def _take_mark(self, item: FilledItem, criterion: str, mark: str) -> None:
        mode = self.key.mode
        value = marked_value(mode, mark, decimal_comma=item.decimal_comma)
        where = f"{item.where} {criterion}"
        if value is None:
            remedy = "write one of them, or leave the cell empty"
            self._fault(where, quoted(mark), EXPECTED[mode], remedy)
            return
        rating, unit = self._rating(item, criterion, value), (item.rater, item.item, criterion)
        before = self._ratings.setdefault(unit, rating)
        if before.value != rating.value:
            found = f"{quoted(mark)}, another mark than at {self._places[unit]}"
            expected = f"one mark by {quoted(item.rater)} for {item.item}"
            self._fault(where, found, expected, "delete the wrong one, or name the other rater")
        self._repeated += unit in self._places
        self._places.setdefault(unit, item.where)

    def _rating(self, item: FilledItem, criterion: str, value: float) -> Rating:
        row, models = self.key.places[item.item]
        if self.key.mode != "pairwise":
            return Rating(item.rater, row, models[0], criterion, value)
        seen = value if models[0] == self.key.model else 1.0 - value
        return Rating(item.rater, row, self.key.model, criterion, seen, self.key.against)

    def _fault(self, where: str, found: str, expected: str, remedy: str) -> None:
        self.faults.append(Fault(where, found, expected, remedy))

    def result(self, notes: list[str]) -> Ratings:
        given = Counter(rater for rater, _, _ in self._ratings)
        wanted = len(self.key.places) * len(self.key.criteria)
        if self._repeated:
            notes.append(f"{self._repeated} marks stand in two places with the same value")
        return Ratings(
            sheet=self.key.sheet,
            mode=self.key.mode,
            criteria=self.key.criteria,
            model=self.key.model,
            against=self.key.against,
            raters=tuple(self._raters),
            ratings=tuple(self._ratings.values()),
            not_rated={rater: wanted - given[rater] for rater in self._raters},
            comments=tuple(self.comments),
            notes=tuple(notes),
        )
