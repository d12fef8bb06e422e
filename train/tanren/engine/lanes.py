"""Which answers may share a batch, and which prompts are read next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tanren.engine.answer import Answer, Question
from tanren.engine.batch import ClosedBatch, OpenBatch, Prefill, batch_on
from tanren.engine.resident import ResidentBase

_SMALL = 10  # bits: answers of up to 1,024 positions are of one size
_ALIKE = 1.25
_SLACK = 16
"""Prompts within this factor, and so many tokens, are read side by side."""

Key = tuple[int, str | None, int, int]


def lane_key(question: Question) -> Key:
    """Same base; adapters that can be mixed, or one that cannot; like size, so that a row is padded
    to four times its length at most. Where the longest row changes the others, a question is alone.
    """
    served = question.served
    size = max(0, (question.positions - 1).bit_length() - _SMALL + 1) // 2
    apart = question.arrived if served.base.rotates_by_length else 0
    return id(served.base), served.adapter if served.alone else None, size, apart


@dataclass(eq=False)
class Lane:
    """Answers that share batches. `pending`: their prompts are not read yet."""

    key: Key
    base: ResidentBase
    alone: bool
    batch: OpenBatch | ClosedBatch
    pending: list[Answer] = field(default_factory=list)
    prefill: Prefill | None = None

    @classmethod
    def of(cls, question: Question) -> Lane:
        served = question.served
        batch = batch_on(served.base, alone=served.alone)
        return cls(lane_key(question), served.base, served.alone, batch)

    def answers(self) -> list[Answer]:
        """All of them, wherever they stand, without those whose question has ended."""
        reading = self.prefill.answers if self.prefill else []
        everything = [*self.batch.answers, *reading, *self.pending]
        return [answer for answer in everything if not answer.question.ended]

    def positions(self, more: int = 0, longest: int = 0) -> int:
        """What its batch may come to fill, with `more` answers of up to `longest` positions."""
        rows = self.answers()
        width = max((answer.question.positions for answer in rows), default=0)
        return (len(rows) + more) * max(width, longest)

    @property
    def can_read(self) -> bool:
        """There are prompts to be read, and their answers could go on."""
        if self.prefill is not None:
            return True
        return bool(self.pending) and (self.base.layers is not None or not self.batch.answers)

    def begin_reading(self, tokens: int) -> Prefill:
        """The first pending prompt and those like it, about `tokens` in all."""
        first = len(self.pending[0].question.prompt)
        chosen: list[Answer] = []
        questions: set[int] = set()
        for answer in self.pending:
            question = answer.question
            length = len(question.prompt)
            if max(first, length) > _ALIKE * min(first, length) + _SLACK:
                continue
            rows = len(questions | {id(question)})
            if questions and rows * max(first, length) > tokens and id(question) not in questions:
                continue
            questions.add(id(question))
            chosen.append(answer)
        self.pending = [answer for answer in self.pending if answer not in chosen]
        self.prefill = Prefill(self.base, chosen, alone=self.alone)
        return self.prefill

    def sweep(self) -> None:
        """Lets go of answers whose question has ended."""
        self.pending = [answer for answer in self.pending if not answer.question.ended]
        if self.prefill and all(answer.question.ended for answer in self.prefill.answers):
            self.prefill = None
        gone = places(self.batch.answers, ended=True)
        if gone:
            self.batch.drop(gone)


def places(answers: Sequence[Answer], *, ended: bool) -> list[int]:
    """Where answers stand that are complete or whose question has ended; or all the others."""
    return [
        place
        for place, answer in enumerate(answers)
        if (answer.finished or answer.question.ended) is ended
    ]
