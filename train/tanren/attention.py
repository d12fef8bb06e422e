"""Attention for rows laid side by side: each token sees its own row and nothing else.

`varlen` is registered with transformers under the name `tanren_varlen`. A pass of several rows is
one sequence of shape (1, total tokens); `cu_seq_lens_q` says where rows begin. On GPUs torch's
variable-length flash attention does the work; elsewhere each row is attended by itself, so the cost
is the sum of the rows' squares, never the square of their sum. Without `cu_seq_lens_q` (plain
batches, generation) it is transformers' SDPA attention.
"""

from __future__ import annotations

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


def _mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """No mask is built for rows side by side; padded batches get SDPA's."""
    if attention_mask is None:
        return None
    kwargs["attention_mask"] = attention_mask
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
    if query.is_cuda:
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

    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # torch 2.11 has no enable_gqa; repeating costs k and v once more, no product
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
    )
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


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
