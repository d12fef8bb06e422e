"""The section that exports: merging on the GPU, 4 bits and back, the proof on the device."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gpu_checks.lab import Lab, Row

SAME_LEVELS = 0.9999
"""Share of 4-bit levels that the CPU's table and the GPU's kernel must agree on; the rest are
numbers midway between two levels."""


def exporting(lab: Lab) -> Iterator[Row]:
    """Adapters as training leaves them, merged on this device, read back and proven."""
    yield from _four_bits(lab)
    base = lab.model("qwen3-1.7b")
    for method in ("lora", "dora", "qlora"):
        if lab.seconds_left < 20:
            return
        yield _exported(lab, base, method)


def _four_bits(lab: Lab) -> Iterator[Row]:
    """The weight that a 4-bit base has: here by bitsandbytes, on the CPU by our table."""
    from tanren.export.merge.nf4 import through_nf4

    torch.manual_seed(0)
    for width in (64, 96, 1376, 4096):
        weight = (torch.randn(512, width) * 0.02).to(torch.bfloat16)
        ours = through_nf4(weight)
        theirs = through_nf4(weight.to(lab.device)).cpu()
        same = float((ours == theirs).double().mean())
        yield {
            "what": f"4 bits and back, {width} wide",
            "same": same,
            "largest difference": float((ours.float() - theirs.float()).abs().max()),
            "ok": same >= SAME_LEVELS,
        }


def _exported(lab: Lab, base: Path, method: str) -> Row:
    from tanren.export.exports import Request, export
    from tanren.export.tuned import open_tuned

    folder = lab.work / f"export-{method}"
    adapter = _adapter(lab, base, folder / "adapter", method)
    tuned = open_tuned(str(adapter), onto="nf4" if method == "qlora" else "trained")
    if lab.cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    done = export(tuned, Request(out=folder / "merged"), lambda event, **fields: None)
    seconds = time.perf_counter() - began
    proof: dict[str, Any] = done.proof
    row: Row = {
        "what": f"export {method}",
        "merging, s": done.seconds["write"],
        "GB/s": done.bytes / done.seconds["write"] / 1e9,
        "all, s": seconds,
        "KL": proof["distance"]["kl_mean"],
        "KL of tuning": (proof["moved"] or {}).get("kl_mean"),
        "top-1": proof["distance"]["top1_agreement"],
        "ok": bool(proof["passed"]),
    }
    shutil.rmtree(folder)
    return row


def _adapter(lab: Lab, base: Path, folder: Path, method: str) -> Path:
    """A plain PEFT adapter whose numbers were moved, as training would."""
    from tanren import adapter as adapters
    from tanren.config import ModelConfig
    from tanren.methods import METHODS
    from tanren.model import load_base, locate

    dtype = str(lab.dtype).removeprefix("torch.")
    config = ModelConfig.model_validate({"name": str(base), "dtype": dtype})
    source, chosen = locate(config), METHODS[method]()
    model = adapters.add_adapter(load_base(source, chosen, config), source, chosen, seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_B" in name:
            parameter.data.normal_(0, 0.02)
    adapters.save_adapter(model, folder)
    return folder
