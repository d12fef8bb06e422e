"""Metrics: what to measure of answers, by name.

`metric_named("rouge_l", units="characters")` makes one; `METRICS` lists them all. A new metric is a
class in the shape of `base.Metric` and a line here.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tanren.errors import ConfigError, Fault
from tanren.evaluate.metrics.base import (
    Metric,
    RowMetric,
    SumMetric,
    TakesFromData,
    fitted,
    scores_of,
)
from tanren.evaluate.metrics.behaviour import Empty, LongestRepeat, Repetition, StopRate
from tanren.evaluate.metrics.choice import Choice
from tanren.evaluate.metrics.classification import Accuracy, MacroF1, MicroF1, labels_of
from tanren.evaluate.metrics.final_number import FinalNumber
from tanren.evaluate.metrics.lengths import Characters, Tokens, WithinTarget
from tanren.evaluate.metrics.likelihood import Loss, Perplexity
from tanren.evaluate.metrics.match import Contains, ExactMatch, NormalisedMatch
from tanren.evaluate.metrics.options import Choices, Option, options_in
from tanren.evaluate.metrics.overlap import Bleu, Chrf
from tanren.evaluate.metrics.rouge import Rouge1, Rouge2, RougeL
from tanren.evaluate.metrics.similarity import Embed, Similarity
from tanren.evaluate.metrics.speed import Latency, TokensPerSecond
from tanren.evaluate.metrics.structured import JsonFields, JsonSchema, JsonValid
from tanren.evaluate.metrics.text import normalised

METRICS: Mapping[str, Callable[..., Metric]] = MappingProxyType(
    {
        "exact_match": ExactMatch,
        "normalised_match": NormalisedMatch,
        "contains": Contains,
        "number": FinalNumber,
        "accuracy": Accuracy,
        "macro_f1": MacroF1,
        "micro_f1": MicroF1,
        "choice": Choice,
        "json_valid": JsonValid,
        "json_schema": JsonSchema,
        "json_fields": JsonFields,
        "bleu": Bleu,
        "chrf": Chrf,
        "rouge_1": Rouge1,
        "rouge_2": Rouge2,
        "rouge_l": RougeL,
        "similarity": Similarity,
        "characters": Characters,
        "tokens": Tokens,
        "within_target": WithinTarget,
        "stop_rate": StopRate,
        "empty": Empty,
        "repetition": Repetition,
        "longest_repeat": LongestRepeat,
        "latency": Latency,
        "tokens_per_second": TokensPerSecond,
        "loss": Loss,
        "perplexity": Perplexity,
    }
)


def metric_named(name: str, **options: Any) -> Metric:
    """The metric with its settings. ConfigError for an unknown name, for every setting that it does
    not have or that is missing, and for values that cannot be.
    """
    if name not in METRICS:
        fault = Fault("metric", repr(name), "one of " + ", ".join(METRICS), _near(name, METRICS))
        raise ConfigError.of(fault)
    if faults := _setting_faults(name, options):
        raise ConfigError.of(*faults)
    return METRICS[name](**options)


def _setting_faults(name: str, options: Mapping[str, Any]) -> list[Fault]:
    known = inspect.signature(METRICS[name]).parameters
    expected = "one of " + ", ".join(known) if known else "no setting"
    faults = [
        Fault(f"metric {name}.{key}", "an unknown setting", expected, _near(key, known))
        for key in options
        if key not in known
    ]
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            faults.append(Fault(f"metric {name}.{key}", "nothing", "a value", f"give {key}"))
    return faults


def _near(name: str, known: Mapping[str, Any]) -> str:
    plain = name.lower().replace("-", "_").replace(" ", "_")
    near = difflib.get_close_matches(plain, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "choose one of them" if known else "remove it"


__all__ = [
    "METRICS",
    "Choices",
    "Embed",
    "Metric",
    "Option",
    "RowMetric",
    "SumMetric",
    "TakesFromData",
    "fitted",
    "labels_of",
    "metric_named",
    "normalised",
    "options_in",
    "scores_of",
]
