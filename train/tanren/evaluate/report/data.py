"""All that an evaluation measured, as plain data: what a report is written from, and only from it.

It is JSON on disk (`evaluation.json`) and reads back equal, so that a report can be written again
anywhere, without models and without the files that were measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from tanren.evaluate.answered import Answered
from tanren.evaluate.report.stored import Stored
from tanren.evaluate.retention import RetentionResult
from tanren.evaluate.statistics import Comparison


@dataclass(frozen=True, slots=True)
class Training:
    """What is known of how a model was tuned. Losses are mean nats a token; None: not recorded."""

    method: str | None = None
    rows: int | None = None
    epochs: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    rank: int | None = None
    train_loss: float | None = None
    """At the end, as is `validation_loss`."""
    validation_loss: float | None = None
    best_validation_loss: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """`name` is its column in every table and unique. `kind`: run, adapter, merged, base, hub,
    endpoint. `seconds`: for all its answers.
    """

    name: str
    kind: str
    where: str = ""
    """Path, Hub name or address, as it may be shown."""
    training: Training | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class MeasuredValue:
    """A metric's value for one model, with its 95% interval and what the metric details."""

    value: float | None
    low: float | None = None
    high: float | None = None
    rows: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MeasuredMetric:
    """The facts of a metric (see `metrics.base.Metric`) and its value by model name."""

    name: str
    title: str
    unit: str
    higher_is_better: bool | None
    values: Mapping[str, MeasuredValue]


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """`model` against `reference` on the rows that both answered.

    `difference` is model - reference in the metric's unit, with its 95% interval; `wins` are rows
    on which the model is better, whichever direction that is. `left_out`: rows with an error or
    without a score on a side. `detectable`: the smallest difference that so many rows would show
    (80% power). `sentence` says it in words.
    """

    metric: str
    model: str
    reference: str
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    wins: int
    losses: int
    ties: int
    rows: int
    left_out: int = 0
    detectable: float | None = None
    p_adjusted: float | None = None
    """After Holm's correction for all comparisons of the table."""
    test: str = ""
    sentence: str = ""

    @classmethod
    def of(cls, found: Comparison, model: str, reference: str) -> Self:
        return cls(
            metric=found.metric,
            model=model,
            reference=reference,
            difference=found.difference,
            low=found.interval.low if found.interval else None,
            high=found.interval.high if found.interval else None,
            p_value=found.p,
            wins=found.wins,
            losses=found.losses,
            ties=found.ties,
            rows=found.rows,
            left_out=found.errors + found.unmatched + found.without_score,
            detectable=found.detectable,
            p_adjusted=found.p_adjusted,
            test=found.test or "",
            sentence=found.sentence,
        )


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge or people think of a model, by criterion. `rows` were judged, `excluded` were
    not (failed or unreadable): they are in no mean.
    """

    source: Literal["judge", "human"]
    name: str
    model: str
    criterion: str
    unit: str
    """`points` of 100, `likert` 1 to 5, `share` of yes, `share` of wins..."""
    value: float | None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    excluded: int = 0
    position_bias: float | None = None
    """Pairwise: how much more often the first place wins than the second, as a share."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far raters agree: `between` names them, `statistic` is kappa or Krippendorff's alpha."""

    between: str
    criterion: str
    statistic: str
    value: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class DataFacts:
    file: str
    sha256: str
    rows: int
    """Evaluated."""
    file_rows: int | None = None
    """In the file; more than `rows` where only a part was evaluated."""


@dataclass(frozen=True, slots=True)
class Evaluation(Stored):
    """`answers` holds every model's rows, with the same numbers. `reference` is the model that
    others are compared with (the one before tuning), None where one model stands alone. `main` is
    the metric that counts most; examples are sorted by its change.
    """

    FILE: ClassVar[str] = "evaluation.json"
    WRITTEN_BY: ClassVar[str] = "tanren eval"
    REMEDY: ClassVar[str] = "evaluate again, or restore the file"

    title: str
    created: str
    """ISO 8601."""
    task: str
    task_reason: str
    data: DataFacts
    models: tuple[EvaluatedModel, ...]
    metrics: tuple[MeasuredMetric, ...]
    answers: Mapping[str, tuple[Answered, ...]]
    reference: str | None = None
    main: str | None = None
    comparisons: tuple[PairedComparison, ...] = ()
    retention: Mapping[str, RetentionResult] = field(default_factory=dict)
    """By model, against `reference`."""
    opinions: tuple[Opinion, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    decoding: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    """The whole evaluation."""
    notes: tuple[str, ...] = ()
    """What was left out, cut or defaulted, in sentences."""

    @property
    def candidates(self) -> tuple[EvaluatedModel, ...]:
        """The models that are judged: all but the reference."""
        return tuple(model for model in self.models if model.name != self.reference)

    def metric(self, name: str | None) -> MeasuredMetric | None:
        return next((metric for metric in self.metrics if metric.name == name), None)

    def comparison(self, metric: str | None, model: str) -> PairedComparison | None:
        found = (c for c in self.comparisons if (c.metric, c.model) == (metric, model))
        return next(found, None)
