"""Drawings as SVG that a page holds: no fonts, no files, the page's own colours.

Text stays text, drawn by the reader's browser, so Japanese labels need no font on the machine that
writes the report. matplotlib has to know how wide a label is: it is given a stand-in of plain
letters, about as wide, which is replaced by the label afterwards. Colours are replaced likewise, by
the page's variables, so that a drawing follows light and dark.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from tanren.errors import ConfigError, Fault
from tanren.evaluate.retention import RetentionGroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED = "#0a0b0c", "#8a8b8c"
SERIES = ("#a10001", "#a10002", "#a10003", "#a10004", "#a10005", "#a10006")
_VARIABLES = {
    INK: "var(--ink, #1c2127)",
    MUTED: "var(--muted, #6b7480)",
    SERIES[0]: "var(--s1, #2f6fab)",
    SERIES[1]: "var(--s2, #c4622d)",
    SERIES[2]: "var(--s3, #3d8a5f)",
    SERIES[3]: "var(--s4, #8a5fb0)",
    SERIES[4]: "var(--s5, #a8862a)",
    SERIES[5]: "var(--s6, #b04f6f)",
}
LABEL_COLUMNS = 36
"""Columns of a label before it is cut with an ellipsis; a Japanese sign fills two."""
CELL_COLUMNS = 16
AXIS_COLUMNS = 80

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tanren",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


class Labels:
    """Hands out stand-ins for texts, and puts the texts back into the drawing."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def of(self, text: str, columns: int = LABEL_COLUMNS) -> str:
        shown = cut(text, columns)
        self._texts.append(shown)
        mark = f"Q{len(self._texts) - 1}Q"
        return mark + "x" * (_width(shown) - len(mark))

    def restore(self, svg: str) -> str:
        return re.sub(r"Q(\d+)Qx*", lambda m: html.escape(self._texts[int(m[1])]), svg)


def cut(text: str, columns: int = LABEL_COLUMNS) -> str:
    """On one line, with an ellipsis where it is longer than `columns`."""
    line = " ".join(text.split())
    if sum(map(_columns, line)) <= columns:
        return line
    kept = ""
    while sum(map(_columns, kept)) + _columns(line[len(kept)]) < columns:
        kept += line[len(kept)]
    return kept + "…"


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _width(text: str) -> int:
    """In letters `x` of the font that matplotlib measures with: 0.6 em, a Japanese sign 1 em."""
    return round(sum(1.7 if _columns(character) == 2 else 1.0 for character in text) + 0.49)


class Drawing:
    """A figure while it is drawn; `svg` once it is done."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.labels = Labels()
        self.svg = ""

    def axes(self) -> Axes:
        return self.figure.add_subplot()


@contextmanager
def drawing(width: float, height: float) -> Iterator[Drawing]:
    """A figure of so many inches, with no state shared with anyone else's."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        remedy = 'pip install "tanren[eval]", or write the report without plots'
        raise ConfigError.of(
            Fault("report", "matplotlib is not installed", "matplotlib", remedy)
        ) from None
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        drawn = Drawing(figure)
        yield drawn
        drawn.svg = _svg(drawn)


def _svg(drawn: Drawing) -> str:
    buffer = BytesIO()
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    drawn.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would reach the whole page
    return drawn.labels.restore(svg).strip()


def with_own_ids(svg: str, prefix: str) -> str:
    """Many drawings on one page must not share ids."""
    svg = re.sub(r'(\sid=")', rf"\1{prefix}-", svg)
    return re.sub(r'(="url\(#|href="#)', rf"\1{prefix}-", svg)


def standalone(svg: str) -> str:
    """A drawing as a file of its own: on white, in the colours of the light page."""
    svg = re.sub(r"var\(--\w+, (#\w+)\)", r"\1", svg)
    svg = svg.replace("font-family: inherit", "font-family: sans-serif")
    opening = svg.index(">") + 1
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f"{svg[:opening]}{paper}{svg[opening:]}\n"


# --- the drawings ---------------------------------------------------------------------------------

Measured = tuple[str, float, float | None, float | None]
"""Label, value, and both ends of its interval."""


def intervals(rows: Sequence[Measured], unit: str, *, zero: bool = False) -> str:
    """A point and its interval on a line each, the first on top; `zero` draws where nothing
    changed.
    """
    with drawing(7.2, 0.75 + 0.34 * len(rows)) as drawn:
        axes = drawn.axes()
        for place, (_, value, low, high) in enumerate(rows):
            colour = SERIES[0] if zero else SERIES[place % len(SERIES)]
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=colour, linewidth=2.2, alpha=0.55)
            axes.plot([value], [place], "o", color=colour, markersize=6.5)
        if zero:
            axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        names = [drawn.labels.of(row[0]) for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(drawn.labels.of(unit, AXIS_COLUMNS))
        axes.margins(x=0.08)
    return drawn.svg


def confusion(
    labels: Sequence[str], columns: Sequence[str], matrix: Sequence[Sequence[int]]
) -> str:
    """A line per reference, a column per answer; the shade is the share of the line."""
    from matplotlib.patches import Rectangle

    side = 0.62
    with drawing(2.6 + side * len(columns), 1.7 + 0.42 * len(labels)) as drawn:
        axes = drawn.axes()
        for line, counts in enumerate(matrix):
            for column, count in enumerate(counts):
                colour = SERIES[0] if columns[column] == labels[line] else SERIES[1]
                share = count / max(sum(counts), 1)
                cell = Rectangle((column - 0.47, line - 0.46), 0.94, 0.92)
                cell.set(facecolor=colour, edgecolor="none", alpha=0.08 + 0.6 * share)
                axes.add_patch(cell)
                axes.text(column, line, f"{count:,}", ha="center", va="center")
        axes.set_xlim(-0.6, len(columns) - 0.4)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xticks(
            range(len(columns)),
            [drawn.labels.of(name, CELL_COLUMNS) for name in columns],
            rotation=35,
            ha="left",
        )
        axes.xaxis.tick_top()
        axes.set_yticks(
            range(len(labels)), [drawn.labels.of(name, CELL_COLUMNS) for name in labels]
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_ylabel("reference")
        axes.set_xlabel("answer")
    return drawn.svg


def lengths(series: Mapping[str, Sequence[int]], unit: str) -> str:
    """Outlines of histograms on the same bins; the last bin holds everything beyond it."""
    import numpy as np

    everything = np.concatenate([np.asarray(values) for values in series.values()])
    top = max(float(np.percentile(everything, 98)), 1.0)
    edges = np.linspace(0, top * 1.05, 25)
    with drawing(7.2, 3.0) as drawn:
        axes = drawn.axes()
        for place, (name, values) in enumerate(series.items()):
            inside = np.minimum(np.asarray(values, dtype=float), edges[-1])
            heights, _ = np.histogram(inside, edges)
            shares = 100 * heights / max(len(values), 1)
            colour = MUTED if place == 0 else SERIES[(place - 1) % len(SERIES)]
            fill = place == 0
            axes.stairs(shares, edges, color=colour, linewidth=1.8, label=drawn.labels.of(name))
            if fill:
                axes.stairs(shares, edges, color=colour, fill=True, alpha=0.25)
        axes.set_xlabel(f"{unit} (the last bin holds all longer ones)")
        axes.set_ylabel("% of rows")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
    return drawn.svg


def retained(groups: Sequence[RetentionGroup]) -> str:
    """Of the rows that were right before, how many still are, by group."""
    with drawing(7.2, 1.0 + 0.36 * len(groups)) as drawn:
        axes = drawn.axes()
        for place, group in enumerate(groups):
            still = group.right_before - group.lost
            axes.barh(place, still, height=0.62, color=SERIES[2], alpha=0.75)
            axes.barh(place, group.lost, left=still, height=0.62, color=SERIES[1], alpha=0.9)
            axes.annotate(
                f"{group.lost} lost",
                (group.right_before, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(groups)), [drawn.labels.of(group.name) for group in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("rows right before tuning")
        axes.margins(x=0.12)
    return drawn.svg
