"""Measures one answer by all constraints; judges are asked about those that hold to the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from tanren.distill.answers import Unanswered
from tanren.distill.constraints import Checked, Constraints, Problem
from tanren.distill.constraints.base import Constraint, Measured
from tanren.distill.constraints.judge import JudgeFacts
from tanren.distill.folder import DistillFolder
from tanren.distill.rows import SourceRow, digest
from tanren.distill.wording import Wording
from tanren.endpoint import Failure, Journal, Ledger, Reply, ReplyCache
from tanren.endpoint.client import Client, opened

if TYPE_CHECKING:
    from tanren.evaluate.judges import Judge, Said


class OpenJudge:
    """A judge that can be asked; its replies are in the journal as soon as they are there."""

    def __init__(self, facts: JudgeFacts, journal: Journal, client: Client | None) -> None:
        self.facts = facts
        self.ledger = client.ledger if client is not None else None
        self._journal = journal
        self._client = client
        self._local: Judge | None = None
        self._turn = asyncio.Lock()
        self._known = {record["key"]: record["reply"] for record in journal.records}

    async def measured(self, text: str, row: SourceRow) -> Measured:
        """Raises Unanswered where the judge does not answer this time."""
        messages = self.facts.messages(text, row)
        key = digest([self.facts.identity, messages])
        reply = self._known.get(key)
        if reply is None:
            reply = await self._ask(messages)
            self._known[key] = reply
            self._journal.append({"key": key, "judge": self.facts.name, "reply": reply})
        return self.facts.measured(reply)

    async def _ask(self, messages: list[dict[str, Any]]) -> str:
        if self._client is not None:
            found: Reply | Failure = await self._client.ask(messages)
            if isinstance(found, Reply):
                return found.text
            raise Unanswered(f"the judge {self.facts.name}: {found.words}")
        async with self._turn:  # one model on this machine answers one question at a time
            said = await asyncio.to_thread(self._ask_locally, messages)
        if isinstance(said, Failure):
            raise Unanswered(f"the judge {self.facts.name}: {said.words}")
        return said.text

    def _ask_locally(self, messages: list[dict[str, Any]]) -> Said | Failure:
        from tanren.evaluate.opinions import JudgeFile
        from tanren.evaluation.weights import local_judge

        facts = self.facts
        if self._local is None:
            self._local = local_judge(
                JudgeFile(
                    facts.constraint.file, facts.name, (facts.prompt,),
                    local=facts.local, max_tokens=facts.max_tokens,
                )
            )  # fmt: skip
        found: list[Said | Failure] = []
        self._local.ask([messages], lambda _, said: found.append(said))
        return found[0]


class Checks:
    """All constraints of a distillation, ready to measure."""

    def __init__(
        self, constraints: Constraints, wording: Wording, judges: Sequence[OpenJudge] = ()
    ) -> None:
        self._constraints = constraints
        self._wording = wording
        self._judges = judges

    def spent(self) -> dict[str, dict[str, Any]]:
        """What the judges behind endpoints did cost, by name."""
        ledgers = {judge.facts.name: judge.ledger for judge in self._judges}
        return {name: ledger.as_dict() for name, ledger in ledgers.items() if ledger is not None}

    @property
    def wording(self) -> Wording:
        return self._wording

    async def check(self, text: str, row: SourceRow, *, cut: bool) -> tuple[Checked, ...]:
        """Every verdict, of the constraints first. `cut`: the answer broke off."""
        found = [self._checked("answer.whole", not cut, Problem("answer.cut") if cut else None)]
        for one in self._constraints.plain:
            found.append(self._verdict(one, one.measure(text, row)))
        for judge in self._judges if all(one.holds for one in found) else ():
            found.append(self._verdict(judge.facts.constraint, await judge.measured(text, row)))
        return tuple(found)

    def empty(self) -> tuple[Checked, ...]:
        """The verdict on no answer at all."""
        return (self._checked("answer.whole", False, Problem("answer.empty")),)

    def _verdict(self, one: Constraint, measured: Measured) -> Checked:
        return self._checked(one.name, measured.value, measured.problem, one.words)

    def _checked(
        self, name: str, value: Any, problem: Problem | None, own: str | None = None
    ) -> Checked:
        if problem is None:
            return Checked(name, value)
        words = self._wording.of(problem, own if problem.mendable else None)
        return Checked(name, value, words or problem.code, problem.mendable)


@asynccontextmanager
async def opened_checks(
    constraints: Constraints, wording: Wording, folder: DistillFolder
) -> AsyncIterator[Checks]:
    """With the judges' clients, whose spending is counted over all starts."""
    async with AsyncExitStack() as stack:
        judges: list[OpenJudge] = []
        journal = stack.enter_context(folder.judgements()) if constraints.judges else None
        for number, facts in enumerate(constraints.judges):
            assert journal is not None
            client = None
            if facts.endpoint is not None:
                spending = stack.enter_context(folder.spending(number))
                endpoint = facts.endpoint
                ledger = Ledger(endpoint.budget, endpoint.prices, spending)
                client = await stack.enter_async_context(
                    opened(endpoint, cache=ReplyCache(), ledger=ledger)
                )
            judges.append(OpenJudge(facts, journal, client))
        yield Checks(constraints, wording, judges)


def values_of(checked: Sequence[Checked]) -> Mapping[str, Any]:
    """Measured values by constraint, as they lie in the provenance."""
    return {one.constraint: one.value for one in checked if one.constraint != "answer.whole"}
