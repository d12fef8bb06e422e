"""From conversations to answers: rendering, batching, and the loop over tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import torch
from transformers import PreTrainedTokenizerBase

from tanren.errors import DivergenceError, Fault, OutOfMemoryError, UserError
from tanren.generate.choose import Decoding, TokenChooser
from tanren.generate.forward import BorrowedModel, PaddedBatch
from tanren.generate.pieces import StopCut, TextPieces, decode_answer

Message = dict[str, Any]
FinishReason = Literal["stop", "length"]

BATCH_TOKENS = 16_384
"""Positions a batch may fill. With 128 KiB each (8 B parameters, grouped heads, bf16): 2 GiB."""


class StopFacts(Protocol):
    @property
    def stop_ids(self) -> tuple[int, ...]: ...


class PromptRenderer(Protocol):
    """The part of `template.ChatRenderer` that is needed: prompts as training saw them (T1)."""

    @property
    def facts(self) -> StopFacts: ...

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[Message] | None = None
    ) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    """Without special tokens and stop text. A character that the limit cut in half is left out."""
    token_ids: tuple[int, ...]
    """As written, without the stop token; up to the token that completed a stop text."""
    prompt_tokens: int
    finish_reason: FinishReason
    """`stop`: stop token or stop text; `length`: `max_new_tokens` or the model's context."""
    seconds: float
    """From the start of its batch until the answer was complete."""


def answer_all(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    renderer: PromptRenderer,
    conversations: Sequence[Sequence[Message]],
    decoding: Decoding,
    *,
    tools: Sequence[Sequence[Message] | None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    streams: Sequence[int] | None = None,
    on_answer: Callable[[int, Answer], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """One answer per conversation, in the same order; `tools` has one entry per conversation.

    Prompts of like length share a batch, the longest first, so that too little memory shows at
    once. A batch that runs out of memory is split, and its unfinished answers begin again.
    `streams` numbers each conversation's random draws (its place by default), so that a part of a
    list is sampled as the whole was. `on_answer(place, answer)` is called as soon as an answer is
    complete, `on_progress(done, total)` after each step that finished one. Raises UserError before
    the first answer, with a fault for every conversation that cannot be answered.
    """
    writer = _Writer(model, tokenizer, renderer, decoding, streams)
    prompts = writer.prompts(conversations, tools or [None] * len(conversations))
    answers: dict[int, Answer] = {}
    queue = deque(_batches(prompts, batch_tokens))
    while queue:
        batch = queue.popleft()
        try:
            for finished in writer.finished(batch):
                answers |= finished
                if on_answer is not None:
                    for place, answer in finished.items():
                        on_answer(place, answer)
                if on_progress is not None:
                    on_progress(len(answers), len(prompts))
            continue
        except torch.OutOfMemoryError:
            left = [prompt for prompt in batch if prompt.index not in answers]
        # Past the handler: inside, the traceback would still hold the batch's memory.
        if len(left) == 1:
            raise OutOfMemoryError.of(_too_large(left[0]))
        half = (len(left) + 1) // 2
        queue.extendleft([left[half:], left[:half]])
    return [answers[prompt.index] for prompt in prompts]


def stream_answer(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    renderer: PromptRenderer,
    messages: Sequence[Message],
    decoding: Decoding,
    *,
    tools: Sequence[Message] | None = None,
) -> AnswerStream:
    """The answer in pieces of whole characters, each as soon as it is certain.

    Raises UserError here, not on iteration, if the conversation cannot be answered.
    """
    writer = _Writer(model, tokenizer, renderer, decoding)
    (prompt,) = writer.prompts([messages], [tools])
    draft = writer.draft(prompt, live=True)
    return AnswerStream(writer.steps([draft]), draft)


class AnswerStream(Iterator[str]):
    """Iterate for the pieces; then `answer` is there. `close` or leaving `with` ends the work."""

    def __init__(self, steps: Generator[list[str], None, None], draft: _Draft) -> None:
        self._steps = steps
        self._draft = draft

    def __next__(self) -> str:
        for (piece,) in self._steps:
            if piece:
                return piece
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The complete answer: its text is the joined pieces. RuntimeError before the end."""
        if self._draft.finish_reason is None:
            raise RuntimeError("the answer is not complete; iterate to the end first")
        return self._draft.answer()

    def close(self) -> None:
        self._steps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Prompt:
    index: int  # of its conversation
    ids: list[int]
    room: int  # tokens that the answer may have


class _Draft:
    """An answer being written. `live` follows its text token by token, else it is read at the end.

    Streams and stop texts need a live draft; reading at the end is much cheaper.
    """

    def __init__(
        self,
        prompt: _Prompt,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: frozenset[int],
        stops: Sequence[str],
        *,
        live: bool,
    ) -> None:
        self.prompt = prompt
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._live = live
        self._characters = TextPieces(tokenizer)
        self._stops = StopCut(stops)
        self._text = ""
        self._began = perf_counter()
        self._seconds = 0.0

    def accept(self, token_id: int) -> str:
        """Takes the next token; returns the text that became certain by it."""
        if token_id in self._stop_ids:
            return self._finish("stop")
        self.token_ids.append(token_id)
        piece = self._show(self._characters.push(token_id)) if self._live else ""
        if self._stops.hit:
            return piece + self._finish("stop")
        if len(self.token_ids) == self.prompt.room:
            return piece + self._finish("length")
        return piece

    def answer(self) -> Answer:
        assert self.finish_reason is not None
        return Answer(
            text=self._text,
            token_ids=tuple(self.token_ids),
            prompt_tokens=len(self.prompt.ids),
            finish_reason=self.finish_reason,
            seconds=self._seconds,
        )

    def _show(self, text: str) -> str:
        shown = self._stops.push(text)
        self._text += shown
        return shown

    def _finish(self, reason: FinishReason) -> str:
        """Ends the answer; returns the text that was held back until now."""
        cut = reason == "length"
        piece = ""
        if not self._live:
            self._text = decode_answer(self._tokenizer, self.token_ids, cut=cut)
        elif not self._stops.hit:
            piece = self._show(self._characters.rest(cut=cut))
            held = self._stops.rest()
            self._text += held
            piece += held
        self.finish_reason = "stop" if self._stops.hit else reason
        self._seconds = perf_counter() - self._began
        return piece


class _Writer:
    """Model, tokenizer, renderer and decoding together: what every answer of a call shares."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        renderer: PromptRenderer,
        decoding: Decoding,
        streams: Sequence[int] | None = None,
    ) -> None:
        self._model = BorrowedModel(model)
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._decoding = decoding
        self._streams = streams
        self._stop_ids = frozenset(renderer.facts.stop_ids) | self._model.eos_ids

    def prompts(
        self,
        conversations: Sequence[Sequence[Message]],
        tools: Sequence[Sequence[Message] | None],
    ) -> list[_Prompt]:
        """Every conversation rendered, with its room in the model's context; all faults at once."""
        prompts: list[_Prompt] = []
        faults: list[Fault] = []
        pairs = zip(conversations, tools, strict=True)
        for index, (messages, tools_of_it) in enumerate(pairs):
            where = f"conversations[{index}]"
            try:
                ids = self._renderer.prompt_ids(messages, tools_of_it)
            except UserError as error:
                faults += [_within(where, fault) for fault in error.faults]
                if not error.faults:
                    raise
                continue
            room = min(self._decoding.max_new_tokens, self._model.context - len(ids))
            if not ids or room < 1:
                faults.append(_does_not_fit(where, len(ids), self._model.context))
            prompts.append(_Prompt(index, ids, int(room)))
        if faults:
            raise UserError.of(*faults)
        return prompts

    def _stream(self, prompt: _Prompt) -> int:
        return prompt.index if self._streams is None else self._streams[prompt.index]

    def draft(self, prompt: _Prompt, *, live: bool) -> _Draft:
        return _Draft(prompt, self._tokenizer, self._stop_ids, self._decoding.stop, live=live)

    def finished(self, prompts: Sequence[_Prompt]) -> Iterator[dict[int, Answer]]:
        """One batch; its answers by index, each as soon as it is complete."""
        drafts = [self.draft(prompt, live=bool(self._decoding.stop)) for prompt in prompts]
        for _ in self.steps(drafts):
            done = [draft for draft in drafts if draft.finish_reason is not None]
            drafts = [draft for draft in drafts if draft.finish_reason is None]
            if done:
                yield {draft.prompt.index: draft.answer() for draft in done}

    def steps(self, drafts: list[_Draft]) -> Generator[list[str], None, None]:
        """Adds a token to every unfinished draft per step; yields the text that each step added."""
        prompts = [draft.prompt for draft in drafts]
        batch = PaddedBatch.of([prompt.ids for prompt in prompts], self._model.device)
        chooser = TokenChooser(
            self._decoding,
            [prompt.ids for prompt in prompts],
            streams=[self._stream(prompt) for prompt in prompts],
            steps=max(prompt.room for prompt in prompts),
            device=self._model.device,
        )
        try:
            while True:
                chosen = chooser.choose(self._model.next_logits(batch))
                yield _accept(drafts, chosen.tolist())
                unfinished = [row for row, draft in enumerate(drafts) if not draft.finish_reason]
                if not unfinished:
                    return
                batch.append(chosen)
                # A finished row costs its share of every pass; dropping it costs a copy of the
                # cache. At each half, the copies together cost at most one whole cache.
                if 2 * len(unfinished) <= len(drafts):
                    rows = torch.tensor(unfinished, device=self._model.device)
                    batch.keep(rows)
                    chooser.keep(rows)
                    drafts = [drafts[row] for row in unfinished]
        finally:
            self._model.forget()


def _accept(drafts: Sequence[_Draft], token_ids: Sequence[int]) -> list[str]:
    """Gives each unfinished draft its token. Raises DivergenceError for tokens of -1."""
    pairs = [
        (draft, token_id)
        for draft, token_id in zip(drafts, token_ids, strict=True)
        if draft.finish_reason is None
    ]
    faults = [_not_finite(draft) for draft, token_id in pairs if token_id < 0]
    if faults:
        raise DivergenceError.of(*faults)
    return [draft.accept(token_id) for draft, token_id in pairs]


def _batches(prompts: Sequence[_Prompt], batch_tokens: int) -> Iterator[list[_Prompt]]:
    """Longest first. Rows times (longest prompt + longest room) stays within `batch_tokens`.

    A prompt that is longer than that by itself is a batch of its own.
    """
    batch: list[_Prompt] = []
    for prompt in sorted(prompts, key=lambda prompt: len(prompt.ids), reverse=True):
        wider = [*batch, prompt]
        width = len(wider[0].ids) + max(row.room for row in wider)
        if batch and len(wider) * width > batch_tokens:
            yield batch
            wider = [prompt]
        batch = wider
    if batch:
        yield batch


def _within(where: str, fault: Fault) -> Fault:
    return replace(fault, where=f"{where}.{fault.where}")


def _does_not_fit(where: str, tokens: int, context: float) -> Fault:
    return Fault(
        where,
        f"a prompt of {tokens} tokens",
        f"1 to {context - 1} tokens (the model's context is {context}; one is for the answer)",
        "shorten the conversation" if tokens else "add a message",
    )


def _too_large(prompt: _Prompt) -> Fault:
    return Fault(
        f"conversations[{prompt.index}]",
        f"too little memory for {len(prompt.ids)} prompt tokens and up to {prompt.room} new ones",
        "memory for one answer at a time",
        "lower max_new_tokens, shorten the conversation or free memory on the device",
    )


def _not_finite(draft: _Draft) -> Fault:
    return Fault(
        f"conversations[{draft.prompt.index}], token {len(draft.token_ids)} of the answer",
        "logits that are not finite",
        "finite numbers",
        "use an earlier checkpoint; these weights have diverged",
    )
