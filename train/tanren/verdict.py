"""Which evaluation was the best, and whether patience is used up (T30).

Read from the trainer's own history, which every checkpoint keeps, so that a resumed run decides as
if it had never stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainerState

    from tanren.config import EvaluationConfig


def evaluations(state: TrainerState, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every evaluation so far, in order; one a step."""
    found: dict[int, float] = {}
    for entry in state.log_history:
        if f"eval_{metric}" in entry:
            found[int(entry["step"])] = float(entry[f"eval_{metric}"])
    return sorted(found.items())


def judge(history: list[tuple[int, float]], rules: EvaluationConfig) -> tuple[int, float, int]:
    """(best step, its value, evaluations since then). Better means by more than
    `early_stopping_min_delta` (T30).
    """
    sign = -1.0 if rules.metric == "loss" else 1.0
    best_step, best = history[0]
    waited = 0
    for step, value in history[1:]:
        if sign * (value - best) > rules.early_stopping_min_delta:
            best_step, best, waited = step, value, 0
        else:
            waited += 1
    return best_step, best, waited
