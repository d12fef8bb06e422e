"""A GGUF file back into transformers, by transformers' own reader, for comparing.

That reader takes tensors, tokenizer and the plain keys of a file. Others it passes over: rotary
scalings, sliding windows of some families, soft caps, the width of heads. They are read from the
file here, so that the model which comes back is the one that the file speaks of. A person who loads
the file with transformers alone gets a model without them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor, nn

from tanren import privacy
from tanren.errors import Fault, ModelError
from tanren.export.gguf.families import FAMILIES, USUAL_WINDOW_PERIOD

privacy.apply()

import transformers  # noqa: E402 - telemetry must be off before
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

Metadata = Mapping[str, Any]
READABLE = frozenset(f.architecture for f in FAMILIES.values() if f.transformers_reads_it)


def read_back(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model in float32 and tokenizer out of a GGUF file of `write_gguf`; errors of both below."""
    return read_model(path), read_tokenizer(path)


def read_model(path: Path) -> PreTrainedModel:
    """The model in float32, with the file's stops.

    Raises ModelError for damaged files and for architectures that transformers' reader does not
    know (Gemma 1, Mixtral); llama.cpp alone can prove those.
    """
    metadata, factors = read_metadata(path)
    architecture = str(metadata.get("general.architecture"))
    mixture = architecture == "llama" and "llama.expert_count" in metadata
    if architecture not in READABLE or mixture:
        raise ModelError.of(
            Fault(
                str(path),
                f"the architecture {architecture!r}{' with experts' if mixture else ''}",
                "one that transformers reads from GGUF: " + ", ".join(sorted(READABLE)),
                "prove this file with llama.cpp",
            )
        )
    with _reading(path):
        config = _completed(_plain_config(path), architecture, metadata, factors)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
        )
    if "rope_freqs.weight" in factors:
        _divide_frequencies(model, factors["rope_freqs.weight"])
    model.generation_config.eos_token_id = list(stop_ids(metadata))
    result: PreTrainedModel = model.eval()
    return result


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers rebuilds it. Of SentencePiece's kind it guesses the rules for
    white space by the architecture, so it may cut text otherwise than llama.cpp does.

    Raises ModelError for damaged files and for tokenizers that this transformers cannot rebuild
    (before 5.20 byte-level ones of most architectures).
    """
    read_metadata(path)
    with _reading(path):
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                path.parent, gguf_file=path.name, local_files_only=True
            )
        except (AttributeError, TypeError) as error:  # its converters assume SentencePiece
            raise ModelError.of(
                Fault(
                    str(path),
                    f"a tokenizer that transformers {transformers.__version__} cannot rebuild",
                    "one that its GGUF reader knows for this architecture",
                    "compare the tokens with llama.cpp, or use a newer transformers",
                )
            ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def read_metadata(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All keys of a file, and its tensors of rotary factors. Raises ModelError for damaged files,
    also when only their last bytes are gone.
    """
    with _reading(path):
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        factors = {
            tensor.name: torch.from_numpy(tensor.data.copy())
            for tensor in reader.tensors
            if tensor.name.startswith("rope_f")
        }
    return metadata, factors


def stop_ids(metadata: Metadata) -> tuple[int, ...]:
    """The ids that the file says end an answer."""
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    return tuple(int(metadata[key]) for key in keys if key in metadata)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Libraries' progress bars are swallowed, and their errors say which file is damaged."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except (ValueError, IndexError, KeyError, OSError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError.of(
            Fault(
                str(path),
                f"a file that cannot be read ({words[0][:160]})",
                "a whole GGUF file",
                "write it again",
            )
        ) from error


def _plain_config(path: Path) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True
    )
    return config


def _completed(
    config: PreTrainedConfig, architecture: str, metadata: Metadata, factors: Mapping[str, Tensor]
) -> PreTrainedConfig:
    """The config with what transformers' reader passed over."""

    def key(name: str) -> Any:
        return metadata.get(f"{architecture}.{name}")

    values: dict[str, Any] = config.to_dict()
    values["head_dim"] = key("attention.key_length")
    values["rope_parameters"] = _rope_parameters(architecture, key, factors)
    values["sliding_window"] = key("attention.sliding_window") or None
    values["layer_types"] = _layer_types(architecture, key)
    if architecture == "phi3":
        original = key("rope.scaling.original_context_length")
        values["original_max_position_embeddings"] = original or key("context_length")
    if architecture in USUAL_WINDOW_PERIOD:
        values["attn_logit_softcapping"] = key("attn_logit_softcapping")
        values["final_logit_softcapping"] = key("final_logit_softcapping")
        values["query_pre_attn_scalar"] = key("attention.key_length")
    if architecture == "qwen3moe":
        values["moe_intermediate_size"] = key("expert_feed_forward_length")
    known = type(config).from_dict({n: v for n, v in values.items() if n != "layer_types"})
    names = known.to_dict()
    if values["layer_types"] is not None and "layer_types" in names:
        known = type(config).from_dict({**names, "layer_types": values["layer_types"]})
    return known


def _layer_types(architecture: str, key: Any) -> list[str] | None:
    """Of families with windows, which layer has one."""
    period = USUAL_WINDOW_PERIOD.get(architecture)
    if period is None or not key("attention.sliding_window"):
        return None
    layers = range(int(key("block_count")))
    pattern = key("attention.sliding_window_pattern")
    windowed = pattern or [layer % period < period - 1 for layer in layers]
    return ["sliding_attention" if w else "full_attention" for w in windowed]


def _rope_parameters(architecture: str, key: Any, factors: Mapping[str, Tensor]) -> dict[str, Any]:
    base = {"rope_type": "default", "rope_theta": float(key("rope.freq_base"))}
    full = {**base, **_scaling(key, factors)}
    rotary, width = key("rope.dimension_count"), key("attention.key_length")
    if rotary and rotary != width:
        full["partial_rotary_factor"] = rotary / width
    if architecture != "gemma3":
        return full
    window_base = float(key("rope.freq_base_swa") or 10000.0)
    return {
        "full_attention": full,
        "sliding_attention": {"rope_type": "default", "rope_theta": window_base},
    }


def _scaling(key: Any, factors: Mapping[str, Tensor]) -> dict[str, Any]:
    """transformers' parameters of the scaling that the file states."""
    attention = key("rope.scaling.attn_factor")
    original = key("rope.scaling.original_context_length")
    if "rope_factors_long.weight" in factors:
        return {
            "rope_type": "longrope",
            "long_factor": factors["rope_factors_long.weight"].tolist(),
            "short_factor": factors["rope_factors_short.weight"].tolist(),
            "original_max_position_embeddings": original,
            "attention_factor": attention,
        }
    kind, factor = key("rope.scaling.type"), key("rope.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        return {}
    own = 1.0 + 0.1 * float(torch.tensor(factor, dtype=torch.float64).log())
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "attention_factor": (attention or 1.0) * own,
    }


def _divide_frequencies(model: PreTrainedModel, factors: Tensor) -> None:
    """Llama 3's scaling, which a file holds as what each frequency is divided by."""
    rotary: nn.Module = model.get_decoder().rotary_emb
    for name in ("inv_freq", "original_inv_freq"):
        before = rotary.get_buffer(name)
        rotary.register_buffer(name, before / factors, persistent=False)
