"""Differences over seeds and rows at once.

Every seed of an arm answers the same rows, so seeds and rows are crossed, and both are a sample: of
the runs that could have been, and of the questions that could have been asked. An interval over
rows alone speaks of these very adapters; one over seeds alone of this very test set. Here
d[s, r] = score of the arm - score of the reference is taken as

    d[s, r] = mean + seed[s] + row[r] + rest[s, r]

with the mean's variance from the mean squares of the two-way analysis of variance,
(MS_seed + MS_row - MS_rest) / (S R), and Satterthwaite's degrees of freedom (Cornfield and Tukey
1956 for the expected mean squares, Satterthwaite 1946; the same question in Clark 1973, "The
language-as-fixed-effect fallacy").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tanren.compare.seeds import CONFIDENCE, Effect, constant, effect
from tanren.evaluate.pairs import FEWEST_ROWS
from tanren.evaluate.resampling import mcnemar_p, newcombe

if TYPE_CHECKING:
    import numpy as np

TEST = "t over seeds and rows"
ROWS_ONLY = "paired t over rows"


def crossed(differences: np.ndarray) -> Effect:
    """(seeds, rows) of differences without holes. One seed: rows alone, seeds are not covered. One
    row: seeds alone.
    """
    import numpy as np

    lines, rows = differences.shape
    mean = float(differences.mean())
    if lines < 2 and rows < 2:
        return Effect(mean, seeds=lines, rows=rows)
    if float(np.ptp(differences)) <= 1e-12 * float(np.abs(differences).max()):
        return constant(mean, seeds=lines, rows=rows)
    if lines == 1:
        error = float(differences.std(ddof=1)) / rows**0.5
        return effect(mean, error, rows - 1, test=ROWS_ONLY, seeds=1, rows=rows)
    if rows == 1:
        error = float(differences.std(ddof=1)) / lines**0.5
        return effect(mean, error, lines - 1, test="paired t over seeds", seeds=lines, rows=1)
    variance, freedom = _of_mean(*_mean_squares(differences), lines, rows)
    return effect(mean, variance**0.5, freedom, test=TEST, seeds=lines, rows=rows)


def _mean_squares(d: np.ndarray) -> tuple[float, float, float]:
    """Of seeds, rows and the rest."""
    lines, rows = d.shape
    by_seed, by_row, mean = d.mean(axis=1), d.mean(axis=0), d.mean()
    rest = d - by_seed[:, None] - by_row[None, :] + mean
    return (
        rows * float(((by_seed - mean) ** 2).sum()) / (lines - 1),
        lines * float(((by_row - mean) ** 2).sum()) / (rows - 1),
        float((rest**2).sum()) / ((lines - 1) * (rows - 1)),
    )


def _of_mean(seed: float, row: float, rest: float, seeds: int, rows: int) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom, from the mean squares.

    Where a variance component comes out negative (its mean square is below that of the rest) the
    larger of the single ones is taken. Two seeds have one degree of freedom: by chance they lie
    close together however far seeds really scatter, and the plain formula then covers as little as
    87%. With two, seeds therefore count for at least as much as rows do: about 92% and more in
    simulations, at the price of intervals more than twice as wide where seeds do not matter. With
    three seeds or more the plain one covers 92 to 97%.
    """
    if seeds == 2:
        seed = max(seed, row)
    total = max(seed + row - rest, seed, row)
    uncertainty = seed**2 / (seeds - 1) + row**2 / (rows - 1) + rest**2 / ((seeds - 1) * (rows - 1))
    return total / (seeds * rows), max(total**2 / uncertainty, seeds - 1)


def one_seed_binary(arm: np.ndarray, reference: np.ndarray) -> Effect:
    """Right and wrong of one seed's rows: McNemar's exact test and Newcombe's interval, as `tanren
    eval` has them. Both (rows,) of 0 and 1.
    """
    import numpy as np

    rows = len(arm)
    gained, lost = int((arm > reference).sum()), int((arm < reference).sum())
    both = int(np.minimum(arm, reference).sum())
    interval = newcombe(both, lost, gained, rows - both - gained - lost, CONFIDENCE)
    # half a row added to each of the four cells: a share of 0 or 1 has an error too
    up, down, all_rows = gained + 0.5, lost + 0.5, rows + 2
    variance = (up + down) / all_rows - ((up - down) / all_rows) ** 2
    return Effect(
        difference=(gained - lost) / rows,
        low=interval.low,
        high=interval.high,
        p_value=mcnemar_p(gained, lost),
        test="McNemar",
        standard_error=(variance / all_rows) ** 0.5,
        freedom=rows - 1 if rows >= FEWEST_ROWS else None,
        seeds=1,
        rows=rows,
    )
