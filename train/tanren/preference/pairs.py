"""Pairs of answers as rows of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from tanren.batches import Row
from tanren.encode import Encoded


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sequences with the same prompt. `reference`: the summed log-probabilities (nats) of both
    answers before training, the preferred one's first; NaN where they are not known yet.
    """

    preferred: Row
    rejected: Row
    reference: tuple[float, float]

    @property
    def labelled(self) -> int:
        return self.preferred.labelled + self.rejected.labelled

    def __len__(self) -> int:
        """Tokens of both."""
        return len(self.preferred) + len(self.rejected)


class Pairs(TorchDataset[Pair]):
    """Sequences 2i and 2i + 1 of `encoded` (see `tanren.encode.pairs`) as the i-th pair.

    `reference` (pairs, 2) float32 is filled in before the first step.
    """

    def __init__(self, encoded: Encoded, reference: NDArray[np.float32] | None = None) -> None:
        assert len(encoded) % 2 == 0
        self.encoded = encoded
        unknown = np.full((len(encoded) // 2, 2), np.nan, dtype=np.float32)
        self.reference = unknown if reference is None else reference

    def __len__(self) -> int:
        return len(self.encoded) // 2

    def __getitem__(self, index: int) -> Pair:
        preferred, rejected = (Row.of(*self.encoded.row(2 * index + half)) for half in (0, 1))
        first, second = self.reference[index].tolist()
        return Pair(preferred, rejected, (first, second))


def pair_lengths(encoded: Encoded) -> NDArray[np.int64]:
    """(pairs, 2) tokens of both halves."""
    return encoded.lengths.reshape(-1, 2)
