"""Every row of a batch with an adapter of its own, or none.

PEFT can do this too (`adapter_names`), but with a copy of index lists to the device in each layer
and not beside adapters of other kinds. Here the adapters rest, and a hook on each adapted layer
adds to its output what the adapter of each row changes: `(alpha / rank) * B(A(x))`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class NotByRow(ValueError):
    """A layer does not see the batch's rows one beside the other (experts, flattened tokens)."""


class RowAdapters:
    """The adapters of one model, by row of the batch that is in the model."""

    def __init__(self, device: torch.device) -> None:
        from peft.tuners.lora import LoraLayer

        self._kind = LoraLayer
        self._device = device
        self._watched: set[int] = set()
        self._rows = 0
        self._parts: list[tuple[str, torch.Tensor | None]] = []
        self._last: tuple[tuple[str | None, ...], list[tuple[str, torch.Tensor | None]]]
        self._last = ((), [])

    def watch(self, model: nn.Module) -> None:
        """Hooks on all adapted layers that have none yet; call it when an adapter was added."""
        for module in model.modules():
            if isinstance(module, self._kind) and id(module) not in self._watched:
                self._watched.add(id(module))
                module.register_forward_hook(self._add)

    @contextmanager
    def on(self, names: Sequence[str | None]) -> Iterator[None]:
        """Passes inside have one row per name; None: the base itself."""
        wanted = tuple(names)
        if wanted != self._last[0]:
            self._last = (wanted, self._parts_of(wanted))
        self._rows, self._parts = len(wanted), self._last[1]
        try:
            yield
        finally:
            self._parts = []

    def _parts_of(self, names: Sequence[str | None]) -> list[tuple[str, torch.Tensor | None]]:
        """Each adapter with the places of its rows, (rows,) int64; None: all of them."""
        parts: list[tuple[str, torch.Tensor | None]] = []
        for name in dict.fromkeys(names):
            rows = [row for row, own in enumerate(names) if own == name]
            if name is not None:
                index = torch.tensor(rows, device=self._device)
                parts.append((name, None if len(rows) == len(names) else index))
        return parts

    def _add(
        self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        if not self._parts:
            return output
        assert isinstance(layer, self._kind)
        for name, rows in self._parts:
            if name not in layer.lora_A:
                continue
            x = inputs[0]
            if x.dim() != 3 or x.shape[0] != self._rows:
                raise NotByRow(f"{type(layer).__name__} sees {tuple(x.shape)}")
            a, b = layer.lora_A[name], layer.lora_B[name]
            part, before = (x, output) if rows is None else (x[rows], output[rows])
            changed = before + b(a(part.to(_dtype(a)))) * layer.scaling[name]
            if rows is None:
                output = changed.to(output.dtype)
            else:
                output[rows] = changed.to(output.dtype)
        return output


def _dtype(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


def is_plain(model: nn.Module, adapter: str) -> bool:
    """Whether `B(A(x))` on linear layers is all that this adapter of a PeftModel does."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper) and adapter in module._adapters:
            return False
        if not isinstance(module, LoraLayer) or adapter not in module.r:
            continue
        if adapter not in module.lora_A or adapter in module.lora_variant:
            return False
        if not isinstance(module.get_base_layer(), nn.Linear):  # bitsandbytes' layers are, too
            return False
        if hasattr(module, "parameter_name"):  # a stack of experts
            return False
    return True
