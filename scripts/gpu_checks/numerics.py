"""Sections that compare numbers: the device itself, NF4, merging, attention, packing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from bench import report
from torch.nn import functional

from gpu_checks.lab import Lab, Row, Skipped, adapted, gap, kl_and_agreement, load, methods, perturb

TOLERANCE_OVER_SDPA = 3.0
"""Our attention may be this much further from exact than SDPA in the same type."""
MERGE_KL = {"lora": 5e-3, "dora": 5e-3, "qlora": 5e-3}
"""Nats per token between merged and unmerged in bf16; float32 on CPUs is far below."""


def environment(lab: Lab) -> Iterator[Row]:
    """What this runs on, and how fast its matrix products are."""
    from importlib.util import find_spec

    facts = report.circumstances()
    yield {"what": "versions", "found": ", ".join(f"{k} {v}" for k, v in facts["versions"].items())}
    yield {"what": "python", "found": facts["python"]}
    yield {"what": "liger-kernel", "found": "there" if find_spec("liger_kernel") else "missing"}
    yield {
        "what": "trl",
        "found": "there" if find_spec("trl") else "missing",
        "ok": bool(find_spec("trl")),
    }
    if lab.cuda:
        found = torch.cuda.get_device_properties(lab.device)
        free, total = torch.cuda.mem_get_info(lab.device)
        major, minor = torch.cuda.get_device_capability(lab.device)
        yield {"what": "gpu", "found": f"{found.name}, compute capability {major}.{minor}"}
        yield {"what": "memory", "found": f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"}
        yield {"what": "cuda", "found": str(torch.version.cuda)}
    size = lab.pick(8192, 256)
    yield {"what": f"bf16 product of {size}, TFLOP/s", "found": _product_speed(lab, size) / 1e12}


def _product_speed(lab: Lab, size: int) -> float:
    """FLOP/s of bf16 products of random square matrices (zeros would run faster)."""
    a, b = (torch.randn(size, size, device=lab.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    lab.wait()
    began = time.perf_counter()
    for _ in range(10):
        a @ b
    lab.wait()
    return 2 * size**3 * 10 / (time.perf_counter() - began)


# --- attention ------------------------------------------------------------------------------------


def attention(lab: Lab) -> Iterator[Row]:
    """Variable-length attention with grouped KV heads against exact attention row by row: outputs
    and the gradients of queries, keys and values.
    """
    torch.manual_seed(0)
    lengths = lab.pick([1, 7, 64, 130, 513, 1024], [1, 5, 12])
    for heads, kv_heads, width, window in (
        (16, 8, 128, None),
        (32, 8, 128, None),
        (32, 8, 128, lab.pick(100, 4)),
        (8, 8, 64, None),
    ):
        if lab.tiny:
            heads, kv_heads, width = heads // 4, kv_heads // 4, 16
        shapes = [(1, n, sum(lengths), width) for n in (heads, kv_heads, kv_heads, heads)]
        q, k, v, out_grad = (torch.randn(s, device=lab.device, dtype=lab.dtype) for s in shapes)
        exact = _attend(_row_by_row, lengths, [q, k, v, out_grad], window, torch.float64)
        plain = _attend(_row_by_row, lengths, [q, k, v, out_grad], window, lab.dtype)
        ours = _attend(_varlen, lengths, [q, k, v, out_grad], window, lab.dtype)
        for name, ideal, theirs, mine in zip(
            ("output", "query gradient", "key gradient", "value gradient"),
            exact,
            plain,
            ours,
            strict=True,
        ):
            sdpa, found = gap(theirs, ideal), gap(mine, ideal)
            floor = 1e-2 if lab.dtype == torch.bfloat16 else 1e-5
            yield {
                "heads": f"{heads}/{kv_heads} of {width}",
                "window": window,
                "what": name,
                "sdpa off by": sdpa,
                "varlen off by": found,
                "ok": found <= max(floor, TOLERANCE_OVER_SDPA * sdpa),
            }


def _attend(
    function: Any, lengths: list[int], tensors: list[torch.Tensor], window: int | None, dtype: Any
) -> list[torch.Tensor]:
    """Output and gradients of one implementation, computed in `dtype`."""
    q, k, v = (t.detach().to(dtype).requires_grad_() for t in tensors[:3])
    out = function(q, k, v, lengths, window)
    out.backward(tensors[3].to(dtype).transpose(1, 2))
    return [out.detach(), q.grad, k.grad, v.grad]


def _row_by_row(q: Any, k: Any, v: Any, lengths: list[int], window: int | None) -> torch.Tensor:
    """Each row by itself with explicitly repeated heads and an explicit mask; (1, time, heads,
    width).
    """
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    outputs, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        far = torch.arange(length, device=q.device)
        distance = far[:, None] - far[None, :]
        seen = (distance >= 0) & (distance < (window or length + 1))
        outputs.append(
            functional.scaled_dot_product_attention(
                q[:, :, part], k[:, :, part], v[:, :, part], attn_mask=seen
            )
        )
        start += length
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _varlen(q: Any, k: Any, v: Any, lengths: list[int], window: int | None) -> torch.Tensor:
    from tanren.attention import varlen_attention_forward

    starts = torch.tensor([0, *lengths], device=q.device).cumsum(0).int()
    out, _ = varlen_attention_forward(
        torch.nn.Module(),
        q,
        k,
        v,
        None,
        cu_seq_lens_q=starts,
        max_length_q=max(lengths),
        sliding_window=window,
    )
    return out


# --- NF4 ------------------------------------------------------------------------------------------


def nf4(lab: Lab) -> Iterator[Row]:
    """The 4-bit base is really NF4 with double quantisation: bytes, grid, second level."""
    from tanren.estimate.memory import NF4_BITS

    base, _ = load(lab, "qwen3-0.6b", methods()["qlora"])
    layers = [m for m in base.modules() if type(m).__name__ == "Linear4bit"]
    if not layers:
        raise AssertionError("no layer is stored in 4 bits")
    stored = sum(_stored_bytes(layer.weight) for layer in layers)
    elements = sum(layer.weight.quant_state.shape.numel() for layer in layers)
    bits = 8 * stored / elements
    # A block of the second level is 256 scales; small tiny matrices fill less than one.
    slack = 1.0 if lab.tiny else 1.01
    yield {
        "what": "bits per weight",
        "found": bits,
        "wanted": NF4_BITS,
        "ok": lab.tiny or NF4_BITS <= bits <= NF4_BITS * slack,
    }
    state = layers[0].weight.quant_state
    yield {
        "what": "type",
        "found": state.quant_type,
        "wanted": "nf4",
        "ok": state.quant_type == "nf4",
    }
    twice = bool(state.nested) and state.absmax.dtype == torch.uint8
    yield {"what": "scales quantised again", "found": twice, "wanted": True, "ok": twice}
    off = max(_off_grid(layer.weight) for layer in layers[:: max(1, len(layers) // 8)])
    yield {"what": "largest distance to the NF4 grid", "found": off, "wanted": 0, "ok": off < 1e-2}
    values = len(state.code.unique())
    yield {"what": "values of the grid", "found": values, "wanted": 16, "ok": values == 16}


def _stored_bytes(weight: Any) -> int:
    """Bytes of the packed weight and both levels of scales."""
    state = weight.quant_state
    tensors = [weight.data, state.absmax]
    if state.nested:
        tensors += [state.state2.absmax]
    return sum(t.numel() * t.element_size() for t in tensors)


def _off_grid(weight: Any) -> float:
    """Largest distance of a dequantised value, divided by its block's scale, from the 16 values of
    NF4.
    """
    import bitsandbytes.functional as quantised

    state = weight.quant_state
    scales = state.absmax
    if state.nested:
        scales = quantised.dequantize_blockwise(state.absmax, state.state2) + state.offset
    values = quantised.dequantize_4bit(weight.data, state).float().flatten()
    blocks = values.view(-1, state.blocksize) / scales.float().flatten()[:, None]
    middles = (state.code[1:] + state.code[:-1]) / 2
    nearest = state.code[torch.bucketize(blocks, middles.to(blocks.device))]
    return float((blocks - nearest).abs().max())


# --- merging --------------------------------------------------------------------------------------


def merge(lab: Lab) -> Iterator[Row]:
    """Merged weights answer as the adapter does; a 4-bit run is merged into the base it saw."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    from tanren.adapter import add_adapter

    torch.manual_seed(5)
    ids = torch.randint(8, 400, (2, lab.pick(256, 24)), device=lab.device)
    for name in ("lora", "dora", "qlora"):
        method = methods()[name]
        model, base = adapted(lab, "qwen3-0.6b", method)
        perturb(model, scale=0.02)
        wanted = _logits(lab, model, ids)
        with model.disable_adapter():
            moved, _ = kl_and_agreement(wanted, _logits(lab, model, ids))
        state = {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}
        if method.storage == "nf4":
            del model, base
            lab.clear()
            base, source = load(lab, "qwen3-0.6b", method)
            model = add_adapter(base.dequantize(), source, methods()["lora"], seed=1)
            set_peft_model_state_dict(model, state)
        merged = model.merge_and_unload()
        kl, agreement = kl_and_agreement(wanted, _logits(lab, merged, ids))
        yield {
            "method": name,
            "KL base to trained": moved,
            "KL merged to trained": kl,
            "top-1 agreement": agreement,
            "tolerance": MERGE_KL[name],
            "ok": kl <= MERGE_KL[name] and moved > 10 * kl,
        }
        del model, base, merged
        lab.clear()


@torch.no_grad()
def _logits(lab: Lab, model: Any, ids: torch.Tensor) -> torch.Tensor:
    model.eval()
    with lab.autocast():
        logits = model(input_ids=ids, use_cache=False).logits
    return logits.reshape(-1, logits.shape[-1]).float()


# --- packing --------------------------------------------------------------------------------------


def packed(lab: Lab) -> Iterator[Row]:
    """Rows side by side give the loss and the gradient of the same rows padded."""
    from bench.inputs import random_sequences

    from tanren.batches import Row as Sequence

    lengths = lab.pick([700, 33, 256, 1500, 90, 8], [20, 3, 9])
    words = lab.numbers("qwen3-0.6b")["vocab_size"]
    sequences = random_sequences(lengths, vocabulary=words, seed=2, labelled=0.5)
    rows = [Sequence.of(ids, labels) for ids, labels in sequences]
    model, base = adapted(lab, "qwen3-0.6b", methods()["lora"], attention="varlen")
    perturb(model, scale=0.02)
    apart = [_loss_and_gradient(lab, model, base, [row], side_by_side=False) for row in rows]
    loss = sum(found for found, _ in apart)
    gradient = torch.stack([vector for _, vector in apart]).sum(dim=0)
    for name, side_by_side in (("padded", False), ("side by side", True)):
        found, vector = _loss_and_gradient(lab, model, base, rows, side_by_side=side_by_side)
        cosine = float(functional.cosine_similarity(vector, gradient, dim=0))
        off = abs(found / loss - 1)
        yield {
            "rows": name,
            "loss off by": off,
            "gradient cosine": cosine,
            "gradient norm ratio": float(vector.norm() / gradient.norm()),
            "ok": off < (2e-3 if lab.cuda else 1e-5) and cosine > (0.999 if lab.cuda else 0.99999),
        }
    if not lab.cuda:
        raise Skipped("the flash path needs CUDA; rows were attended one by one")


def _loss_and_gradient(
    lab: Lab, model: Any, base: Any, rows: list[Any], *, side_by_side: bool
) -> tuple[float, torch.Tensor]:
    """Summed loss of one pass, and the gradient of all trained tensors end to end."""
    from gpu_checks.steps import pass_loss
    from tanren.batches import assemble

    model.zero_grad(set_to_none=True)
    model.train()
    batch = assemble(rows, side_by_side=side_by_side, pad_id=0, device=lab.device)
    with lab.autocast():
        loss = pass_loss(model, base, batch)
    loss.backward()
    trained = [p.grad for p in model.parameters() if p.requires_grad]
    return float(loss.detach()), torch.cat([g.flatten().double() for g in trained if g is not None])
