"""A cache of keys and values that answers join and leave while others are being written.

All rows end at the same column, so that a step writes one column for all of them; what stands
before a row's first token is masked. Stores have spare rows and columns: a step writes in place, a
row that leaves makes way for the last one, and everything is copied only when room runs out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SPARE_COLUMNS = 128
"""Steps between two copies of everything."""


@dataclass(slots=True)
class _Frame:
    """What all layers share: the part of their stores that is in use, and how large stores are."""

    rows: int = 0
    start: int = 0
    end: int = 0
    row_room: int = 0
    column_room: int = 0

    @property
    def width(self) -> int:
        return self.end - self.start


class SlotLayer(DynamicLayer):
    """Keys and values of one layer, (rows, heads, columns, size), as views of larger stores.

    Every column is kept, whatever the layer's sliding window: the mask decides what is attended
    to, and rows of any length can stand beside each other.
    """

    def __init__(self, frame: _Frame) -> None:
        super().__init__()
        self._frame = frame
        self.stores: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes behind the frame. The frame moves when all layers are done (`SlotCache.advance`),
        so a pass that fails half-way leaves nothing behind.
        """
        frame = self._frame
        if not self.stores:
            self.allocate(key_states, value_states)
        end = frame.end + key_states.shape[-2]
        for store, states in zip(self.stores, (key_states, value_states), strict=True):
            store[: frame.rows, :, frame.end : end] = states
        return self.view(end)

    def allocate(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Stores for states like these. Zeros: what is masked is multiplied by 0, and 0 times
        garbage may be NaN.
        """
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        frame = self._frame
        self.stores = [
            like.new_zeros(frame.row_room, like.shape[1], frame.column_room, like.shape[3])
            for like in (keys, values)
        ]

    def view(self, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Shows the columns of the frame up to `end`."""
        frame = self._frame
        keys, values = (store[: frame.rows, :, frame.start : end] for store in self.stores)
        self.keys, self.values = keys, values
        return keys, values


class SlotCache(Cache):
    """`layers` of keys and values, all with the same rows and columns."""

    def __init__(self, layers: int) -> None:
        self.frame = _Frame()
        self.is_whole = True
        """False after a copy that failed half-way: then nothing in it is of use."""
        self._slots = [SlotLayer(self.frame) for _ in range(layers)]
        super().__init__(layers=list(self._slots))

    @property
    def rows(self) -> int:
        return self.frame.rows

    @property
    def width(self) -> int:
        """Columns in use: the longest row, or what is left of one that has gone."""
        return self.frame.width

    def begin(self, rows: int, columns: int) -> None:
        """Room for a pass over `rows` new rows with `columns` tokens in all."""
        self.frame.rows = self.frame.row_room = rows
        self.frame.column_room = columns

    def advance(self, columns: int) -> None:
        """After a pass: its columns are part of the cache."""
        self.frame.end += columns

    def settle(self, longest: int) -> None:
        """Before a step, and after a pass that failed: one free column, and none left of the
        longest row.
        """
        frame = self.frame
        frame.start = frame.end - longest
        if frame.end == frame.column_room:
            self.is_whole = False
            self._rebuild(frame.row_room, 0)
            self.is_whole = True
        self._show()

    def join(self, other: SlotCache, rows: torch.Tensor) -> None:
        """Takes over these rows (int64) of `other`, whose columns all end at the same place."""
        frame, width, count = self.frame, other.width, len(rows)
        self.is_whole = False
        room = max(frame.row_room, 1)
        while room < frame.rows + count:
            room *= 2
        if room > frame.row_room or width > frame.end:
            self._rebuild(room, max(0, width - frame.width))
        new = slice(frame.rows, frame.rows + count)
        for mine, theirs in zip(self._slots, other._slots, strict=True):
            if not theirs.stores:  # a layer that uses another one's keys and values
                continue
            if not mine.stores:
                mine.allocate(*theirs.stores)
            for store, source in zip(mine.stores, theirs.stores, strict=True):
                taken = source[:, :, other.frame.start : other.frame.end]
                store[new, :, frame.end - width : frame.end] = taken[rows]
                store[new, :, : frame.end - width] = 0  # of an earlier row, perhaps not finite
        frame.rows += count
        frame.start = min(frame.start, frame.end - width)
        self.is_whole = True

    def leave(self, gone: Sequence[int]) -> list[int]:
        """Drops rows. Returns the old places of the rows that are left, in their new order: the
        last ones have moved to the places that became free.
        """
        frame, away = self.frame, set(gone)
        left = frame.rows - len(away)
        order = list(range(left))
        free = [row for row in order if row in away]
        moved = [row for row in range(left, frame.rows) if row not in away]
        if free:
            used = slice(0, frame.end)  # to its left a row has zeros, not what another one left
            for layer in self._slots:
                for store in layer.stores:
                    store[free, :, used] = store[moved, :, used]
            for to, row in zip(free, moved, strict=True):
                order[to] = row
        frame.rows = left
        return order

    def _rebuild(self, row_room: int, more_left: int) -> None:
        """Copies what is in use into stores with fresh room, `more_left` columns before it."""
        frame = self.frame
        old = slice(frame.start, frame.end)
        new = slice(more_left, more_left + frame.width)
        frame.row_room, frame.column_room = row_room, new.stop + SPARE_COLUMNS
        for layer in self._slots:
            before, layer.stores = layer.stores, []
            if not before:
                continue
            layer.allocate(*before)
            for store, source in zip(layer.stores, before, strict=True):
                store[: frame.rows, :, new] = source[: frame.rows, :, old]
        frame.start, frame.end = new.start, new.stop

    def _show(self) -> None:
        for layer in self._slots:
            if layer.stores:
                layer.view(self.frame.end)


def slot_layers(config: PreTrainedConfig) -> int | None:
    """How many layers a `SlotCache` for this model has. None where answers cannot join each other:
    layers that keep a state instead of keys and values, or that count columns in chunks.
    """
    text = config.get_text_config(decoder=True)
    kinds = [type(layer) for layer in DynamicCache(config=text).layers]
    if any(kind not in (DynamicLayer, DynamicSlidingWindowLayer) for kind in kinds):
        return None
    if "chunked_attention" in (getattr(text, "layer_types", None) or ()):
        return None
    return len(kinds) or int(text.num_hidden_layers)
