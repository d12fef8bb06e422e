"""Every row that nearly repeats an earlier one, over millions of rows: for grouping, not for
keeping.

`data.near.NearIndex` compares a row with the rows worth keeping and names one of them. Here chains
count: if a is near b and b is near c, all three belong together, for only then can no near pair be
torn apart. MinHash and banding as there; the true Jaccard similarity decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tanren.data.near import (
    MAX_CHARACTERS,
    SHINGLE_CHARACTERS,
    comparable,
    jaccard,
    rows_per_band,
    shingles,
)
from tanren.data.split.groups import Groups

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PERMUTATIONS = 100
_BATCH = 1024
_CACHED_TEXTS = 256
# A row is compared with this many rows before it in a bucket: rows of one template share buckets by
# the thousand, and without a bound they would cost quadratic time. What is left out is counted.
_BUCKET_ROWS = 64
# Nearly four standard deviations of the estimate at 0.8 and 100 permutations (0.04 each).
_ESTIMATE_MARGIN = 0.15
_REMEMBERED_PAIRS = 1_000_000
_MULTIPLIER = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class NearPair:
    first: int
    second: int
    """Row numbers; `first` stands before `second`."""
    similarity: float
    """Jaccard similarity of character 5-grams, exact, 0..1."""


class NearRows:
    """Takes texts in order of rows and keeps 330 bytes of each."""

    def __init__(self, threshold: float) -> None:
        """`threshold` in (0, 1]; pairs at it are proposed to 99%."""
        self.threshold = threshold
        self.cut_rows = 0
        """Rows compared by their first 10,000 characters only."""
        self.crowded_rows = 0
        """Rows of full buckets that were not compared with all of these: some near rows may be
        missed.
        """
        self._rows_per_band = rows_per_band(threshold)
        self._bands = _PERMUTATIONS // self._rows_per_band
        self._waiting: list[NDArray[np.unsignedinteger[Any]]] = []
        self._low_bits: list[NDArray[np.unsignedinteger[Any]]] = []
        self._signatures: NDArray[np.unsignedinteger[Any]]  # (rows, permutations), once all are in
        self._keys: list[NDArray[np.unsignedinteger[Any]]] = []
        self._blank: list[int] = []
        self._rows = 0
        self._compared: set[int] = set()
        self._factors, self._offsets = _permutations()

    def add(self, text: str) -> None:
        self.cut_rows += len(text) > MAX_CHARACTERS
        plain = comparable(text)
        if not plain:
            self._blank.append(self._rows)
            plain = "\0"
        self._waiting.append(self._signature(plain))
        self._rows += 1
        if len(self._waiting) == _BATCH:
            self._settle()

    def pairs(self, text_of: Callable[[int], str], groups: Groups) -> Iterator[NearPair]:
        """Pairs that join two groups which nothing had joined before; `groups` are joined.

        `text_of` reads a row's text again: only few are needed at a time.
        """
        import numpy as np

        self._settle()
        if not self._keys:
            return
        self._signatures = np.concatenate(self._low_bits)
        self._low_bits.clear()
        blank = set(self._blank)

        @lru_cache(maxsize=_CACHED_TEXTS)
        def grams(row: int) -> set[str]:
            return shingles(comparable(text_of(row)))

        for band in range(self._bands):
            for rows in self._buckets(band):
                if rows[0] not in blank:
                    yield from self._compare(rows, grams, groups)

    def _compare(
        self, rows: list[int], grams: Callable[[int], set[str]], groups: Groups
    ) -> Iterator[NearPair]:
        for position, row in enumerate(rows):
            for earlier in self._likely(rows[max(0, position - _BUCKET_ROWS) : position], row):
                if groups.of(earlier) == groups.of(row) or self._is_known(earlier, row):
                    continue
                similarity = self._similarity(grams(earlier), grams(row))
                if similarity >= self.threshold:
                    groups.join(earlier, row)
                    yield NearPair(earlier, row, similarity)
        if len(rows) > _BUCKET_ROWS + 1 and len({groups.of(row) for row in rows}) > 1:
            self.crowded_rows += len(rows) - _BUCKET_ROWS - 1

    def _likely(self, earlier: list[int], row: int) -> list[int]:
        """Those of the rows whose estimated similarity is not far below the threshold."""
        signatures = self._signatures
        estimates = (signatures[earlier] == signatures[row]).mean(axis=1)
        return [
            other
            for other, estimate in zip(earlier, estimates.tolist(), strict=True)
            if estimate >= self.threshold - _ESTIMATE_MARGIN
        ]

    def _is_known(self, earlier: int, row: int) -> bool:
        """Whether another band has proposed the pair already; forgets when it holds too many."""
        pair = earlier << 32 | row
        if pair in self._compared:
            return True
        if len(self._compared) >= _REMEMBERED_PAIRS:
            self._compared.clear()
        self._compared.add(pair)
        return False

    def _similarity(self, left: set[str], right: set[str]) -> float:
        smaller, larger = sorted((len(left), len(right)))
        return 0.0 if smaller < self.threshold * larger else jaccard(left, right)

    def _buckets(self, band: int) -> Iterator[list[int]]:
        """Rows that share one band, in order, at least two at a time."""
        import numpy as np

        keys = np.concatenate([block[:, band] for block in self._keys])
        order = np.argsort(keys, kind="stable")
        in_order = keys[order]
        starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1], True])
        for index in np.flatnonzero(np.diff(starts) > 1).tolist():
            yield order[starts[index] : starts[index + 1]].tolist()

    def _signature(self, plain: str) -> NDArray[np.unsignedinteger[Any]]:
        """The smallest hash of all shingles under each permutation: (permutations,), uint32."""
        import numpy as np

        codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        codes = codes.astype(np.uint64)
        length = min(SHINGLE_CHARACTERS, len(codes))
        count = len(codes) - length + 1
        hashes = np.zeros(count, dtype=np.uint64)
        for offset in range(length):
            hashes = hashes * np.uint64(_MULTIPLIER) + codes[offset : offset + count]
        hashes = mixed(hashes)
        permuted = hashes[:, None] * self._factors + self._offsets
        smallest: NDArray[np.unsignedinteger[Any]] = permuted.min(axis=0) >> np.uint64(32)
        return smallest

    def _settle(self) -> None:
        """Signatures to one key a band and 16 bits a permutation: agreeing by chance is 1.5e-5."""
        import numpy as np

        if not self._waiting:
            return
        signatures = np.stack(self._waiting)
        self._low_bits.append(signatures.astype(np.uint16))
        used = self._bands * self._rows_per_band
        blocks = signatures[:, :used].reshape(-1, self._bands, self._rows_per_band)
        keys = np.zeros(blocks.shape[:2], dtype=np.uint64)
        for row in range(self._rows_per_band):
            keys = mixed(keys * np.uint64(_MULTIPLIER) + blocks[:, :, row])
        self._keys.append(keys)
        self._waiting.clear()


def mixed(values: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.unsignedinteger[Any]]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit depends on every bit."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _permutations() -> tuple[Any, Any]:
    """Factors (odd) and offsets of multiply-shift hashing, the same on every machine."""
    import numpy as np

    steps = np.arange(1, 2 * _PERMUTATIONS + 1, dtype=np.uint64) * np.uint64(_MULTIPLIER)
    drawn = mixed(steps)
    return drawn[:_PERMUTATIONS] | np.uint64(1), drawn[_PERMUTATIONS:]
