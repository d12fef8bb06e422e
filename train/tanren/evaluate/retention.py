"""What a model could do before tuning and still can: general questions, asked before and after.

Only rows that the model answered rightly before can be lost, so the drop is taken over these. Rows
that it failed before say nothing of retention: they are counted apart, and so are those of them
that are right now. Both together give the net change over all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

from tanren.errors import Fault
from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric
from tanren.evaluate.retention_set import RetentionRow, RetentionSet, kept

__all__ = ["Kept", "RetentionGroup", "RetentionResult", "RetentionSet", "gate", "kept", "retention"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Kept(RowMetric):
    """The share of general questions with a right answer. Rows that the set does not have say
    nothing.
    """

    rows: RetentionSet

    name = "retention"
    title = "General questions right"
    needs_reference = False

    @cached_property
    def _by_number(self) -> dict[int, RetentionRow]:
        return {row.number: row for row in self.rows.rows}

    def measure(self, row: Answered) -> float | None:
        asked = self._by_number.get(row.row)
        return None if asked is None else float(kept(asked, row.answer))


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with both answers, and whether each is right."""

    row: RetentionRow
    before: Answered
    after: Answered
    right_before: bool
    right_after: bool


@dataclass(frozen=True, slots=True)
class RetentionGroup:
    """Counts of rows that both sides answered. failed_before == gained + rows wrong on both sides.

    `drop_points` is 100 x lost / right_before with Wilson's 95% interval; None where nothing was
    right before, so that nothing could be lost.
    """

    kind: Literal["all", "language", "category"]
    name: str
    rows: int
    right_before: int
    right_after: int
    lost: int
    gained: int
    failed_before: int
    drop_points: float | None
    drop_low: float | None
    drop_high: float | None

    @classmethod
    def of(
        cls, kind: Literal["all", "language", "category"], name: str, rows: Sequence[Judged]
    ) -> Self:
        before = sum(row.right_before for row in rows)
        lost = sum(row.right_before and not row.right_after for row in rows)
        drop, low, high = _drop(lost, before)
        return cls(
            kind,
            name,
            rows=len(rows),
            right_before=before,
            right_after=sum(row.right_after for row in rows),
            lost=lost,
            gained=sum(row.right_after and not row.right_before for row in rows),
            failed_before=len(rows) - before,
            drop_points=drop,
            drop_low=low,
            drop_high=high,
        )


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row that was right on one side only."""

    number: int
    where: str
    category: str
    language: str
    question: str
    reference: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class RetentionResult:
    rows: int
    """Rows of the set."""
    unanswered: int
    """Rows without an answer on one side or both (left out of everything else)."""
    overall: RetentionGroup
    groups: tuple[RetentionGroup, ...]
    """Languages first, then categories, each in the order of the set."""
    lost: tuple[ChangedRow, ...]
    gained: tuple[ChangedRow, ...]
    net_points: float | None
    """100 x (right after - right before) / rows: losses and gains together, below 0 for a loss."""
    net_low: float | None
    net_high: float | None
    net_p: float | None
    """McNemar's exact test of losses against gains."""
    files: Mapping[str, str]
    """By path: the SHA-256 of the set's files."""
    drift_nats: float | None = None
    """Mean KL divergence to the model before on these prompts, where it was measured."""

    @property
    def sentence(self) -> str:
        """The outcome in one line for people."""
        of = self.overall
        if of.drop_points is None:
            return f"nothing could be lost: the model before answered none of {of.rows} rows"
        words = (
            f"lost {of.lost} of the {of.right_before} rows it could answer before: "
            f"{of.drop_points:.1f} points, 95% {of.drop_low:.1f} to {of.drop_high:.1f}"
        )
        if of.failed_before:
            words += f"; {of.gained} of the {of.failed_before} rows it failed before are right now"
        return words


def retention(
    before: Sequence[Answered], after: Sequence[Answered], rows: RetentionSet
) -> RetentionResult:
    """Answers are matched by `Answered.row` to the numbers of the set."""
    from tanren.evaluate.statistics import compare

    judged = _judged(before, after, rows)
    net = compare(before, after, Kept(rows), most_changed=0)
    return RetentionResult(
        rows=len(rows.rows),
        unanswered=len(rows.rows) - len(judged),
        overall=RetentionGroup.of("all", "all", judged),
        groups=_groups(judged),
        lost=tuple(_changed(j) for j in judged if j.right_before and not j.right_after),
        gained=tuple(_changed(j) for j in judged if j.right_after and not j.right_before),
        net_points=None if net.difference is None else 100 * net.difference,
        net_low=100 * net.interval.low if net.interval else None,
        net_high=100 * net.interval.high if net.interval else None,
        net_p=net.p,
        files=rows.files,
    )


def gate(result: RetentionResult, max_drop_points: float) -> list[Fault]:
    """What keeps the result from passing: a drop beyond the limit, or nothing to measure it on."""
    of = result.overall
    if of.drop_points is None:
        expected = "at least one row that the model before answers rightly"
        remedy = "give a retention file with rows that it can answer"
        return [Fault("retention", f"none among {of.rows} answered rows", expected, remedy)]
    if of.drop_points <= max_drop_points:
        return []
    found = (
        f"a drop of {of.drop_points:.1f} points ({of.lost} of {of.right_before} rows lost, "
        f"95% {of.drop_low:.1f} to {of.drop_high:.1f}{_worst(result)})"
    )
    remedy = "train with a lower rate or fewer epochs, or mix general rows into the training data"
    return [Fault("retention", found, f"at most {max_drop_points:g} points", remedy)]


def _worst(result: RetentionResult) -> str:
    """The category with the most lost rows, when there is more than one category."""
    categories = [group for group in result.groups if group.kind == "category"]
    if len(categories) < 2:
        return ""
    worst = max(categories, key=lambda group: group.lost)
    return f"; most in {worst.name}: {worst.lost} of {worst.right_before}"


def _judged(
    before: Sequence[Answered], after: Sequence[Answered], rows: RetentionSet
) -> list[Judged]:
    given_before, given_after = _by_row(before), _by_row(after)
    return [
        Judged(row, first, then, kept(row, first.answer), kept(row, then.answer))
        for row in rows.rows
        if (first := given_before.get(row.number)) and (then := given_after.get(row.number))
    ]


def _by_row(answers: Sequence[Answered]) -> dict[int, Answered]:
    return {answer.row: answer for answer in answers if answer.error is None}


def _groups(judged: Sequence[Judged]) -> tuple[RetentionGroup, ...]:
    languages = dict.fromkeys(j.row.language for j in judged)
    categories = dict.fromkeys(j.row.category for j in judged)
    return (
        *(
            RetentionGroup.of("language", name, [j for j in judged if j.row.language == name])
            for name in languages
        ),
        *(
            RetentionGroup.of("category", name, [j for j in judged if j.row.category == name])
            for name in categories
        ),
    )


def _changed(judged: Judged) -> ChangedRow:
    row = judged.row
    return ChangedRow(
        row.number,
        row.where,
        row.category,
        row.language,
        row.question,
        row.reference,
        judged.before.answer,
        judged.after.answer,
    )


def _drop(lost: int, right_before: int) -> tuple[float | None, float | None, float | None]:
    """Points lost and both ends of Wilson's interval."""
    if right_before == 0:
        return None, None, None
    from tanren.evaluate.resampling import wilson

    interval = wilson(lost, right_before, CONFIDENCE)
    return 100 * lost / right_before, 100 * interval.low, 100 * interval.high
