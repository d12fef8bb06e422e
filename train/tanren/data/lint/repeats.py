"""Rows that repeat others, in their own file or in another one: exactly, by question, or nearly.

24 bytes a row for the exact ones; 330 more where near ones are looked for, among all rows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tanren.chat import Example
from tanren.data.lint.corpus import digest
from tanren.data.lint.found import Findings
from tanren.data.lint.rows import last_answer
from tanren.data.split.groups import Groups
from tanren.data.split.near_pairs import NearRows
from tanren.data.split.rows import prompt_digest, said

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAKS = ("leak-row", "leak-prompt", "leak-near")


class Repeats:
    """Takes the rows of all files, one file after another."""

    def __init__(self, near_threshold: float | None) -> None:
        self._near = NearRows(near_threshold) if near_threshold is not None else None
        self._conversations, self._prompts, self._answers = array("Q"), array("Q"), array("Q")
        self._lines = array("q")
        self._starts: list[int] = []
        self._sources: list[str] = []

    def start_file(self, source: str) -> None:
        self._starts.append(len(self._lines))
        self._sources.append(source)

    def add(self, row: Example) -> None:
        self._conversations.append(int.from_bytes(row.sha256[:8], "little"))
        self._prompts.append(prompt_digest(row))
        message = row.messages[last_answer(row)]
        self._answers.append(digest(message["content"] + str(message.get("tool_calls", ""))))
        self._lines.append(row.line)
        if self._near is not None:
            self._near.add(said(row))

    def finish(
        self, findings: Sequence[Findings | None], text_of: Callable[[int, int], str]
    ) -> None:
        """`findings` by file; None for a file that others are only compared with.

        `text_of(file, row of the file)` reads what a row says once more.
        """
        groups = Groups(len(self._lines))
        same = self._repeated(self._conversations)
        for first, second in same:
            self._tell("duplicate", "leak-row", first, second, findings)
        repeated = {second for _, second in same}
        for first, second in self._repeated(self._prompts):
            if second in repeated:
                continue
            if self._answers[first] != self._answers[second]:
                self._tell("contradiction", "leak-prompt", first, second, findings)
            elif self._file_of(first) != self._file_of(second):
                self._tell("duplicate", "leak-prompt", first, second, findings)
        groups.join_equal(self._conversations)
        groups.join_equal(self._prompts)
        if self._near is not None:
            self._near_repeats(groups, findings, text_of)

    def _near_repeats(
        self,
        groups: Groups,
        findings: Sequence[Findings | None],
        text_of: Callable[[int, int], str],
    ) -> None:
        assert self._near is not None

        def read(row: int) -> str:
            file = self._file_of(row)
            return text_of(file, row - self._starts[file])

        pairs = sorted(self._near.pairs(read, groups), key=lambda pair: (pair.second, pair.first))
        told: set[tuple[int, bool]] = set()
        for pair in pairs:
            across = self._file_of(pair.first) != self._file_of(pair.second)
            if (pair.second, across) in told:
                continue  # one place a row is enough
            told.add((pair.second, across))
            more = f", similarity {pair.similarity:.2f}"
            self._tell("near-duplicate", "leak-near", pair.first, pair.second, findings, more)
        for found in findings:
            if found is not None and self._near.crowded_rows:
                found.crowded_rows = self._near.crowded_rows

    def _tell(
        self,
        within: str,
        across: str,
        first: int,
        second: int,
        findings: Sequence[Findings | None],
        more: str = "",
    ) -> None:
        """In the second row's file; in the first row's where the second is only compared with."""
        one, other = self._file_of(first), self._file_of(second)
        if findings[other] is None:
            first, second, one, other = second, first, other, one
        told = findings[other]
        if told is None or (one == other and within in _LEAKS):
            return
        rule = within if one == other else across
        verb = "answers otherwise than" if rule == "contradiction" else "repeats"
        place = f"{verb} {self._sources[one]}:{self._lines[first]}"
        told.add(rule, self._lines[second], "", "", more=place + more)

    def _file_of(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _repeated(self, digests: array[int]) -> list[tuple[int, int]]:
        """(an earlier row, this row) for each row whose digest stood before: the first row of the
        same file, and the first row of all if that lies in another file.
        """
        import numpy as np

        keys: NDArray[np.unsignedinteger[Any]] = np.frombuffer(digests, dtype=np.uint64)
        if not len(keys):
            return []
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(counts[inverse.reshape(-1)] > 1).tolist()
        first: dict[int, int] = {}
        first_in_file: dict[tuple[int, int], int] = {}
        pairs = []
        for row in rows:
            key, file = digests[row], self._file_of(row)
            if key in first and self._file_of(first[key]) != file:
                pairs.append((first[key], row))
            if (file, key) in first_in_file:
                pairs.append((first_in_file[file, key], row))
            first.setdefault(key, row)
            first_in_file.setdefault((file, key), row)
        return pairs
