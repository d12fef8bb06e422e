"""What a device has used, in joules: NVIDIA's own counter, read through NVML.

Nothing here raises: a machine without the counter (no NVIDIA device, no nvidia-ml-py, a card older
than Volta, a part of a divided card) has no number, and says None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EnergyCounter = Callable[[], float | None]
"""Joules since some moment in the past; only differences mean something. None: unknown."""


def energy_counter(device: torch.device) -> EnergyCounter:
    """The counter of this device. It counts all that runs there, not this process alone."""
    uuid = _uuid(device)
    return no_counter if uuid is None else _counter_of(uuid)


def no_counter() -> float | None:
    return None


def _uuid(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    import torch

    if torch.version.cuda is None:  # AMD's
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _counter_of(uuid: str) -> EnergyCounter:
    try:
        import pynvml
    except ImportError:  # package nvidia-ml-py, of the extra tanren[gpu]
        return no_counter
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return no_counter

    def read() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000  # millijoules
        except pynvml.NVMLError:
            return None

    return read
