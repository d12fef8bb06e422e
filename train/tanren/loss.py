"""Cross-entropy over the labelled positions alone, without ever holding all logits.

The full logits of 16,384 tokens and 152,000 words take 10 GB in float32, and with prompts masked
most of them are thrown away. Here only labelled positions are multiplied with the head, in chunks,
and the gradient is made in the forward pass while a chunk's probabilities are at hand:

    loss = sum_i [ logsumexp(W h_i) - (W h_i)[y_i] ]
    d loss / d h_i = W^T (softmax(W h_i) - onehot(y_i))

so nothing of size (tokens, vocab) survives a chunk and nothing is computed twice.

Where a position's weight in the loss is known only after the forward pass, as in preference
optimisation, `linear_log_probs` gives each position's own value: d / d h_i is kept without its
weight and multiplied in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK_ELEMENTS = 2**25  # logits held at once: 134 MB in float32, whatever the vocabulary


class Loss(NamedTuple):
    """Sums over the labelled positions of a pass; divide by their number outside."""

    total: Tensor  # () float32, with gradient: summed negative log-likelihood in nats
    correct: Tensor  # () int64: positions whose most likely token is the target


def chunk_length(vocabulary: int) -> int:
    """Positions per chunk: a fixed number of logits, at least 64 positions."""
    return max(64, CHUNK_ELEMENTS // vocabulary)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
    chunk: int | None = None,
    scale: float = 1.0,
) -> Loss:
    """Sum of the cross-entropies of `hidden @ weight.T + bias` against `targets`.

    hidden (n, width), weight (vocab, width), bias (vocab) or None, targets (n) int64 without
    ignored positions. `dtype` is what the products run in (the logits themselves are float32);
    None: the type of `weight`. `chunk` is the number of positions at a time. Gradients reach
    hidden, and weight and bias where they are trained.
    """
    size = chunk or chunk_length(weight.shape[0])
    total, correct = _LinearCrossEntropy.apply(
        hidden, weight, bias, targets, size, dtype or weight.dtype, scale
    )
    return Loss(total, correct)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        dtype: torch.dtype,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            return _forward(ctx, hidden, weight, bias, targets, chunk, dtype, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        scale = grads[0]
        return (
            grad_hidden.mul(scale.to(grad_hidden.dtype)) if ctx.needs_input_grad[0] else None,
            grad_weight.mul(scale).to(ctx.weight_dtype) if ctx.needs_input_grad[1] else None,
            grad_bias.mul(scale).to(ctx.weight_dtype) if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
            None,
        )


def _forward(
    ctx: FunctionCtx,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    chunk: int,
    dtype: torch.dtype,
    scale: float,
) -> tuple[Tensor, Tensor]:
    wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
    ctx.weight_dtype = weight.dtype  # type: ignore[attr-defined]
    head = weight.to(dtype)
    grad_hidden = torch.empty_like(hidden) if wants_hidden else None
    grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
    grad_bias = (
        torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
    )
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    correct = torch.zeros((), dtype=torch.int64, device=hidden.device)

    for start in range(0, hidden.shape[0], chunk):
        part = hidden[start : start + chunk].to(dtype)
        wanted = targets[start : start + chunk].unsqueeze(1)
        logits = torch.mm(part, head.t()).float()
        if bias is not None:
            logits += bias.float()
        best, chosen = logits.max(dim=1)
        correct += (chosen.unsqueeze(1) == wanted).sum()
        at_target = logits.gather(1, wanted).squeeze(1)
        # softmax in place: exp(x - max), its sum, then the division folded into the gradient
        exponential = logits.sub_(best.unsqueeze(1)).exp_()
        normaliser = exponential.sum(dim=1)
        total += (normaliser.log() + best - at_target).sum()
        if not (wants_hidden or wants_weight or wants_bias):
            continue
        difference = exponential.mul_((scale / normaliser).unsqueeze(1))
        difference.scatter_add_(1, wanted, torch.full_like(wanted, -scale, dtype=torch.float32))
        if grad_bias is not None:
            grad_bias += difference.sum(dim=0)
        difference = difference.to(dtype)
        if grad_hidden is not None:
            grad_hidden[start : start + chunk] = torch.mm(difference, head)
        if grad_weight is not None:
            grad_weight += torch.mm(difference.t(), part).float()

    ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)  # type: ignore[arg-type]
    ctx.mark_non_differentiable(correct)
    return total * scale, correct


class LogProbs(NamedTuple):
    """Of each labelled position."""

    values: Tensor  # (n) float32, with gradient: log-probability of the target in nats
    correct: Tensor  # (n) bool: the target is the most likely token


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
    chunk: int | None = None,
) -> LogProbs:
    """Log-probabilities of `targets` under `hidden @ weight.T + bias`; arguments as above."""
    size = chunk or chunk_length(weight.shape[0])
    return LogProbs(
        *_LinearLogProbs.apply(hidden, weight, bias, targets, size, dtype or weight.dtype)
    )


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        values = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        correct = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        kept = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            for part, log_probs in _chunks(hidden, head, bias, chunk):
                wanted = targets[part].unsqueeze(1)
                values[part] = log_probs.gather(1, wanted).squeeze(1)
                correct[part] = log_probs.argmax(dim=1) == wanted.squeeze(1)
                if kept is not None:
                    kept[part] = torch.mm(_one_minus(log_probs, wanted).to(dtype), head)
        ctx.mark_non_differentiable(correct)
        ctx.chunk, ctx.dtype = chunk, dtype
        ctx.save_for_backward(hidden, weight, bias, targets, kept)
        return values, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, kept = ctx.saved_tensors
        each = grads[0].unsqueeze(1)
        of_hidden = kept.mul(each.to(kept.dtype)) if kept is not None else None
        of_weight = of_bias = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:  # only where the head is trained
            of_weight = torch.zeros_like(weight, dtype=torch.float32)
            of_bias = torch.zeros(weight.shape[0], device=weight.device)
            with torch.autocast(hidden.device.type, enabled=False):
                for part, log_probs in _chunks(hidden, weight.to(ctx.dtype), bias, ctx.chunk):
                    change = _one_minus(log_probs, targets[part].unsqueeze(1)).mul_(each[part])
                    of_bias += change.sum(dim=0)
                    rows = hidden[part].to(ctx.dtype)
                    of_weight += torch.mm(change.to(ctx.dtype).t(), rows).float()
            of_weight = of_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None
            of_bias = of_bias.to(weight.dtype) if ctx.needs_input_grad[2] else None
        return of_hidden, of_weight, of_bias, None, None, None


def _chunks(
    hidden: Tensor, head: Tensor, bias: Tensor | None, chunk: int
) -> Iterator[tuple[slice, Tensor]]:
    """(positions, their log-probabilities over the vocabulary, float32)."""
    for start in range(0, hidden.shape[0], chunk):
        part = slice(start, start + chunk)
        logits = torch.mm(hidden[part].to(head.dtype), head.t()).float()
        if bias is not None:
            logits += bias.float()
        yield part, logits.sub_(logits.logsumexp(dim=1, keepdim=True))


def _one_minus(log_probs: Tensor, wanted: Tensor) -> Tensor:
    """onehot(y) - softmax, in the place of `log_probs`: d log p(y) / d logits."""
    change = log_probs.exp_().neg_()
    ones = torch.ones_like(wanted, dtype=change.dtype)
    return change.scatter_add_(1, wanted, ones)
