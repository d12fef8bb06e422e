"""Configs of public models, and tiny ones of each family, that the estimates are checked on."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

GIB = 2**30


def public(
    model_type: str, layers: int, h: int, mlp: int, heads: int, vocab: int, tied: bool
) -> dict[str, Any]:
    """The numbers that a public model's config.json states; all of these have 8 KV heads of 128."""
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": h,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }


QWEN3_06B = public("qwen3", 28, 1024, 3072, 16, 151_936, True)
QWEN3_17B = public("qwen3", 28, 2048, 6144, 16, 151_936, True)
QWEN3_8B = public("qwen3", 36, 4096, 12_288, 32, 151_936, False)
LLAMA_8B = public("llama", 32, 4096, 14_336, 32, 128_256, False)

TINY: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# One of each family, and of each switch that moves parameters: ties, biases, head sizes, KV heads.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama all heads": {"model_type": "llama", "num_key_value_heads": None, "head_dim": None},
    "mistral": {"model_type": "mistral", "sliding_window": 8},
    "granite": {"model_type": "granite", "attention_bias": True},
    "smollm3": {"model_type": "smollm3"},
    "qwen2": {"model_type": "qwen2"},
    "qwen2 tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3"},
    "qwen3 tied, biased": {
        "model_type": "qwen3",
        "tie_word_embeddings": True,
        "attention_bias": True,
    },
    "gemma": {"model_type": "gemma"},
    "gemma2": {"model_type": "gemma2"},
    "gemma3": {"model_type": "gemma3_text"},
    "phi3": {"model_type": "phi3"},
    "phi4-mini": {"model_type": "phi3", "tie_word_embeddings": True},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    },
}

# stories260k: a Llama of 260 thousand parameters with more heads than KV heads and tied embeddings.
STORIES: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "vocab_size": 512,
    "tie_word_embeddings": True,
    "pad_token_id": None,
}


def tiny(overrides: dict[str, Any]) -> dict[str, Any]:
    return {**TINY, **overrides}


def real_model(config: dict[str, Any], **build: Any) -> Any:
    values = {key: value for key, value in config.items() if key != "model_type"}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(config["model_type"], **values), **build
    )


def meta_model(config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return real_model(config)
