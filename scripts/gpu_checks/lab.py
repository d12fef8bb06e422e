"""What a section gets: the device, sizes, model folders made on demand, and the time it has."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.inputs import TINY_MODEL, random_model, save_model
from torch import nn

Row = dict[str, Any]
"""One measured line: named values, and `ok` where there is something to pass or fail."""


class Skipped(Exception):
    """Raised by a section for what cannot be done here, with the reason."""


def shape(
    kind: str, layers: int, hidden: int, mlp: int, heads: int, words: int, *, tied: bool
) -> Mapping[str, Any]:
    """The numbers of a public model's config.json; all of these have 8 KV heads of 128."""
    theta = 500_000.0 if kind == "llama" else 1_000_000.0
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": words,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 40_960,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }


MODELS: Mapping[str, Mapping[str, Any]] = {
    "qwen3-0.6b": shape("qwen3", 28, 1024, 3072, 16, 151_936, tied=True),
    "qwen3-1.7b": shape("qwen3", 28, 2048, 6144, 16, 151_936, tied=True),
    "qwen3-8b": shape("qwen3", 36, 4096, 12_288, 32, 151_936, tied=False),
    "llama-8b": shape("llama", 32, 4096, 14_336, 32, 128_256, tied=False),
}
WORDS = 8192
"""Words of the tokenizer that lies beside each model."""


@dataclass
class Lab:
    """`tiny`: every model is a tiny one and every number small, so that a CPU runs the logic."""

    device: torch.device
    work: Path
    tiny: bool
    deadline: float
    big: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.cuda else torch.float32

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def pick(self, full: Any, tiny: Any) -> Any:
        return tiny if self.tiny else full

    def numbers(self, name: str) -> Mapping[str, Any]:
        return TINY_MODEL if self.tiny else MODELS[name]

    def model(self, name: str) -> Path:
        """The folder of that model with random weights in bf16, made once for all sections."""
        numbers = self.numbers(name)
        folder = self.work / ("tiny" if self.tiny else name)
        mark = folder / "made"
        if not mark.exists():
            words = min(WORDS, numbers["vocab_size"])
            save_model(folder, numbers, dtype=self.dtype, device=str(self.device), words=words)
            mark.write_text("whole\n", encoding="utf-8")
            self.clear()
        return folder

    def clear(self) -> None:
        """Give memory back and begin a new peak."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            self.new_peak()

    def new_peak(self) -> None:
        """Count the peak from here on, with what is held now."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        """Highest bytes in tensors since `new_peak`; None where nobody counts them."""
        return int(torch.cuda.max_memory_allocated(self.device)) if self.cuda else None

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    @contextmanager
    def memory_limit(self, limit: int) -> Iterator[None]:
        """Let the allocator take `limit` bytes at most."""
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda)


def load(
    lab: Lab, name: str, method: Any, *, attention: str = "sdpa", dtype: str | None = None
) -> tuple[Any, Any]:
    """(base, its source) as the package loads it."""
    from tanren import attention as attentions
    from tanren.config import ModelConfig
    from tanren.model import load_base, locate

    kind = dtype or str(lab.dtype).removeprefix("torch.")
    config = ModelConfig.model_validate({"name": str(lab.model(name)), "dtype": kind})
    source = locate(config)
    wanted = attentions.register() if attention == "varlen" else attention
    return load_base(source, method, config, attention=wanted), source


def adapted(lab: Lab, name: str, method: Any, **loading: Any) -> tuple[Any, Any]:
    """(model with the method's adapter, its base)."""
    from tanren.adapter import add_adapter

    base, source = load(lab, name, method, **loading)
    return add_adapter(base, source, method, seed=1), base


def fresh(lab: Lab, name: str, method: Any, *, attention: str = "varlen") -> tuple[Any, Any]:
    """As `adapted`, with weights made on the device where nothing has to be read from disk."""
    from tanren import attention as attentions
    from tanren.adapter import add_adapter
    from tanren.model import Source

    if method.storage != "dtype":
        return adapted(lab, name, method, attention=attention)
    wanted = attentions.register() if attention == "varlen" else attention
    base = random_model(
        lab.numbers(name), dtype=lab.dtype, device=str(lab.device), attention=wanted
    )
    base.requires_grad_(False)
    source = Source(name, lab.work / name, None, "", {})
    base.name_or_path = str(source.path)
    return add_adapter(base, source, method, seed=1), base


def perturb(model: nn.Module, *, scale: float, seed: int = 3) -> None:
    """Give B matrices values, as if trained: an untrained adapter proves nothing."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * scale)


def encoded(sequences: Sequence[tuple[Any, Any]]) -> Any:
    """Sequences of (ids, labels) as the package keeps them."""
    from tanren.encode import Encoded

    lengths = [len(ids) for ids, _ in sequences]
    return Encoded.from_arrays(
        {
            "input_ids": np.concatenate([ids for ids, _ in sequences]),
            "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            "trained": np.concatenate([labels != -100 for _, labels in sequences]),
            "source_index": np.zeros(len(lengths), dtype=np.int32),
            "source_line": np.arange(1, len(lengths) + 1, dtype=np.int32),
        },
        ("made.jsonl",),
    )


def methods() -> dict[str, Any]:
    """The four methods of the issue at their defaults, rank 16."""
    from tanren.methods import METHODS

    return {name: METHODS[name]() for name in ("lora", "qlora", "dora", "lora_plus")}


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference relative to the largest value of `other`."""
    one, other = one.double(), other.double()
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


def kl_and_agreement(reference: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """Mean Kullback-Leibler divergence per position in nats, and the share of equal most likely
    tokens. Logits (positions, vocab).
    """
    p, q = reference.float().log_softmax(-1), found.float().log_softmax(-1)
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    return kl, float((p.argmax(-1) == q.argmax(-1)).float().mean())
