"""Rows that say the same twice: exactly, nearly, or with another answer; and rows that leak.

Exact findings hold for every row and cost 56 bytes a row. Near ones are looked for among the first
rows of each split (`limit`), because they need the text; the report says how many that were.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tanren.chat import Example
from tanren.data.near import NEAR_LIMIT, NEAR_THRESHOLD, NearIndex

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIGEST_BYTES = 16
"""Of SHA-256: at a million rows the chance of one false pair is 1e-27."""

_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode

MAX_PAIRS = 1_000
"""Pairs kept of each finding; its count has no bound."""


@dataclass(frozen=True, slots=True)
class Place:
    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class RowPair:
    """`second` repeats `first`, which stands before it (or in the training rows)."""

    first: Place
    second: Place
    similarity: float = 1.0
    """Jaccard similarity of the texts, 0..1."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`count` rows repeat another; `pairs` shows the first of them, in order of the second row."""

    count: int = 0
    pairs: tuple[RowPair, ...] = ()

    @property
    def hidden(self) -> int:
        """Rows that are counted and not among the pairs."""
        return self.count - len(self.pairs)


@dataclass(frozen=True, slots=True)
class Within:
    """Findings within one split. Each pair's first row is the one to keep."""

    rows: int
    identical: Finding
    """The same conversation and tools."""
    near: Finding
    contradictions: Finding
    """The same prompt and tools with another final answer, compared to the first answer."""
    near_rows: int
    """Rows that were compared for near duplicates: the first `near_limit`."""
    near_cut_rows: int
    """Of these, rows compared by their first 10,000 characters only."""
    near_crowded_rows: int
    """Of these, rows so alike in parts that some of their near duplicates may be missed."""


@dataclass(frozen=True, slots=True)
class Leaks:
    """Validation rows (second) that repeat training rows (first)."""

    identical: Finding
    same_prompt: Finding
    """The prompt was trained with another answer."""
    near: Finding


@dataclass(frozen=True, slots=True)
class DuplicateReport:
    train: Within
    validation: Within
    leaks: Leaks
    near_threshold: float
    near_limit: int


def find_duplicates(
    train: Iterable[Example],
    validation: Iterable[Example] = (),
    *,
    near_threshold: float = NEAR_THRESHOLD,
    limit: int = NEAR_LIMIT,
) -> DuplicateReport:
    """All findings of two splits, each read once."""
    finder = DuplicateFinder(near_threshold=near_threshold, limit=limit)
    for example in train:
        finder.add_train(example)
    for example in validation:
        finder.add_validation(example)
    return finder.report()


class DuplicateFinder:
    """Takes examples as they are read, so that a file need not be read again.

    Near leaks compare a validation row with the training rows added before it.
    """

    def __init__(self, *, near_threshold: float = NEAR_THRESHOLD, limit: int = NEAR_LIMIT) -> None:
        self.near_threshold = near_threshold
        self.limit = limit
        self._train = _Split(near_threshold, limit)
        self._validation = _Split(near_threshold, limit)
        self._near_leaks = _Pairs()

    def add_train(self, example: Example) -> None:
        self._train.add(example)

    def add_validation(self, example: Example) -> None:
        row = self._validation.rows
        text = self._validation.add(example)
        if text is None or self._train.has_seen(example):
            return
        match = self._train.index.nearest(text)
        if match is not None:
            first, second = self._train.place(match.row), self._validation.place(row)
            self._near_leaks.add(first, second, match.similarity)

    def report(self) -> DuplicateReport:
        train, validation = self._train, self._validation
        return DuplicateReport(
            train.within(),
            validation.within(),
            _leaks(train, validation, self._near_leaks.finding()),
            self.near_threshold,
            self.limit,
        )


class _Pairs:
    def __init__(self) -> None:
        self._count = 0
        self._pairs: list[RowPair] = []

    def add(self, first: Place, second: Place, similarity: float = 1.0) -> None:
        self._count += 1
        if len(self._pairs) < MAX_PAIRS:
            self._pairs.append(RowPair(first, second, similarity))

    def finding(self) -> Finding:
        return Finding(self._count, tuple(self._pairs))


class _Split:
    """Digests of all rows and the near index of the first ones."""

    def __init__(self, near_threshold: float, limit: int) -> None:
        self.rows = 0
        self.conversations = bytearray()
        self.prompts = bytearray()
        self.answers = bytearray()
        self.index = NearIndex(near_threshold)
        self._limit = limit
        self._near = _Pairs()
        self._seen: set[bytes] = set()  # conversations among the first rows
        self._sources: list[str] = []
        self._source_starts = array("q")  # first row of each run of rows from one source
        self._lines = array("q")

    def add(self, example: Example) -> str | None:
        """The row's text, to be compared with other splits; None beyond the limit."""
        row = self.rows
        self.rows += 1
        if not self._sources or self._sources[-1] != example.source:
            self._sources.append(example.source)
            self._source_starts.append(row)
        self._lines.append(example.line)
        conversation = example.sha256[:DIGEST_BYTES]
        prompt, answer = _prompt_and_answer(example)
        self.conversations += conversation
        self.prompts += prompt
        self.answers += answer
        if row >= self._limit:
            return None
        text = _said(example)
        self._add_near(row, conversation, text)
        return text

    def _add_near(self, row: int, conversation: bytes, text: str) -> None:
        if conversation in self._seen:
            return  # an identical row, found by its digest
        self._seen.add(conversation)
        match = self.index.add(row, text)
        if match is not None:
            self._near.add(self.place(match.row), self.place(row), match.similarity)

    def has_seen(self, example: Example) -> bool:
        """Whether the same conversation is among the first rows."""
        return example.sha256[:DIGEST_BYTES] in self._seen

    def place(self, row: int) -> Place:
        source = self._sources[bisect_right(self._source_starts, row) - 1]
        return Place(source, self._lines[row])

    def within(self) -> Within:
        return Within(
            self.rows,
            identical=self._identical(),
            near=self._near.finding(),
            contradictions=self._contradictions(),
            near_rows=min(self.rows, self._limit),
            near_cut_rows=self.index.cut_rows,
            near_crowded_rows=self.index.crowded_rows,
        )

    def _identical(self) -> Finding:
        pairs = _Pairs()
        for first, second in _repeats(self.conversations):
            pairs.add(self.place(first), self.place(second))
        return pairs.finding()

    def _contradictions(self) -> Finding:
        pairs = _Pairs()
        for first, second in _repeats(self.prompts):
            if _digest(self.answers, first) != _digest(self.answers, second):
                pairs.add(self.place(first), self.place(second))
        return pairs.finding()


def _leaks(train: _Split, validation: _Split, near: Finding) -> Leaks:
    identical, same_prompt = _Pairs(), _Pairs()
    leaked = dict(_repeats_across(train.conversations, validation.conversations))
    for second, first in leaked.items():
        identical.add(train.place(first), validation.place(second))
    for second, first in _repeats_across(train.prompts, validation.prompts):
        if second not in leaked:
            same_prompt.add(train.place(first), validation.place(second))
    return Leaks(identical.finding(), same_prompt.finding(), near)


def _repeats(digests: bytearray) -> Iterator[tuple[int, int]]:
    """(first row, this row) for every row whose digest stood before."""
    first = _first_rows(digests)
    for row in _where_less(first):
        yield int(first[row]), row


def _repeats_across(train: bytearray, validation: bytearray) -> Iterator[tuple[int, int]]:
    """(validation row, first training row) for every validation digest that was trained."""
    count = len(train) // DIGEST_BYTES
    first = _first_rows(train + validation)
    for row in _where_less(first):
        if row >= count > first[row]:
            yield row - count, int(first[row])


def _where_less(first: NDArray[np.int64]) -> list[int]:
    import numpy as np

    rows: list[int] = np.flatnonzero(first < np.arange(len(first))).tolist()
    return rows


def _first_rows(digests: bytearray) -> NDArray[np.int64]:
    """For each row the first row with the same digest, itself if there is none before it."""
    import numpy as np

    keys = np.frombuffer(digests, dtype=np.uint64).reshape(-1, DIGEST_BYTES // 8)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal digests stay in order of rows
    in_order = keys[order]
    starts = np.ones(len(keys), dtype=bool)
    starts[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    first = np.empty(len(keys), dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first


def _digest(digests: bytearray, row: int) -> bytearray:
    return digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]


def _prompt_and_answer(example: Example) -> tuple[bytes, bytes]:
    """Digests of the last assistant message and of all before it with the tools."""
    last = max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
    answer = {key: value for key, value in example.messages[last].items() if key != "weight"}
    return _json_digest([example.messages[:last], example.tools]), _json_digest(answer)


def _json_digest(value: Any) -> bytes:
    return hashlib.sha256(_canonical(value).encode("utf-8")).digest()[:DIGEST_BYTES]


def _said(example: Example) -> str:
    """What users and the assistant say, calls included; a system prompt is often shared by all."""
    parts = []
    for message in example.messages:
        if message["role"] in ("user", "assistant"):
            parts.append(message["content"])
            for call in message.get("tool_calls", ()):
                parts += [call["function"]["name"], call["function"]["arguments"]]
    return "\n".join(parts)
