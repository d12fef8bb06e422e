"""What each server does with an adapter, as its sources say; docs/serving.md has the places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tanren.serving.facts import AdapterFacts

Unmerged = Literal["yes", "yes, folded", "no"]
Feature = Literal[
    "dora", "saved modules", "trained tokens", "experts", "embeddings", "lonely", "other"
]
Fold = Literal["rslora", "patterns"]

MERGED = "tanren export RUN --to merged"
GGUF = "tanren export RUN --to gguf"
OLLAMA_FOLDER = "tanren export RUN --to ollama"

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes: vllm/config/lora.py, MaxLoRARanks, in vLLM 0.33.0."""

# The families whose vLLM class names `embed_tokens` in `embedding_modules`; adapters on the
# embedding of others are refused (vllm/model_executor/models/*.py, 0.33.0).
_VLLM_EMBEDDINGS = frozenset(
    {
        "llama",
        "phi3",
        "qwen3",
        "qwen3_moe",
        "qwen3_5_text",
        "mixtral",
        "granite",
        "granitemoe",
        "phimoe",
    }
    | {"lfm2", "apertus", "exaone4", "falcon_h1", "cohere"}
)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a server cannot take an adapter unmerged. `setting` is a key of adapter_config.json."""

    setting: str
    found: str
    why: str


@dataclass(frozen=True, slots=True)
class ServingVerdict:
    """What one server does with one adapter. `version` is the one whose sources were read;
    `instead` the command that writes what it serves, empty where the adapter's own folder is it.
    """

    server: str
    version: str
    unmerged: Unmerged
    why: str
    instead: str
    obstacles: tuple[Obstacle, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Server:
    """What a server takes: `refuses` has the reason for each feature it does not read, `folds`
    those that become plain LoRA when its adapter is written. `command` writes the adapter for it,
    `merged` the whole model.
    """

    name: str
    version: str
    takes: str
    command: str
    merged: str
    refuses: Mapping[Feature, str]
    folds: Mapping[Fold, str] = field(default_factory=dict)
    largest_rank: int | None = None
    embedding_families: frozenset[str] | None = None


# vllm/lora/peft_helper.py (what it validates, and that use_rslora, rank_pattern and alpha_pattern
# scale each layer), vllm/lora/lora_model.py and utils.py (which tensors it knows by name)
VLLM = Server(
    "vLLM",
    "0.33.0",
    "reads it as it is",
    "tanren export RUN --to vllm",
    MERGED,
    {
        "dora": "it refuses to load it",
        "saved modules": "takes whole modules only as heads of classifiers",
        "trained tokens": "refuses tensors other than A and B",
        "experts": "reads stacked experts for few architectures, in a layout of its own",
        "embeddings": "takes adapters on embeddings only for some families",
        "other": "refuses or ignores it",
    },
    largest_rank=VLLM_RANKS[-1],
    embedding_families=_VLLM_EMBEDDINGS,
)
# sglang/srt/lora/lora.py (scaling = lora_alpha / r), lora_manager.py (use_dora raises), mem_pool.py
# (every tensor must have rank r, unknown names are skipped with a warning)
SGLANG = Server(
    "SGLang",
    "0.5.23",
    "reads it as it is",
    "tanren export RUN --to vllm",
    MERGED,
    {
        "dora": "it refuses to load it",
        "saved modules": "leaves whole modules out without an error",
        "trained tokens": "leaves trained tokens out without an error",
        "experts": "expects one adapter per expert under other names",
        "lonely": "puts q, k, v and gate, up together and leaves a lonely part out",
        "other": "ignores it",
    },
    {
        "rslora": "ignores use_rslora, which is folded into alpha",
        "patterns": "takes one rank and one alpha, so ranks are padded and scales folded into B",
    },
)
_GGUF_REFUSES: Mapping[Feature, str] = {
    "dora": "GGUF adapters hold A and B only, no magnitudes",
    "saved modules": "GGUF adapters hold no whole modules",
    "trained tokens": "GGUF adapters hold no trained tokens",
    "experts": "GGUF adapters have no form for PEFT's stacked experts",
    "other": "GGUF adapters have no place for it",
}
_GGUF_FOLDS: Mapping[Fold, str] = {
    "rslora": "scales by alpha / rank: use_rslora is folded into alpha",
    "patterns": "has one alpha for all layers: scales are folded into B",
}
# convert_lora_to_gguf.py (writes lora_alpha alone, stops at other tensors) and
# src/llama-adapter.h (scale = alpha / rank of the tensor), commit 0b03ada
LLAMA_CPP = Server(
    "llama.cpp",
    "0b03ada",
    "takes it as a GGUF adapter (--lora)",
    GGUF,
    GGUF,
    _GGUF_REFUSES,
    _GGUF_FOLDS,
)
# llm/llama_server.go, commit 00f6d62: adapters go to llama-server as --lora. Releases up to 0.22
# stop at the first question for the families of their own engine (runner/ollamarunner/runner.go).
OLLAMA = Server(
    "Ollama",
    "00f6d62",
    "takes it as a GGUF adapter (ADAPTER); releases up to 0.22 only for some families",
    OLLAMA_FOLDER,
    OLLAMA_FOLDER,
    _GGUF_REFUSES,
    _GGUF_FOLDS,
)
PEFT = Server("transformers+PEFT", "0.21.2", "reads it as it is", "", "", {})
SERVERS = (VLLM, SGLANG, LLAMA_CPP, OLLAMA, PEFT)


def verdicts(adapter: AdapterFacts) -> tuple[ServingVerdict, ...]:
    """What every server does with an adapter, in the order of `SERVERS`."""
    return tuple(verdict(server, adapter) for server in SERVERS)


def verdict(server: Server, adapter: AdapterFacts) -> ServingVerdict:
    """What one server does with an adapter."""

    def said(unmerged: Unmerged, why: str, command: str) -> ServingVerdict:
        return ServingVerdict(server.name, server.version, unmerged, why, command, obstacles)

    obstacles = tuple(_obstacles(server, adapter))
    if adapter.rank == 0:
        why = "the whole model was trained: there is nothing to merge"
        return said("yes", why, server.merged)
    if obstacles:
        why = "; ".join(f"{obstacle.found}: {obstacle.why}" for obstacle in obstacles)
        return said("no", why, server.merged)
    folded = [words for name, words in server.folds.items() if _has(adapter, name)]
    why = "; ".join(folded or [server.takes])
    unmerged: Unmerged = "yes, folded" if folded else "yes"
    if adapter.four_bit and server.command:
        why += "; but not on the 4-bit base that it learned on: merged is nearer"
        return said(unmerged, why, server.merged)
    return said(unmerged, why, server.command)


def _has(adapter: AdapterFacts, fold: Fold) -> bool:
    return adapter.rslora if fold == "rslora" else adapter.patterns


def _obstacles(server: Server, adapter: AdapterFacts) -> Iterator[Obstacle]:
    for feature, setting, found in _features(adapter):
        if feature == "embeddings" and adapter.model_type in (server.embedding_families or ()):
            continue
        if feature in server.refuses:
            yield Obstacle(setting, found, server.refuses[feature])
    if server.largest_rank is not None and adapter.rank > server.largest_rank:
        yield Obstacle("r", f"rank {adapter.rank}", f"takes ranks to {server.largest_rank}")


def _features(adapter: AdapterFacts) -> Iterator[tuple[Feature, str, str]]:
    """(feature, key of adapter_config.json, what was found) beyond plain LoRA on linear layers."""
    if adapter.dora:
        yield "dora", "use_dora", "DoRA"
    if adapter.saved_modules:
        names = ", ".join(adapter.saved_modules[:3])
        yield "saved modules", "modules_to_save", f"modules trained whole ({names})"
    if adapter.trained_tokens:
        yield "trained tokens", "trainable_token_indices", "tokens trained on their own"
    if adapter.experts:
        yield "experts", "target_parameters", "adapters on stacked experts"
    if adapter.embeddings:
        names = ", ".join(adapter.embeddings)
        yield "embeddings", "target_modules", f"an adapter on {names}"
    if adapter.lonely:
        yield "lonely", "target_modules", ", ".join(adapter.lonely)
    for setting in adapter.other:
        yield "other", setting.split("=")[0], setting
