"""Evaluations with a known outcome: answers are given, metrics and statistics are the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import Metric, fitted, metric_named, scores_of
from tanren.evaluate.report import (
    DataFacts,
    EvaluatedModel,
    Evaluation,
    MeasuredMetric,
    MeasuredValue,
    PairedComparison,
    Training,
)
from tanren.evaluate.statistics import adjusted, compare, interval_of

BASE, TUNED = "base", "tuned"
RESAMPLES = 400


def answered(
    references: Sequence[str], answers: Sequence[str], cut: Sequence[int] = (), **facts: Any
) -> tuple[Answered, ...]:
    """Rows from 1; those whose number is in `cut` ran into the limit of tokens."""
    return tuple(
        Answered(
            row=row,
            messages=({"role": "user", "content": f"question {row}"},),
            reference=reference,
            answer=answer,
            finish_reason="length" if row in cut else "stop",
            **facts,
        )
        for row, (reference, answer) in enumerate(zip(references, answers, strict=True), start=1)
    )


def evaluated(
    answers: Mapping[str, Sequence[Answered]],
    metrics: Sequence[str] = ("normalised_match",),
    *,
    training: Training | None = None,
    **facts: Any,
) -> Evaluation:
    """`answers` by model; the first of two or more is the reference. The first metric is main."""
    reference = next(iter(answers)) if len(answers) > 1 else None
    first = next(iter(answers.values()))
    made = [fitted(metric_named(name), first) for name in metrics]
    found = [
        (compare(answers[reference], rows, metric, resamples=RESAMPLES), model)
        for model, rows in answers.items()
        if reference is not None and model != reference
        for metric in made
    ]
    corrected = adjusted([comparison for comparison, _ in found])
    return Evaluation(
        title="A test",
        created="2026-01-01T00:00:00+00:00",
        task="text",
        task_reason="told",
        data=DataFacts("test.jsonl", "0" * 64, len(first)),
        models=tuple(
            EvaluatedModel(name, "base" if name == reference else "run", training=training)
            for name in answers
        ),
        metrics=tuple(_measured(metric, answers) for metric in made),
        answers={model: _scored(rows, made) for model, rows in answers.items()},
        reference=reference,
        main=metrics[0] if metrics else None,
        comparisons=tuple(
            PairedComparison.of(comparison, model, reference or "")
            for comparison, (_, model) in zip(corrected, found, strict=True)
        ),
        **facts,
    )


def _measured(metric: Metric, answers: Mapping[str, Sequence[Answered]]) -> MeasuredMetric:
    values = {}
    for model, rows in answers.items():
        interval = interval_of(rows, metric, resamples=RESAMPLES)
        ends = (interval.low, interval.high) if interval else (None, None)
        values[model] = MeasuredValue(
            metric.value(rows), *ends, rows=len(rows), details=metric.details(rows)
        )
    return MeasuredMetric(metric.name, metric.title, metric.unit, metric.higher_is_better, values)


def _scored(rows: Sequence[Answered], metrics: Sequence[Metric]) -> tuple[Answered, ...]:
    columns = {metric.name: scores_of(metric, rows) for metric in metrics}
    return tuple(
        replace(row, scores={name: column[i] for name, column in columns.items()})
        for i, row in enumerate(rows)
    )
