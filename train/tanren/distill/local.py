"""A model or run on this machine as a teacher: questions of many rows share a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tanren.artefact import artefact_of
from tanren.distill.settings import LocalTeacherConfig
from tanren.distill.teacher import Message, TeacherChoice
from tanren.endpoint import Failure, Ledger, Reply
from tanren.endpoint.spending import BudgetSpent, Cost
from tanren.errors import ConfigError, Fault, UserError
from tanren.evaluate.answering import split_reasoning
from tanren.evaluate.named_models import read_model
from tanren.generate import Answer, Decoding, answer_all
from tanren.session import Session, open_session
from tanren.template import ChatRenderer


def name_and_identity(local: LocalTeacherConfig, where: str) -> tuple[str, str]:
    """What it is called, and a digest of everything about its weights and how it is prompted."""
    if local.run is not None and artefact_of(local.run) is None:
        remedy = "`tanren runs` lists the runs there are; a plain model is named by `model`"
        raise ConfigError.of(Fault(f"{where} run", repr(local.run), "a finished run", remedy))
    named = read_model(str(local.run or local.model))
    if not named.is_local:
        remedy = "write base_url and model for an endpoint"
        raise ConfigError.of(Fault(where, repr(named.target), "a model to load", remedy))
    return named.name, named.identity


class _Stopped(Exception):
    """Nobody waits for the answers any more."""


@dataclass(slots=True)
class _Question:
    messages: list[dict[str, Any]]
    stream: int
    answer: asyncio.Future[Answer] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class LocalTeacher:
    """Whatever is asked while a batch is written makes up the next batch.

    Each answer by chance has its own draws, by its stream, whatever shares its batch; sums of
    floating point may still differ in the last bit between batches of other shapes.
    """

    def __init__(
        self, name: str, session: Session, local: LocalTeacherConfig, ledger: Ledger
    ) -> None:
        self.name = name
        self._session = session
        self._local = local
        self._ledger = ledger
        self._waiting: list[_Question] = []
        self._asked = asyncio.Event()
        self._settled = asyncio.Condition()
        self._stopping = False

    @classmethod
    @asynccontextmanager
    async def at_work(
        cls, choice: TeacherChoice, local: LocalTeacherConfig, ledger: Ledger, date: str
    ) -> AsyncIterator[LocalTeacher]:
        """Loads the weights, and lets go of them at the end."""
        session = open_session(choice.target)
        if artefact_of(choice.target) is None:
            session.renderer = ChatRenderer(session.tokenizer, date=date)
        teacher = cls(choice.name, session, local, ledger)
        work = asyncio.create_task(teacher._answer_batches())
        try:
            yield teacher
        finally:
            teacher._stopping = True
            work.cancel()
            with suppress(asyncio.CancelledError, _Stopped):
                await work

    async def ask(self, messages: Sequence[Message], *, stream: int) -> Reply | Failure:
        asked = [dict(message) for message in messages]
        why = self._unanswerable(asked)
        if why is not None:
            return Failure("refused", why)
        number = await self._reserve(asked)
        cost: Cost | None = None
        try:
            answer = await self._answer(_Question(asked, stream))
            cost = Cost(1, answer.prompt_tokens, len(answer.token_ids))
        finally:
            self._ledger.settle(number, cost)
            async with self._settled:
                self._settled.notify_all()
        return self._reply(answer)

    async def _reserve(self, messages: Sequence[Message]) -> int:
        """Waits while only questions under way stand between this one and the budget."""
        async with self._settled:
            while True:
                most = self._ledger.most(messages, self._local.max_tokens)
                if self._ledger.fits(most):
                    return self._ledger.reserve(most)
                if not self._ledger.in_flight:
                    raise BudgetSpent(self._ledger.spent_words(most))
                await self._settled.wait()

    async def _answer(self, question: _Question) -> Answer:
        self._waiting.append(question)
        self._asked.set()
        return await question.answer

    def _unanswerable(self, messages: list[dict[str, Any]]) -> str | None:
        try:
            tokens = len(self._session.renderer.prompt_ids(messages))
        except UserError as error:
            return "; ".join(fault.found for fault in error.faults) or str(error)
        context = self._session.context_length
        return None if 0 < tokens < context else f"{tokens:,} tokens in a context of {context:,}"

    def _reply(self, answer: Answer) -> Reply:
        opened = self._session.renderer.facts.thinking == "always"
        reasoning, text = split_reasoning(answer.text, opened=opened)
        return Reply(
            text, reasoning, answer.finish_reason, self.name,
            answer.prompt_tokens, len(answer.token_ids), answer.seconds,
        )  # fmt: skip

    # --- batches ----------------------------------------------------------------------------------

    async def _answer_batches(self) -> None:
        while True:
            await self._asked.wait()
            await asyncio.sleep(0)  # rows that go on in the same turn of the loop come along
            batch, self._waiting = self._waiting, []
            self._asked.clear()
            work = asyncio.ensure_future(
                asyncio.to_thread(self._write, batch, asyncio.get_running_loop())
            )
            await asyncio.wait([work])
            error = work.exception()
            if error is not None:
                _raise_in(batch, error)

    def _write(self, batch: Sequence[_Question], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own, so that a stop is heard while a batch is written."""

        def keep(place: int, answer: Answer) -> None:
            if self._stopping:
                raise _Stopped
            loop.call_soon_threadsafe(_tell, batch[place].answer, answer)

        local = self._local
        answer_all(
            self._session.model,
            self._session.tokenizer,
            self._session.renderer,
            [question.messages for question in batch],
            Decoding(local.max_tokens, local.temperature, local.top_p, seed=local.seed),
            batch_tokens=local.batch_tokens,
            streams=[question.stream for question in batch],
            on_answer=keep,
        )


def _tell(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)


def _raise_in(batch: Sequence[_Question], error: BaseException) -> None:
    """One of those that wait raises it, which ends the work; the others are let go."""
    waiting = [question.answer for question in batch if not question.answer.done()]
    for number, answer in enumerate(waiting):
        if number == 0:
            answer.set_exception(error)
        else:
            answer.cancel()
