"""What a report shows of single rows: the worst losses, then the best gains."""

from __future__ import annotations

from collections.abc import Iterator

from tanren.evaluate.answered import Answered
from tanren.evaluate.report.data import Evaluation
from tanren.evaluate.report.document import Block, Example, Said, Text
from tanren.evaluate.report.examples import Change, changes, gains, losses, rewritten
from tanren.evaluate.report.wording import counted, shown, shown_size


def examples(evaluation: Evaluation) -> Iterator[Block]:
    for model in evaluation.candidates:
        found = changes(evaluation, model.name)
        if not found:
            continue
        worse, better = losses(found), gains(found)
        if not worse and not better:
            yield from _unscored(evaluation, model.name, found)
            continue
        lost = sum((pair.change or 0) < 0 for pair in found)
        won = sum((pair.change or 0) > 0 for pair in found)
        yield Text(
            f"{model.name} against {evaluation.reference}: {counted(lost, 'row')} worse, {won:,} "
            f"better, {len(found) - lost - won:,} unchanged. Shown: {len(worse)} of the worse, "
            f"{len(better)} of the better."
        )
        for pair in (*worse, *better):
            yield _example(evaluation, model.name, pair)


def _unscored(evaluation: Evaluation, model: str, found: list[Change]) -> Iterator[Block]:
    other = rewritten(found)
    if not other:
        yield Text(f"{model} gave the same answers as {evaluation.reference} to all rows.")
        return
    yield Text(f"{model} against {evaluation.reference}: no score changed; texts that did:")
    for pair in other:
        yield _example(evaluation, model, pair)


def _example(evaluation: Evaluation, model: str, pair: Change) -> Example:
    return Example(
        f"row {pair.after.row}: {_verdict(evaluation, pair)}",
        (
            Said("question", pair.after.question),
            Said("reference", pair.after.reference),
            Said(evaluation.reference or "", pair.before.answer, _note(evaluation, pair.before)),
            Said(model, pair.after.answer, _note(evaluation, pair.after)),
        ),
    )


def _verdict(evaluation: Evaluation, pair: Change) -> str:
    if not pair.change:
        return "rewritten"
    metric = evaluation.metric(evaluation.main)
    unit = metric.unit if metric is not None else ""
    if unit == "share" and abs(pair.change) == 1:
        return "wrong before, right now" if pair.change > 0 else "right before, wrong now"
    return f"{'better' if pair.change > 0 else 'worse'} by {shown_size(abs(pair.change), unit)}"


def _note(evaluation: Evaluation, row: Answered) -> str:
    metric = evaluation.metric(evaluation.main)
    parts = []
    if metric is not None and (score := row.scores.get(metric.name)) is not None:
        parts.append(f"{metric.title} {shown(score, metric.unit)}")
    if row.finish_reason == "length":
        parts.append("cut at the limit")
    if row.answer_tokens is not None:
        parts.append(counted(row.answer_tokens, "token"))
    return ", ".join(parts)
