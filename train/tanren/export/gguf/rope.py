"""Rotary positions: what llama.cpp reads from keys, and what it reads from a tensor of factors.

transformers computes every scaling in one place (`modeling_rope_utils`); the numbers that go into
the file are taken from there, so that both stand on the same formula.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tanren.errors import Fault, ModelError
from tanren.export.gguf.families import MERGED_WAY, Family, Shape


@dataclass(frozen=True, slots=True)
class Rope:
    """`base` and `window_base` are thetas (the second for layers with a sliding window),
    `attention_factor` what llama.cpp multiplies with on top of its own, `factors` the tensors by
    their GGUF names, each (rotary_dim / 2).
    """

    base: float
    window_base: float | None = None
    scaling: str | None = None
    factor: float | None = None
    original_context: int | None = None
    attention_factor: float | None = None
    factors: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def rope_of(config: PreTrainedConfig, family: Family, shape: Shape, where: str) -> Rope:
    """Raises ModelError for a scaling that the family's program does not know."""
    parameters, window_base = _parameters(config)
    kind = str(parameters.get("rope_type", "default"))
    if kind not in family.frequencies:
        raise ModelError.of(
            Fault(
                f"{where}/config.json rope_parameters.rope_type",
                repr(kind),
                f"one that llama.cpp's {family.architecture!r} knows: "
                + ", ".join(sorted(family.frequencies)),
                MERGED_WAY,
            )
        )
    base = float(parameters["rope_theta"])
    if kind == "linear":
        return Rope(base, window_base, "linear", float(parameters["factor"]))
    if kind == "yarn":
        return _yarn(config, parameters, base, window_base, where)
    if kind == "llama3":
        return Rope(base, factors={"rope_freqs.weight": _llama3_factors(config, base, shape)})
    if kind == "longrope":
        return _longrope(config, parameters, base, shape)
    return Rope(base, window_base, notes=_dynamic_note(shape) if kind == "dynamic" else ())


def _parameters(config: PreTrainedConfig) -> tuple[dict[str, Any], float | None]:
    """Of full attention, and the theta of windowed layers where that is another (Gemma 3)."""
    parameters: dict[str, Any] = dict(config.rope_parameters)
    if "full_attention" not in parameters:
        return parameters, None
    return parameters["full_attention"], float(parameters["sliding_attention"]["rope_theta"])


def _computed(config: PreTrainedConfig, kind: str) -> tuple[Tensor, float]:
    """Inverse frequencies (rotary_dim / 2) and attention factor, by transformers."""
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return frequencies.float(), float(factor)


def _llama3_factors(config: PreTrainedConfig, base: float, shape: Shape) -> Tensor:
    """What each frequency is divided by: the plain one over the scaled one."""
    steps = torch.arange(0, shape.rotary_dim, 2, dtype=torch.float32) / shape.rotary_dim
    return (1.0 / base**steps) / _computed(config, "llama3")[0]


def _yarn(
    config: PreTrainedConfig,
    parameters: dict[str, Any],
    base: float,
    window_base: float | None,
    where: str,
) -> Rope:
    """llama.cpp applies 1 + 0.1 ln(factor) by itself; what the model asks beyond goes on top."""
    fixed = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
    faults = [
        Fault(
            f"{where}/config.json rope_parameters.{name}",
            repr(parameters[name]),
            f"{value!r}: llama.cpp reads no other for this family",
            MERGED_WAY,
        )
        for name, value in fixed.items()
        if parameters.get(name) not in (None, value)
    ]
    if faults:
        raise ModelError.of(*faults)
    factor = float(parameters["factor"])
    own = 1.0 + 0.1 * float(torch.log(torch.tensor(factor, dtype=torch.float64)))
    asked = _computed(config, "yarn")[1] / (own if factor > 1 else 1.0)
    return Rope(
        base,
        window_base,
        "yarn",
        factor,
        int(parameters["original_max_position_embeddings"]),
        attention_factor=asked if abs(asked - 1) > 1e-6 else None,
    )


def _longrope(
    config: PreTrainedConfig, parameters: dict[str, Any], base: float, shape: Shape
) -> Rope:
    """Phi-3: two sets of factors, the second for prompts beyond the original context."""
    original = int(
        parameters.get("original_max_position_embeddings")
        or config.to_dict().get("original_max_position_embeddings")
        or shape.context
    )
    names = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
    factors = {n: torch.tensor(parameters[k], dtype=torch.float32) for n, k in names.items()}
    note = (
        f"the model turns to its long factors when a text is longer than {original} tokens, "
        f"llama.cpp when its context (-c) is: start it with -c {original} for shorter texts"
    )
    return Rope(
        base,
        original_context=original,
        attention_factor=_computed(config, "longrope")[1],
        factors=factors,
        notes=(note,) if shape.context > original else (),
    )


def _dynamic_note(shape: Shape) -> tuple[str, ...]:
    return (
        f"llama.cpp has no dynamic rotary scaling: it is like the model up to {shape.context} "
        "tokens, not beyond",
    )
