"""The loop over one row: ask, measure, say what to mend, ask again; then a fresh try.

for each try:            the question alone
  for each turn:         the answer; when it holds to everything the row is accepted,
                         else what is wrong goes back as the user's next turn
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tanren.distill.answers import Answers
from tanren.distill.checks import Checks, values_of
from tanren.distill.constraints import Checked
from tanren.distill.rows import SourceRow
from tanren.endpoint import Failure, Reply

NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer and what was found in it. `number` counts tries, `turn` the repairs in one.
    `failure`: why there is no answer. `told`: the words that went back to the teacher.
    """

    number: int
    turn: int
    answer: str
    checked: tuple[Checked, ...] = ()
    told: str = ""
    failure: str = ""
    reply: Reply | None = None

    @property
    def holds(self) -> bool:
        return not self.failure and all(one.holds for one in self.checked)

    @property
    def broken(self) -> list[str]:
        """Names of the constraints that do not hold."""
        return [NO_ANSWER] if self.failure else [c.constraint for c in self.checked if not c.holds]

    def as_dict(self) -> dict[str, Any]:
        """For rejected.jsonl. Nothing in it differs between two runs of one teacher."""
        wrong = [one.as_dict() for one in self.checked if not one.holds]
        shown = {"try": self.number, "turn": self.turn, "answer": self.answer, "wrong": wrong}
        return {**shown, "failure": self.failure} if self.failure else shown


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row: accepted (the last attempt holds) or rejected."""

    row: SourceRow
    attempts: tuple[Attempt, ...] = field(default=())

    @property
    def accepted(self) -> bool:
        return bool(self.attempts) and self.attempts[-1].holds

    @property
    def answer(self) -> str:
        return self.attempts[-1].answer

    @property
    def first_try(self) -> tuple[Attempt, ...]:
        return tuple(one for one in self.attempts if one.number == 1)

    @property
    def values(self) -> Mapping[str, Any]:
        return values_of(self.attempts[-1].checked)

    @property
    def seconds(self) -> float:
        """Of the requests that were answered, without waits before them."""
        return sum(one.reply.seconds for one in self.attempts if one.reply)

    @property
    def prompt_tokens(self) -> int | None:
        return _total([one.reply.prompt_tokens for one in self.attempts if one.reply])

    @property
    def answer_tokens(self) -> int | None:
        return _total([one.reply.answer_tokens for one in self.attempts if one.reply])


def _total(counts: list[int | None]) -> int | None:
    """None where the teacher did not tell one of them."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


class Loop:
    """`settle` decides one row; it may run for many rows at once."""

    def __init__(self, answers: Answers, checks: Checks, *, repairs: int, tries: int) -> None:
        self._answers = answers
        self._checks = checks
        self._repairs = repairs
        self._tries = tries

    async def settle(self, row: SourceRow) -> Outcome:
        """Raises what `Answers.get` raises; then the row is left undecided."""
        attempts: list[Attempt] = []
        for number in range(1, self._tries + 1):
            ended = await self._try(row, number, attempts)
            if ended or attempts[-1].holds:
                break
        return Outcome(row, tuple(attempts))

    async def _try(self, row: SourceRow, number: int, attempts: list[Attempt]) -> bool:
        """One try, added to `attempts`. True: no further try would help."""
        messages = row.asked
        for turn in range(self._repairs + 1):
            found = await self._answer(row, number, turn, messages)
            if isinstance(found, Failure):
                attempts.append(Attempt(number, turn, "", failure=found.words))
                return found.kind == "refused"
            attempt = await self._measured(row, number, turn, found)
            attempts.append(attempt)
            if attempt.holds or not found.text:
                return False
            if not all(one.mendable for one in attempt.checked if not one.holds):
                return True
            messages = [
                *messages,
                {"role": "assistant", "content": attempt.answer},
                {"role": "user", "content": attempt.told},
            ]
        return False

    async def _answer(
        self, row: SourceRow, number: int, turn: int, messages: list[dict[str, Any]]
    ) -> Reply | Failure:
        if row.given is not None and (number, turn) == (1, 0):
            return Reply(row.given, "", "stop", "", 0, 0, 0.0)
        return await self._answers.get(f"{row.key} {number} {turn}", messages)

    async def _measured(self, row: SourceRow, number: int, turn: int, found: Reply) -> Attempt:
        text = found.text
        if not text:
            return Attempt(number, turn, "", self._checks.empty(), reply=found)
        checked = await self._checks.check(text, row, cut=found.cut)
        wrong = [one.words for one in checked if not one.holds]
        told = self._checks.wording.turn(wrong) if wrong else ""
        return Attempt(number, turn, text, checked, told, reply=found)
