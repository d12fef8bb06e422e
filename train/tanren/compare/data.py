"""All that a comparison found, as plain data: what a report is written from, and only from it.

It is JSON on disk (`results.json`) and reads back equal, so that a report can be written again
anywhere, without the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tanren.evaluate.report.stored import Stored

Outcome = Literal["succeeded", "out_of_memory", "diverged", "refused", "failed", "killed"]
"""How a run ended. `refused`: turned away before training (its settings or data)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One logged optimizer step. `loss`: mean nats a trained token."""

    step: int
    tokens: int
    """Fed to the model since the start, prompts included."""
    loss: float
    seconds: float | None = None
    """Of training alone since the start; None in runs that did not record it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One evaluation on the validation rows. `seconds` as in `Step`: evaluations are left out."""

    step: int
    tokens: int
    loss: float
    token_accuracy: float | None = None
    seconds: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """An optimizer group as it really was. `elements`: trained numbers."""

    name: str
    learning_rate: float
    weight_decay: float
    tensors: int
    elements: int


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """What one run directory says of itself, finished or not. None: not known.

    `settings` are the resolved ones of its config.yaml, by dotted path. `facts` are what must be
    equal for a fair comparison, by name: hash and rows of the training file, tokens, template,
    order of the rows, base weights, versions, device.
    """

    arm: str
    seed: int
    path: str
    outcome: Outcome
    why: str = ""
    """One line on what went wrong; empty where nothing did."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    """Peak rate of the first group (A for LoRA+), as it really was."""
    groups: tuple[Group, ...] = ()
    steps: tuple[Step, ...] = ()
    checks: tuple[Checked, ...] = ()
    num_steps: int | None = None
    tokens: int | None = None
    trained_parameters: int | None = None
    all_parameters: int | None = None
    adapter_bytes: int | None = None
    peak_memory_bytes: int | None = None
    """Of the device's allocator; on CPUs of the process."""
    peak_host_bytes: int | None = None
    """Resident memory of the process at its largest."""
    tokens_per_second: float | None = None
    mfu: float | None = None
    train_seconds: float | None = None
    """In optimizer steps, without evaluations."""
    all_seconds: float | None = None
    energy_joules: float | None = None

    @property
    def succeeded(self) -> bool:
        return self.outcome == "succeeded"

    @property
    def best_loss(self) -> float | None:
        """The lowest validation loss."""
        return min((check.loss for check in self.checks), default=None)


@dataclass(frozen=True, slots=True)
class Tried:
    """One point of a rate search: best validation loss at a learning rate; None where it failed."""

    learning_rate: float
    loss: float | None
    outcome: Outcome
    path: str = ""
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measure of an arm over its seeds. `low` and `high`: 95% interval of the mean, None with
    fewer than two seeds. `values` by seed, in the order of the comparison's seeds (None: that seed
    has none).
    """

    mean: float | None
    low: float | None
    high: float | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the table. `kind`: quality is what arms are judged by, cost what that takes,
    fact says how it was done.
    """

    name: str
    title: str
    unit: str
    """`nats`, `share`, `points`, `bytes`, `seconds`, `tokens/s`, `parameters`, `joules`, ..."""
    higher_is_better: bool | None
    kind: Literal["quality", "cost", "fact"]
    digits: int = 3


@dataclass(frozen=True, slots=True)
class Served:
    """What a server does with an adapter of this kind without merging (T15)."""

    server: str
    unmerged: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Arm:
    """`settings`: only where it differs from what all arms share, by dotted path. `rate_source`:
    searched, given (in the arm's settings), or auto.
    """

    name: str
    settings: Mapping[str, Any]
    learning_rate: float | None
    rate_source: Literal["searched", "given", "auto"]
    runs: tuple[TrainedRun, ...] = ()
    """One a seed, finished or failed."""
    tried: tuple[Tried, ...] = ()
    """The rate search, in the order of asking."""
    measures: Mapping[str, Estimate] = field(default_factory=dict)
    served: tuple[Served, ...] = ()
    stopped: str = ""
    """Why an arm has no runs: every rate failed, or halving ended it (and after how many steps)."""

    @property
    def finished(self) -> tuple[TrainedRun, ...]:
        return tuple(run for run in self.runs if run.succeeded)


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """`arm` against `reference`: paired by seed and, where a measure has rows, by row.

    `difference` is arm - reference in the measure's unit with its 95% interval. `ratio`: arm /
    reference, for costs. `detectable`: the true difference that so many seeds and rows would show
    in four of five tries. `shown`: whether it is distinguishable after Holm's correction.
    """

    measure: str
    arm: str
    reference: str
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_adjusted: float | None
    shown: bool
    seeds: int
    rows: int | None
    test: str
    sentence: str
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    detectable: float | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """How soon an arm has the loss of the reference after 90% of its drop, seed by seed.

    `steps_ratio` is the arm's steps over the reference's (geometric mean over the seeds that got
    there, with its 95% interval), `seconds_ratio` the same in training time. `reached` of `seeds`.
    """

    arm: str
    reference: str
    target: float | None
    """That loss, mean over seeds, nats a token."""
    reached: int
    seeds: int
    steps_ratio: float | None
    steps_low: float | None
    steps_high: float | None
    seconds_ratio: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    seconds: float | None = None
    """Mean training seconds to the target, of the seeds that got there."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the audit: was the comparison fair? `arms` name the ones that are not."""

    name: str
    passed: bool
    text: str
    arms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Front:
    """Arms that no other one beats on both axes. `quality` and `cost` are measures' names."""

    quality: str
    cost: str
    arms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """`config` is a whole run's YAML, ready for `tanren train`. `reasons`: one sentence each."""

    arm: str
    config: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison(Stored):
    """`shared`: settings that are equal for all arms, by dotted path. `seeds` in the order of
    `Estimate.values`. `main`: the measure that decides. `sentences`: what was found, the most
    important first. `base`: measures of the model before tuning, where it was evaluated.
    """

    FILE: ClassVar[str] = "results.json"
    WRITTEN_BY: ClassVar[str] = "tanren compare"
    REMEDY: ClassVar[str] = "compare again: finished runs are kept"

    title: str
    created: str
    """ISO 8601."""
    reference: str
    main: str
    seeds: tuple[int, ...]
    measures: tuple[Measure, ...]
    arms: tuple[Arm, ...]
    shared: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, float | None] = field(default_factory=dict)
    comparisons: tuple[ArmComparison, ...] = ()
    reaches: tuple[Reach, ...] = ()
    audit: tuple[Check, ...] = ()
    fronts: tuple[Front, ...] = ()
    sentences: tuple[str, ...] = ()
    recommendation: Recommendation | None = None
    search: str = ""
    """The rate search in one sentence: how many rates, of what range, on how many steps."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Device, processes side by side, versions."""
    seconds: float | None = None
    notes: tuple[str, ...] = ()

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def measure(self, name: str) -> Measure | None:
        return next((measure for measure in self.measures if measure.name == name), None)

    def comparison(self, measure: str, arm: str) -> ArmComparison | None:
        found = (c for c in self.comparisons if (c.measure, c.arm) == (measure, arm))
        return next(found, None)

    @property
    def fair(self) -> bool:
        return all(check.passed for check in self.audit)
