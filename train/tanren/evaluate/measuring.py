"""From answers to numbers: which metrics, their values with intervals, and paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tanren.errors import ConfigError, Fault
from tanren.evaluate.answered import Answered
from tanren.evaluate.choose import Task, choose
from tanren.evaluate.metrics import (
    Metric,
    fitted,
    metric_named,
    normalised,
    scores_of,
)
from tanren.evaluate.metrics.options import markers_for, named_option, options_in
from tanren.evaluate.metrics.similarity import Embed
from tanren.evaluate.questions import Question, as_rows, spread
from tanren.evaluate.report.data import MeasuredMetric, MeasuredValue, PairedComparison
from tanren.evaluate.settings import EvaluateConfig, StatisticsConfig, metric_requests
from tanren.evaluate.statistics import adjusted, compare, interval_of

ROWS_LOOKED_AT = 1000
MOST_OPTIONS = 20
_SPEED_UNITS = ("seconds", "tokens/s")
_BY_TOKENS = ("loss", "perplexity")
"""Comparable only between models whose tokenizers cut the references alike."""


@dataclass(frozen=True)
class Plan:
    """What is measured. `labels`: for classification, as the references spell them."""

    task: str
    reason: str
    metrics: tuple[Metric, ...]
    labels: tuple[str, ...] = ()
    has_options: bool = False
    notes: tuple[str, ...] = ()

    @property
    def main(self) -> str:
        return self.metrics[0].name


def make_plan(
    config: EvaluateConfig, questions: Sequence[Question], *, embed: Embed | None = None
) -> tuple[Plan, tuple[Question, ...]]:
    """Metrics and task, and the questions with their options where options are measured.

    ConfigError with the faults of all metrics that were asked for.
    """
    task = choose(as_rows(spread(questions, ROWS_LOOKED_AT)))
    asked, notes = _with_options(config, task, questions)
    has_options = any(question.options for question in asked)
    requests = metric_requests(config)
    if requests is None:
        metrics = [*task.build(), *_by_likelihood(task, has_options), *_similarity(config, embed)]
        reason = task.reason
    else:
        metrics = _requested(requests, config, embed)
        reason = f"metrics as asked for; the data: {task.reason}"
    labels = tuple(_spellings(questions).get(label, label) for label in task.labels)
    plan = Plan(task.kind, reason, _distinct(metrics), labels, has_options, tuple(notes))
    return plan, asked


def _requested(
    requests: Sequence[tuple[str, Mapping[str, Any]]], config: EvaluateConfig, embed: Embed | None
) -> list[Metric]:
    found: list[Metric] = []
    faults: list[Fault] = []
    for name, settings in requests:
        try:
            if name == "similarity" and embed is not None:
                found += _similarity(config, embed)
            else:
                found.append(metric_named(name, **settings))
        except ConfigError as error:
            faults += error.faults
    if not requests:
        faults.append(Fault("metrics", "an empty list", "at least one", "name one, or leave it"))
    if faults:
        raise ConfigError.of(*faults)
    return found


def _similarity(config: EvaluateConfig, embed: Embed | None) -> list[Metric]:
    if embed is None:
        return []
    return [metric_named("similarity", embed=embed, model=config.embedding_model or "")]


def _by_likelihood(task: Task, has_options: bool) -> list[Metric]:
    if not has_options:
        return []
    if task.kind == "classification":
        return [metric_named("accuracy", labels=task.labels, by="likelihood")]
    return [metric_named("choice", by="likelihood")]


def _distinct(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The first of those with one name."""
    return tuple({metric.name: metric for metric in reversed(metrics)}.values())[::-1]


# --- options --------------------------------------------------------------------------------------


def _with_options(
    config: EvaluateConfig, task: Task, questions: Sequence[Question]
) -> tuple[tuple[Question, ...], list[str]]:
    """The questions with what a reply could be, for tasks that have a choice."""
    if config.option_likelihood is False or task.kind not in ("classification", "multiple_choice"):
        return tuple(questions), []
    if task.kind == "classification":
        labels = tuple(_spellings(questions).get(label, label) for label in task.labels)
        found = [labels] * len(questions)
    else:
        found = [replies_to_choose(question) for question in questions]
    most = max((len(options) for options in found), default=0)
    if config.option_likelihood == "auto" and most > MOST_OPTIONS:
        note = f"up to {most} options a row: their likelihood is not measured"
        return tuple(questions), [f"{note} (option_likelihood: true measures it)"]
    return tuple(replace(q, options=o) for q, o in zip(questions, found, strict=True)), []


def _spellings(questions: Sequence[Question]) -> dict[str, str]:
    """Normalised label -> as the first reference with it spells it."""
    found: dict[str, str] = {}
    for question in questions:
        found.setdefault(normalised(question.reference), question.reference)
    return found


def replies_to_choose(question: Question) -> tuple[str, ...]:
    """The options that the prompt lists, in the form of the reference: their texts, or their
    markers. Empty where the reference is neither.
    """
    options = options_in(question.text)
    texts = tuple(option.text for option in options)
    place = named_option(question.reference, texts, markers_for(texts, question.text))
    if place is None:
        return ()
    if normalised(question.reference) == normalised(texts[place]):
        return texts
    markers = [option.marker for option in options]
    if normalised(question.reference) != normalised(markers[place]):
        return ()
    upper = question.reference.isupper()
    return tuple(marker.upper() if upper else marker for marker in markers)


# --- values ---------------------------------------------------------------------------------------


def measured(
    plan: Plan, answers: Mapping[str, Sequence[Answered]], settings: StatisticsConfig
) -> tuple[tuple[MeasuredMetric, ...], tuple[Metric, ...], list[str]]:
    """Values of every metric that says something of at least one model; those metrics with their
    choices made; and which said nothing.
    """
    everything = [row for rows in answers.values() for row in rows]
    found: list[MeasuredMetric] = []
    kept: list[Metric] = []
    silent: list[str] = []
    for raw in plan.metrics:
        metric = fitted(raw, everything)
        values = {name: _value(metric, rows, settings) for name, rows in answers.items()}
        if all(value.value is None for value in values.values()):
            silent.append(metric.name)
            continue
        kept.append(metric)
        found.append(
            MeasuredMetric(metric.name, metric.title, metric.unit, metric.higher_is_better, values)
        )
    notes = [f"nothing to measure for {', '.join(silent)}"] if silent else []
    return tuple(found), tuple(kept), notes


def _value(metric: Metric, rows: Sequence[Answered], settings: StatisticsConfig) -> MeasuredValue:
    rows = [row for row in rows if row.error is None]
    value = metric.value(rows) if rows else None
    if value is None:
        return MeasuredValue(None, rows=0, details=metric.details(rows) if rows else {})
    interval = interval_of(rows, metric, seed=settings.seed, resamples=settings.resamples)
    details = metric.details(rows)
    low, high = (interval.low, interval.high) if interval else (None, None)
    return MeasuredValue(value, low, high, details.get("rows"), details)


def scored(rows: Sequence[Answered], metrics: Sequence[Metric]) -> tuple[Answered, ...]:
    """The rows with every metric's score of them."""
    columns = {metric.name: scores_of(metric, rows) for metric in metrics}
    return tuple(
        replace(row, scores={name: column[i] for name, column in columns.items()})
        for i, row in enumerate(rows)
    )


def compared(
    metrics: Sequence[Metric],
    answers: Mapping[str, Sequence[Answered]],
    reference: str,
    settings: StatisticsConfig,
) -> tuple[tuple[PairedComparison, ...], list[str]]:
    """Every other model against the reference, metric by metric. Holm's correction is made over the
    models for the first metric, which the question is about, and over all others together, so that
    what is merely described costs the answer nothing. Speed is no property of the answers and is
    not compared; perplexity is the loss once more.
    """
    twice = {"perplexity"} if any(metric.name == "loss" for metric in metrics) else set()
    found, notes = [], []
    for name, rows in answers.items():
        if name == reference:
            continue
        before = answers[reference]
        alike = _cut_alike(before, rows)
        if not alike:
            notes.append(f"loss of {name} and {reference}: other tokenizers, not compared")
        for metric in metrics:
            if metric.unit in _SPEED_UNITS or metric.name in twice:
                continue
            if not alike and metric.name in _BY_TOKENS:
                continue
            one = compare(before, rows, metric, seed=settings.seed, resamples=settings.resamples)
            if one.rows:
                found.append((name, one))
    main = metrics[0].name
    first = adjusted([one for _, one in found if one.metric == main])
    rest = adjusted([one for _, one in found if one.metric != main])
    corrected = [(first if one.metric == main else rest).pop(0) for _, one in found]
    pairs = zip(found, corrected, strict=True)
    return tuple(PairedComparison.of(c, name, reference) for (name, _), c in pairs), notes


def _cut_alike(before: Sequence[Answered], after: Sequence[Answered]) -> bool:
    tokens = {row.row: row.reference_tokens for row in before if row.reference_tokens}
    both = [row for row in after if row.reference_tokens and row.row in tokens]
    return all(row.reference_tokens == tokens[row.row] for row in both)
