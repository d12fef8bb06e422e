"""What a report shows of retention: counts by group, and the rows themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from tanren.evaluate.report import plots
from tanren.evaluate.report.data import Evaluation
from tanren.evaluate.report.document import Block, Example, Figure, Said, Table, Text
from tanren.evaluate.report.wording import NOTHING, counted
from tanren.evaluate.retention import ChangedRow, RetentionGroup, RetentionResult

LOST_ROWS = 12
"""Lost rows that a report shows whole."""


def retained(evaluation: Evaluation) -> Iterator[Block]:
    for name, result in evaluation.retention.items():
        yield Text(f"{name}: {result.sentence}.")
        yield from _remarks(result)
        groups = (result.overall, *result.groups)
        caption = f"{name}: rows right before tuning, and how many of them were lost"
        table = _table(groups, caption)
        if result.overall.right_before:
            drawn = partial(plots.retained, [group for group in groups if group.right_before])
            yield Figure(drawn, caption, table)
        else:
            yield table
        yield from _lost(name, result.lost)


def _remarks(result: RetentionResult) -> Iterator[Text]:
    if result.overall.failed_before:
        yield Text(
            f"{counted(result.overall.failed_before, 'row')} failed before tuning already and say "
            "nothing of what was kept; they are in no drop."
        )
    if result.net_points is not None and result.net_low is not None:
        yield Text(
            f"Losses and gains together: {result.net_points:+.1f} points over "
            f"{counted(result.overall.rows, 'row')}, 95% {result.net_low:+.1f} to "
            f"{result.net_high:+.1f}.".replace("-", "−")
        )
    if result.unanswered:
        yield Text(f"{counted(result.unanswered, 'row')} have no answer on a side.")
    if result.drift_nats is not None:
        yield Text(f"Drift of the output on these prompts: {result.drift_nats:.4f} nats (mean KL).")


def _table(groups: Sequence[RetentionGroup], caption: str) -> Table:
    head = (
        "group", "rows", "right before", "right after", "lost", "gained", "failed before",
        "drop (points)", "95%",
    )  # fmt: skip
    rows = tuple(
        (
            group.name if group.kind != "language" else f"language: {group.name}",
            f"{group.rows:,}",
            f"{group.right_before:,}",
            f"{group.right_after:,}",
            f"{group.lost:,}",
            f"{group.gained:,}",
            f"{group.failed_before:,}",
            NOTHING if group.drop_points is None else f"{group.drop_points:.1f}",
            NOTHING if group.drop_low is None else f"{group.drop_low:.1f} to {group.drop_high:.1f}",
        )
        for group in groups
    )
    return Table(head, rows, caption)


def _lost(model: str, rows: Sequence[ChangedRow]) -> Iterator[Block]:
    for row in rows[:LOST_ROWS]:
        yield Example(
            f"lost: {row.category}, {row.language} (row {row.number})",
            (
                Said("question", row.question),
                Said("reference", row.reference),
                Said("before", row.before),
                Said(model, row.after),
            ),
        )
    if len(rows) > LOST_ROWS:
        yield Text(f"{counted(len(rows) - LOST_ROWS, 'more row')} lost; all are in the JSON.")
