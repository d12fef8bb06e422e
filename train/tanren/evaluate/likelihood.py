"""How likely a model holds given replies to be: loss per reply, and the drift between two models.

Losses are sums over a reply's own tokens, end of turn included, exactly those that training labels.
Logits exist for labelled positions alone and in chunks, so memory stays flat whatever the
vocabulary (T13), and a row's loss does not depend on what shares its pass (T31).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tanren.adapter import adapter_switched_off
from tanren.batches import IGNORED, Pass, Row, assemble, plan
from tanren.chat import Example
from tanren.encode import EncodeSettings, encode
from tanren.errors import DivergenceError, Fault, OutOfMemoryError
from tanren.generate import BATCH_TOKENS
from tanren.loss import chunk_length
from tanren.model import assert_not_repacked, base_of
from tanren.template import ChatRenderer

CPU_TOKENS = 2048
"""Of a pass on a CPU. Beyond, activations leave its caches: 300 references of the tiny model took
1.38 s in passes of 2,048 tokens and 2.52 s in passes of 16,384 (AMD EPYC, one thread).
"""

_HEAD_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-2}


@dataclass(frozen=True, slots=True)
class ReplyLoss:
    """Mean negative log-likelihood of a reply's tokens, in nats, and their number."""

    loss: float
    tokens: int


def reply_rows(
    examples: Sequence[Example], renderer: ChatRenderer, context: int
) -> tuple[dict[int, Row], dict[int, str]]:
    """Each example's last trained reply as token ids and targets, by the example's `line`.

    Second, by line: why an example has none (too long for `context` tokens, refused by the
    template). Lines must differ.
    """
    settings = EncodeSettings(model_max_length=context, train_on="last", truncation="refuse")
    encoded, ledger = encode(examples, renderer, settings)
    rows = {int(encoded.source_line[i]): Row.of(*encoded.row(i)) for i in range(len(encoded))}
    refused = {e.line: _why(e, ledger.faults) for e in examples if e.line not in rows}
    return rows, refused


def _why(example: Example, faults: Sequence[Fault]) -> str:
    place = f"{example.source}:{example.line}"
    for fault in faults:
        if fault.where == place or fault.where.startswith(f"{place} "):
            return fault.found
    return "refused by the chat template"


def reply_losses(
    model: nn.Module,
    rows: Mapping[int, Row],
    *,
    pad_id: int,
    batch_tokens: int = BATCH_TOKENS,
    on_losses: Callable[[Mapping[int, ReplyLoss]], None] | None = None,
) -> dict[int, ReplyLoss]:
    """By key of `rows`; `on_losses` is called after each pass with what it found.

    `batch_tokens` is the most that a pass may hold, padding included; on CPUs `CPU_TOKENS` is. A
    pass that runs out of memory is halved. DivergenceError where a loss is not finite.
    """
    found: dict[int, ReplyLoss] = {}
    keys = list(rows)
    with _Reader(model, pad_id) as reader:
        for members in reader.passes([rows[key] for key in keys], batch_tokens):
            batch = [rows[keys[i]] for i in members]
            sums = reader.losses(batch)
            new = {
                keys[i]: ReplyLoss(total / row.labelled, row.labelled)
                for i, row, total in zip(members, batch, sums, strict=True)
            }
            found |= new
            if on_losses is not None:
                on_losses(new)
    assert_not_repacked(model)
    return found


def drift(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    pad_id: int,
    batch_tokens: int = BATCH_TOKENS,
) -> float | None:
    """Mean over labelled positions of KL(base || tuned) in nats; None without a position.

    The base is the model with its adapter switched off; give rows whose replies it wrote itself.
    """
    total, positions = 0.0, 0
    with _Reader(model, pad_id) as reader:
        for members in reader.passes(rows, batch_tokens):
            batch = [rows[i] for i in members]
            total += reader.divergence(batch)
            positions += sum(row.labelled for row in batch)
    return total / positions if positions else None


def answer_row(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    """A prompt and its answer with the answer's tokens labelled."""
    ids = np.array([*prompt, *answer], dtype=np.int32)
    labels = np.full(len(ids), IGNORED, dtype=np.int32)
    labels[len(prompt) :] = ids[len(prompt) :]
    return Row.of(ids, labels)


class _Reader:
    """A model that is read, not trained: hidden states of the decoder, and its head in chunks."""

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        self._model = model
        self._base = base_of(model)
        self._head: Any = self._base.get_output_embeddings()
        self._pad_id = pad_id
        self._device = next(self._base.get_input_embeddings().parameters()).device
        self._hidden: Tensor | None = None
        self._hook: Any = None
        self._training = model.training
        known = inspect.signature(self._base.forward).parameters
        self._one_logit = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def __enter__(self) -> _Reader:
        self._hook = self._base.get_decoder().register_forward_hook(self._keep)
        self._model.eval()
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self._hidden = None
        self._model.train(self._training)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state

    # --- passes -----------------------------------------------------------------------------------

    def passes(self, rows: Sequence[Row], batch_tokens: int) -> Iterator[list[int]]:
        """Indices of the rows that share a pass, longest first."""
        most = min(batch_tokens, CPU_TOKENS) if self._device.type == "cpu" else batch_tokens
        yield from plan([len(row) for row in rows], most, side_by_side=False)

    def losses(self, rows: Sequence[Row]) -> list[float]:
        """Summed loss of each row, in nats."""
        return _halved(rows, self._losses)

    def divergence(self, rows: Sequence[Row]) -> float:
        """Summed KL(base || tuned) over the rows' labelled positions."""
        return sum(_halved(rows, lambda part: [self._divergence(part)]))

    def _losses(self, rows: Sequence[Row]) -> list[float]:
        batch = self._assembled(rows)
        owner = batch.labelled // batch.longest
        sums = torch.zeros(len(rows), dtype=torch.float64, device=self._device)
        with torch.no_grad():
            for part, logits in self._logits(batch):
                wanted = batch.targets[part].unsqueeze(1)
                nll = logits.logsumexp(-1) - logits.gather(1, wanted).squeeze(1)
                sums.index_add_(0, owner[part], nll.double())
        if not bool(sums.isfinite().all()):
            raise DivergenceError.of(_not_finite())
        return [float(total) for total in sums]

    def _divergence(self, rows: Sequence[Row]) -> float:
        batch = self._assembled(rows)
        with torch.no_grad():
            with adapter_switched_off(self._model):
                before = self._states(batch)
            after = self._states(batch)
            total = 0.0
            for part in _chunks(len(batch.targets), self._vocabulary()):
                with adapter_switched_off(self._model):
                    p = before.logits(part).log_softmax(-1)
                q = after.logits(part).log_softmax(-1)
                total += float((p.exp() * (p - q)).sum())
        return total

    def _assembled(self, rows: Sequence[Row]) -> Pass:
        return assemble(rows, side_by_side=False, pad_id=self._pad_id, device=self._device)

    def _vocabulary(self) -> int:
        return int(self._base.config.get_text_config().vocab_size)

    def _logits(self, batch: Pass) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of labelled positions with their logits, (positions, vocab) float32."""
        states = self._states(batch)
        for part in _chunks(len(batch.targets), self._vocabulary()):
            yield part, states.logits(part)

    def _states(self, batch: Pass) -> _States:
        """One forward pass. The head sees one position of each row; where its product with the
        decoder's output is not the model's own logits (scaled, capped), the model computes all.
        """
        self._hidden = None
        last = self._model(**batch.model_inputs(), **self._one_logit).logits[:, -1]
        hidden: Any = self._hidden
        self._hidden = None
        if hidden is not None and self._is_head(hidden[:, -1], last):
            flat = hidden.reshape(-1, hidden.shape[-1])[batch.labelled]
            return _States(flat, self._head)
        logits = self._model(**batch.model_inputs()).logits
        self._hidden = None
        return _States(logits.reshape(-1, logits.shape[-1])[batch.labelled], None)

    def _is_head(self, hidden: Tensor, logits: Tensor) -> bool:
        ours = self._head(hidden)
        scale = logits.abs().max().clamp(min=1e-6)
        difference = float((ours.float() - logits.float()).abs().max() / scale)
        return ours.shape == logits.shape and difference < _HEAD_TOLERANCE[logits.dtype]


@dataclass(frozen=True, slots=True)
class _States:
    """Labelled positions before the head, (positions, width); or their logits, where `head` is
    None.
    """

    values: Tensor
    head: Any

    def logits(self, part: slice) -> Tensor:
        values = self.values[part]
        logits: Tensor = values if self.head is None else self.head(values)
        return logits.float()


def _chunks(positions: int, vocabulary: int) -> Iterator[slice]:
    size = chunk_length(vocabulary)
    for start in range(0, positions, size):
        yield slice(start, min(start + size, positions))


def _halved(rows: Sequence[Row], read: Callable[[Sequence[Row]], list[float]]) -> list[float]:
    """What `read` gives for the rows, read in halves where memory is short."""
    try:
        return read(rows)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise OutOfMemoryError.of(_too_large(rows[0])) from None
    # Past the handler: inside, the traceback would still hold the pass's memory.
    half = (len(rows) + 1) // 2
    return [*_halved(rows[:half], read), *_halved(rows[half:], read)]


def _not_finite() -> Fault:
    return Fault(
        "loss of the references",
        "a loss that is not finite",
        "finite numbers",
        "use an earlier checkpoint; these weights have diverged",
    )


def _too_large(row: Row) -> Fault:
    return Fault(
        "loss of the references",
        f"too little memory for a row of {len(row)} tokens",
        "memory for one row at a time",
        "shorten the row or free memory on the device",
    )
