"""The engine: takes requests; each step writes a token of every answer that has a place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import psutil
import torch

from tanren.engine import refusals
from tanren.engine.answer import Answer, Question
from tanren.engine.batch import batch_on
from tanren.engine.choose import Wishes, choose
from tanren.engine.lanes import Lane, lane_key, places
from tanren.engine.lines import too_deep
from tanren.engine.models import AllInUse, Models
from tanren.engine.prompt import prompt_ids
from tanren.engine.served import Served
from tanren.engine.structure.constraint import matcher_of
from tanren.engine.structure.matcher import Matcher
from tanren.engine.wire import (
    Accepted,
    ChatRequest,
    EngineSettings,
    EngineState,
    Failed,
    Reply,
    Unloaded,
)
from tanren.errors import ModelError, UserError, WorkError

CHUNK_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens of prompts that are read between two steps of the answers being written."""
_SMALLEST_CHUNK = 8


@dataclass(eq=False)
class _Waiting:
    request: ChatRequest
    arrived: int
    question: Question | None = None

    @property
    def has_no_place(self) -> bool:
        question = self.question
        return question is None or len(question.open_choices) == question.unfinished


class Engine:
    """`submit`, `cancel` and `unload` say what to do, `step` does it; all of one thread.

    Requests are answered in the order of their arrival: who is first in line waits until there is
    room, and nobody passes. A row takes up `prompt + room` positions from the start.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self.models = Models(max_bases=settings.max_bases, max_adapters=settings.max_adapters)
        self._waiting: deque[_Waiting] = deque()
        self._questions: dict[str, Question] = {}
        self._lanes: dict[tuple[object, ...], Lane] = {}
        self._unloads: list[str | None] = []
        self._arrivals = count()
        self._starts = count()
        self._steps = 0
        self._tokens = 0
        self._limit = settings.batch_tokens
        self._chunk: int | None = None
        self._full = False  # of memory: nobody enters before somebody has left

    # --- what it is told --------------------------------------------------------------------------

    def submit(self, request: ChatRequest) -> list[Reply]:
        if request.id in self._questions or any(w.request.id == request.id for w in self._waiting):
            return [refusals.same_id(request)]
        if len(self._waiting) >= self._settings.max_waiting and not self._has_place():
            return [refusals.busy(request, len(self._waiting))]
        self._waiting.append(_Waiting(request, next(self._arrivals)))
        return []

    def cancel(self, request_id: str) -> None:
        """Its answers' places are free at the next step. Unknown ids are of no matter: the last
        answer and its cancellation may cross.
        """
        self._waiting = deque(w for w in self._waiting if w.request.id != request_id)
        question = self._questions.get(request_id)
        if question is not None:
            self._end(question)

    def unload(self, folder: str | None) -> None:
        """`Unloaded` is said when nobody uses it any more."""
        self._unloads.append(folder)

    def give_up(self, why: str) -> list[Reply]:
        """The end of everything in hand."""
        waiting = [w.request.id for w in self._waiting if w.request.id not in self._questions]
        names = [*self._questions, *waiting]
        for name in names:
            self.cancel(name)
        return [refusals.failed(name, why) for name in names]

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._questions or self._unloads)

    def state(self) -> EngineState:
        process = psutil.Process()
        memory = process.memory_info().rss
        if torch.cuda.is_available():
            memory = torch.cuda.memory_reserved()
        return EngineState(
            running=sum(len(lane.answers()) for lane in self._lanes.values()),
            waiting=sum(waiting.has_no_place for waiting in self._waiting),
            bases=self.models.bases,
            adapters=self.models.adapters,
            memory_bytes=memory,
            steps=self._steps,
            tokens=self._tokens,
            process=process.pid,
        )

    # --- one step ---------------------------------------------------------------------------------

    def step(self) -> list[Reply]:
        """A chunk of prompts is read and every answer gets a token; what became certain by it."""
        said: list[Reply] = []
        self._sweep()
        while self._waiting and self._admit(self._waiting[0], said):
            pass
        self._read(said)
        for lane in list(self._lanes.values()):
            if lane.batch.answers:
                self._write(lane, said)
        self._sweep()
        said += self._unloaded()
        self._steps += 1
        return said

    def _sweep(self) -> None:
        """Frees the places of answers that are complete or wanted no more."""
        for lane in list(self._lanes.values()):
            before = len(lane.batch.answers)
            lane.sweep()
            if len(lane.batch.answers) < before:
                self._full = False
            if not (lane.batch.answers or lane.prefill or lane.pending):
                del self._lanes[lane.key]
        if not self._lanes:
            self._full, self._limit = False, self._settings.batch_tokens

    def _unloaded(self) -> list[Reply]:
        said: list[Reply] = []
        self.models.drop_outdated()
        for folder in list(self._unloads):
            if self.models.close(folder):
                self._unloads.remove(folder)
                said.append(Unloaded(folder))
        return said

    # --- a place for whoever is first in line -----------------------------------------------------

    def _admit(self, first: _Waiting, said: list[Reply]) -> bool:
        """Whether the next one may be looked at."""
        if first.question is None:
            try:
                question = self._asked(first)
            except AllInUse:
                return False
            if isinstance(question, Failed):
                self._waiting.popleft()
                said.append(question)
                return True
            first.question = question
            self._questions[first.request.id] = question
            served = question.served
            served.users += 1
            said.append(Accepted(first.request.id, len(question.prompt), served.fingerprint))
        question = first.question
        if not question.ended:
            failure = self._seat(question)
            if failure is not None:
                said.append(failure)
                self._end(question)
        if question.ended or not question.open_choices:
            self._waiting.popleft()
            return True
        return False

    def _asked(self, waiting: _Waiting) -> Question | Failed:
        """The request with its model loaded and its prompt rendered, or why that cannot be."""
        request = waiting.request
        try:
            served = self.models.open(request.target)
        except ModelError as error:
            return refusals.no_model(request, error)
        try:
            if request.tools and request.read_tools and served.form is None:
                return refusals.no_tools(request)
            prompt = prompt_ids(served.renderer, request.messages, request.tools)
            if prompt is None:  # a tokenizer would end the process, and everybody's answers with it
                return refusals.not_text(request)
            if request.constraint is not None:
                _matcher(request, served)  # what cannot be enforced is said before anything else
        except UserError as error:
            return refusals.not_rendered(request, error)
        except RecursionError:
            return too_deep(request.id)
        most = request.max_tokens or self._settings.max_tokens
        room = int(min(most, served.base.context - len(prompt)))
        if room < 1 or not prompt:
            return refusals.too_long(request, len(prompt), served.base.context)
        choices = list(range(request.choices))
        question = Question(request, served, prompt, room, waiting.arrived, choices)
        question.unfinished = request.choices
        return question

    def _seat(self, question: Question) -> Failed | None:
        """Gives places to as many of its choices as there is room for."""
        key = lane_key(question)
        lane = self._lanes.get(key)
        while question.open_choices and self._fits(question, lane):
            if lane is None:
                lane = self._lanes[key] = Lane.of(question)
            index = question.open_choices.pop(0)
            try:
                matcher = _matcher(question.request, question.served)
            except UserError as error:
                return refusals.not_rendered(question.request, error)
            wishes = Wishes.of(question.request, index, question.room, matcher)
            lane.pending.append(Answer(question, index, wishes, next(self._starts)))
        return None

    def _fits(self, question: Question, lane: Lane | None) -> bool:
        if not self._has_place() or self._full:
            return False
        others = [other for other in self._lanes.values() if other is not lane]
        used = sum(other.positions() for other in others)
        mine = lane.positions(1, question.positions) if lane else question.positions
        alone = not used and not (lane and lane.answers())
        return alone or used + mine <= self._limit

    def _has_place(self) -> bool:
        running = sum(len(lane.answers()) for lane in self._lanes.values())
        return running < self._settings.max_batch

    # --- prompts ----------------------------------------------------------------------------------

    def _read(self, said: list[Reply]) -> None:
        """A chunk of the prompts of whoever has waited longest."""
        ready = [lane for lane in self._lanes.values() if lane.can_read]
        if not ready:
            return
        lane = min(ready, key=_first_start)
        chunk = self._chunk or CHUNK_TOKENS.get(lane.base.device.type, 4096)
        prefill = lane.prefill or lane.begin_reading(chunk)
        try:
            logits = prefill.advance(max(_SMALLEST_CHUNK, chunk))
            if logits is None:
                return
            lane.prefill = None
            self._accept(prefill.answers, logits, said)
            lane.batch.join(prefill, places(prefill.answers, ended=False))
            return
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as error:
            lane.prefill = None
            self._fail_all(prefill.answers, refusals.broken(error), said)
            return
        # Past the handler: inside, the traceback would still hold the memory.
        lane.prefill = None
        self._chunk = max(1, chunk // 2)
        victims = list(prefill.answers)
        if lane.batch.answers and not lane.batch.is_sound:
            victims += lane.batch.answers
            lane.batch = batch_on(lane.base, alone=lane.alone)
        self._begin_again(victims, said)

    # --- answers ----------------------------------------------------------------------------------

    def _write(self, lane: Lane, said: list[Reply]) -> None:
        answers = list(lane.batch.answers)
        try:
            logits = lane.batch.step()
            self._accept(answers, logits, said)
            return
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as error:
            del self._lanes[lane.key]
            self._fail_all(lane.answers(), refusals.broken(error), said)
            return
        newest = sorted(answers, key=lambda answer: answer.started)[len(answers) // 2 :]
        if lane.batch.is_sound:
            lane.batch.drop([place for place, answer in enumerate(answers) if answer in newest])
        else:
            newest = answers
            lane.batch = batch_on(lane.base, alone=lane.alone)
        self._begin_again(newest, said)

    def _accept(self, answers: Sequence[Answer], logits: torch.Tensor, said: list[Reply]) -> None:
        """Gives each answer its next token. One whose numbers are broken fails alone."""
        chosen = choose(logits, [answer.wishes for answer in answers])
        for answer, token in zip(answers, chosen, strict=True):
            question = answer.question
            if question.ended or answer.finished:
                continue
            try:
                said += answer.accept(token)
            except WorkError as error:
                said.append(refusals.not_written(answer, error))
                self._end(question)
                continue
            self._tokens += 1
            if not question.unfinished:
                self._end(question)

    def _begin_again(self, answers: Sequence[Answer], said: list[Reply]) -> None:
        """There is too little memory for these. They go back in line; but what was shown cannot be
        taken back, and one that is alone will never fit.
        """
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        left = [a for lane in self._lanes.values() for a in lane.answers() if a not in answers]
        self._full = bool(left)
        own = [answer.question.positions for answer in answers]
        tried = sum(lane.positions() for lane in self._lanes.values()) + sum(own)
        self._limit = max(*own, tried * 3 // 4)
        questions = list(dict.fromkeys(answer.question for answer in answers))
        hopeless = len(answers) == 1 and not left
        for question in sorted(questions, key=lambda question: -question.arrived):
            again = [a for a in answers if a.question is question and not a.finished]
            if hopeless or any(answer.has_shown for answer in again):
                self._fail_all(again, refusals.no_memory(question, hopeless), said)
            elif again and not question.ended:
                self._put_back(question, [answer.index for answer in again])

    def _put_back(self, question: Question, choices: Iterable[int]) -> None:
        question.open_choices = sorted({*question.open_choices, *choices})
        if all(waiting.question is not question for waiting in self._waiting):
            self._waiting.appendleft(_Waiting(question.request, question.arrived, question))

    def _fail_all(self, answers: Iterable[Answer], why: str, said: list[Reply]) -> None:
        for question in dict.fromkeys(answer.question for answer in answers):
            if not question.ended:
                said.append(refusals.failed(question.request.id, why))
                self._end(question)

    def _end(self, question: Question) -> None:
        if not question.ended:
            question.ended = True
            question.served.users -= 1
            del self._questions[question.request.id]


def _first_start(lane: Lane) -> int:
    answers = lane.prefill.answers if lane.prefill else lane.pending
    return min(answer.started for answer in answers)


def _matcher(request: ChatRequest, served: Served) -> Matcher | None:
    if request.constraint is None:
        return None
    tools = request.tools or ()
    form = served.form if request.constraint.kind == "tools" else None
    lead = served.renderer.facts.reply_prefix
    return matcher_of(request.constraint, served.vocabulary, tools=tools, form=form, lead=lead)
