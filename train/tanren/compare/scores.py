"""The rows of an evaluation, arm by arm and seed by seed, in the form that pairing wants.

A metric that is the mean of its rows' scores is compared by these. One that is a formula over all
rows (BLEU, macro-F1, a loss weighted by tokens) is compared by jackknife pseudo-values: n times the
value of all n rows minus n - 1 times the value without the row (Tukey 1958). Their mean is the
value and their scatter its error, so one analysis serves both kinds; a bootstrap over rows and
seeds would need thousands of resamples of every pair, and with two or three seeds to draw from it
knows too little of their variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from tanren.compare.crossed import crossed, one_seed_binary
from tanren.compare.seeds import Effect
from tanren.errors import ConfigError
from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import METRICS, Metric, SumMetric, fitted, metric_named
from tanren.evaluate.report.data import Evaluation

if TYPE_CHECKING:
    import numpy as np

_BY_LIKELIHOOD = "_by_likelihood"


class RowScores(Protocol):
    """What pairs arms by row."""

    def rows(self, arm: str, seed: int) -> frozenset[int]:
        """Numbers of the rows that have a score; empty for a seed without answers."""

    def side(self, arm: str, seeds: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        """(seeds, rows), with the arm's value on these rows as the mean of each line."""


@dataclass(frozen=True)
class MeanScores:
    """`cells`: arm -> seed -> row -> score."""

    cells: Mapping[str, Mapping[int, Mapping[int, float]]]

    def rows(self, arm: str, seed: int) -> frozenset[int]:
        return frozenset(self.cells.get(arm, {}).get(seed, {}))

    def side(self, arm: str, seeds: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        import numpy as np

        return np.array([[self.cells[arm][seed][row] for row in rows] for seed in seeds], float)


@dataclass(frozen=True)
class CorpusScores:
    """`cells`: arm -> seed -> row -> answer, of rows that the metric says something of.

    `_known`: pseudo-values that were computed before; the reference's are asked for once an arm.
    """

    metric: Metric
    cells: Mapping[str, Mapping[int, Mapping[int, Answered]]]
    _known: dict[tuple[str, int, tuple[int, ...]], np.ndarray] = field(
        default_factory=dict, repr=False, compare=False
    )

    def rows(self, arm: str, seed: int) -> frozenset[int]:
        return frozenset(self.cells.get(arm, {}).get(seed, {}))

    def side(self, arm: str, seeds: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        import numpy as np

        return np.array([self._of_seed(arm, seed, tuple(rows)) for seed in seeds])

    def _of_seed(self, arm: str, seed: int, rows: tuple[int, ...]) -> np.ndarray:
        key = (arm, seed, rows)
        if key not in self._known:
            answers = [self.cells[arm][seed][row] for row in rows]
            self._known[key] = pseudo_values(self.metric, answers)
        return self._known[key]


def pseudo_values(metric: Metric, rows: Sequence[Answered]) -> np.ndarray:
    """(rows,), moved so that their mean is exactly the metric's value of all rows."""
    import numpy as np

    count, value = len(rows), metric.value(rows)
    if value is None:
        return np.full(count, math.nan)
    if isinstance(metric, SumMetric):
        parts = metric.parts(rows)
        without = metric.from_sums(parts.sum(axis=0) - parts)
    else:
        left = [metric.value([*rows[:i], *rows[i + 1 :]]) for i in range(count)]
        without = np.array([math.nan if one is None else one for one in left])
    without = np.where(np.isnan(without), value, without)  # the row that all of it hangs on
    pseudo = count * value - (count - 1) * without
    return pseudo - pseudo.mean() + value


def compared_rows(
    scores: RowScores, arm: str, reference: str, seeds: Sequence[int]
) -> Effect | None:
    """arm - reference over the seeds and rows that both have; rows that any side lacks in any seed
    are left out and counted. None where nothing is common.
    """
    import numpy as np

    both = [seed for seed in seeds if scores.rows(arm, seed) and scores.rows(reference, seed)]
    if not both:
        return None
    sides = [scores.rows(name, seed) for name in (arm, reference) for seed in both]
    rows = sorted(frozenset.intersection(*sides))
    left_out = len(frozenset.union(*sides)) - len(rows)
    if not rows:
        return Effect(None, seeds=len(both), rows=0, left_out=left_out)
    ours, theirs = (scores.side(name, both, rows) for name in (arm, reference))
    binary = isinstance(scores, MeanScores) and set(np.unique([ours, theirs])) <= {0.0, 1.0}
    if binary and len(both) == 1:
        found = one_seed_binary(ours[0], theirs[0])
    else:
        found = crossed(ours - theirs)
    return replace(found, left_out=left_out)


# --- from evaluations -----------------------------------------------------------------------------


def model_name(arm: str, seed: int) -> str:
    """What an arm's model is called in its evaluation."""
    return f"{arm} seed {seed}"


def answers_by_seed(
    arm: str, evaluation: Evaluation, seeds: Sequence[int]
) -> dict[int, dict[int, Answered]]:
    """seed -> row -> answer, without rows that failed."""
    found = {}
    for seed in seeds:
        rows = evaluation.answers.get(model_name(arm, seed), ())
        found[seed] = {row.row: row for row in rows if row.error is None}
    return found


def metric_scores(
    name: str, evaluations: Mapping[str, Evaluation], seeds: Sequence[int]
) -> RowScores | None:
    """Of a metric, told from the numbers themselves: the scores, where their mean is the value that
    the evaluation has; else pseudo-values, where the metric made anew says the same value; else
    None (a benchmark, a metric of other settings), and only seeds can be paired.
    """
    answers = {arm: answers_by_seed(arm, one, seeds) for arm, one in evaluations.items()}
    given = MeanScores(
        {
            arm: {
                seed: {
                    number: score
                    for number, row in rows.items()
                    if (score := row.scores.get(name)) is not None
                }
                for seed, rows in by_seed.items()
            }
            for arm, by_seed in answers.items()
        }
    )
    values = _values(name, evaluations, seeds)
    means = {key: _mean(list(given.cells[key[0]][key[1]].values())) for key in values}
    if _equal(values, means):
        return given
    metric = _made_anew(name, evaluations, answers)
    if metric is None:
        return None
    cells = {
        arm: {
            seed: {number: rows[number] for number in given.cells[arm][seed]}
            for seed, rows in by_seed.items()
        }
        for arm, by_seed in answers.items()
    }
    anew = {(arm, seed): metric.value(list(cells[arm][seed].values())) for arm, seed in values}
    return CorpusScores(metric, cells) if _equal(values, anew) else None


Values = Mapping[tuple[str, int], float | None]


def _values(
    name: str, evaluations: Mapping[str, Evaluation], seeds: Sequence[int]
) -> dict[tuple[str, int], float | None]:
    """By arm and seed, where the evaluation has one."""
    found: dict[tuple[str, int], float | None] = {}
    for arm, evaluation in evaluations.items():
        metric = evaluation.metric(name)
        for seed in seeds:
            measured = metric.values.get(model_name(arm, seed)) if metric else None
            if measured is not None and measured.value is not None:
                found[arm, seed] = measured.value
    return found


def _equal(one: Values, other: Values) -> bool:
    return bool(one) and all(
        a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
        for a, b in ((one[key], other[key]) for key in one)
    )


def _made_anew(
    name: str,
    evaluations: Mapping[str, Evaluation],
    answers: Mapping[str, Mapping[int, Mapping[int, Answered]]],
) -> Metric | None:
    """With the labels that the evaluations tell of, where it has labels."""
    plain = name.removesuffix(_BY_LIKELIHOOD)
    if plain not in METRICS:
        return None
    settings: dict[str, Any] = {"by": "likelihood"} if plain != name else {}
    found = [one.metric(name) for one in evaluations.values()]
    values = [value for measured in found if measured for value in measured.values.values()]
    labels = (value.details.get("labels") for value in values)
    told = next((tuple(names) for names in labels if names), None)
    try:
        metric = metric_named(plain, **settings, **({"labels": told} if told else {}))
    except ConfigError:  # it needs settings that the evaluation does not keep
        return None
    every = [row for seeds in answers.values() for rows in seeds.values() for row in rows.values()]
    return fitted(metric, every)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
