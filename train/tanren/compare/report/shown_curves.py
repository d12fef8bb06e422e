"""Loss curves and rate sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from tanren.compare.data import Arm, Comparison, Tried
from tanren.compare.report import plots
from tanren.compare.report.curves import (
    Curve,
    ceiling,
    training_curves,
    validation_curves,
    window,
)
from tanren.compare.report.plots import MOST_MARKED, Sweep
from tanren.compare.report.styles import Looks, unnamed
from tanren.compare.report.wording import MEANINGS, NOTHING, rate
from tanren.evaluate.report.document import Block, Figure, Folded, Table, Text
from tanren.evaluate.report.wording import counted

_MOST_STEPS = 8
"""Columns of the table beneath a drawing of curves."""


def curves(comparison: Comparison, drawn: Looks) -> Iterator[Block]:
    found = validation_curves(comparison)
    if found:
        yield _validation(comparison, found, drawn)
    else:
        yield Text("No validation loss was measured during training.")
    if training := training_curves(comparison):
        yield Folded("Losses of the training rows", (_training(comparison, training, drawn),))


def _validation(comparison: Comparison, found: Sequence[Curve], drawn: Looks) -> Figure:
    top = _top(found)
    timed = all(curve.seconds for curve in found)
    caption = (
        f"Validation loss in nats a token; {_line_means(found)}.{_cut(top)}"
        f"{'' if timed else ' Training seconds were not recorded.'}"
        f"{_unfinished(comparison, found)}{unnamed(comparison, drawn)}"
    )
    draw = partial(
        plots.losses, found, drawn, what="validation loss (nats)", top=top, seconds=timed
    )
    return Figure(draw, caption, _table(found), "validation-loss")


def _top(found: Sequence[Curve]) -> float | None:
    """With many arms the end of training, where they part, is what there is to see."""
    return ceiling([c.mean for c in found], share=0.9 if len(found) <= MOST_MARKED else 0.6)


def _line_means(found: Sequence[Curve]) -> str:
    if max(curve.seeds for curve in found) == 1:
        return "one line an arm, of one seed"
    if len(found) > MOST_MARKED:
        return "one line an arm: its mean over seeds"
    return "one line an arm: its mean over seeds, the band from the lowest seed to the highest"


def _cut(top: float | None) -> str:
    return "" if top is None else f" The axis ends at {top:.2f}; what lies above is not drawn."


def _unfinished(comparison: Comparison, found: Sequence[Curve]) -> str:
    names = [c.arm for c in found if not comparison.arm(c.arm).finished]
    return f" None of the runs of {', '.join(names)} finished." if names else ""


def _table(found: Sequence[Curve]) -> Table:
    """Every arm at a few steps out of all."""
    steps = sorted({step for curve in found for step in curve.steps})
    last = len(steps) - 1
    places = {round(last * at / (_MOST_STEPS - 1)) for at in range(_MOST_STEPS)}
    chosen = [steps[place] for place in sorted(places)]
    by_arm = [(curve.arm, dict(zip(curve.steps, curve.mean, strict=True))) for curve in found]
    rows = tuple(
        (arm, *(f"{means[step]:.3f}" if step in means else NOTHING for step in chosen))
        for arm, means in by_arm
    )
    return Table(("step", *(f"{step:,}" for step in chosen)), rows)


def _training(comparison: Comparison, found: Sequence[Curve], drawn: Looks) -> Figure:
    logged = max(len(run.steps) for arm in comparison.arms for run in arm.runs)
    each = window(logged)
    points = "each logged step" if each == 1 else f"the mean of {each} logged steps"
    top = _top(found)
    caption = f"Training loss in nats a token, {points} a point; {_line_means(found)}.{_cut(top)}"
    draw = partial(plots.losses, found, drawn, what="training loss (nats)", top=top, seconds=False)
    return Figure(draw, caption + unnamed(comparison, drawn), _table(found), "training-loss")


# --- learning rates -------------------------------------------------------------------------------


def rate_search(comparison: Comparison) -> list[Sweep]:
    return [Sweep(arm.name, _tried(arm), arm.learning_rate)
            for arm in comparison.arms if arm.tried]  # fmt: skip


def _tried(arm: Arm) -> tuple[Tried, ...]:
    return tuple(sorted(arm.tried, key=lambda tried: tried.learning_rate))


def rates(comparison: Comparison, drawn: Looks) -> Iterator[Block]:
    found = rate_search(comparison)
    if not found:
        yield Text(comparison.search or "No learning rate was searched for.")
        return
    if comparison.search:
        yield Text(comparison.search)
    losses = [[t.loss for t in sweep.tried if t.loss is not None] for sweep in found]
    top = ceiling(losses, share=0.75)
    caption = (
        "Best validation loss at every learning rate that was tried. A ring is the rate that was "
        f"chosen, a cross at the upper edge a run that failed.{_cut(top)}"
        f"{unnamed(comparison, drawn)}"
    )
    yield Figure(partial(plots.sweeps, found, drawn, top=top), caption, name="learning-rates")
    yield Folded("Every rate that was tried", (_tried_table(comparison),))


def _tried_table(comparison: Comparison) -> Table:
    rows: list[tuple[str, ...]] = []
    keys: list[tuple[float | None, ...]] = []
    best = set[tuple[int, int]]()
    for arm in comparison.arms:
        for tried in arm.tried:
            if tried.loss is not None and tried.learning_rate == arm.learning_rate:
                best.add((len(rows), 2))
            loss = NOTHING if tried.loss is None else f"{tried.loss:.4f}"
            steps = NOTHING if tried.steps is None else f"{tried.steps:,}"
            rows.append((arm.name, MEANINGS[tried.outcome], rate(tried.learning_rate), loss, steps))
            keys.append((None, None, tried.learning_rate, tried.loss, tried.steps))
    caption = f"{counted(len(rows), 'run')} of the search, in the order of asking; bold: chosen."
    head = ("arm", "outcome", "learning rate", "best validation loss", "steps")
    return Table(head, tuple(rows), caption, words=2, keys=tuple(keys), best=frozenset(best))
