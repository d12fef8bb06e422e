"""Attention for rows laid side by side: each token sees its own row and nothing else.

`varlen` is registered with transformers under the name `tanren_varlen`. A pass of several rows is
one sequence of shape (1, total tokens); `cu_seq_lens_q` says where rows begin. On GPUs torch's
variable-length flash attention does the work; elsewhere each row is attended by itself, so the cost
is the sum of the rows' squares, never the square of their sum. Without `cu_seq_lens_q` (plain
batches, generation) it is transformers' SDPA attention.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "tanren_varlen"


def register() -> str:
    """Make the implementation known to transformers; returns its name for `attn_implementation`."""
    AttentionInterface.register(NAME, varlen_attention_forward)
    AttentionMaskInterface.register(NAME, _mask)
    return NAME


def _mask(
    *args: Any,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> Tensor | None:
    """SDPA's mask, but none for rows side by side: they bring their own boundaries.

    transformers forbids to skip the mask where position ids restart, which is how such a pass is
    known here. Every other pass keeps its mask: sliding windows live in it.
    """
    if attention_mask is None and not allow_is_causal_skip and kwargs["q_length"] > 1:
        return None
    kwargs |= {"attention_mask": attention_mask, "allow_is_causal_skip": allow_is_causal_skip}
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


def varlen_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (batch, heads, time, dim), key and value (batch, kv_heads, time, dim) -> (batch, time,
    heads, dim).
    """
    boundaries: Tensor | None = kwargs.get("cu_seq_lens_q")
    if boundaries is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if kwargs.get("softcap") is not None:
        raise ValueError("tanren_varlen has no logit soft-capping; use attention: eager")
    window: int | None = kwargs.get("sliding_window")
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        # a custom operator, which autocast passes by
        half = torch.get_autocast_dtype("cuda")
        query, key, value = query.to(half), key.to(half), value.to(half)
    if query.is_cuda and _flash_takes(query, value):
        out = _flash(query, key, value, boundaries, int(kwargs["max_length_q"]), scaling, window)
    else:
        out = _row_by_row(query, key, value, boundaries.tolist(), scaling, window)
    return out, None


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    grouped: dict[str, Any] = {}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and _knows_groups():
        grouped = {"enable_gqa": True}
    elif groups > 1:  # torch 2.11
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    out = varlen_attn(
        q,
        k,
        v,
        boundaries,
        boundaries,
        longest,
        longest,
        scale=scaling,
        window_size=(window - 1 if window else -1, 0),
        **grouped,
    )
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


def _flash_takes(query: Tensor, value: Tensor) -> bool:
    """Whether torch's flash attention computes this: half precision, narrow heads, Ampere on."""
    width = query.shape[-1]
    return (
        query.dtype in (torch.float16, torch.bfloat16)
        and width == value.shape[-1]
        and width <= 256
        and width % 8 == 0
        and _is_ampere_or_later(query.device)
    )


@lru_cache
def _is_ampere_or_later(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


@lru_cache
def _knows_groups() -> bool:
    """torch 2.12 and later attend grouped key/value heads without repeating them."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: list[int],
    scaling: float | None,
    window: int | None,
) -> Tensor:
    outputs = []
    grouped = query.shape[1] != key.shape[1]
    for start, end in pairwise(boundaries):
        rows = slice(start, end)
        band = _band(end - start, window, query.device) if window and end - start > window else None
        out = F.scaled_dot_product_attention(
            query[:, :, rows],
            key[:, :, rows],
            value[:, :, rows],
            attn_mask=band,
            is_causal=band is None,
            scale=scaling,
            enable_gqa=grouped,
        )
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """(length, length) bool: a token sees itself and the `window - 1` tokens before it."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window)
