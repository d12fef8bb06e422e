"""Write into every file of configs/ what it needs: the lines `# Memory: ...` and `# Rows: ...`.

    python scripts/plan_configs.py                  # or: make docs

The figures are `tanren.estimate`'s for the card that the file is named after, with 5% of its memory
left to the driver and the desktop. A test compares the files with what this script would write, so
a better estimate reaches them too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tanren.config import RunConfig, load
from tanren.estimate import MemoryPlan, MethodFacts, ModelShape, Workload, plan_memory, shape_of

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
USABLE = 0.95

# What the models' own config.json say, as far as memory depends on it, and their context (tokens).
_SHARED = {"num_key_value_heads": 8, "head_dim": 128}
_QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
    **_SHARED,
}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B": {
        **_QWEN3,
        "num_hidden_layers": 28,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-1.7B": {
        **_QWEN3,
        "num_hidden_layers": 28,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-8B": {
        **_QWEN3,
        "num_hidden_layers": 36,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "meta-llama/Llama-3.1-8B-Instruct": {
        "model_type": "llama",
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
        **_SHARED,
    },
}


def card_bytes(path: Path) -> int:
    """What a job may use of the card in a file's name: `qwen3-8b-lora-24gb.yaml` means 24 GiB."""
    found = re.search(r"-(\d+)gb\.yaml$", path.name)
    if found is None:
        raise ValueError(f"{path.name} does not end in -<memory>gb.yaml")
    return int(int(found[1]) * 2**30 * USABLE)


def plan_of(config: RunConfig, memory_bytes: int, *, longest_row: int | None = None) -> MemoryPlan:
    """As the gate before training plans it, for rows that are all as long as the longest may be."""
    length = longest_row or config.data.max_length
    if length == "auto":
        raise ValueError(f"{config.model.name}: data.max_length has to be a number here")
    wanted = config.training.micro_batch_tokens
    packed = config.training.packing is not False
    work = Workload(
        memory_bytes=memory_bytes,
        longest_row=length,
        batch_tokens=length * config.training.batch_size,
        checkpointing=config.training.gradient_checkpointing,
        micro_batch_tokens=None if wanted == "auto" else wanted,
        attention="varlen" if packed else "sdpa",
        packed=packed,
    )
    return plan_memory(shape_of_model(config.model.name), facts_of(config), work)


def shape_of_model(name: str) -> ModelShape:
    return shape_of(MODELS[name], source=name)


def facts_of(config: RunConfig) -> MethodFacts:
    method, optimizer = config.method, config.training.optimizer
    if optimizer == "auto":
        optimizer = "paged_adamw_8bit" if method.storage == "nf4" else "adamw"
    return MethodFacts.of(method, optimizer)


def longest_row(config: RunConfig, memory_bytes: int) -> int:
    """Tokens of the longest row that the card takes, in whole hundreds, at most the context."""
    low, high = 1, MODELS[config.model.name]["max_position_embeddings"] // 100
    while low < high:
        middle = (low + high + 1) // 2
        fits = plan_of(config, memory_bytes, longest_row=middle * 100).fits
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * 100


def facts_as_comments(path: Path) -> tuple[str, str]:
    """The two lines that say what a file needs."""
    config, memory = load(path), card_bytes(path)
    plan, longest = plan_of(config, memory), longest_row(config, memory)
    return (
        f"# Memory: {plan.total_bytes / 1e9:.1f} GB of {memory / 1e9:.1f} GB by estimate, with "
        f"{plan.micro_batch_tokens:,} tokens per pass",
        f"# Rows: up to {longest:,} tokens fit; at {config.data.max_length:,} "
        f"{plan.checkpointed_layers} of {plan.layers} layers are recomputed",
    )


def planned(path: Path) -> str:
    """The file's text with its two lines brought up to date."""
    memory, rows = facts_as_comments(path)
    text = path.read_text(encoding="utf-8")
    text, first = re.subn(r"^# Memory: .*$", memory, text, flags=re.MULTILINE)
    text, second = re.subn(r"^# Rows: .*$", rows, text, flags=re.MULTILINE)
    if (first, second) != (1, 1):
        raise ValueError(f"{path} needs one `# Memory:` line and one `# Rows:` line")
    return text


def planned_files() -> list[Path]:
    """All configs that are made for a card."""
    return sorted(CONFIGS.glob("*-*gb.yaml"))


if __name__ == "__main__":
    for path in planned_files():
        path.write_text(planned(path), encoding="utf-8")
    print(f"planned {len(planned_files())} files of {CONFIGS}")
