"""How long prompts and answers are, and which are far from the others."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any

from tanren.data.lint.corpus import Again, Seen
from tanren.data.lint.found import Findings


class Lengths:
    """Robust outliers on a logarithmic scale, where lengths of texts are near to normal."""

    _DEVIATIONS = 6.0
    _FACTOR = 5.0
    _MIN_ROWS = 20

    def __init__(self, max_characters: int | None) -> None:
        self._max = max_characters
        self.prompts, self.answers = array("I"), array("I")
        self._totals = array("I")

    def add(self, row: Seen) -> None:
        self.prompts.append(row.characters - len(row.answer))
        self.answers.append(len(row.answer))
        self._totals.append(row.characters)

    def finish(self, lines: array[int], again: Again, findings: Findings) -> None:
        for what, path, lengths in (
            ("prompt", "messages", self.prompts),
            ("answer", "", self.answers),
        ):
            self._outliers(what, path, lengths, lines, again, findings)
        if self._max is not None:
            for row, total in enumerate(self._totals):
                if total > self._max:
                    shown = f"{total:,} characters: {again(row).question}"
                    findings.add("too-long", lines[row], "", shown)

    def _outliers(
        self,
        what: str,
        path: str,
        lengths: array[int],
        lines: array[int],
        again: Again,
        findings: Findings,
    ) -> None:
        if len(lengths) < self._MIN_ROWS:
            return
        median, low, high = usual_lengths(lengths, self._DEVIATIONS, self._FACTOR)
        for row, length in enumerate(lengths):
            if low <= length <= high:
                continue
            seen = again(row)
            text = seen.question if what == "prompt" else seen.answer
            place = path or seen.answer_path
            shown = f"{what} of {length:,} characters, usually {median:,.0f}: {text}"
            findings.add("length-outlier", lines[row], place, shown)


def usual_lengths(
    lengths: Iterable[int], deviations: float, factor: float
) -> tuple[float, float, float]:
    """Median and the bounds of what is usual: `deviations` times the median absolute deviation
    (scaled to a normal's standard deviation) away on a log scale, and at least `factor` times.
    """
    import numpy as np

    logs = np.log1p(np.array(lengths, dtype=np.float64))
    median = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - median)))
    reach = max(deviations * spread, math.log(factor))
    # A word more or less is nothing: of short texts a factor says little.
    high = max(math.expm1(median + reach), math.expm1(median) + 50)
    return math.expm1(median), math.expm1(median - reach), high


def histogram(lengths: array[int], bins: int = 24) -> dict[str, Any]:
    """Counts between edges in characters, each bin with its lower edge: of equal width on a log
    scale, or one bin for each length where there are few. One bin: all lengths are the same.
    """
    import numpy as np

    if not lengths:
        return {"edges": [], "counts": []}
    values = np.array(lengths, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if high - low < bins:
        edges = np.arange(low, high + 2)
    else:
        edges = np.expm1(np.linspace(np.log1p(low), np.log1p(high + 1), bins + 1))
        edges[0], edges[-1] = low, high + 1  # what a round trip through logarithms has moved
    counts, _ = np.histogram(values, edges)
    return {
        "edges": [round(float(edge), 1) for edge in edges],
        "counts": [int(count) for count in counts],
    }
