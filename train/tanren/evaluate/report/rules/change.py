"""What tuning did: to the losses, to the answers, and to what the model could do before."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tanren.evaluate.report.data import MeasuredMetric, PairedComparison
from tanren.evaluate.report.document import Advice
from tanren.evaluate.report.rules.enough import FEW
from tanren.evaluate.report.subject import Subject, is_better, is_shown
from tanren.evaluate.report.wording import counted, percent, shown, shown_difference, shown_range

LOSS_GAP, LOSS_RATIO = 0.2, 1.3
"""Held-out loss above training loss: nats, and as a ratio. Both must be passed."""
GOOD_ALREADY = 0.9
SAME_ANSWERS = 0.5
WORTH_COUNTING = 10
"""Times the rows at hand: a difference that needs more rows than that is taken for none."""
USEFUL = {"share": 0.1, "points": 5.0}
"""Differences by unit below which nothing would be decided; elsewhere a tenth of the value."""
LOST_POINTS = 5.0
FORM = ("json_valid", "json_schema", "stop_rate", "empty", "repetition", "within_target")
"""Metrics of an answer's form, which say nothing of whether it is right."""


def overfitting(of: Subject) -> Iterator[Advice]:
    training = of.model.training
    if training is None or training.train_loss is None or training.validation_loss is None:
        return
    train, held_out = training.train_loss, training.validation_loss
    if held_out - train < LOSS_GAP or held_out < LOSS_RATIO * train:
        return
    best = training.best_validation_loss
    passed = ""
    if best is not None and held_out - best >= 0.05 * best:
        passed = f"; it had been {best:.2f}"
    rows = f"{training.rows:,} rows" if training.rows else "rows"
    yield Advice(
        "overfitting", of.name, "data",
        f"Training loss ended at {train:.2f}, validation loss at {held_out:.2f} nats{passed}: the "
        f"model learns its {rows} by heart.",
        "Add more and more varied rows; else fewer epochs, a lower rate, a smaller rank or "
        "dropout.",
    )  # fmt: skip


# --- against the reference ------------------------------------------------------------------------


def against_reference(of: Subject) -> Iterator[Advice]:
    """Worse, out of reach, or no difference shown with the likeliest cause: one of them."""
    metric, comparison = of.main, of.comparison
    if metric is None or comparison is None or comparison.difference is None:
        return
    if metric.higher_is_better is None:
        return
    if is_shown(comparison):
        if not is_better(comparison, metric):
            yield _worse(of, metric, comparison)
        return
    yield _out_of_reach(of, metric) or _not_shown(of, metric, comparison)


def _worse(of: Subject, metric: MeasuredMetric, comparison: PairedComparison) -> Advice:
    unit = metric.unit
    return Advice(
        "worse", of.name, "hyperparameters",
        f"{metric.title} moved by {shown_difference(comparison.difference, unit)} (95% "
        f"{shown_range(comparison.low, comparison.high, unit)}) against {comparison.reference}: "
        f"{comparison.losses} rows lost, {comparison.wins} won. Tuning did harm here.",
        "Read the worst losses below first: if the training data teaches such answers, mend it; "
        "else try a lower rate or fewer epochs.",
    )  # fmt: skip


def _out_of_reach(of: Subject, metric: MeasuredMetric) -> Advice | None:
    """Neither model is above guessing, so that no setting of the tuning can be told from
    another.
    """
    chance = _chance(of, metric)
    both = (metric.values.get(of.evaluation.reference or ""), metric.values.get(of.name))
    if chance is None or any(m is None or m.value is None for m in both):
        return None
    for measured in both:
        assert measured is not None and measured.value is not None
        lower = measured.low if measured.low is not None else measured.value
        if lower > chance or (chance == 0 and measured.value > 0):
            return None
    values = " and ".join(shown(m.value, metric.unit) for m in both if m is not None)
    return Advice(
        "out_of_reach", of.name, "model",
        f"{metric.title} is {values} before and after: not above guessing "
        f"({shown(chance, metric.unit)}).",
        "The task is out of this model's reach: start from a larger or better base, or first make "
        "the task easier.",
    )  # fmt: skip


def _chance(of: Subject, metric: MeasuredMetric) -> float | None:
    """What guessing reaches, where that is known."""
    measured = metric.values.get(of.name)
    if measured is None:
        return None
    if (known := measured.details.get("chance")) is not None:
        return float(known)
    labels = measured.details.get("labels")
    if metric.name.startswith("accuracy") and labels:
        return 1 / len(labels)
    return 0.0 if metric.name in ("exact_match", "normalised_match", "number") else None


def _not_shown(of: Subject, metric: MeasuredMetric, comparison: PairedComparison) -> Advice:
    unit = metric.unit
    seen = (
        f"{metric.title}: {shown_difference(comparison.difference, unit)} (95% "
        f"{shown_range(comparison.low, comparison.high, unit)}) over "
        f"{counted(comparison.rows, 'row')} shows no difference to {comparison.reference}"
    )
    same, both = of.unchanged
    if both and same >= SAME_ANSWERS * both:
        return Advice(
            "hardly_moved", of.name, "hyperparameters",
            f"{seen}; {same} of {both} answers ({percent(same, both)}) are the same text.",
            "The tuning hardly moved the model: raise the rate, train longer, or give the adapter "
            "more rank or layers.",
        )  # fmt: skip
    before = of.reference_value(metric.name)
    if unit == "share" and metric.higher_is_better and before and before >= GOOD_ALREADY:
        return Advice(
            "good_already", of.name, "data",
            f"{seen}, which is at {shown(before, unit)} already.",
            "There is little left to gain: test with harder rows, or keep the model as it is.",
        )  # fmt: skip
    if (few := _too_few_rows(of, metric, comparison, seen)) is not None:
        return few
    return Advice(
        "nothing_new", of.name, "data quality",
        f"{seen}, though {both - same} of {both} answers read otherwise.",
        "What the training data teaches is not what these rows ask, or the model knew it: compare "
        "some of both, and tune on rows that the base gets wrong.",
    )  # fmt: skip


def _too_few_rows(
    of: Subject, metric: MeasuredMetric, comparison: PairedComparison, seen: str
) -> Advice | None:
    """None where so many rows would have shown any difference of use."""
    size, rows = abs(comparison.difference or 0.0), comparison.rows
    useful = _useful_difference(of, metric)
    needed = _rows_needed(comparison, size)
    if needed is None or needed > WORTH_COUNTING * rows:
        if comparison.detectable is not None and comparison.detectable <= useful:
            return None
        size, needed = useful, _rows_needed(comparison, useful)
    would = ""
    if comparison.detectable is not None:
        would = f"; so few show only {_size(comparison.detectable, metric.unit)} or more"
    about = f"about {needed:,}" if needed is not None else "more"
    return Advice(
        "too_few_rows", of.name, "measurement",
        f"{seen}{would}.",
        f"Evaluate on {about} rows to see a difference of {_size(size, metric.unit)}.",
    )  # fmt: skip


def _size(difference: float, unit: str) -> str:
    return shown_difference(difference, unit).lstrip("+")


def _useful_difference(of: Subject, metric: MeasuredMetric) -> float:
    """A smaller one would hardly decide anything."""
    if metric.unit in USEFUL:
        return USEFUL[metric.unit]
    return 0.1 * abs(of.reference_value(metric.name) or 1.0)


def _rows_needed(comparison: PairedComparison, difference: float) -> int | None:
    """Rows that would show such a difference: the detectable one falls with the square root of the
    rows. Rounded up to two digits.
    """
    if comparison.detectable is None or not 0 < difference < comparison.detectable:
        return None
    rows = comparison.rows * (comparison.detectable / difference) ** 2
    digits = max(len(str(int(rows))) - 2, 0)
    return math.ceil(rows / 10**digits) * 10**digits


def form_only(of: Subject) -> Iterator[Advice]:
    """The form got better and the main metric, which is not of form, did not."""
    metric, comparison = of.main, of.comparison
    if metric is None or comparison is None or is_shown(comparison):
        return
    if metric.name in FORM or metric.higher_is_better is None:
        return
    gained = [
        (other, found)
        for other in of.evaluation.metrics
        if other.name in FORM
        and (found := of.evaluation.comparison(other.name, of.name)) is not None
        and is_shown(found)
        and is_better(found, other)
    ]
    if gained:
        forms = ", ".join(f"{m.title} {shown_difference(c.difference, m.unit)}" for m, c in gained)
        yield Advice(
            "form_only", of.name, "data quality",
            f"The form got better ({forms}) and {metric.title} did not "
            f"({shown_difference(comparison.difference, metric.unit)}).",
            "The model learned how to answer, not what: add rows whose replies hold the knowledge "
            "or the steps, or start from a base that has them.",
        )  # fmt: skip


def retention(of: Subject) -> Iterator[Advice]:
    result = of.evaluation.retention.get(of.name)
    if result is None or result.overall.drop_points is None:
        return
    overall = result.overall
    assert overall.drop_points is not None
    if overall.drop_points < LOST_POINTS or overall.lost < FEW or overall.lost <= overall.gained:
        return
    categories = [group for group in result.groups if group.kind == "category"]
    worst = max(categories, key=lambda group: group.lost)
    yield Advice(
        "retention", of.name, "method",
        f"Of {overall.right_before} general questions it could answer before, {overall.lost} are "
        f"lost ({overall.drop_points:.1f} points, 95% {overall.drop_low:.1f} to "
        f"{overall.drop_high:.1f}), most in {worst.name} ({worst.lost} of {worst.right_before}).",
        "Lower the rate or the epochs, take a smaller rank, or mix general rows into the training "
        "data.",
    )  # fmt: skip
