"""What "auto" comes to: OpenAI's published rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AUTO_BETA = 0.1


def auto_epochs(examples: int) -> int:
    """3, more for few examples and fewer for very many (OpenAI cookbook, data preparation)."""
    epochs, target, most, least = 3, 100, 25, 1
    if examples * epochs < target:
        return min(most, target // examples)
    if examples * epochs > 25_000:
        return max(least, 25_000 // examples)
    return epochs


def auto_batch_size(examples: int) -> int:
    """0.2% of the examples, between 1 and 256 (OpenAI's documentation of the first models)."""
    return min(256, max(1, round(0.002 * examples)))


def resolved(hyperparameters: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """Values for those that are "auto"."""
    rules = {
        "n_epochs": auto_epochs(examples),
        "batch_size": auto_batch_size(examples),
        "learning_rate_multiplier": 1.0,
        "beta": AUTO_BETA,
    }
    return {name: rules[name] for name, value in hyperparameters.items() if value == "auto"}
