"""What an evaluation measures and how: strict, documented per field, the same for YAML and command
line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tanren.config import read_yaml
from tanren.endpoint.checked import Strict, checked

Auto = Literal["auto"]
Positive = Annotated[int, Field(ge=1)]
NO_REFERENCE = "none"


class DecodingConfig(Strict):
    """How answers are written: the same for every model, greedy unless told."""

    max_new_tokens: Positive = Field(
        256, description="Most tokens of an answer; what reaches it counts as not stopped."
    )
    temperature: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="0: the likeliest token (greedy). Above: by chance, with `seed`."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="With a temperature: the smallest set of tokens with this probability."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = Field(
        1.0, description="Above 1: tokens of prompt and answer become less likely."
    )
    seed: int = Field(0, description="Of answers by chance.")
    stop: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="Texts before which an answer ends, beside the model's own end of turn."
    )


class RetentionConfig(Strict):
    """What a model could do before tuning and still can."""

    enabled: Auto | bool = Field(
        "auto",
        description="Ask general questions too. auto: where a model is compared with its reference "
        "and all of them run here.",
    )
    file: str | None = Field(
        None, description="Chat-format JSONL with checks; null: the set that comes with tanren."
    )
    gate_points: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None,
        description="Most points of a hundred that may be lost; more fails the command. null: no "
        "gate.",
    )
    max_new_tokens: Positive = Field(128, description="Most tokens of these answers.")


class StatisticsConfig(Strict):
    """Intervals and tests."""

    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = Field(
        10_000, description="Resamples of bootstrap intervals and permutation tests."
    )
    seed: int = Field(0, description="Of the resamples.")


class BenchmarkConfig(Strict):
    """Benchmarks of lm-eval (the extra tanren[lm-eval]), on every model that runs here."""

    tasks: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="Names of lm-eval's tasks, groups or tags, or of tasks in `include`."
    )
    include: str | None = Field(
        None, description="Folder with more tasks: YAML files as lm-eval reads them."
    )
    limit: Positive | None = Field(None, description="Ask the first documents of each; null: all.")
    few_shot: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Examples before each question; null: as the task says."
    )
    chat_template: bool = Field(
        True, description="Ask in the model's chat template; false: the task's bare text."
    )
    batch_size: Positive = Field(16, description="Requests at once; less takes less memory.")


class EvaluateConfig(Strict):
    """One evaluation."""

    models: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="Runs, adapters, model folders, hub names, RUN@base, http(s)://HOST/v1#MODEL, "
        "or an endpoint's YAML; NAME=MODEL gives a name to show.",
    )
    data: str | None = Field(None, description="Chat-format JSONL that was not trained on.")
    metrics: Annotated[tuple[str | dict[str, Any], ...], Field(strict=False)] | None = Field(
        None,
        description="Names, or {name: NAME, SETTING: VALUE}; the first one counts most. null: "
        "chosen from the data.",
    )
    limit: Positive | None = Field(None, description="Ask only the first rows; null: all.")
    reference: str | None = Field(
        None,
        description="What the others are compared with, one of `models` or one more; none: nothing."
        " null: the base of a tuned model, else the first model.",
    )
    decoding: DecodingConfig = Field(default_factory=DecodingConfig, description="Answers.")
    batch_tokens: Annotated[int, Field(ge=256)] = Field(
        16_384, description="Positions that a batch may fill; less takes less memory."
    )
    likelihood: bool = Field(
        True, description="Measure the loss of the references, for models that run here."
    )
    option_likelihood: Auto | bool = Field(
        "auto",
        description="Measure the loss of every label or choice too. auto: where a row has at most "
        "20 of them.",
    )
    retention: RetentionConfig = Field(default_factory=RetentionConfig, description="Forgetting.")
    lm_eval: BenchmarkConfig = Field(
        default_factory=BenchmarkConfig, description="Public benchmarks."
    )
    statistics: StatisticsConfig = Field(
        default_factory=StatisticsConfig, description="Intervals and tests."
    )
    answers_from: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="Folders of other evaluations: what a model of the same name and content "
        "answered there to the same question in the same way is not asked again.",
    )
    judges: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="YAML files of judges: an endpoint's settings and `prompt`."
    )
    human: bool = Field(False, description="Write a blind sheet for people to rate.")
    embedding_model: str | None = Field(
        None, description="Folder or hub name of a text encoder for `similarity`; null: none."
    )

    @model_validator(mode="after")
    def _consistent(self) -> EvaluateConfig:
        if self.retention.gate_points is not None and self.retention.enabled is False:
            raise ValueError("retention to be asked (no --no-retention) where it has a gate")
        return self


def load_evaluation(path: Path | None, overrides: Mapping[str, Any]) -> EvaluateConfig:
    """Settings from a YAML file with `overrides` laid over it, part by part. ConfigError with every
    fault.
    """
    values = _laid_over(read_yaml(path) if path else {}, overrides)
    return checked(EvaluateConfig, values, source=str(path) if path else "evaluation")


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(under)
    for key, value in over.items():
        inner = values.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        values[key] = _laid_over(inner, value) if both else value  # type: ignore[arg-type]
    return values


def metric_requests(config: EvaluateConfig) -> Sequence[tuple[str, dict[str, Any]]] | None:
    """(name, settings) of the metrics that were asked for; None: choose from the data."""
    if config.metrics is None:
        return None
    found = []
    for asked in config.metrics:
        values = {"name": asked} if isinstance(asked, str) else dict(asked)
        found.append((str(values.pop("name", "")), values))
    return found
