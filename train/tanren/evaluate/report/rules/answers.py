"""Answers as they came: missing, cut, empty, repeating, of the wrong length."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from tanren.evaluate.report.document import Advice
from tanren.evaluate.report.rules.enough import many
from tanren.evaluate.report.subject import Subject
from tanren.evaluate.report.wording import counted, percent, shown

CUT_SHARE = 0.1
EMPTY_SHARE = 0.05
REPEATED_SHARE = 0.2
"""Of an answer's text; and this much of it above the references' own, or the reference model's."""
REPEATED_MORE = 0.1
LENGTH_RATIO = 2.0


def errors(of: Subject) -> Iterator[Advice]:
    if of.failed:
        every = len(of.failed) + len(of.rows)
        yield Advice(
            "errors", of.name, "measurement",
            f"{len(of.failed)} of {counted(every, 'row')} have no answer "
            f"(first: {of.failed[0].error}); they are in no number here.",
            "Mend the cause and run the same command again: it asks only for what is missing.",
        )  # fmt: skip


def cut(of: Subject) -> Iterator[Advice]:
    """Two causes of one sign: the limit is too low, or the model does not stop (T4)."""
    if not many(len(of.cut), len(of.rows), CUT_SHARE):
        return
    longer = [r for r in of.cut if not r.reference or len(r.reference) >= len(r.answer)]
    finding = (
        f"{len(of.cut)} of {counted(len(of.rows), 'answer')} "
        f"({percent(len(of.cut), len(of.rows))}) were cut at the limit of tokens"
    )
    if 2 * len(longer) > len(of.cut):
        limit = of.evaluation.decoding.get("max_new_tokens")
        now = f" (now {limit})" if limit is not None else ""
        yield Advice(
            "limit_too_low", of.name, "decoding",
            f"{finding}; of these, {len(longer)} have a reference at least as long, or none.",
            f"Raise max_new_tokens{now} and evaluate again before judging these answers.",
        )  # fmt: skip
        return
    ours = median(len(row.answer) for row in of.cut)
    theirs = median(len(row.reference) for row in of.cut)
    yield Advice(
        "does_not_stop", of.name, "data quality",
        f"{finding} although their references are shorter "
        f"(median {theirs:,.0f} against {ours:,.0f} characters): it does not end its turn.",
        "Look at the trained text of a row: does the end of turn stand in it and is it trained? "
        "If so, train longer or at a higher rate.",
    )  # fmt: skip


def empty(of: Subject) -> Iterator[Advice]:
    empty = sum(not row.answer.strip() for row in of.rows)
    if many(empty, len(of.rows), EMPTY_SHARE):
        yield Advice(
            "empty", of.name, "data quality",
            f"{empty} of {counted(len(of.rows), 'answer')} are empty.",
            "Look for empty or blank replies in the training data, and compare the prompts here "
            "with those of training.",
        )  # fmt: skip


def repetition(of: Subject) -> Iterator[Advice]:
    measured = of.measured("repetition")
    if measured is None or measured.value is None or measured.value < REPEATED_SHARE:
        return
    yardsticks = [measured.details.get("references"), of.reference_value("repetition")]
    usual = max((float(y) for y in yardsticks if y is not None), default=0.0)
    if measured.value - usual >= REPEATED_MORE:
        yield Advice(
            "repetition", of.name, "hyperparameters",
            f"{shown(measured.value, 'share')} of the answers' text repeats what stood before in "
            f"the same answer; {shown(usual, 'share')} would be usual here.",
            "Train fewer epochs or at a lower rate, and look for repeated text in the training "
            "replies.",
        )  # fmt: skip


def length(of: Subject) -> Iterator[Advice]:
    rows = of.with_reference
    if len(rows) < 10 or many(len(of.cut), len(of.rows), CUT_SHARE):
        return  # cut answers are spoken of already
    theirs = median(len(row.reference) for row in rows)
    ours = median(len(row.answer) for row in rows)
    ratio = ours / theirs if theirs >= 20 else 1.0
    if 1 / LENGTH_RATIO < ratio < LENGTH_RATIO:
        return
    yield Advice(
        "length", of.name, "data",
        f"Answers have a median of {ours:,.0f} characters, references {theirs:,.0f} "
        f"({ratio:.1f} times as long, {counted(len(rows), 'row')}).",
        "Compare the length of the training replies with these references: the model writes as "
        "long as what it was shown. If they agree, train longer.",
    )  # fmt: skip
