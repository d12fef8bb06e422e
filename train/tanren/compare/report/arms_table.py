"""The table of arms: what each one reached and what it took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tanren.compare.data import Arm, Comparison, Estimate, Measure
from tanren.compare.report.wording import (
    MEANINGS,
    NOTHING,
    Scale,
    difference,
    estimated,
    listed,
    rate,
    scale_of,
    titled,
)
from tanren.evaluate.report.document import Block, Table, Text

MOST_WITH_DIFFERENCE = 3
"""Measures of quality that have a column of differences too; the rest stand further below."""
BASE = "base model\n(before tuning)"


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    key: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A cell for every arm, and one for the base."""

    head: str
    cells: tuple[Cell, ...]
    base: Cell
    best: frozenset[int] = frozenset()


def arms_table(comparison: Comparison) -> Iterator[Block]:
    if not comparison.arms:
        yield Text("The comparison has no arms.")
        return
    if not any(arm.finished for arm in comparison.arms):
        yield Text("No run finished: there is nothing to compare. Why not, stands under Failures.")
    quality = [measure for measure in comparison.measures if measure.kind == "quality"]
    costs = [measure for measure in comparison.measures if measure.kind != "quality"]
    yield _table(
        comparison, [*_facts(comparison), *_measures(comparison, quality)], _caption(comparison)
    )
    if costs:
        caption = "What each arm took."
        if any(found.ratio is not None for found in comparison.comparisons):
            caption += f" ×: as many times as {comparison.reference}."
        yield _table(comparison, list(_measures(comparison, costs)), caption)


def _table(comparison: Comparison, columns: Sequence[Column], caption: str) -> Table:
    names = [_named(comparison, arm) for arm in comparison.arms]
    rows = [(name, *(column.cells[at].text for column in columns)) for at, name in enumerate(names)]
    keys: list[tuple[float | None, ...]] = [
        (None, *(column.cells[at].key for column in columns)) for at in range(len(names))
    ]
    if any(column.base.key is not None for column in columns):
        rows.append((BASE, *(column.base.text for column in columns)))
        keys.append((None, *(column.base.key for column in columns)))
    best = {(row, place) for place, column in enumerate(columns, 1) for row in column.best}
    apart = {at for at, arm in enumerate(comparison.arms) if arm.name == comparison.reference}
    return Table(
        ("arm", *(column.head for column in columns)),
        tuple(rows),
        caption,
        keys=tuple(keys),
        best=frozenset(best),
        marked=frozenset(apart | set(range(len(names), len(rows)))),
    )


def _named(comparison: Comparison, arm: Arm) -> str:
    roles = []
    if arm.name == comparison.reference:
        roles.append("reference")
    if comparison.recommendation is not None and comparison.recommendation.arm == arm.name:
        roles.append("recommended")
    if arm.stopped:
        roles.append("stopped")
    name = " ".join(arm.name.split())
    return f"{name}\n({listed(roles)})" if roles else name


def _facts(comparison: Comparison) -> Iterator[Column]:
    rates = [Cell(f"{rate(arm.learning_rate)}\n({arm.rate_source})", arm.learning_rate)
             if arm.learning_rate is not None else Cell(NOTHING)
             for arm in comparison.arms]  # fmt: skip
    yield Column("learning rate", tuple(rates), Cell(NOTHING))
    seeds = [_seeds(comparison, arm) for arm in comparison.arms]
    yield Column("seeds", tuple(seeds), Cell(NOTHING))


def _seeds(comparison: Comparison, arm: Arm) -> Cell:
    """How many finished; where not all, what became of the others."""
    done, wanted = len(arm.finished), len(comparison.seeds)
    others = dict.fromkeys(MEANINGS[run.outcome] for run in arm.runs if not run.succeeded)
    note = f"\n({listed(others)})" if others else ""
    return Cell(f"{done}/{wanted}{note}", done)


def _measures(comparison: Comparison, measures: Sequence[Measure]) -> Iterator[Column]:
    with_difference = _with_difference(comparison)
    for measure in measures:
        scale = scale_of(measure, comparison)
        estimates = [arm.measures.get(measure.name) for arm in comparison.arms]
        base = comparison.base.get(measure.name)
        yield Column(
            titled(measure, scale),
            tuple(
                Cell(estimated(found, scale) + _times(comparison, measure, arm), _mean(found))
                for arm, found in zip(comparison.arms, estimates, strict=True)
            ),
            Cell(scale.number(base), base),
            frozenset(best(measure, estimates)),
        )
        if measure.name in with_difference:
            yield _differences(comparison, measure, scale)


def _times(comparison: Comparison, measure: Measure, arm: Arm) -> str:
    found = comparison.comparison(measure.name, arm.name)
    return "" if found is None or found.ratio is None else f"\n×{found.ratio:.2f}"


def _with_difference(comparison: Comparison) -> set[str]:
    compared = {found.measure for found in comparison.comparisons}
    names = [m.name for m in comparison.measures if m.kind == "quality" and m.name in compared]
    first = sorted(names, key=lambda name: name != comparison.main)
    return set(first[:MOST_WITH_DIFFERENCE])


def _mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.mean


def best(measure: Measure, estimates: Sequence[Estimate | None]) -> set[int]:
    """Places of the best mean of a measure of quality; several where they are equal, none where
    all are.
    """
    means = [_mean(estimate) for estimate in estimates]
    there = [mean for mean in means if mean is not None]
    if measure.kind != "quality" or measure.higher_is_better is None or len(set(there)) < 2:
        return set()
    wanted = max(there) if measure.higher_is_better else min(there)
    return {place for place, mean in enumerate(means) if mean == wanted}


def _differences(comparison: Comparison, measure: Measure, scale: Scale) -> Column:
    def cell(arm: Arm) -> Cell:
        if arm.name == comparison.reference:
            return Cell(NOTHING)
        found = comparison.comparison(measure.name, arm.name)
        return Cell(difference(found, scale), None if found is None else found.difference)

    unit = scale.difference_unit
    head = f"{measure.title}: difference{f' ({unit})' if unit else ''}"
    return Column(head, tuple(map(cell, comparison.arms)), Cell(NOTHING))


def _caption(comparison: Comparison) -> str:
    if len(comparison.seeds) > 1:
        over = f"Means over {len(comparison.seeds)} seeds with 95% intervals"
    else:
        over = "One seed: no intervals over seeds"
    told = [f"{over}; ↑ more is better, ↓ less is better; bold: the best mean of its column."]
    if comparison.comparisons:
        told.append(
            f"Differences are to {comparison.reference}; shown: distinguishable from it after "
            "Holm's correction."
        )
    return " ".join(told)
