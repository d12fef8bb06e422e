"""Rows keep their own keys and values, whoever joins, leaves and is copied around them."""

from __future__ import annotations

import random

import pytest
import torch

from tanren.engine import cache as cache_module
from tanren.engine.cache import SlotCache

LAYERS = 2


class Rows:
    """Rows of known numbers, in a cache and in plain lists."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = iter(range(1, 10**6))
        self.cache = SlotCache(LAYERS)
        self.rows: list[list[float]] = []

    def new(self, count: int) -> list[float]:
        return [float(next(self.numbers)) for _ in range(count)]

    def join(self) -> None:
        group = [self.new(self.random.randint(1, 9)) for _ in range(self.random.randint(1, 3))]
        width = max(map(len, group))
        padded = torch.tensor([[-1.0] * (width - len(row)) + row for row in group])
        other = SlotCache(LAYERS)
        other.begin(len(group), width)
        half = self.random.randint(0, width - 1)
        for columns in (padded[:, :half], padded[:, half:]):  # read in two chunks
            if columns.shape[1]:
                write(other, columns)
                other.advance(columns.shape[1])
        taken = [self.random.randrange(len(group)) for _ in range(self.random.randint(1, 4))]
        self.cache.join(other, torch.tensor(taken))
        self.rows += [list(group[row]) for row in taken]

    def step(self) -> None:
        if self.rows:
            self.cache.settle(max(map(len, self.rows)))
            added = self.new(len(self.rows))
            write(self.cache, torch.tensor(added)[:, None])
            self.cache.advance(1)
            for row, number in zip(self.rows, added, strict=True):
                row.append(number)

    def failing_step(self) -> None:
        """Half of the layers are written when the pass breaks off."""
        if self.rows:
            self.cache.settle(max(map(len, self.rows)))
            states = torch.full((len(self.rows), 1, 1, 1), 9e9)
            self.cache.update(states, states, 0)

    def leave(self) -> None:
        gone = [row for row in range(len(self.rows)) if self.random.random() < 0.4]
        order = self.cache.leave(gone)
        assert sorted(order) == [row for row in range(len(self.rows)) if row not in gone]
        self.rows = [self.rows[row] for row in order]

    def check(self) -> None:
        if not self.rows:
            return
        self.cache.settle(max(map(len, self.rows)))
        assert self.cache.get_seq_length() == self.cache.width == max(map(len, self.rows))
        for layer in self.cache.layers:
            assert layer.keys is not None and layer.values is not None
            for row, numbers in enumerate(self.rows):
                assert layer.keys[row, 0, -len(numbers) :, 0].tolist() == numbers
                assert layer.values[row, 0, -len(numbers) :, 1].tolist() == [-n for n in numbers]
            assert layer.keys.isfinite().all()


def write(cache: SlotCache, numbers: torch.Tensor) -> None:
    """The numbers (rows, columns) as keys of width 1 and values of width 2, in every layer."""
    cache.settle(cache.width)
    keys = numbers[:, None, :, None]
    values = torch.cat([keys * 0, -keys], dim=-1)
    for layer in range(LAYERS):
        cache.update(keys, values, layer)


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_kept(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SPARE_COLUMNS", 5)
    rows = Rows(seed)
    deeds = [rows.join, rows.step, rows.step, rows.step, rows.leave, rows.failing_step]
    for _ in range(120):
        rows.random.choice(deeds)()
        if rows.random.random() < 0.5:
            rows.check()
    assert rows.cache.is_whole


def test_what_a_row_leaves_behind_is_in_nobodys_way() -> None:
    """A row of NaN goes; who takes its place, and is then beside a longer one, has zeros there."""
    rows = Rows(0)
    cache = rows.cache
    for numbers in (torch.full((1, 8), float("nan")), torch.ones(1, 3), torch.ones(1, 8)):
        other = SlotCache(LAYERS)
        other.begin(1, numbers.shape[1])
        write(other, numbers)
        other.advance(numbers.shape[1])
        cache.join(other, torch.tensor([0]))
        if numbers.isnan().any():
            cache.leave([0])
    cache.settle(8)
    for layer in cache.layers:
        assert layer.keys is not None and layer.keys.isfinite().all()
        assert layer.values is not None and layer.values.isfinite().all()
