"""A named card: whether the training fits on it, and from the formulas how long it takes.

    seconds = tokens x epochs / (share x reachable FLOP/s / FLOPs per token)

`share` is `estimate.flops.ASSUMED_LIMIT_SHARE`; FLOPs per token are those of
`hardware_flops_per_token` for the plan that fits, with the data's own lengths and trained share.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from tanren.config import RunConfig
from tanren.devices import Card
from tanren.errors import ModelError
from tanren.estimate import (
    MemoryPlan,
    MethodFacts,
    ModelShape,
    Speed,
    TimeEstimate,
    Workload,
    estimated_speed,
    hardware_flops_per_token,
    packed_length,
    plan_memory,
    training_energy,
    training_time,
)
from tanren.gate import Gate
from tanren.quote.amounts import Amount, Mark, Money, weakest
from tanren.quote.prices import PriceTable

USABLE = 0.95
"""Share of a card's memory that a job may use; the rest is the driver's and the desktop's."""

COMMON_CARDS = (
    "RTX 3060 12GB",
    "RTX 4060 Ti 16GB",
    "RTX 3090",
    "RTX 4090",
    "RTX 5090",
    "L4",
    "L40S",
    "A100 80GB",
    "H100 80GB",
    "H200",
)
"""Shown where no card is named."""


@dataclass(frozen=True, slots=True)
class Effort:
    """Time, energy and money of all epochs. What cannot be said is None, and `why` says why."""

    tokens_per_second: Amount | None = None
    seconds: Amount | None = None
    watt_hours: Amount | None = None
    electricity: Money | None = None
    rent: Money | None = None
    why: str | None = None

    def as_dict(self) -> dict[str, Any]:
        names = ("tokens_per_second", "seconds", "watt_hours", "electricity", "rent")
        parts = {name: getattr(self, name) for name in names}
        shown = {name: part.as_dict() if part else None for name, part in parts.items()}
        return {**shown, "why": self.why}


@dataclass(frozen=True, slots=True)
class CardQuote:
    card: Card
    dtype: Literal["float32", "bfloat16"]
    memory: MemoryPlan | None
    """None where the model's memory is not estimated."""
    effort: Effort

    @property
    def fits(self) -> bool | None:
        return self.memory.fits if self.memory else None

    def as_dict(self) -> dict[str, Any]:
        memory = self.memory
        numbers = {
            "needed_bytes": memory.total_bytes if memory else None,
            "usable_bytes": usable(self.card),
            "micro_batch_tokens": memory.micro_batch_tokens if memory else None,
            "checkpointed_layers": memory.checkpointed_layers if memory else None,
        }
        return {
            "card": self.card.name,
            "dtype": self.dtype,
            "fits": self.fits,
            **{name: estimated(number) for name, number in numbers.items()},
            "advice": list(memory.advice) if memory else [],
            **self.effort.as_dict(),
        }


def estimated(number: int | None) -> dict[str, Any] | None:
    return None if number is None else Amount(number, "estimated").as_dict()


def usable(card: Card) -> int:
    return int(card.memory_bytes * USABLE)


def quote_card(
    card: Card, wanted: RunConfig, gate: Gate, epochs: Fraction, prices: PriceTable
) -> CardQuote:
    """`wanted` is the settings as given, `auto` and all: the gate's are this machine's."""
    dtype = _dtype(wanted, card)
    memory = None
    if gate.shape is not None:
        memory = _memory(card, dtype, wanted, gate, gate.shape)
    why = _why_no_time(card, dtype, memory)
    if why is not None:
        return CardQuote(card, dtype, memory, Effort(why=why))
    assert memory is not None and gate.shape is not None
    flops = _flops_per_token(gate, gate.shape, memory.checkpointed_layers)
    speed = estimated_speed(card.reachable_flops, flops)
    effort = effort_of(
        speed, gate, epochs, card.watts, "estimated", prices=prices, card_name=card.name
    )
    return CardQuote(card, dtype, memory, effort)


def effort_of(
    speed: Speed,
    gate: Gate,
    epochs: Fraction,
    watts: float | None,
    watts_mark: Mark,
    *,
    prices: PriceTable,
    card_name: str | None,
) -> Effort:
    """`card_name` names the row of rents; None where nothing is rented."""
    time = training_time(gate.plan.tokens_per_epoch, float(epochs), speed)
    energy = None
    if watts is not None:
        source: Literal["measured", "estimated"] = (
            "measured" if watts_mark == "measured" else "estimated"
        )
        spent = training_energy(time, watts, source)
        energy = Amount(spent.watt_hours, spent.source)
    return Effort(
        tokens_per_second=Amount(speed.tokens_per_second, speed.source),
        seconds=Amount(time.seconds, time.source),
        watt_hours=energy,
        electricity=_electricity(energy, prices),
        rent=_rent(time, card_name, prices),
    )


def _electricity(energy: Amount | None, prices: PriceTable) -> Money | None:
    price = prices.electricity
    if energy is None or price is None:
        return None
    kwh = Decimal(repr(energy.value)) / 1000
    return Money(kwh * price.per_kwh, price.currency, weakest([energy.mark]))


def _rent(time: TimeEstimate, card_name: str | None, prices: PriceTable) -> Money | None:
    """For the time of the steps alone; who rents by the hour pays for loading too."""
    price = prices.rent_of(card_name) if card_name else None
    if price is None:
        return None
    hours = Decimal(repr(time.seconds)) / 3600
    return Money(hours * price.per_hour, price.currency, time.source)


def _dtype(wanted: RunConfig, card: Card) -> Literal["float32", "bfloat16"]:
    """As on such a card: bfloat16 where it multiplies that, else float32."""
    if wanted.model.dtype != "auto":
        return wanted.model.dtype
    return "bfloat16" if card.bf16 else "float32"


def _why_no_time(card: Card, dtype: str, memory: MemoryPlan | None) -> str | None:
    if memory is None:
        return "not estimated for this model"
    if not memory.fits:
        return "does not fit"
    if dtype != "bfloat16" or not card.bf16:
        return "speed is estimated for bfloat16 only"
    return None


def _memory(
    card: Card, dtype: str, wanted: RunConfig, gate: Gate, shape: ModelShape
) -> MemoryPlan | None:
    training = wanted.training
    optimizer = training.optimizer
    if optimizer == "auto":
        optimizer = "paged_adamw_8bit" if wanted.method.storage == "nf4" else "adamw"
    lengths = gate.train.lengths
    tokens = training.micro_batch_tokens
    packed = training.packing is not False
    work = Workload(
        memory_bytes=usable(card),
        longest_row=int(lengths.max()),
        batch_tokens=int(np.sort(lengths)[-training.batch_size :].sum()),
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
        device="cuda",
        checkpointing=training.gradient_checkpointing,
        micro_batch_tokens=None if tokens == "auto" else tokens,
        attention="varlen" if packed else "sdpa",
        packed=packed,
    )
    try:
        return plan_memory(shape, MethodFacts.of(wanted.method, optimizer), work)
    except ModelError:
        return None  # as in the gate: targets are checked against the loaded model


def _flops_per_token(gate: Gate, shape: ModelShape, checkpointed: int) -> float:
    facts = MethodFacts.of(gate.config.method, "adamw")
    size = facts.adapter(shape)
    plan = gate.plan
    return hardware_flops_per_token(
        shape,
        adapter_parameters=None if facts.rank is None else size.lora - size.idle,
        length=packed_length(gate.train.lengths.tolist()),
        supervised_fraction=plan.trained_tokens_per_epoch / plan.tokens_per_epoch,
        checkpointed_layers=checkpointed,
    )


def estimate_here(gate: Gate) -> Speed | None:
    """This device's speed from its data sheet; None for a CPU or a card that is not known."""
    device, shape, memory = gate.device, gate.shape, gate.memory
    peak = device.measured_peak_flops or device.peak_flops
    if peak is None or shape is None or memory is None or not memory.fits or not device.bf16:
        return None
    return estimated_speed(peak, _flops_per_token(gate, shape, memory.checkpointed_layers))
