"""Did it get better, by how much, and how sure is that?

`compare` sets two models' answers to the same rows side by side; `adjusted` corrects a table of
such comparisons; `interval_of` says how sure a single model's value is. Whatever is random is the
same for the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tanren.evaluate.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha
from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import Metric, fitted, scores_of
from tanren.evaluate.pairs import SIGNIFICANCE, SLOW_RESAMPLES, Pairs, Side, is_mean, matched, step
from tanren.evaluate.resampling import Interval, Method, bootstrap, wilson

__all__ = [
    "Change",
    "Comparison",
    "Interval",
    "adjusted",
    "cohen_kappa",
    "compare",
    "fleiss_kappa",
    "holm",
    "interval_of",
    "krippendorff_alpha",
]

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """One row's score on both sides."""

    row: int
    before: float
    after: float


@dataclass(frozen=True)
class Comparison:
    """One metric on the rows that both sides answered. Values are in the metric's unit (shares from
    0 to 1), `difference` and its interval after minus before; None where there are too few rows.

    `wins` are rows that moved the good way (up where no way is good). `errors` counts rows left out
    because a side failed, `unmatched` those that one side lacks, `without_score` those of which the
    metric says nothing. `detectable` is the true difference that so many rows would show in four
    of five tries.
    """

    metric: str
    title: str
    unit: str
    higher_is_better: bool | None
    before: float | None
    after: float | None
    difference: float | None
    interval: Interval | None
    p: float | None
    test: str | None
    rows: int
    errors: int
    unmatched: int
    without_score: int
    wins: int
    losses: int
    ties: int
    detectable: float | None
    changed: tuple[Change, ...]
    """The rows that changed most, in either direction, largest first."""
    seed: int
    p_adjusted: float | None = None
    """After Holm's correction for all comparisons of a table; see `adjusted`."""

    @property
    def shown(self) -> bool:
        """Whether the rows show a difference (after the correction, where there was one)."""
        p = self.p if self.p_adjusted is None else self.p_adjusted
        return p is not None and p < SIGNIFICANCE

    @property
    def sentence(self) -> str:
        """In plain words: "better by 6.2 points, 95% 3.1 to 9.4, 300 rows, p = 0.0004"."""
        return "; ".join(part for part in (_verdict(self), _left_out(self)) if part)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "shown": self.shown, "sentence": self.sentence}


def compare(
    before: Sequence[Answered],
    after: Sequence[Answered],
    metric: Metric,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    method: Method = "bca",
    most_changed: int = 10,
) -> Comparison:
    """Pairs rows by their number. DataError where one stands twice in a side, or has another
    reference in the other side.
    """
    both, unmatched = matched(before, after)
    answered = [pair for pair in both if pair[0].error is None and pair[1].error is None]
    metric = fitted(metric, [a for a, _ in answered])
    scored = _scored(metric, answered)
    changes = [change for _, change in scored]
    kept = [pair for pair, _ in scored]
    pairs = Pairs.of(
        metric,
        [a for a, _ in kept],
        [b for _, b in kept],
        [(change.before, change.after) for change in changes],
    )
    interval, standard_error = pairs.interval(
        seed=seed, resamples=resamples, confidence=confidence, method=method
    )
    p, test = pairs.p_value(seed=seed, resamples=resamples)
    moves = pairs.steps * (-1 if metric.higher_is_better is False else 1)
    return Comparison(
        metric=metric.name,
        title=metric.title,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        before=pairs.before.value,
        after=pairs.after.value,
        difference=pairs.difference,
        interval=interval,
        p=p,
        test=test,
        rows=len(kept),
        errors=len(both) - len(answered),
        unmatched=unmatched,
        without_score=len(answered) - len(kept),
        wins=int((moves > 0).sum()),
        losses=int((moves < 0).sum()),
        ties=int((moves == 0).sum()),
        detectable=pairs.detectable(standard_error),
        changed=_most_changed(changes, most_changed),
        seed=seed,
    )


Pair = tuple[Answered, Answered]


def _scored(metric: Metric, pairs: Sequence[Pair]) -> list[tuple[Pair, Change]]:
    """The pairs of which the metric says something on both sides."""
    first = scores_of(metric, [a for a, _ in pairs])
    second = scores_of(metric, [b for _, b in pairs])
    return [
        (pair, Change(pair[0].row, a, b))
        for pair, a, b in zip(pairs, first, second, strict=True)
        if a is not None and b is not None
    ]


def _most_changed(changes: Sequence[Change], count: int) -> tuple[Change, ...]:
    moved = [change for change in changes if step(change.before, change.after)]
    return tuple(sorted(moved, key=lambda c: (-abs(c.after - c.before), c.row))[:count])


def interval_of(
    rows: Sequence[Answered],
    metric: Metric,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    method: Method = "bca",
) -> Interval | None:
    """Of a single model's value: Wilson's for a share of right rows, else a bootstrap over rows.
    None with fewer than two rows to go by (one, for a share).
    """
    metric = fitted(metric, rows)
    known = zip(rows, scores_of(metric, rows), strict=True)
    scored = [(row, score) for row, score in known if score is not None]
    scores = [score for _, score in scored]
    mean = is_mean(metric)
    if mean and scores and metric.unit == "share" and set(scores) <= {0.0, 1.0}:
        return wilson(int(sum(scores)), len(scores), confidence)
    if len(scores) < 2:
        return None
    if mean and len(set(scores)) == 1:
        return Interval(scores[0], scores[0], confidence, "constant")
    side = Side.of(metric, [row for row, _ in scored], scores)
    number = resamples if side.parts is not None else min(resamples, SLOW_RESAMPLES)
    return bootstrap(
        side.resampled,
        len(scores),
        seed=seed,
        resamples=number,
        confidence=confidence,
        method=method,
    )[0]


# --- several comparisons --------------------------------------------------------------------------


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Corrected so that the chance of any false alarm among all of them stays below the
    significance (Holm 1979). None stays None and counts for nothing.
    """
    ranked = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(ranked):
        highest = max(highest, min(1.0, p * (len(ranked) - rank)))
        corrected[place] = highest
    return corrected


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with `p_adjusted`: pass everything that a reader will look at together."""
    corrected = holm([comparison.p for comparison in comparisons])
    return [replace(c, p_adjusted=p) for c, p in zip(comparisons, corrected, strict=True)]


# --- in words -------------------------------------------------------------------------------------


def _verdict(found: Comparison) -> str:
    if found.difference is None or found.p is None:
        return "nothing to compare: no row has a score on both sides"
    if found.shown:
        good = -1 if found.higher_is_better is False else 1
        rose = found.difference > 0
        words = ("lower", "higher") if found.higher_is_better is None else ("worse", "better")
        word = words[rose if found.higher_is_better is None else found.difference * good > 0]
        size = _amount(abs(found.difference), found.unit)
        told = [f"{word} by {size}", *_range(found, -1 if not rose else 1), _rows(found.rows)]
        return ", ".join([*told, _p(found)])
    would = "" if found.detectable is None else _amount(found.detectable, found.unit)
    shown = f" (they would show {would})" if would else ""
    measured = f"measured {_amount(found.difference, found.unit, signed=True)}"
    if found.ties == found.rows and found.difference == 0:
        measured = "none of them changed"
    told = [measured, *_range(found, 1), _p(found)]
    return f"no difference that {_rows(found.rows)} could show{shown}; " + ", ".join(told)


def _range(found: Comparison, sign: int) -> list[str]:
    """The interval of the size of the difference, so turned round where it is a loss."""
    if found.interval is None or found.interval.method == "constant":
        return []
    ends = sorted((sign * found.interval.low, sign * found.interval.high))
    low, high = (_number(end, found.unit) for end in ends)
    return [f"{found.interval.confidence:.0%} {low} to {high}"]


def _p(found: Comparison) -> str:
    corrected = found.p_adjusted is not None
    p = found.p_adjusted if found.p_adjusted is not None else found.p
    assert p is not None, "a comparison without p has no verdict"
    digits = f"{p:.4f}" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    told = "p < 0.0001" if p < 0.0001 else f"p = {digits}"
    return told + (" (corrected for several comparisons)" if corrected else "")


def _amount(value: float, unit: str, *, signed: bool = False) -> str:
    name = "points" if unit == "share" else unit
    return f"{_number(value, unit, signed=signed)} {name}"


def _number(value: float, unit: str, *, signed: bool = False) -> str:
    """Points with one decimal, everything else with three digits that count."""
    sign = "+" if signed else ""
    if unit in ("share", "points"):
        shown = f"{value * 100 if unit == 'share' else value:{sign}.1f}"
    else:
        shown = f"{value:{sign}.0f}" if abs(value) >= 1000 else f"{value:{sign}.3g}"
    return shown.lstrip("+-") if float(shown) == 0 else shown.replace("-", "−")


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _left_out(found: Comparison) -> str:
    why = (
        (found.errors, "without an answer"),
        (found.without_score, "without a score"),
        (found.unmatched, "on one side only"),
    )
    told = [f"{count:,} {reason}" for count, reason in why if count]
    return "left out: " + ", ".join(told) if told else ""
