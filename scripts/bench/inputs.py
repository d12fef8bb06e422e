"""Inputs made from seeds alone: random models of real shapes, a word tokenizer, chat rows.

Random weights measure speed and arithmetic, never quality.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant")
TEMPLATE = (
    "{%- for m in messages -%}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> {%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|> assistant {%- endif -%}"
)
TEMPLATE_TOKENS = 6
"""Tokens of one question and one answer beside their words: start, role and end of each turn."""

BENCH_MODEL: Mapping[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 8192,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
"""26 million parameters."""

TINY_MODEL: Mapping[str, Any] = {
    **BENCH_MODEL,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
}


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token a word: `w0`, `w1`, ... beside the markers, so that lengths are exactly those asked
    for.
    """
    words = [PAD, START, END, "<|unk|>", *ROLES]
    words += [f"w{i}" for i in range(vocabulary - len(words))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<|unk|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token="<|unk|>",
        extra_special_tokens=[START],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def random_model(
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    attention: str = "sdpa",
    seed: int = 0,
) -> PreTrainedModel:
    """A model of these numbers with fresh weights, made directly where and as it is needed."""
    values = {key: value for key, value in config.items() if key != "model_type"}
    settings = AutoConfig.for_model(
        config["model_type"], pad_token_id=0, bos_token_id=1, eos_token_id=2, **values
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            settings, dtype=dtype, attn_implementation=attention
        )
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
    return model


def save_model(
    folder: Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    words: int | None = None,
    seed: int = 0,
) -> Path:
    """What a model from the hub looks like on disk. `words` limits the tokenizer's vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    random_model(config, dtype=dtype, device=device, seed=seed).save_pretrained(folder)
    word_tokenizer(words or config["vocab_size"]).save_pretrained(folder)
    return folder


def chat_lengths(
    rows: int, *, mean: float, seed: int, spread: float = 0.7, most: int = 1024
) -> list[int]:
    """Lognormal tokens per row with that mean; `spread` is the standard deviation of the log."""
    drawn = np.random.default_rng([seed, 1]).lognormal(
        np.log(mean) - spread**2 / 2, spread, size=rows
    )
    return [int(n) for n in np.clip(drawn, 16, most)]


def chat_rows(
    lengths: list[int], *, words: int, seed: int, labelled: float = 0.4
) -> Iterator[dict[str, Any]]:
    """Question and answer per length; about `labelled` of the tokens are the answer's. Words follow
    Zipf's law, so that there is something to learn.
    """
    generator = np.random.default_rng([seed, 2])
    for length in lengths:
        content = max(2, length - TEMPLATE_TOKENS)
        answer = min(content - 1, max(1, round(labelled * length) - 1))
        drawn = (generator.zipf(1.3, size=content) - 1) % words
        text = [f"w{i}" for i in drawn]
        yield {
            "messages": [
                {"role": "user", "content": " ".join(text[answer:])},
                {"role": "assistant", "content": " ".join(text[:answer])},
            ]
        }


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def random_sequences(
    lengths: list[int], *, vocabulary: int, seed: int, labelled: float = 1.0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, labels) as `tanren.encode` gives them, each int32; the last `labelled` share has
    labels.
    """
    generator = np.random.default_rng([seed, 3])
    found = []
    for length in lengths:
        ids = ((generator.zipf(1.3, size=length) + 2) % vocabulary).astype(np.int32)
        labels = ids.copy()
        labels[: length - max(1, round(labelled * length))] = -100
        found.append((ids, labels))
    return found
