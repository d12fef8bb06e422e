"""Tiny random models with a tokenizer, chat rows and settings, all made in a second.

`build_model(folder, "qwen3")` writes what a model from the hub looks like on disk: config, weights,
tokenizer with chat template, generation settings. Tests ask the fixtures of `conftest.py` for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tanren.config import RunConfig, load

TINY_CHAT = Path(__file__).parent.parent / "data" / "tiny-chat"

CHATML = (
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
QUESTIONS = (
    "空はなぜ青いの？",
    "Who are you?",
    "犬はなぜほえるの？",
    "What is two and two?",
    "月はなぜ光るの？",
    "Where do you live?",
)
ANSWERS = (
    "青い光がよくちらばるからだよ。",
    "I am Taro.",
    "気持ちを伝えるためだよ。",
    "Two and two is four, as everybody knows.",
    "太陽の光をはね返すからだよ。",
    "In a small computer by the window.",
)
CORPUS = (*QUESTIONS, *ANSWERS, "system\nuser\nassistant\n", "the cat sat on the mat")

WINDOW = 8
"""Sliding window of the mistral and gemma3 models, in tokens: shorter than most test rows."""

# One of each behaviour that our code must not depend on: grouped KV heads, tied embeddings, scaled
# embeddings, alternating and uniform sliding windows, soft-capped logits, stacked experts.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {"model_type": "qwen3"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": WINDOW},
    "gemma3": {
        "model_type": "gemma3_text",
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 16,
    },
    "gemma2": {
        "model_type": "gemma2",
        "sliding_window": WINDOW,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    "phi3": {"model_type": "phi3"},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
}
SHAPE: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    # Wider than libraries start with, so that two different inputs have clearly different logits.
    "initializer_range": 0.15,
    "bos_token_id": None,
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 tokens with a ChatML template; pad is a token of its own."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD, model_max_length=256
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def random_model(family: str, vocabulary: int, **changes: Any) -> PreTrainedModel:
    """An untrained float32 model; the same weights every time. `changes` go into its config."""
    values = {**SHAPE, "vocab_size": vocabulary, **FAMILIES[family], **changes}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    state = torch.get_rng_state()
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config)
    torch.set_rng_state(state)
    return model.eval()  # type: ignore[no-any-return]


def build_model(folder: Path, family: str, **changes: Any) -> Path:
    """A model folder as from the hub. The vocabulary has no id beyond the tokenizer's."""
    tokenizer = build_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = random_model(family, len(tokenizer), **ids, **changes)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 6, *, turns: int = 1) -> Path:
    """`count` chat rows of different lengths; no two are equal."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            messages = []
            for turn in range(turns):
                question = QUESTIONS[(i + turn) % len(QUESTIONS)]
                answer = ANSWERS[(i + 2 * turn) % len(ANSWERS)]
                number = f"{i}. " if i >= len(QUESTIONS) else ""
                messages += [
                    {"role": "user", "content": number + question},
                    {"role": "assistant", "content": answer},
                ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path


def settings(
    model: Path,
    train: Path,
    overrides: Sequence[str] = (),
    *,
    method: str | Mapping[str, Any] = "lora",
) -> RunConfig:
    """A short run: rank 4, batches of 2, no warm-up, rate 1e-3, no sample answers.

    `overrides` are laid over it as on the command line: `training.max_steps=3`.
    """
    chosen = {"name": method} if isinstance(method, str) else dict(method)
    if chosen["name"] != "full":
        chosen = {"rank": 4, **chosen}
    base = {
        "model": {"name": str(model)},
        "data": {"train": str(train)},
        "method": chosen,
        "training": {
            "learning_rate": 1e-3,
            "num_epochs": 1,
            "batch_size": 2,
            "warmup_fraction": 0.0,
        },
        "evaluation": {"samples": 0},
        "seed": 7,
    }
    return load(None, overrides, base=base)
