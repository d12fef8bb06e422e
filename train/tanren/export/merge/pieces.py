"""The numbers of a merged tensor, piece by piece: what is read, what is added, what is rounded.

Sums are made in float32 and rounded once, into the type that is written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tanren.export.merge.nf4 import BLOCK, Stretch, nf4_reader
from tanren.export.merge.plan import Change, LowRank, MergePlan

PIECE_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Numbers that are worked on at once: 1 MiB in float32 stays in a core's cache (pieces of 4 M took
twice as long); a GPU wants more."""

Piece = Callable[[], Tensor]


def pieces(plan: MergePlan, name: str, kind: torch.dtype, where: torch.device) -> Iterator[Piece]:
    """Calls that each make a piece, on the CPU and of type `kind`; in the order of memory. They may
    run side by side.
    """
    change = plan.changes.get(name, Change())
    shape = shape_of(plan, name)
    read = _Base(plan, name, change, where)
    if len(shape) < 2:
        yield lambda: _finished(read(0, torch.Size(shape).numel()).float(), kind)
        return
    rows, columns = shape[-2:]
    step = _rows_at_once(change, rows, columns, where)
    for matrix in range(torch.Size(shape[:-2]).numel()):
        factors = [_Factors(part, matrix, where) for part in change.low_rank]
        for first in range(0, rows, step):
            count = min(step, rows - first)
            yield _Rows(plan, change, read, factors, kind, matrix * rows, first, count, columns)


def shape_of(plan: MergePlan, name: str) -> tuple[int, ...]:
    """Shape of a tensor of the result."""
    change = plan.changes.get(name)
    if change is not None and change.replacement is not None and plan.adapter is not None:
        return tuple(plan.adapter.whole[change.replacement].shape)
    return plan.checkpoint.places[plan.added.get(name, name)].shape


def _rows_at_once(change: Change, rows: int, columns: int, where: torch.device) -> int:
    along_rows = any(p.swapped and p.update.magnitude is not None for p in change.low_rank)
    if along_rows or (change.through_nf4 and columns % BLOCK):
        return rows  # norms, or blocks of 4-bit storage, reach over several rows
    return max(1, PIECE_ELEMENTS[where.type] // columns)


def _finished(numbers: Tensor, kind: torch.dtype) -> Tensor:
    return numbers.to(kind).cpu().contiguous()


class _Rows:
    """A piece of a matrix: `count` rows from `first` on; `above` are rows of matrices before."""

    def __init__(
        self,
        plan: MergePlan,
        change: Change,
        read: Stretch,
        factors: list[_Factors],
        kind: torch.dtype,
        above: int,
        first: int,
        count: int,
        columns: int,
    ) -> None:
        self._plan, self._change, self._read, self._factors = plan, change, read, factors
        self._kind, self._above, self._first = kind, above, first
        self._count, self._columns = count, columns

    def __call__(self) -> Tensor:
        start = (self._above + self._first) * self._columns
        flat = self._read(start, self._count * self._columns)
        numbers = flat.float().view(self._count, self._columns)
        for factor in self._factors:
            numbers = factor.onto(numbers, self._first)
        if self._change.token_rows is not None:
            numbers = _with_rows(self._plan, self._change.token_rows, numbers, self._first)
        return _finished(numbers, self._kind)


class _Base:
    """Reads stretches of the flat tensor that the updates are added to, from several threads."""

    def __init__(self, plan: MergePlan, name: str, change: Change, where: torch.device) -> None:
        self._plan, self._change, self._where = plan, change, where
        self._origin = plan.added.get(name, name)
        self._lock = threading.Lock()
        self._in_4_bits: Stretch | None = None

    def __call__(self, start: int, count: int) -> Tensor:
        if self._change.replacement is not None:
            assert self._plan.adapter is not None
            whole = self._plan.adapter.whole[self._change.replacement].reshape(-1)
            return whole[start : start + count].to(self._where)
        if self._change.through_nf4:
            return self._quantised()(start, count)
        return self._plan.checkpoint.read_range(self._origin, start, count).to(self._where)

    def _quantised(self) -> Stretch:
        """Scales in 4-bit storage depend on the whole tensor, so that is read, once."""
        with self._lock:
            if self._in_4_bits is None:
                whole = self._plan.checkpoint.read(self._origin)
                self._in_4_bits = nf4_reader(whole.to(self._where, self._plan.compute_dtype))
            return self._in_4_bits


class _Factors:
    """One low-rank update as it falls on a stored matrix (rows, columns): `left @ right`."""

    def __init__(self, part: LowRank, matrix: int, where: torch.device) -> None:
        a, b = part.update.a, part.update.b
        assert a is not None
        assert b is not None
        a, b = a.to(where, torch.float32), b.to(where, torch.float32)
        if part.experts > 1:
            expert = matrix if part.expert is None else part.expert
            a = a.reshape(part.experts, -1, a.shape[-1])[expert]
            b = b.reshape(b.shape[0], -1, part.experts)[:, :, expert]
        b = b[slice(*part.b_rows)]
        self.left, self.right = (a.T, b.T) if part.swapped else (b, a)
        self.scale = part.scale
        self.swapped = part.swapped
        magnitude = part.update.magnitude
        self.magnitude = None if magnitude is None else magnitude.to(where, torch.float32)

    def onto(self, piece: Tensor, first: int) -> Tensor:
        """`piece` (count, columns) is rows `first`... of the stored matrix; returns it updated.

        With a magnitude m: m * V / ||V||, V = W + scale * B A, norms over a layer's inputs (DoRA,
        Liu et al. 2024, eq. 5).
        """
        left = self.left[first : first + piece.shape[0]]
        moved = torch.addmm(piece, left, self.right, alpha=self.scale)
        if self.magnitude is None:
            return moved
        if self.swapped:
            return moved * (self.magnitude / moved.norm(dim=0))
        wanted = self.magnitude[first : first + piece.shape[0]]
        return moved * (wanted / moved.norm(dim=1)).unsqueeze(1)


def _with_rows(
    plan: MergePlan, trained: tuple[str, tuple[int, ...]], piece: Tensor, first: int
) -> Tensor:
    """Rows of trained tokens take the place of the base's."""
    assert plan.adapter is not None
    layer, indices = trained
    rows = plan.adapter.token_rows[layer]
    piece = piece.clone()
    for row, index in enumerate(indices):
        if first <= index < first + piece.shape[0]:
            piece[index - first] = rows[row].to(piece.device, torch.float32)
    return piece
