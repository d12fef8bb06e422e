"""Rows that must stay together: disjoint sets over row numbers."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Groups:
    """Union-find; a group is named by its first row. 8 bytes a row."""

    def __init__(self, rows: int) -> None:
        self._parent = array("q", range(rows))

    def of(self, row: int) -> int:
        """The first row of the row's group."""
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(self, left: int, right: int) -> bool:
        """Whether the two were apart before."""
        first, second = sorted((self.of(left), self.of(right)))
        self._parent[second] = first
        return first != second

    def join_equal(self, digests: array[int], among: array[int] | None = None) -> int:
        """Join rows of equal digest (of rows `among`, all by default); returns how many moved."""
        import numpy as np

        keys = np.frombuffer(digests, dtype=np.uint64)
        if not len(keys):
            return 0
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        leader = first[inverse.reshape(-1)]
        later = np.flatnonzero(leader != np.arange(len(keys))).tolist()
        joined = 0
        for position in later:
            other = int(leader[position])
            if among is not None:
                position, other = among[position], among[other]
            joined += self.join(other, position)
        return joined

    def labels(self) -> NDArray[np.signedinteger[Any]]:
        """For each row the first row of its group."""
        import numpy as np

        return np.array([self.of(row) for row in range(len(self._parent))], dtype=np.int64)
