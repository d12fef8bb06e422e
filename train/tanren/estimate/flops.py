"""Arithmetic per token, the limit it sets to speed, and from speed: time and energy.

With `lin` the layers' weights, `head` the output head's, `lora` the adapter's A and B, `A` the
attention work (`ModelShape.attention_work`) and `f` the share of tokens that are trained:

A product with W weights costs 2W in the forward pass, 2W for the gradient of its input and 2W for
the gradient of W. A frozen W needs only the first two: 4 `lin`, and 4 `head` at the trained tokens
alone. The adapter needs all three: 6 `lora`. Causal attention does two products of q * S/2
multiply-adds per token and layer: 2A forward, 4A backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tanren.estimate.shape import ModelShape

Source = Literal["measured", "estimated"]

# Share of the arithmetic limit that eager PyTorch layers with adapters reach on large models: a
# Llama-8B layer spends 10 ms beside 18 ms of matrix products at 16k tokens on an H200, and products
# themselves run below their peak.
ASSUMED_LIMIT_SHARE = 0.5


def packed_length(lengths: Iterable[int]) -> float:
    """The S at which one row costs as much attention per token as these rows do: `sum(l^2) /
    sum(l)`.
    """
    rows = list(lengths)
    tokens = sum(rows)
    return sum(length * length for length in rows) / tokens if tokens else 0.0


def model_flops_per_token(
    shape: ModelShape,
    *,
    adapter_parameters: int | None,
    length: float,
    supervised_fraction: float = 1.0,
) -> float:
    """FLOPs that training needs per token, whatever the implementation: the numerator of MFU.

    `adapter_parameters` counts A and B that a token passes through (`idle_parameters` are those of
    experts that it does not visit); None means that every weight trains. DoRA's norms are not
    counted: they cost per step, not per token. `length` is the S of `packed_length`.
    """
    per_weight = 6 if adapter_parameters is None else 4
    return (
        per_weight * shape.active_lin
        + per_weight * supervised_fraction * shape.head
        + 6 * (adapter_parameters or 0)
        + 6 * shape.attention_work(length)
    )


def hardware_flops_per_token(
    shape: ModelShape,
    *,
    adapter_parameters: int | None,
    length: float,
    supervised_fraction: float = 1.0,
    checkpointed_layers: int = 0,
    head_recomputed: bool = False,
) -> float:
    """FLOPs that the device really executes per token.

    Flash attention repeats its score product in the backward pass (+A). A checkpointed layer runs
    its forward pass twice. `head_recomputed` is for losses that compute the logits again in the
    backward pass.
    """
    attention = shape.attention_work(length)
    forward = 2 * shape.active_lin + 2 * (adapter_parameters or 0) + 2 * attention
    model = model_flops_per_token(
        shape,
        adapter_parameters=adapter_parameters,
        length=length,
        supervised_fraction=supervised_fraction,
    )
    head = 2 * supervised_fraction * shape.head if head_recomputed else 0.0
    return model + attention + head + forward * checkpointed_layers / shape.layers


def max_tokens_per_second(peak_flops: float, hardware_flops: float) -> float:
    """The speed at which a device of `peak_flops` FLOP/s would do nothing but the products. No run
    is faster.
    """
    return peak_flops / hardware_flops


def mfu(tokens_per_second: float, model_flops: float, peak_flops: float) -> float:
    """Model FLOP utilisation, 0 to 1: the share of the device's peak that went into needed
    arithmetic.
    """
    return tokens_per_second * model_flops / peak_flops


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, and whether they were measured on this machine or follow from a data
    sheet.
    """

    tokens_per_second: float
    source: Source


def estimated_speed(
    peak_flops: float, hardware_flops: float, *, limit_share: float = ASSUMED_LIMIT_SHARE
) -> Speed:
    """A guess from the data sheet. Small models on large cards stay far below it: they wait for
    kernel launches.
    """
    limit = max_tokens_per_second(peak_flops, hardware_flops)
    return Speed(limit * limit_share, "estimated")


@dataclass(frozen=True, slots=True)
class TimeEstimate:
    """Seconds of training steps alone, without loading, evaluating and saving."""

    seconds: float
    tokens: float
    source: Source


@dataclass(frozen=True, slots=True)
class EnergyEstimate:
    """Electrical energy of the device alone, without the rest of the machine."""

    watt_hours: float
    watts: float
    source: Source


def training_time(tokens_per_epoch: int, epochs: float, speed: Speed) -> TimeEstimate:
    """Time for `epochs` passes; `tokens_per_epoch` counts all tokens that go through the model,
    padding too.
    """
    if speed.tokens_per_second <= 0:
        raise ValueError(f"tokens_per_second must be above 0, got {speed.tokens_per_second}")
    tokens = tokens_per_epoch * epochs
    return TimeEstimate(tokens / speed.tokens_per_second, tokens, speed.source)


def training_energy(time: TimeEstimate, watts: float, watts_source: Source) -> EnergyEstimate:
    """`watts` is the mean draw, or the board's limit as an upper bound. Measured only if time and
    watts both are.
    """
    both = time.source == "measured" and watts_source == "measured"
    return EnergyEstimate(time.seconds * watts / 3600, watts, "measured" if both else "estimated")
