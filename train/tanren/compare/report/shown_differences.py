"""Differences to the reference, how soon its loss is reached, and quality against cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from tanren.compare.data import ArmComparison, Comparison, Front, Measure, Reach
from tanren.compare.report import plots
from tanren.compare.report.front_plot import Placed, front
from tanren.compare.report.plots import Compared
from tanren.compare.report.styles import Looks, ranked, unnamed
from tanren.compare.report.wording import (
    NOTHING,
    Scale,
    duration,
    listed,
    ratio,
    scale_of,
    titled,
    within,
)
from tanren.evaluate.report.document import Block, Figure, Folded, Table, Text
from tanren.evaluate.report.wording import shown_p

MOST_FORESTS = 4
MOST_ROWS = 30
"""Of a table that stands open."""


def differences(comparison: Comparison, drawn: Looks) -> Iterator[Block]:
    if not comparison.comparisons:
        yield Text(f"Nothing could be compared with {comparison.reference}.")
        return
    for measure in _drawn_measures(comparison):
        yield from _forest(comparison, measure, drawn)
    table = _table(comparison)
    title = f"All {len(table.rows)} differences"
    yield table if len(table.rows) <= MOST_ROWS else Folded(title, (table,))


def _drawn_measures(comparison: Comparison) -> Sequence[Measure]:
    quality = [measure for measure in comparison.measures if measure.kind == "quality"]
    return sorted(quality, key=lambda m: m.name != comparison.main)[:MOST_FORESTS]


def _forest(comparison: Comparison, measure: Measure, drawn: Looks) -> Iterator[Figure]:
    scale = scale_of(measure, comparison)
    rows = [
        Compared(
            found.arm,
            found.difference * scale.factor,
            scale.scaled(found.low),
            scale.scaled(found.high),
            found.shown,
        )
        for found in comparison.comparisons
        if found.measure == measure.name and found.difference is not None
    ]
    if not rows:
        return
    way = {True: ", more is better", False: ", less is better", None: ""}
    unit = f" ({scale.difference_unit})" if scale.difference_unit else ""
    label = f"{measure.title}{unit}{way[measure.higher_is_better]}"
    caption = (
        f"{measure.title}: difference to {comparison.reference} with 95% intervals. Full marks are "
        "distinguishable from it after Holm's correction, hollow ones are not."
    )
    draw = partial(plots.forest, rows, drawn, label)
    yield Figure(draw, caption, name=f"difference-{_place(comparison, measure)}")


def _place(comparison: Comparison, measure: Measure) -> int:
    """A file's name is made of no one's text."""
    return comparison.measures.index(measure) + 1


def _table(comparison: Comparison) -> Table:
    head = (
        "measure", "arm", "difference", "95%", "ratio", "p", "p (Holm)", "shown", "seeds", "rows",
        "would show",
    )  # fmt: skip
    found = [(c, comparison.measure(c.measure)) for c in comparison.comparisons]
    known = [(c, m, scale_of(m, comparison)) for c, m in found if m is not None]
    tests = listed(dict.fromkeys(c.test for c, _, _ in known if c.test))
    caption = (
        f"Arm minus {comparison.reference}. Tests: {tests}. “Would show”: the true difference that "
        "so many seeds and rows find in four of five tries."
    )
    return Table(
        head,
        tuple(_row(*each) for each in known),
        caption,
        words=2,
        keys=tuple(_keys(c) for c, _, _ in known),
    )


def _row(found: ArmComparison, measure: Measure, scale: Scale) -> tuple[str, ...]:
    unit = scale.difference_unit
    return (
        f"{measure.title}{f' ({unit})' if unit else ''}",
        found.arm,
        scale.signed(found.difference),
        scale.between(found.low, found.high) or NOTHING,
        ratio(found.ratio, found.ratio_low, found.ratio_high),
        shown_p(found.p_value),
        shown_p(found.p_adjusted),
        NOTHING if found.p_value is None else "yes" if found.shown else "no",
        f"{found.seeds:,}",
        NOTHING if found.rows is None else f"{found.rows:,}",
        scale.number(found.detectable),
    )


def _keys(found: ArmComparison) -> tuple[float | None, ...]:
    shown = None if found.p_value is None else float(found.shown)
    return (
        None, None, found.difference, found.low, found.ratio, found.p_value, found.p_adjusted,
        shown, found.seeds, found.rows, found.detectable,
    )  # fmt: skip


# --- how soon -------------------------------------------------------------------------------------


def reaches(comparison: Comparison, drawn: Looks) -> Iterator[Block]:
    if not comparison.reaches:
        yield Text(f"How soon the loss of {comparison.reference} is reached was not measured.")
        return
    rows = [
        Compared(r.arm, r.steps_ratio, r.steps_low, r.steps_high, _beyond_one(r))
        for r in comparison.reaches
        if r.steps_ratio is not None and r.arm != comparison.reference
    ]
    if rows:
        label = f"steps over those of {comparison.reference}, fewer is better"
        caption = (
            f"Steps to 90% of {comparison.reference}'s drop in loss, as a ratio to its own; "
            "95% intervals over seeds. Hollow: the interval holds 1, or there is none."
        )
        yield Figure(partial(plots.forest, rows, drawn, label, ratio=True), caption, name="reach")
    else:
        yield Text(f"No other arm reached the loss of {comparison.reference}.")
    yield _reach_table(comparison.reaches)


def _beyond_one(reach: Reach) -> bool:
    if reach.steps_low is None or reach.steps_high is None:
        return False
    return reach.steps_high < 1 or reach.steps_low > 1


def _reach_table(found: Sequence[Reach]) -> Table:
    rows = tuple(
        (
            r.arm,
            NOTHING if r.target is None else f"{r.target:.3f}",
            f"{r.reached}/{r.seeds}",
            ratio(r.steps_ratio, r.steps_low, r.steps_high),
            ratio(r.seconds_ratio, r.seconds_low, r.seconds_high),
            duration(r.seconds),
        )
        for r in found
    )
    keys = tuple((None, r.target, r.reached, r.steps_ratio, r.seconds_ratio, r.seconds)
                 for r in found)  # fmt: skip
    head = ("arm", "target loss", "seeds that got there", "steps (ratio)", "time (ratio)", "time")
    caption = "Ratios are geometric means over the seeds that got there, with 95% intervals."
    return Table(head, rows, caption, keys=keys)


# --- quality against cost -------------------------------------------------------------------------


def fronts(comparison: Comparison, drawn: Looks) -> Iterator[Block]:
    found = [figure for at, each in enumerate(comparison.fronts, 1)
             if (figure := _front(comparison, each, drawn, at)) is not None]  # fmt: skip
    if not found:
        yield Text("No arm has both its quality and its cost measured.")
    yield from found


def _front(comparison: Comparison, of: Front, drawn: Looks, place: int) -> Figure | None:
    quality, cost = comparison.measure(of.quality), comparison.measure(of.cost)
    if quality is None or cost is None:
        return None
    up, across = scale_of(quality, comparison), scale_of(cost, comparison)
    points = list(_points(comparison, (cost, across), (quality, up)))
    if not points:
        return None
    names = listed(arm for arm in (a.name for a in ranked(comparison)) if arm in of.arms)
    caption = (
        f"{quality.title} against {within(cost.title)}, means with 95% intervals. No arm beats "
        f"{names} on both axes: full marks, joined." + unnamed(comparison, drawn)
    )
    draw = partial(
        front, points, of.arms, drawn, cost=titled(cost, across), quality=titled(quality, up)
    )
    return Figure(draw, caption, name=f"front-{place}")


def _points(
    comparison: Comparison, cost: tuple[Measure, Scale], quality: tuple[Measure, Scale]
) -> Iterator[Placed]:
    for arm in comparison.arms:
        x, y = (arm.measures.get(measure.name) for measure, _ in (cost, quality))
        if x is None or y is None or x.mean is None or y.mean is None:
            continue
        yield Placed(
            arm.name,
            x.mean * cost[1].factor,
            y.mean * quality[1].factor,
            (cost[1].scaled(x.low), quality[1].scaled(y.low)),
            (cost[1].scaled(x.high), quality[1].scaled(y.high)),
        )
