"""Models of every family that is written as GGUF, adapters for them, logits of a few prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from tanren.export.gguf import GgufType

PROMPTS = [[5, 17, 200, 33, 9], [7, *range(20, 44), 380, 3]]
"""The second is longer than the tiny models' sliding window."""

# Our name of a family: the entry of tests/tiny.py that it is made from, and what is changed.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("qwen3", {"model_type": "llama"}),
    "llama-tied": ("llama-tied", {}),
    "llama-biases": ("qwen3", {"model_type": "llama", "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    # Its tokenizer gets a token more when it is loaded; the rows beyond are padding.
    "qwen2": ("qwen3", {"model_type": "qwen2", "vocab_size": 416}),
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3_moe": ("qwen3_moe", {}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3", {}),
    "phi3": ("qwen3", {"model_type": "phi3"}),
    "gemma": ("qwen3", {"model_type": "gemma", "tie_word_embeddings": True}),
    "mixtral": ("mixtral", {}),
}
UNREADABLE = ("gemma", "mixtral")
"""Families that transformers' GGUF reader does not know."""
READABLE = tuple(name for name in FAMILIES if name not in UNREADABLE)

ROPES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("llama-tied", {"rope_type": "linear", "factor": 4.0}),
    "yarn": (
        "qwen3",
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    ),
    "yarn-louder": (
        "qwen3",
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "attention_factor": 1.3,
        },
    ),
    "llama3": (
        "llama-tied",
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
}

SCALINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"layers.1.mlp.down_proj": 2},
        "alpha_pattern": {"o_proj": 40},
        "use_rslora": True,
    },
}


# Largest difference over the largest logit. The models are random and their weights ten times as
# wide as usual, so rounding shows more than in a trained one.
TOLERANCE = {GgufType.F32: 2e-6, GgufType.F16: 1e-2, GgufType.BF16: 8e-2, GgufType.Q8_0: 8e-2}


def build(tiny_model: Callable[..., Path], name: str) -> Path:
    """A folder of that family, made once. Tests must not write into it."""
    family, changes = FAMILIES[name]
    return tiny_model(family, **changes)


def load(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()  # type: ignore[no-any-return]


def logits(model: Any) -> list[np.ndarray]:
    """Of every prompt, (time, vocab)."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor([p])).logits[0].numpy() for p in PROMPTS]


def difference(expected: list[np.ndarray], found: Any) -> float:
    """Largest difference over the largest logit."""
    pairs = list(zip(expected, found, strict=True))
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def stored(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file as float32, by name."""
    reader = gguf.GGUFReader(path)
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def adapted(base: Path, **settings: Any) -> Any:
    """A LoRA of rank 4 on all linear layers whose B is not zero."""
    torch.manual_seed(5)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **settings}
    model = get_peft_model(load(base), LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "model")


def changed(folder: Path, **values: Any) -> Path:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **values}), "utf-8")
    return folder
