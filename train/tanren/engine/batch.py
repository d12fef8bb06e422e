"""Answers written together on one base: they join while others are being written, and leave when
they are complete.

A `Lane` holds answers that may share a batch. Prompts are read in groups of like length, a chunk of
tokens at a time, so that the answers being written never wait long.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tanren.engine.answer import Answer
from tanren.engine.cache import SlotCache
from tanren.engine.resident import ResidentBase
from tanren.generate.forward import PaddedBatch


class Prefill:
    """A group of prompts being read. Answers to the same prompt share its row."""

    def __init__(self, base: ResidentBase, answers: Sequence[Answer], *, alone: bool) -> None:
        self.answers = list(answers)
        self._base = base
        self._alone = alone
        questions = list(dict.fromkeys(answer.question for answer in answers))
        place = {id(question): row for row, question in enumerate(questions)}
        self._row_of = [place[id(answer.question)] for answer in answers]
        self._adapters = [question.served.adapter for question in questions]
        self._whole = PaddedBatch.of([question.prompt for question in questions], base.device)
        self._done = 0
        self.cache: SlotCache | None = None
        if base.layers is not None:
            self.cache = SlotCache(base.layers)
            self.cache.begin(len(questions), self._whole.tokens.shape[1])

    @property
    def rows(self) -> torch.Tensor:
        """The row of each answer, int64."""
        return torch.tensor(self._row_of, device=self._base.device)

    def advance(self, tokens: int) -> torch.Tensor | None:
        """Reads about `tokens` more. At the end: logits, (answers, vocab)."""
        whole = self._whole
        rows, width = whole.tokens.shape
        columns = width if self.cache is None else max(1, tokens // rows)
        begin, end = self._done, min(width, self._done + columns)
        chunk = PaddedBatch(
            whole.tokens[:, begin:end],
            whole.positions[:, begin:end],
            None if whole.mask is None else whole.mask[:, :end],
            self.cache,
        )
        if self.cache is not None:
            self.cache.settle(begin)
        logits = self._base.next_logits(chunk, self._adapters, alone=self._alone)
        if self.cache is not None:
            self.cache.advance(end - begin)
        self._done = end
        if end < width:
            return None
        self._whole.cache = chunk.cache
        return logits[self.rows]

    def closed(self) -> PaddedBatch:
        """The batch itself, for bases whose answers cannot join each other: a row per answer."""
        batch = self._whole
        batch.keep(self.rows)
        return batch


class OpenBatch:
    """Answers of any length, written a token a step; more may join at any step."""

    def __init__(self, base: ResidentBase, *, alone: bool) -> None:
        assert base.layers is not None
        self.answers: list[Answer] = []
        self._base = base
        self._alone = alone
        self._cache = SlotCache(base.layers)

    @property
    def is_sound(self) -> bool:
        """Whether it can go on after a step that failed."""
        return self._cache.is_whole

    def join(self, prefill: Prefill, rows: Sequence[int]) -> None:
        """Takes over these of the prefill's answers, each of which has its first token."""
        if rows:
            assert prefill.cache is not None
            self._cache.join(prefill.cache, prefill.rows[list(rows)])
            self.answers += [prefill.answers[row] for row in rows]

    def step(self) -> torch.Tensor:
        """Logits (answers, vocab) for the next token of each."""
        lengths = [answer.length - 1 for answer in self.answers]  # the last token is not read yet
        longest = max(lengths)
        self._cache.settle(longest)
        device = self._base.device
        tokens = torch.tensor([[answer.last_token] for answer in self.answers], device=device)
        positions = torch.tensor([[length] for length in lengths], device=device)
        mask = None
        if min(lengths) < longest:
            columns = torch.arange(longest + 1, device=device)
            mask = (columns >= longest - positions).long()
        batch = PaddedBatch(tokens, positions, mask, self._cache)
        adapters = [answer.question.served.adapter for answer in self.answers]
        logits = self._base.next_logits(batch, adapters, alone=self._alone)
        self._cache.advance(1)
        return logits

    def drop(self, gone: Sequence[int]) -> None:
        order = self._cache.leave(gone)
        self.answers = [self.answers[row] for row in order]


class ClosedBatch:
    """Answers that began together: for models whose layers keep a state, not keys and values."""

    is_sound = False
    """A step that fails half-way leaves some layers a token ahead."""

    def __init__(self, base: ResidentBase, *, alone: bool) -> None:
        self.answers: list[Answer] = []
        self._base = base
        self._alone = alone
        self._batch: PaddedBatch | None = None

    def join(self, prefill: Prefill, rows: Sequence[int]) -> None:
        """Only while it is empty."""
        assert self._batch is None
        if rows:
            self._batch = prefill.closed()
            self.answers = list(prefill.answers)
            self.drop([row for row in range(len(self.answers)) if row not in rows])

    def step(self) -> torch.Tensor:
        assert self._batch is not None
        device = self._base.device
        self._batch.append(torch.tensor([a.last_token for a in self.answers], device=device))
        adapters = [answer.question.served.adapter for answer in self.answers]
        return self._base.next_logits(self._batch, adapters, alone=self._alone)

    def drop(self, gone: Sequence[int]) -> None:
        left = [row for row in range(len(self.answers)) if row not in gone]
        self.answers = [self.answers[row] for row in left]
        if self._batch is not None and gone and left:
            self._batch.keep(torch.tensor(left, device=self._base.device))
        elif not left:
            self._batch = None


def batch_on(base: ResidentBase, *, alone: bool) -> OpenBatch | ClosedBatch:
    kind = ClosedBatch if base.layers is None else OpenBatch
    return kind(base, alone=alone)
