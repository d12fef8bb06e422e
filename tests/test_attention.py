"""Attention over rows side by side is each row's own attention (T16)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from tanren import attention
from tanren.batches import Row, assemble

BOUNDARIES = [0, 7, 8, 31, 36]
WINDOWED = ["mistral", "gemma3"]


def rows_of_tensors(heads: int, dim: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(heads)
    shape = (1, heads, BOUNDARIES[-1], dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def textbook(query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float) -> Tensor:
    """softmax(q k^T) v with an explicit mask; heads repeated one by one."""
    times = query.shape[1] // key.shape[1]
    key, value = (torch.cat([t[:, [h]] for h in range(t.shape[1]) for _ in range(times)], 1)
                  for t in (key, value))  # fmt: skip
    scores = query @ key.transpose(-1, -2) * scale
    for i in range(query.shape[2]):
        for j in range(query.shape[2]):
            if j > i or (window and i - j >= window):
                scores = scores.masked_fill(_at(scores, i, j), float("-inf"))
    return scores.softmax(-1) @ value


def _at(scores: Tensor, i: int, j: int) -> Tensor:
    mask = torch.zeros(scores.shape[-2:], dtype=torch.bool)
    mask[i, j] = True
    return mask


@pytest.mark.parametrize("window", [None, 1, 5, 64])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_t16_each_row_is_its_own_textbook_attention(
    heads: tuple[int, int], window: int | None
) -> None:
    """Forward and all three gradients, with equal and grouped heads, with and without a window."""
    query, key, value = (rows_of_tensors(h) for h in (heads[0], heads[1], heads[1]))
    out, weights = attention.varlen_attention_forward(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        scaling=0.3,
        sliding_window=window,
        cu_seq_lens_q=torch.tensor(BOUNDARIES, dtype=torch.int32),
        max_length_q=23,
    )
    assert weights is None and out.shape == (1, BOUNDARIES[-1], heads[0], 8)
    alone = [
        textbook(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], window, 0.3).transpose(1, 2)
        for a, b in pairwise(BOUNDARIES)
    ]
    expected = torch.cat(alone, dim=1)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-12)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    ours = torch.autograd.grad((out * direction).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * direction).sum(), (query, key, value))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_t16_a_row_does_not_move_its_neighbours() -> None:
    query, key, value = (rows_of_tensors(4).detach() for _ in range(3))
    settings: dict[str, Any] = {
        "cu_seq_lens_q": torch.tensor(BOUNDARIES, dtype=torch.int32),
        "max_length_q": 23,
        "sliding_window": 3,
    }
    before, _ = attention.varlen_attention_forward(
        torch.nn.Module(), query, key, value, None, **settings
    )
    changed = [t.clone() for t in (query, key, value)]
    for tensor in changed:
        tensor[:, :, 8:31] += 1.0
    after, _ = attention.varlen_attention_forward(torch.nn.Module(), *changed, None, **settings)
    assert torch.equal(before[:, :8], after[:, :8]) and torch.equal(before[:, 31:], after[:, 31:])
    assert not torch.allclose(before[:, 8:31], after[:, 8:31])


def test_soft_capped_scores_are_refused_not_ignored() -> None:
    query = rows_of_tensors(2)
    with pytest.raises(ValueError, match="soft-capping"):
        attention.varlen_attention_forward(
            torch.nn.Module(),
            query,
            query,
            query,
            None,
            softcap=30.0,
            cu_seq_lens_q=torch.tensor(BOUNDARIES),
        )


# --- in whole models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tiny_model: Callable[..., Path]) -> Callable[[str], tuple[Any, Any]]:
    """The same weights with our attention and with plain transformers' eager one."""
    made: dict[str, tuple[Any, Any]] = {}
    name = attention.register()

    def build(family: str) -> tuple[Any, Any]:
        if family not in made:
            ours, plain = (
                AutoModelForCausalLM.from_pretrained(
                    tiny_model(family), dtype=torch.float32, attn_implementation=kind
                ).eval()
                for kind in (name, "eager")
            )
            made[family] = ours, plain
        return made[family]

    return build


def rows(*lengths: int) -> list[Row]:
    generator = torch.Generator().manual_seed(sum(lengths))
    made = []
    for length in lengths:
        ids = torch.randint(3, 350, (length,), generator=generator).numpy().astype("int32")
        made.append(Row.of(ids, ids.copy()))
    return made


FAMILIES = ["qwen3", "llama-tied", "mistral", "gemma3"]
LENGTHS = (5, 23, 1, 14)


@pytest.mark.parametrize("family", FAMILIES)
def test_t16_rows_side_by_side_equal_rows_alone(pair: Any, family: str) -> None:
    """Hidden in one sequence of ours: the logits that plain transformers gives each row by itself.

    The rows are longer than the sliding windows, so a window that is forgotten shows.
    """
    ours, plain = pair(family)
    several = rows(*LENGTHS)
    batch = assemble(several, side_by_side=True, pad_id=0)
    with torch.no_grad():
        together = ours(**batch.model_inputs()).logits[0]
        alone = [
            plain(input_ids=torch.from_numpy(row.ids)[None].long(), use_cache=False).logits[0]
            for row in several
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_t16_gradients_side_by_side_equal_gradients_alone(pair: Any, family: str) -> None:
    ours, plain = pair(family)
    several = rows(*LENGTHS)
    batch = assemble(several, side_by_side=True, pad_id=0)
    logits = ours(**batch.model_inputs()).logits[0]
    loss = F.cross_entropy(logits[batch.labelled], batch.targets, reduction="sum")
    weights = [(n, p) for n, p in ours.named_parameters() if "proj" in n]
    found = torch.autograd.grad(loss, [p for _, p in weights])
    total = torch.zeros(())
    for row in several:
        if row.labelled:
            ids = torch.from_numpy(row.ids)[None].long()
            alone = plain(input_ids=ids, use_cache=False).logits[0]
            targets = torch.from_numpy(row.targets).long()
            total = total + F.cross_entropy(alone, targets, ignore_index=-100, reduction="sum")
    plain_weights = dict(plain.named_parameters())
    wanted = torch.autograd.grad(total, [plain_weights[n] for n, _ in weights])
    for (name, _), a, b in zip(weights, found, wanted, strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max()) + 1e-6, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [LENGTHS, (19, 19)], ids=["ragged", "equal lengths"])
def test_padded_batches_equal_rows_alone(pair: Any, family: str, lengths: tuple[int, ...]) -> None:
    """The way without packing. Rows of one length carry no mask at all: windows must hold there."""
    ours, plain = pair(family)
    several = rows(*lengths)
    batch = assemble(several, side_by_side=False, pad_id=0)
    assert (batch.attention_mask is None) == (len(set(lengths)) == 1)
    with torch.no_grad():
        padded = ours(**batch.model_inputs()).logits
        for i, row in enumerate(several):
            ids = torch.from_numpy(row.ids)[None].long()
            alone = plain(input_ids=ids, use_cache=False).logits[0]
            torch.testing.assert_close(padded[i, : len(row)], alone, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("masked", [True, False])
def test_generation_with_our_attention_is_plain_generation(
    pair: Any, family: str, masked: bool
) -> None:
    """Left-padded prompts with a mask, or one prompt without; both run past the windows."""
    ours, plain = pair(family)
    prompts = [[9, 41, 17, 5, 88, 23, 61, 12, 30, 7, 91], [77, 3, 140]]
    if not masked:
        prompts = prompts[:1]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if masked:
        inputs["attention_mask"] = (ids != 0).long()
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    one = ours.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
    two = plain.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
    for step, (a, b) in enumerate(zip(one.logits, two.logits, strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=f"token {step}")
    assert torch.equal(one.sequences, two.sequences)


@pytest.mark.parametrize("family", WINDOWED)
def test_the_windows_of_these_models_bind(pair: Any, family: str) -> None:
    """The tests above can fail: without its window the model says something else."""
    _, plain = pair(family)
    ids = torch.from_numpy(rows(24)[0].ids)[None].long()
    with torch.no_grad():
        near = plain(input_ids=ids, use_cache=False).logits[0, -1]
        ids[0, 0] = (ids[0, 0] + 1) % 300 + 3
        far = plain(input_ids=ids, use_cache=False).logits[0, -1]
    if family == "mistral":  # two layers of 8 see 15 tokens back, not 24
        assert torch.equal(near, far)
    assert tiny.WINDOW < 24


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_t16_flash_over_rows_equals_row_by_row(window: int | None, groups: int) -> None:
    """On a GPU, torch's variable-length kernel against the row-by-row way, within bfloat16."""
    torch.manual_seed(0)
    shapes = [(1, 2 * groups, 36, 64), (1, 2, 36, 64), (1, 2, 36, 64)]
    query, key, value = (torch.randn(s, dtype=torch.bfloat16) for s in shapes)
    settings: dict[str, Any] = {"max_length_q": 23, "sliding_window": window, "scaling": 0.2}
    bounds = torch.tensor(BOUNDARIES, dtype=torch.int32)
    slow, _ = attention.varlen_attention_forward(
        torch.nn.Module(),
        query.float(),
        key.float(),
        value.float(),
        None,
        cu_seq_lens_q=bounds,
        **settings,
    )
    fast, _ = attention.varlen_attention_forward(
        torch.nn.Module(),
        query.cuda(),
        key.cuda(),
        value.cuda(),
        None,
        cu_seq_lens_q=bounds.cuda(),
        **settings,
    )
    torch.testing.assert_close(fast.float().cpu(), slow, rtol=2e-2, atol=2e-2)
