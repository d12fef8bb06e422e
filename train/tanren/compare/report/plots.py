"""Drawings of a comparison, on the foundation of the evaluation's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tanren.compare.data import Tried
from tanren.compare.report.curves import Curve
from tanren.compare.report.styles import Look, Looks
from tanren.compare.report.wording import rate
from tanren.evaluate.report.plots import (
    AXIS_COLUMNS,
    LABEL_COLUMNS,
    MUTED,
    Drawing,
    Labels,
    cut,
    drawing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 8.4
"""Inches; the page is as wide."""
_LEGEND_COLUMNS = 30
MOST_MARKED = 6
"""Curves that are drawn with marks and bands; more would hide each other."""


# --- losses ---------------------------------------------------------------------------------------


def losses(
    curves: Sequence[Curve], looks: Looks, *, what: str, top: float | None, seconds: bool
) -> str:
    """Over steps, and beside it over training seconds. `top` cuts the axis."""
    names = [curve.arm for curve in curves]
    with drawing(WIDTH, 3.5 + _legend_height(names, looks)) as drawn:
        shares = [3, 2] if seconds else [1]
        axes = drawn.figure.subplots(
            1, len(shares), sharey=True, squeeze=False, width_ratios=shares
        )[0]
        full = len(curves) <= MOST_MARKED
        for curve in curves:
            _line(axes[0], curve.steps, curve, looks[curve.arm], full=full)
            if seconds and curve.seconds:
                _line(axes[1], curve.seconds, curve, looks[curve.arm], full=full)
        axes[0].set_ylabel(what)
        axes[0].set_xlabel("optimizer steps")
        axes[0].locator_params(axis="x", integer=True)
        if seconds:
            axes[1].set_xlabel("seconds of training")
        _limit(axes[0], curves, top)
        for panel in axes:
            panel.ticklabel_format(useOffset=False)
            _faint_grid(panel)
        _legend(drawn, names, looks)
    return drawn.svg


def _line(axes: Axes, x: Sequence[float], curve: Curve, look: Look, *, full: bool) -> None:
    """`full`: with marks, where they are few, and the band over seeds."""
    few = (full and len(curve.steps) <= 25) or len(curve.steps) == 1
    mark = look.mark if few and look.named else ""
    axes.plot(
        x, curve.mean, color=look.colour, linestyle=look.dash, linewidth=look.width, marker=mark,
        markersize=4 if len(curve.steps) > 1 else 7, alpha=look.alpha, zorder=look.layer,
    )  # fmt: skip
    if full and curve.seeds > 1:
        axes.fill_between(
            x, curve.low, curve.high, color=look.colour, alpha=0.13, linewidth=0, zorder=1
        )


def _limit(axes: Axes, curves: Sequence[Curve], top: float | None) -> None:
    if top is not None:
        low = min(min(curve.low) for curve in curves)
        axes.set_ylim(low - 0.04 * (top - low), top)


# --- learning rates -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sweep:
    """What an arm's rate search tried, by rate, and what it chose."""

    arm: str
    tried: tuple[Tried, ...]
    chosen: float | None


def sweeps(found: Sequence[Sweep], looks: Looks, *, top: float | None) -> str:
    """Loss against learning rate; a cross at the upper edge is a rate that failed."""
    names = [sweep.arm for sweep in found]
    with drawing(WIDTH, 3.5 + _legend_height(names, looks)) as drawn:
        axes = drawn.axes()
        axes.set_xscale("log")
        for sweep in found:
            _sweep(axes, sweep, looks[sweep.arm])
        _failures(axes, found, looks)
        if top is not None:
            low = min(t.loss for sweep in found for t in sweep.tried if t.loss is not None)
            axes.set_ylim(low - 0.06 * (top - low), top)
        _rate_axis(axes, [t.learning_rate for sweep in found for t in sweep.tried])
        axes.set_xlabel("learning rate")
        axes.set_ylabel("best validation loss")
        if any(t.loss is not None for sweep in found for t in sweep.tried):
            axes.ticklabel_format(axis="y", useOffset=False)
        else:
            axes.set_yticks([])
        _faint_grid(axes)
        _legend(drawn, names, looks)
    return drawn.svg


def _sweep(axes: Axes, sweep: Sweep, look: Look) -> None:
    there = [(t.learning_rate, t.loss) for t in sweep.tried if t.loss is not None]
    if there:
        x, y = zip(*there, strict=True)
        axes.plot(
            x, y, color=look.colour, linestyle=look.dash, linewidth=look.width,
            marker=look.mark, markersize=5, alpha=look.alpha, zorder=look.layer,
        )  # fmt: skip
    chosen = [point for point in there if sweep.chosen is not None and point[0] == sweep.chosen]
    if look.named:
        for x_chosen, y_chosen in chosen:
            axes.plot(
                [x_chosen], [y_chosen], "o", markersize=13, markerfacecolor="none",
                markeredgecolor=look.colour, markeredgewidth=1.6, zorder=4,
            )  # fmt: skip


def _failures(axes: Axes, found: Sequence[Sweep], looks: Looks) -> None:
    """Crosses at the upper edge, a line for each arm that has any."""
    failed = [(s.arm, [t.learning_rate for t in s.tried if t.loss is None]) for s in found]
    failed = [(arm, rates) for arm, rates in failed if rates]
    for place, (arm, rates) in enumerate(failed):
        height = 1 - place * min(0.06, 0.4 / len(failed))
        axes.plot(
            rates, [height] * len(rates), "x", color=looks[arm].colour, markersize=8,
            markeredgewidth=2.2, transform=axes.get_xaxis_transform(), clip_on=False,
            alpha=looks[arm].alpha, zorder=5,
        )  # fmt: skip


def _rate_axis(axes: Axes, rates: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 of every decade that is there, thinned where there are many."""
    from matplotlib.ticker import NullLocator

    low, high = min(rates), max(rates)
    axes.set_xlim(low / 1.5, high * 1.5)  # before the ticks: a single rate spans nothing by itself
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [d * 10.0**e for e in decades for d in steps if low / 2 <= d * 10.0**e <= high * 2]
        if len(ticks) <= 9:
            break
    axes.set_xticks(ticks, [rate(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


# --- differences ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compared:
    """A line of a forest: an arm's value and its interval. `shown`: drawn full, else hollow."""

    arm: str
    value: float
    low: float | None
    high: float | None
    shown: bool


def forest(rows: Sequence[Compared], looks: Looks, label: str, *, ratio: bool = False) -> str:
    """A point and its interval a line; the dashed line is where arm and reference are equal."""
    equal = 1.0 if ratio else 0.0
    with drawing(WIDTH, 0.85 + (0.34 if len(rows) <= 12 else 0.25) * len(rows)) as drawn:
        axes = drawn.axes()
        if ratio:
            axes.set_xscale("log")
        axes.axvline(equal, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for place, row in enumerate(rows):
            colour = looks[row.arm].colour
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2.4)
            face = colour if row.shown else "none"
            axes.plot(
                [row.value], [place], looks[row.arm].mark, markeredgecolor=colour,
                markerfacecolor=face, markeredgewidth=1.8, markersize=7.5, zorder=3,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [drawn.labels.of(short(row.arm)) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(drawn.labels.of(label, AXIS_COLUMNS))
        axes.margins(x=0.08)
        if ratio:
            ends = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
            _ratio_axis(axes, [*ends, equal])
        else:
            axes.ticklabel_format(axis="x", useOffset=False)
    return drawn.svg


def _ratio_axis(axes: Axes, values: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    low, high = min(values) / 1.08, max(values) * 1.08
    fine = (0.25, 0.33, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.75, 2, 2.5, 3, 4)
    ticks = [tick for tick in fine if low <= tick <= high]
    if len(ticks) > 9 or high > 5 or low < 0.2:
        ticks = [10.0**e * d for e in range(-4, 5) for d in (1, 2, 5)]
        ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low, high)


# --- what they share ------------------------------------------------------------------------------


def short(name: str, columns: int = LABEL_COLUMNS) -> str:
    """Cut in the middle: names of arms often differ at their ends alone."""
    if cut(name, columns) == " ".join(name.split()):
        return cut(name, columns)
    half = columns // 2
    return f"{cut(name, half)[:-1]}…{cut(name[::-1], half)[-2::-1]}"


def _faint_grid(axes: Axes) -> None:
    axes.grid(True, axis="y", color=MUTED, alpha=0.18, linewidth=0.8)
    axes.set_axisbelow(True)


def _legend_layout(names: Sequence[str], looks: Looks) -> tuple[int, int]:
    """Columns and lines of a legend under the drawing."""
    labels = Labels()
    named = [labels.of(short(name, _LEGEND_COLUMNS)) for name in names if looks[name].named]
    entries = len(named) + (len(named) < len(names))
    widest = max((len(stand_in) for stand_in in named), default=8)
    columns = max(1, min(entries, int(WIDTH / (0.62 + 0.083 * max(widest, 8)))))
    return columns, -(-entries // columns)


def _legend_height(names: Sequence[str], looks: Looks) -> float:
    return 0.1 + 0.22 * _legend_layout(names, looks)[1]


def _legend(drawn: Drawing, names: Sequence[str], looks: Looks) -> None:
    handles = list(_handles(drawn, names, looks))
    columns, _ = _legend_layout(names, looks)
    drawn.figure.legend(handles=handles, loc="outside lower left", ncols=columns)


def _handles(drawn: Drawing, names: Sequence[str], looks: Looks) -> Iterator[Any]:
    from matplotlib.lines import Line2D

    for name in names:
        if (look := looks[name]).named:
            label = drawn.labels.of(short(name, _LEGEND_COLUMNS))
            yield Line2D(
                [], [], color=look.colour, linestyle=look.dash, linewidth=1.9, marker=look.mark,
                markersize=5, label=label,
            )  # fmt: skip
    grey = sum(not looks[name].named for name in names)
    if grey:
        yield Line2D([], [], color=MUTED, alpha=0.45, label=f"{grey} more")
