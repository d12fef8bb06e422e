"""The factor on B A of a layer, by PEFT's own matching of patterns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft.utils.other import get_pattern_key


def configured_rank(settings: Mapping[str, Any], layer: str) -> int:
    """The rank that adapter_config.json gives a layer."""
    ranks: Mapping[str, int] = settings.get("rank_pattern") or {}
    return int(ranks.get(get_pattern_key(list(ranks), layer), settings["r"]))


def scale_of(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA; a layer may have an alpha of its own."""
    alphas: Mapping[str, float] = settings.get("alpha_pattern") or {}
    alpha = float(alphas.get(get_pattern_key(list(alphas), layer), settings["lora_alpha"]))
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)
