"""Quality against cost, every arm with its name beside it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tanren.compare.report.plots import WIDTH, short
from tanren.compare.report.styles import Look, Looks
from tanren.evaluate.report.plots import AXIS_COLUMNS, INK, MUTED, Drawing, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEADER_FROM = 20
"""Points of distance from which a line leads to the name."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An arm on both axes; `low` and `high` are the ends of its intervals, cost then quality."""

    arm: str
    cost: float
    quality: float
    low: tuple[float | None, float | None] = (None, None)
    high: tuple[float | None, float | None] = (None, None)


def front(
    points: Sequence[Placed], best: Collection[str], looks: Looks, *, cost: str, quality: str
) -> str:
    """`best`: arms that no other one beats on both axes, joined by a line."""
    with drawing(WIDTH, 4.6) as drawn:
        axes = drawn.axes()
        for point in points:
            _point(axes, point, looks[point.arm], on_front=point.arm in best)
        joined = sorted((p.cost, p.quality) for p in points if p.arm in best)
        if len(joined) > 1:
            x, y = zip(*joined, strict=True)
            axes.plot(x, y, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        axes.set_xlabel(drawn.labels.of(cost, AXIS_COLUMNS))
        axes.set_ylabel(drawn.labels.of(quality, 48))
        axes.margins(x=0.14, y=0.12)
        axes.ticklabel_format(useOffset=False, style="plain")
        axes.grid(True, color=MUTED, alpha=0.18, linewidth=0.8)
        axes.set_axisbelow(True)
        _name(drawn, axes, points, best, looks, joined)
    return drawn.svg


def _point(axes: Axes, point: Placed, look: Look, *, on_front: bool) -> None:
    for low, high in _ends(point):
        x, y = zip(low, high, strict=True)
        axes.plot(x, y, color=look.colour, linewidth=1.3, alpha=0.45 * look.alpha, zorder=2)
    face = look.colour if on_front else "none"
    axes.plot(
        [point.cost], [point.quality], look.mark, markersize=8, markerfacecolor=face,
        markeredgecolor=look.colour, markeredgewidth=1.7, alpha=look.alpha, zorder=3,
    )  # fmt: skip


# --- names ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels. `weight`: how much it costs to cover it."""

    x0: float
    y0: float
    x1: float
    y1: float
    weight: float = 0.0

    def covers(self, other: Box) -> bool:
        across = min(self.x1, other.x1) > max(self.x0, other.x0)
        return across and min(self.y1, other.y1) > max(self.y0, other.y0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a name goes: so many points away from its mark, on the side that faces it."""

    distance: float
    direction: float

    @property
    def across(self) -> float:
        return self.distance * math.cos(math.radians(self.direction))

    @property
    def up(self) -> float:
        return self.distance * math.sin(math.radians(self.direction))

    @property
    def side(self) -> str:
        share = self.across / self.distance
        return "left" if share > 0.3 else "right" if share < -0.3 else "center"

    @property
    def height(self) -> str:
        share = self.up / self.distance
        return "bottom" if share > 0.3 else "top" if share < -0.3 else "center"

    def box(self, x: float, y: float, width: float, height: float, scale: float) -> Box:
        """Of a name of this size in pixels, beside a mark at (x, y); `scale`: pixels a point."""
        x, y = x + self.across * scale, y + self.up * scale
        left = x - {"left": 0.0, "center": 0.5, "right": 1.0}[self.side] * width
        low = y - {"bottom": 0.0, "center": 0.5, "top": 1.0}[self.height] * height
        return Box(left - 2, low - 1, left + width + 2, low + height + 1, _NAME)


def _name(
    drawn: Drawing,
    axes: Axes,
    points: Sequence[Placed],
    best: Collection[str],
    looks: Looks,
    joined: Sequence[tuple[float, float]],
) -> None:
    """Names where they lie on no point and on no other name: of all places around a point the one
    that is free, or else the least covered; the names on the front choose first.
    """
    drawn.figure.draw_without_rendering()  # from here on the axes have their final size
    drawn.figure.set_layout_engine("none")
    taken = [*_bars(axes, points), *_marks(axes, points), *_along(axes, joined)]
    window = axes.get_window_extent()
    inside = Box(window.x0, window.y0, drawn.figure.bbox.x1 - 4, window.y1 + 4)
    for point in sorted(points, key=lambda point: point.arm not in best):
        if looks[point.arm].named or point.arm in best:
            taken.append(_named(drawn, axes, point, taken, inside))


def _named(drawn: Drawing, axes: Axes, point: Placed, taken: Sequence[Box], inside: Box) -> Box:
    at = (point.cost, point.quality)
    name = drawn.labels.of(short(point.arm, 26))
    note = axes.annotate(
        name, at, textcoords="offset points", xytext=(0, 0), fontsize=9, color=INK, zorder=5
    )
    size = note.get_window_extent()
    x, y = axes.transData.transform(at)
    scale = axes.figure.dpi / 72

    def box(place: Place) -> Box:
        return place.box(x, y, size.width, size.height, scale)

    def cost(place: Place) -> float:
        return _covered(box(place), taken, inside) + 0.35 * place.distance

    chosen = min(_PLACES, key=cost)
    note.set(position=(chosen.across, chosen.up), ha=chosen.side, va=chosen.height)
    if chosen.distance >= _LEADER_FROM:
        _lead(axes, at, chosen)
    return box(chosen)


def _lead(axes: Axes, at: tuple[float, float], place: Place) -> None:
    """A thin line from the mark to its name."""
    line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkB": 5, "shrinkA": 0}
    axes.annotate(
        "", at, xytext=(place.across, place.up), textcoords="offset points", arrowprops=line,
        zorder=2,
    )  # fmt: skip


def _covered(box: Box, taken: Sequence[Box], inside: Box) -> float:
    """What a name at `box` would hide; being cut off is the worst."""
    outside = max(inside.x0 - box.x0, 0) + max(box.x1 - inside.x1, 0)
    outside += max(inside.y0 - box.y0, 0) + max(box.y1 - inside.y1, 0)
    return 60.0 * outside + sum(other.weight for other in taken if box.covers(other))


_NAME, _MARK, _LINE, _BAR = 400.0, 120.0, 25.0, 9.0
"""What it costs to cover another name, a mark, the line of the front, an interval."""
_PLACES = tuple(
    Place(distance, direction)
    for distance in (9, 14, 20, 28, 38, 50, 64, 80, 98, 118, 140)
    for direction in (0, 180, 90, 270, 45, 135, 225, 315, 20, 160, 200, 340, 65, 115, 245, 295)
)


def _marks(axes: Axes, points: Sequence[Placed]) -> Iterator[Box]:
    for point in points:
        x, y = axes.transData.transform((point.cost, point.quality))
        yield Box(x - 6, y - 6, x + 6, y + 6, _MARK)


def _bars(axes: Axes, points: Sequence[Placed]) -> Iterator[Box]:
    for point in points:
        for low, high in _ends(point):
            (x0, y0), (x1, y1) = axes.transData.transform([low, high])
            yield Box(x0 - 1, y0 - 1, x1 + 1, y1 + 1, _BAR)


def _ends(point: Placed) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """Of the interval of cost, which lies, and of that of quality, which stands."""
    cost, quality = zip(point.low, point.high, strict=True)
    if cost[0] is not None and cost[1] is not None:
        yield (cost[0], point.quality), (cost[1], point.quality)
    if quality[0] is not None and quality[1] is not None:
        yield (point.cost, quality[0]), (point.cost, quality[1])


def _along(axes: Axes, joined: Sequence[tuple[float, float]]) -> Iterator[Box]:
    """The line of the front, in pieces of some pixels."""
    ends = [axes.transData.transform(point) for point in joined]
    for (x0, y0), (x1, y1) in pairwise(ends):
        pieces = max(1, round(math.hypot(x1 - x0, y1 - y0) / 8))
        for at in range(pieces):
            x, y = x0 + (x1 - x0) * at / pieces, y0 + (y1 - y0) * at / pieces
            yield Box(x - 1, y - 1, x + 1, y + 1, _LINE)
