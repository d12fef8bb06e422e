"""The weight that an adapter on a 4-bit base really saw: quantised and read back.

NF4 with double quantisation as `model.load_base` asks for it (Dettmers et al. 2023): blocks of 64
numbers along the flattened weight, each scaled by its largest magnitude and rounded to the nearest
of 16 levels; the scales themselves, less their mean, in 8 bits in blocks of 256.

On GPUs bitsandbytes does all of it. On CPUs it searches each number's level by bisection, which is
most of the time that merging takes; here a table does it, with the same bits as the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 64
_CELLS = 16_384
"""Cells of the table over [-1, 1]: far narrower than the smallest distance of two borders, 0.08."""

Stretch = Callable[[int, int], Tensor]


def through_nf4(weight: Tensor) -> Tensor:
    """`weight` after 4 bits and back, in its own type."""
    return nf4_reader(weight)(0, weight.numel()).view(weight.shape)


def nf4_reader(weight: Tensor) -> Stretch:
    """A function (start, count) -> that stretch of the flat weight after 4 bits and back. On a CPU
    both are whole blocks, or the stretch is the whole weight.
    """
    if weight.device.type != "cpu" or weight.numel() % BLOCK:
        read = by_bitsandbytes(weight).reshape(-1)
        return lambda start, count: read[start : start + count]
    blocks = weight.reshape(-1, BLOCK)
    exact = blocks.abs().amax(1).float()
    scales = _scales_in_8_bits(exact)

    def stretch(start: int, count: int) -> Tensor:
        part = slice(start // BLOCK, (start + count) // BLOCK)
        inverse = 1.0 / exact[part].clamp(min=1e-38)
        scaled = (blocks[part].float() * inverse.unsqueeze(1)).clamp_(-1, 1)
        levels = torch.index_select(_levels(), 0, nearest_level(scaled.view(-1)))
        read = levels.view(-1, BLOCK) * scales[part].unsqueeze(1)
        return read.view(-1).to(weight.dtype)

    return stretch


def nearest_level(scaled: Tensor) -> Tensor:
    """Number (0 to 15) of the NF4 level that each of `scaled`, flat in [-1, 1], is rounded to.

    The cell that a number falls into says how many borders lie below; one more may lie within.
    """
    below, borders = _table()
    cell = ((scaled + 1) * (_CELLS / 2)).to(torch.int32)
    first = torch.index_select(below, 0, cell)
    return first + (scaled > torch.index_select(borders, 0, first))


def _scales_in_8_bits(exact: Tensor) -> Tensor:
    import bitsandbytes.functional as four_bit

    offset = exact.mean()
    packed, state = four_bit.quantize_blockwise(exact - offset, blocksize=256)
    scales: Tensor = four_bit.dequantize_blockwise(packed, state) + offset
    return scales


def by_bitsandbytes(weight: Tensor) -> Tensor:
    """`weight` after 4 bits and back as bitsandbytes computes it; rows of one block each, for its
    CPU kernels read some other widths back wrongly (see `model.four_bit_error`).
    """
    import bitsandbytes.functional as four_bit

    rows = weight.reshape(-1, BLOCK) if weight.numel() % BLOCK == 0 else weight.contiguous()
    packed, state = four_bit.quantize_4bit(
        rows, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
    )
    read: Tensor = four_bit.dequantize_4bit(packed, state)
    return read.view(weight.shape)


@lru_cache
def _levels() -> Tensor:
    """The 16 levels of NF4, (16,) float32, rising from -1 to 1."""
    import bitsandbytes.functional as four_bit

    levels: Tensor = four_bit.get_4bit_type("nf4", device="cpu")
    return levels


@lru_cache
def _table() -> tuple[Tensor, Tensor]:
    """(borders below each cell, borders): a border lies midway between two levels. A cell's count
    is taken one cell earlier, so that a number that rounding moved into the next cell finds its
    own.
    """
    levels = _levels()
    borders = (levels[:-1] + levels[1:]) / 2
    edges = (torch.arange(_CELLS + 1) - 1) / (_CELLS / 2) - 1
    below = torch.bucketize(edges, borders).to(torch.int32)
    return below, torch.cat([borders, torch.tensor([2.0])])
