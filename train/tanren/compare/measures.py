"""The columns of a comparison: what arms are judged by first, then what that costs.

A column has a value an arm and seed, of finished runs; where it was measured on rows, these too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tanren.compare.data import Arm, Estimate, Measure, TrainedRun
from tanren.compare.reach import Runs, losses_at_equal_tokens, reached_by_seed
from tanren.compare.scores import (
    MeanScores,
    RowScores,
    answers_by_seed,
    metric_scores,
    model_name,
)
from tanren.compare.seeds import mean_over_seeds
from tanren.evaluate.report.data import Evaluation, MeasuredMetric
from tanren.evaluate.retention import RetentionResult

Values = tuple[float | None, ...]
Kind = Literal["quality", "cost", "fact"]

VALIDATION_LOSS = "validation_loss"
RETENTION = "retention"
MEMORY = "peak_memory_bytes"
SECONDS = "train_seconds"
BYTES = "adapter_bytes"
_SPEED_UNITS = ("seconds", "tokens/s")
_BY_TOKENS = ("loss", "perplexity")
_MOST = {"share": 1.0, "points": 100.0}


@dataclass(frozen=True)
class Column:
    """`values` by arm, in the order of the seeds. `is_compared`: False for what is no property of
    the weights or is told elsewhere. `counted_in`, by arm: what its numbers are counted in (the
    tokens of a loss); arms are compared only where it is the same. `base`: of the model before
    tuning.
    """

    measure: Measure
    values: Mapping[str, Values]
    scores: RowScores | None = None
    is_compared: bool = True
    counted_in: Mapping[str, Any] = field(default_factory=dict)
    base: float | None = None

    @property
    def name(self) -> str:
        return self.measure.name

    def estimate(self, arm: str) -> Estimate:
        """Over seeds, its interval cut to what the measure can be."""
        found = mean_over_seeds(self.values[arm])
        if found.low is None or found.high is None:
            return found
        least = 0.0 if all(value >= 0 for value in found.values if value is not None) else -math.inf
        most = _MOST.get(self.measure.unit, math.inf)
        return replace(found, low=max(found.low, least), high=min(found.high, most))

    def alike(self, arm: str, reference: str) -> bool:
        """Whether the two can be compared at all."""
        ours, theirs = self.counted_in.get(arm), self.counted_in.get(reference)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            return all(ours[row] == theirs[row] for row in ours.keys() & theirs.keys())
        return ours == theirs


@dataclass(frozen=True)
class Table:
    """What columns are made from. `runs`: finished ones, by arm and seed."""

    arms: tuple[Arm, ...]
    reference: str
    seeds: tuple[int, ...]
    evaluations: Mapping[str, Evaluation]

    @property
    def runs(self) -> dict[str, Runs]:
        return {arm.name: {run.seed: run for run in arm.finished} for arm in self.arms}

    def values(self, of: Callable[[TrainedRun], float | None]) -> dict[str, Values]:
        return {
            name: tuple(of(runs[seed]) if seed in runs else None for seed in self.seeds)
            for name, runs in self.runs.items()
        }


def columns(table: Table, main: str | None = None) -> tuple[Column, ...]:
    """Those of which at least one arm has a value; `main` first, then qualities, facts and costs
    in a fixed order.
    """
    every = [*_losses(table), *_metrics(table), *_general(table), *_costs(table)]
    known = [column for column in every if any(map(_any, column.values.values()))]
    return tuple(sorted(known, key=lambda column: column.name != main))


def _any(values: Values) -> bool:
    return any(value is not None for value in values)


# --- quality --------------------------------------------------------------------------------------


def _losses(table: Table) -> list[Column]:
    tokens = {
        arm.name: next((run.facts.get("validation_tokens") for run in arm.finished), None)
        for arm in table.arms
    }
    best = Measure(VALIDATION_LOSS, "Validation loss", "nats", False, "quality", 4)
    equal = Measure(
        "validation_loss_equal_tokens",
        "Validation loss at equal tokens",
        "nats",
        False,
        "quality",
        4,
    )
    return [
        Column(best, table.values(lambda run: run.best_loss), counted_in=tokens),
        Column(equal, losses_at_equal_tokens(table.runs, table.seeds), counted_in=tokens),
    ]


def _metrics(table: Table) -> list[Column]:
    """Every metric of the evaluations, in their order, then the loss of the references where no
    metric says it. Perplexity is the loss once more, speed no property of the weights.
    """
    first: dict[str, MeasuredMetric] = {}
    for evaluation in table.evaluations.values():
        for metric in evaluation.metrics:
            first.setdefault(metric.name, metric)
    found = [_metric(table, metric, set(first)) for metric in first.values()]
    return found if "loss" in first else [*found, _reference_loss(table)]


def _metric(table: Table, metric: MeasuredMetric, names: set[str]) -> Column:
    by_speed = metric.unit in _SPEED_UNITS
    again = metric.name == "perplexity" and "loss" in names
    name = f"answer_{metric.name}" if by_speed else metric.name
    title = f"{metric.title} (answering)" if by_speed else metric.title
    is_fact = metric.higher_is_better is None
    kind: Kind = "cost" if by_speed else "fact" if is_fact else "quality"
    scores = metric_scores(metric.name, table.evaluations, table.seeds)
    return Column(
        Measure(name, title, metric.unit, metric.higher_is_better, kind),
        _evaluated(table, lambda one, model: _value(one, metric.name, model)),
        scores=scores,
        is_compared=not by_speed and not again,
        counted_in=_tokens(table) if metric.name in _BY_TOKENS else {},
        base=_of_base(table, metric.name),
    )


def _reference_loss(table: Table) -> Column:
    cells = {
        arm: {
            seed: {number: row.loss for number, row in rows.items() if row.loss is not None}
            for seed, rows in answers_by_seed(arm, evaluation, table.seeds).items()
        }
        for arm, evaluation in table.evaluations.items()
    }
    return Column(
        Measure("reference_loss", "Loss of the test answers", "nats", False, "quality", 4),
        {
            arm.name: tuple(_mean(cells.get(arm.name, {}).get(s, {}).values()) for s in table.seeds)
            for arm in table.arms
        },
        scores=MeanScores(cells),
        counted_in=_tokens(table),
        base=_base_loss(table),
    )


def _evaluated(table: Table, of: Callable[[Evaluation, str], float | None]) -> dict[str, Values]:
    """By arm: of each seed's model in the arm's evaluation."""
    return {
        arm.name: tuple(
            of(table.evaluations[arm.name], model_name(arm.name, seed))
            if arm.name in table.evaluations
            else None
            for seed in table.seeds
        )
        for arm in table.arms
    }


def _value(evaluation: Evaluation, metric: str, model: str) -> float | None:
    measured = evaluation.metric(metric)
    value = measured.values.get(model) if measured else None
    return value.value if value else None


def _of_base(table: Table, metric: str) -> float | None:
    """From the first evaluation that has it: the base answers alike for every arm."""
    values = (
        _value(one, metric, one.reference) for one in table.evaluations.values() if one.reference
    )
    return next((value for value in values if value is not None), None)


def _base_loss(table: Table) -> float | None:
    for one in table.evaluations.values():
        rows = one.answers.get(one.reference or "", ())
        losses = [row.loss for row in rows if row.error is None and row.loss is not None]
        if losses:
            return _mean(losses)
    return None


def _tokens(table: Table) -> dict[str, Any]:
    """By arm: how many tokens its tokenizer makes of each reference."""
    found: dict[str, Any] = {}
    for arm, evaluation in table.evaluations.items():
        answers = answers_by_seed(arm, evaluation, table.seeds)
        rows = [row for of_seed in answers.values() for row in of_seed.values()]
        found[arm] = {row.row: row.reference_tokens for row in rows if row.reference_tokens}
    return found


# --- what it could do before ----------------------------------------------------------------------


def _general(table: Table) -> list[Column]:
    """Retention as points kept, and how far the answers drifted from the base's."""
    results = {
        arm: {
            seed: result
            for seed in table.seeds
            if (result := evaluation.retention.get(model_name(arm, seed))) is not None
        }
        for arm, evaluation in table.evaluations.items()
    }

    def values(of: Callable[[RetentionResult], float | None]) -> dict[str, Values]:
        return {
            arm.name: tuple(
                of(results[arm.name][seed]) if seed in results.get(arm.name, {}) else None
                for seed in table.seeds
            )
            for arm in table.arms
        }

    kept = Measure(RETENTION, "General questions kept", "points", True, "quality", 1)
    drift = Measure("drift", "Drift on general questions", "nats", None, "fact")
    return [
        Column(kept, values(_points_kept), scores=_kept_rows(results)),
        Column(drift, values(lambda result: result.drift_nats)),
    ]


def _points_kept(result: RetentionResult) -> float | None:
    drop = result.overall.drop_points
    return None if drop is None else 100 - drop


def _kept_rows(results: Mapping[str, Mapping[int, RetentionResult]]) -> RowScores | None:
    """100 for a row that was kept, 0 for one that was lost, of the rows that the base had right.
    Results name the lost ones only; the others are numbered below 0, as nothing else is asked of
    them. None where not all models were measured against equally many.
    """
    every = [result for seeds in results.values() for result in seeds.values()]
    right = {result.overall.right_before for result in every}
    unanswered = {result.unanswered for result in every}
    lost = sorted({row.number for result in every for row in result.lost})
    if len(right) != 1 or unanswered != {0} or len(lost) > (count := right.pop()):
        return None
    others = [-number for number in range(1, count - len(lost) + 1)]
    cells = {
        arm: {
            seed: {
                **dict.fromkeys(others, 100.0),
                **dict.fromkeys(lost, 100.0),
                **{row.number: 0.0 for row in result.lost},
            }
            for seed, result in seeds.items()
        }
        for arm, seeds in results.items()
    }
    return MeanScores(cells)


# --- costs ----------------------------------------------------------------------------------------


def _costs(table: Table) -> list[Column]:
    def cost(
        name: str,
        title: str,
        unit: str,
        of: Callable[[TrainedRun], float | None],
        *,
        more_is_better: bool = False,
        digits: int = 3,
    ) -> Column:
        measure = Measure(name, title, unit, more_is_better, "cost", digits)
        return Column(measure, table.values(of))

    return [
        cost(SECONDS, "Training time", "seconds", lambda run: run.train_seconds, digits=1),
        cost("seconds_per_step", "Time a step", "seconds", _seconds_per_step),
        cost(
            "tokens_per_second", "Training speed", "tokens/s", lambda run: run.tokens_per_second,
            more_is_better=True, digits=0,
        ),
        cost(MEMORY, "Peak memory of the device", "bytes", lambda run: run.peak_memory_bytes),
        cost("peak_host_bytes", "Peak memory of the host", "bytes", lambda r: r.peak_host_bytes),
        cost(BYTES, "Size of the adapter", "bytes", lambda run: run.adapter_bytes),
        cost(
            "trained_parameters", "Trained parameters", "parameters",
            lambda run: run.trained_parameters, digits=0,
        ),
        cost("energy_joules", "Energy", "joules", lambda run: run.energy_joules, digits=0),
        cost("mfu", "Model FLOPs utilisation", "share", lambda r: r.mfu, more_is_better=True),
        *_to_target(table),
    ]  # fmt: skip


def _seconds_per_step(run: TrainedRun) -> float | None:
    if run.train_seconds is None or not run.num_steps:
        return None
    return run.train_seconds / run.num_steps


def _to_target(table: Table) -> list[Column]:
    """To the reference's best loss; compared as ratios by `reach`."""
    runs = table.runs
    places = {
        arm: reached_by_seed(runs[arm], runs.get(table.reference, {}), table.seeds) for arm in runs
    }
    seconds = Measure(
        "seconds_to_target", "Time to the reference's loss", "seconds", False, "cost", 1
    )
    steps = Measure("steps_to_target", "Steps to the reference's loss", "steps", False, "cost", 1)
    return [
        Column(
            seconds,
            {arm: tuple(p.seconds if p else None for p in found) for arm, found in places.items()},
            is_compared=False,
        ),
        Column(
            steps,
            {arm: tuple(p.step if p else None for p in found) for arm, found in places.items()},
            is_compared=False,
        ),
    ]


def _mean(values: Any) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None
