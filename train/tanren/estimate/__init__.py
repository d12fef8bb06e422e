"""What a run will need before it starts: parameters, arithmetic, memory, time, energy. Arithmetic
only, no torch.
"""

from __future__ import annotations

from tanren.estimate.adapters import AdapterSize, adapter_size, idle_parameters
from tanren.estimate.flops import (
    EnergyEstimate,
    Speed,
    TimeEstimate,
    estimated_speed,
    hardware_flops_per_token,
    max_tokens_per_second,
    mfu,
    model_flops_per_token,
    packed_length,
    training_energy,
    training_time,
)
from tanren.estimate.memory import MemoryPlan, MethodFacts, Part, Workload, memory_parts
from tanren.estimate.plan import plan_memory
from tanren.estimate.shape import Linear, ModelShape, shape_of

__all__ = [
    "AdapterSize",
    "EnergyEstimate",
    "Linear",
    "MemoryPlan",
    "MethodFacts",
    "ModelShape",
    "Part",
    "Speed",
    "TimeEstimate",
    "Workload",
    "adapter_size",
    "estimated_speed",
    "hardware_flops_per_token",
    "idle_parameters",
    "max_tokens_per_second",
    "memory_parts",
    "mfu",
    "model_flops_per_token",
    "packed_length",
    "plan_memory",
    "shape_of",
    "training_energy",
    "training_time",
]
