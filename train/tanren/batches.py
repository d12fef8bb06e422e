"""From the rows of one optimizer step to forward passes.

A step's rows are spread over as few passes as the token budget allows. Rows of like length go
together, so that little is padded; or they are laid side by side in one sequence, so that nothing
is. The gradient does not depend on it: every pass adds the sum of its token losses, and the divisor
is the step's token count (T12).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from tanren.encode import Encoded
from tanren.rundir import read_json, write_json

IGNORED = -100
HASHED_EPOCHS = 16
"""A million rows take 0.05 s an epoch to draw and to hash."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence. ids (n) int32; targets (n) int32: the token to predict after each position, or
    -100.
    """

    ids: NDArray[np.int32]
    targets: NDArray[np.int32]

    @classmethod
    def of(cls, ids: NDArray[np.int32], labels: NDArray[np.int32]) -> Row:
        """Labels as trainers write them (the token itself) become targets (the token that comes
        next).
        """
        targets = np.full(len(ids), IGNORED, dtype=np.int32)
        targets[:-1] = labels[1:]
        return cls(ids, targets)

    @property
    def labelled(self) -> int:
        return int(np.count_nonzero(self.targets != IGNORED))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Pass:
    """The tensors of one forward pass.

    Padded: input_ids (rows, longest), attention_mask where anything is padded. Side by side:
    input_ids (1, tokens), position_ids restarting at each row, boundaries (rows + 1) int32.
    `labelled` (k) int64 indexes the flattened positions that carry a target, `targets` (k) int64
    holds those targets.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor | None
    boundaries: Tensor | None
    longest: int
    labelled: Tensor
    targets: Tensor
    tokens: int

    def model_inputs(self) -> dict[str, Tensor | int | bool | None]:
        inputs: dict[str, Tensor | int | bool | None] = {
            "input_ids": self.input_ids,
            "use_cache": False,
        }
        if self.boundaries is not None:
            inputs |= {
                "position_ids": self.position_ids,
                "cu_seq_lens_q": self.boundaries,
                "cu_seq_lens_k": self.boundaries,
                "max_length_q": self.longest,
                "max_length_k": self.longest,
            }
        elif self.attention_mask is not None:
            inputs["attention_mask"] = self.attention_mask
        return inputs


def plan(lengths: Sequence[int], budget: int, *, side_by_side: bool) -> list[list[int]]:
    """Which rows share a pass: indices into `lengths`, every row exactly once, deterministic.

    No pass exceeds `budget` tokens (padding counted unless side by side), except a row that alone
    is longer.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return (
        _fill_bins(order, lengths, budget)
        if side_by_side
        else _fill_batches(order, lengths, budget)
    )


def _fill_batches(order: list[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    groups: list[list[int]] = []
    for i in order:  # longest first: the first row of a group sets its width
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _fill_bins(order: list[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """First fit decreasing: within 22% of the fewest bins in the worst case, near 1% on chat
    data.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for i in order:
        place = next((b for b, free in enumerate(room) if free >= lengths[i]), None)
        if place is None:
            bins.append([i])
            room.append(budget - lengths[i])
        else:
            bins[place].append(i)
            room[place] -= lengths[i]
    return bins


def assemble(
    rows: Sequence[Row], *, side_by_side: bool, pad_id: int, device: torch.device | str = "cpu"
) -> Pass:
    """Tensors of one pass, on `device`."""
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    mask: NDArray[np.bool_] | None = None
    positions: NDArray[np.int64] | None = None
    boundaries: NDArray[np.int32] | None = None
    if side_by_side:
        ids = np.concatenate([row.ids for row in rows])[None]
        targets = np.concatenate([row.targets for row in rows])
        positions = np.concatenate([np.arange(n) for n in lengths])[None]
        boundaries = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    else:
        ids = np.full((len(rows), longest), pad_id, dtype=np.int32)
        padded = np.full((len(rows), longest), IGNORED, dtype=np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row.ids
            padded[i, : len(row)] = row.targets
        targets = padded.reshape(-1)
        mask = (
            np.arange(longest)[None] < np.array(lengths)[:, None]
            if min(lengths) < longest
            else None
        )
    labelled = np.flatnonzero(targets != IGNORED)

    def tensor(
        array: NDArray[np.generic] | None, dtype: torch.dtype = torch.int64
    ) -> Tensor | None:
        if array is None:
            return None
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype, non_blocking=True)

    return Pass(
        input_ids=tensor(ids),  # type: ignore[arg-type]
        attention_mask=tensor(mask),
        position_ids=tensor(positions),
        boundaries=tensor(boundaries, torch.int32),
        longest=longest,
        labelled=tensor(labelled),  # type: ignore[arg-type]
        targets=tensor(targets[labelled]),  # type: ignore[arg-type]
        tokens=sum(lengths),
    )


def share(lengths: Sequence[int], ranks: int, rank: int) -> list[int]:
    """The rows of a step that one process computes: longest first, dealt there and back, so that
    loads are even.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    mine = []
    for place, i in enumerate(order):
        lap, seat = divmod(place, ranks)
        if (seat if lap % 2 == 0 else ranks - 1 - seat) == rank:
            mine.append(i)
    return sorted(mine)


class StepOrder(Sampler[list[int]]):
    """Row numbers of each optimizer step of an epoch: a fresh permutation per epoch, a function of
    seed and epoch.

    The last step of an epoch holds the rows that are left; nothing is dropped or repeated. As the
    order depends on nothing else, resuming needs no replay.
    """

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed, self.epoch = rows, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> NDArray[np.int64]:
        return self._permutation(self.epoch)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)

    def sha256(self, epochs: int) -> str:
        """Of the row numbers as they come in so many epochs. Two runs that see the same rows in the
        same order have the same one.

        Of the first `HASHED_EPOCHS` alone and of their number: the rest follows from the same seed.
        """
        digest = hashlib.sha256(f"{self.rows} rows, {epochs} epochs\n".encode())
        for epoch in range(min(epochs, HASHED_EPOCHS)):
            digest.update(self._permutation(epoch).astype("<i8").tobytes())
        return digest.hexdigest()

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        for start in range(0, self.rows, self.batch_size):
            yield order[start : start + self.batch_size].tolist()

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)


@dataclass(frozen=True, slots=True)
class Step:
    """How the passes of a step are made."""

    micro_batch_tokens: int
    side_by_side: bool
    pad_id: int

    def save(self, folder: Path, costs: Mapping[str, Any]) -> None:
        """Keep it beside a checkpoint, with what the run has cost until then: after an
        out-of-memory it is no longer what was planned.
        """
        write_json(
            folder / "step.json",
            {
                "micro_batch_tokens": self.micro_batch_tokens,
                "side_by_side": self.side_by_side,
                **costs,
            },
        )

    def as_saved(self, folder: Path) -> tuple[Step, dict[str, Any]]:
        """(this step as that checkpoint had it, what the run had cost until then)."""
        saved = read_json(folder / "step.json")
        tokens = min(saved.pop("micro_batch_tokens"), self.micro_batch_tokens)
        return Step(tokens, saved.pop("side_by_side"), self.pad_id), saved


def as_they_are(rows: list[Any]) -> Any:
    """Rows become tensors pass by pass, in the step."""
    return rows


class Rows(Protocol):
    """What steps are made of, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class EncodedRows(TorchDataset[Row]):
    """Every sequence is a row of its own."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Row:
        return Row.of(*self.encoded.row(index))


class StepLoader(DataLoader[list[Any]]):
    """One item is the rows of one optimizer step, the same on every process."""

    def __init__(self, rows: Rows, order: StepOrder) -> None:
        super().__init__(rows, batch_sampler=order, collate_fn=as_they_are)  # type: ignore[arg-type]
        self.step_order = order

    def set_epoch(self, epoch: int) -> None:
        self.step_order.set_epoch(epoch)
