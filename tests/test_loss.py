"""Laws of the chunked cross-entropy: it is torch's cross-entropy, cheaper."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tanren.loss import chunk_length, linear_cross_entropy


def _case(n: int = 37, width: int = 16, vocab: int = 53, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, width, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(vocab, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(0, vocab, (n,), generator=generator)
    return hidden, weight, bias, targets


@pytest.mark.parametrize("chunk", [1, 5, 37, 1000])
def test_value_and_every_gradient_equal_the_plain_computation(chunk: int) -> None:
    hidden, weight, bias, targets = _case(dtype=torch.float32)
    plain = F.cross_entropy(hidden @ weight.T + bias, targets, reduction="sum")
    wanted = torch.autograd.grad(plain * 0.25, [hidden, weight, bias])
    ours = linear_cross_entropy(hidden, weight, targets, bias=bias, chunk=chunk)
    found = torch.autograd.grad(ours.total * 0.25, [hidden, weight, bias])
    assert float(ours.total.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_frozen_head_gets_no_gradient_and_correct_counts_top_one() -> None:
    hidden, weight, _, targets = _case(dtype=torch.float32)
    weight = weight.detach()
    found = linear_cross_entropy(hidden, weight, targets, chunk=7)
    found.total.backward()
    assert weight.grad is None
    assert int(found.correct) == int(((hidden @ weight.T).argmax(-1) == targets).sum())


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, _, targets = _case(dtype=torch.float32)
    found = linear_cross_entropy(hidden * 1e4, weight, targets)
    assert torch.isfinite(found.total)


def test_no_position_is_a_loss_of_zero() -> None:
    hidden, weight, _, targets = _case(dtype=torch.float32)
    found = linear_cross_entropy(hidden[:0], weight, targets[:0])
    assert float(found.total.detach()) == 0.0


def test_bfloat16_products_stay_near_float32() -> None:
    hidden, weight, _, targets = _case(n=200, dtype=torch.float32)
    exact = linear_cross_entropy(hidden.detach(), weight.detach(), targets).total
    rounded = linear_cross_entropy(
        hidden.detach(), weight.detach(), targets, dtype=torch.bfloat16
    ).total
    assert float(rounded) == pytest.approx(float(exact), rel=1e-2)


def test_logits_held_at_once_do_not_grow_with_the_vocabulary() -> None:
    """T13: chunk x vocabulary stays bounded, so 150k words cost no more than 8k."""
    assert chunk_length(152_000) * 152_000 <= 2**25
    assert chunk_length(8_000) * 8_000 <= 2**25
