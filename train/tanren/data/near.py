"""Near duplicates: MinHash proposes, the true Jaccard similarity decides.

Broder, "On the resemblance and containment of documents" (1997), for shingles and MinHash;
Leskovec et al., "Mining of Massive Datasets", 3.4, for the banding and its recall
1 - (1 - s^rows)^bands at similarity s.
"""

from __future__ import annotations

import unicodedata
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from datasketch import MinHash
    from numpy.typing import NDArray

NEAR_THRESHOLD = 0.8
"""Jaccard similarity of character 5-grams from which two rows count as nearly the same, 0..1."""
NEAR_LIMIT = 20_000
"""Rows of a split that are compared."""

SHINGLE_CHARACTERS = 5
"""Characters, not words, so that Japanese needs no segmenter."""
MAX_CHARACTERS = 10_000
"""A longer text is compared by its first characters; bounds memory to 10 kB a row or so."""

_PERMUTATIONS = 100
_MIN_RECALL = 0.99
# Rows of one template share buckets by the thousand. Past this many a bucket takes no more rows,
# so that a split costs linear time; what that leaves out is counted.
_BUCKET_ROWS = 64
# Nearly four standard deviations of the estimate at 0.8 and 100 permutations (0.04 each).
_ESTIMATE_MARGIN = 0.15


@dataclass(frozen=True, slots=True)
class Match:
    row: int
    similarity: float
    """Jaccard similarity of the two texts' shingles, exact."""


@dataclass(frozen=True, slots=True)
class _Kept:
    row: int
    text: str
    shingles: int
    """How many different ones."""


class NearIndex:
    """Rows that are not near any row before them; each further row is compared with these.

    So every match names a row that is worth keeping, one template with a thousand near copies
    gives a thousand pairs and not a million, and without the matched rows no pair is left.
    """

    def __init__(self, threshold: float = NEAR_THRESHOLD, *, seed: int = 1) -> None:
        """`threshold` in (0, 1]. The same seed and rows give the same matches everywhere."""
        self.threshold = threshold
        self.cut_rows = 0
        """Rows longer than MAX_CHARACTERS."""
        self.crowded_rows = 0
        """Kept rows that some full bucket did not take: their near copies may be missed."""
        self._rows_per_band = rows_per_band(threshold)
        self._seed = seed
        self._empty: MinHash | None = None
        self._buckets: dict[bytes, list[int]] = {}
        self._kept: list[_Kept] = []
        self._same_text: dict[str, int] = {}
        self._signatures: NDArray[np.unsignedinteger]  # made with the first row

    def add(self, row: int, text: str) -> Match | None:
        """The kept row that `text` nearly repeats; None, and the row is kept, if there is none."""
        self.cut_rows += len(text) > MAX_CHARACTERS
        return self._nearest(row, comparable(text))

    def nearest(self, text: str) -> Match | None:
        """The kept row that `text` nearly repeats; nothing is kept."""
        return self._nearest(None, comparable(text))

    def _nearest(self, row: int | None, plain: str) -> Match | None:
        if not plain:
            return None
        if plain in self._same_text:
            return Match(self._kept[self._same_text[plain]].row, 1.0)
        grams = shingles(plain)
        signature = self._signature(grams)
        keys = self._band_keys(signature)
        match = self._verified(grams, signature, keys)
        if match is None and row is not None:
            self._keep(_Kept(row, plain, len(grams)), signature, keys)
        return match

    def _verified(
        self, grams: set[str], signature: NDArray[np.unsignedinteger], keys: list[bytes]
    ) -> Match | None:
        """The first candidate that truly is near, in order of the estimated similarity."""
        import numpy as np

        proposed = {index for key in keys for index in self._buckets.get(key, ())}
        if not proposed:
            return None
        candidates = np.array(sorted(proposed))
        estimates = (self._signatures[candidates] == signature).mean(axis=1)
        order = np.argsort(-estimates, kind="stable")
        likely = order[estimates[order] >= self.threshold - _ESTIMATE_MARGIN]
        for index in candidates[likely].tolist():
            kept = self._kept[index]
            smaller, larger = sorted((kept.shingles, len(grams)))
            if smaller < self.threshold * larger:
                continue  # sets of such different sizes cannot be similar enough
            similarity = jaccard(grams, shingles(kept.text))
            if similarity >= self.threshold:
                return Match(kept.row, similarity)
        return None

    def _keep(self, kept: _Kept, signature: NDArray[np.unsignedinteger], keys: list[bytes]) -> None:
        index = len(self._kept)
        self._kept.append(kept)
        self._same_text[kept.text] = index
        self._store_signature(index, signature)
        crowded = False
        for key in keys:
            bucket = self._buckets.setdefault(key, [])
            if len(bucket) < _BUCKET_ROWS:
                bucket.append(index)
            else:
                crowded = True
        self.crowded_rows += crowded

    def _store_signature(self, index: int, signature: NDArray[np.unsignedinteger]) -> None:
        """Rows of one matrix that doubles when it is full: comparing with many is one operation."""
        import numpy as np

        if index == 0:
            self._signatures = np.empty((1024, len(signature)), dtype=signature.dtype)
        elif index == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, self._signatures])
        self._signatures[index] = signature

    def _signature(self, grams: set[str]) -> NDArray[np.unsignedinteger]:
        from datasketch import MinHash

        if self._empty is None:
            self._empty = MinHash(_PERMUTATIONS, self._seed, hashfunc=zlib.crc32)
        sketch = self._empty.copy()
        sketch.update_batch([gram.encode("utf-8") for gram in grams])
        values: NDArray[np.unsignedinteger] = sketch.hashvalues
        return values

    def _band_keys(self, signature: NDArray[np.unsignedinteger]) -> list[bytes]:
        rows = self._rows_per_band
        return [
            bytes([band]) + signature[band * rows : (band + 1) * rows].tobytes()
            for band in range(_PERMUTATIONS // rows)
        ]


def rows_per_band(threshold: float) -> int:
    """The most rows a band may have so that a pair at the threshold is still proposed to 99%."""
    fitting = [rows for rows in range(1, 21) if recall(threshold, rows) >= _MIN_RECALL]
    return max(fitting, default=1)


def recall(similarity: float, rows: int) -> float:
    """The share of pairs of this similarity that banding proposes."""
    share: float = 1 - (1 - similarity**rows) ** (_PERMUTATIONS // rows)
    return share


def comparable(text: str) -> str:
    """`text` without what does not change what it says: width, case, and runs of white space."""
    return " ".join(unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).casefold().split())


def shingles(plain: str) -> set[str]:
    """All runs of five characters; a shorter text is one shingle."""
    last = max(1, len(plain) - SHINGLE_CHARACTERS + 1)
    return {plain[start : start + SHINGLE_CHARACTERS] for start in range(last)}


def jaccard(left: set[str], right: set[str]) -> float:
    """Shared elements by all elements, 0..1; both sets are non-empty."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)
