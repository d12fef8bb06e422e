"""Which evaluation was the best, and whether patience is used up (T30).

Read from the trainer's own history, which every checkpoint keeps, so that a resumed run decides as
if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainerState

    from tanren.config import EvaluationConfig

ANSWER_METRICS: Mapping[str, bool | None] = MappingProxyType(
    {
        "exact_match": True,
        "normalised_match": True,
        "contains": True,
        "number": True,
        "accuracy": True,
        "macro_f1": True,
        "micro_f1": True,
        "choice": True,
        "json_valid": True,
        "json_fields": True,
        "bleu": True,
        "chrf": True,
        "rouge_1": True,
        "rouge_2": True,
        "rouge_l": True,
        "stop_rate": True,
        "empty": False,
        "repetition": False,
        "longest_repeat": False,
        "characters": None,
        "tokens": None,
    }
)
"""What can be measured of answers while training, and whether higher is better (None: neither is).
They are the metrics of `evaluate.metrics` that need no settings and say something of the weights;
they stand here because settings are checked without loading them. A test holds both together.
"""

HIGHER_IS_BETTER: Mapping[str, bool | None] = MappingProxyType(
    {"loss": False, "token_accuracy": True, "reward_accuracy": True, **ANSWER_METRICS}
)
"""All that an evaluation can be judged by."""

Evaluations = list[tuple[int, float | None]]
"""(step, value) in order; None where the metric said nothing of the answers."""


def evaluations(state: TrainerState, metric: str) -> Evaluations:
    """Every evaluation so far; one a step."""
    found: dict[int, float | None] = {}
    for entry in state.log_history:
        if "eval_loss" in entry:
            value = entry.get(f"eval_{metric}")
            found[int(entry["step"])] = None if value is None else float(value)
    return sorted(found.items())


def judge(history: Evaluations, rules: EvaluationConfig) -> tuple[int, float | None, int]:
    """(best step, its value, evaluations since then). Better means by more than
    `early_stopping_min_delta` (T30); any value is better than none.
    """
    sign = 1.0 if HIGHER_IS_BETTER[rules.metric] else -1.0
    best_step, best = history[0]
    waited = 0
    for step, value in history[1:]:
        if value is not None and (
            best is None or sign * (value - best) > rules.early_stopping_min_delta
        ):
            best_step, best, waited = step, value, 0
        else:
            waited += 1
    return best_step, best, waited
