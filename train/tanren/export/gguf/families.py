"""Which models we write as GGUF, and how llama.cpp sees each: its name, its fixed ideas, its keys.

llama.cpp has one program a family. What a family's program takes for granted (the activation, the
scale of attention, a head that is the embedding) cannot be said in the file, so a model that does
otherwise is refused here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from tanren.errors import Fault, ModelError

MERGED_WAY = "serve the merged folder with transformers or vLLM instead"


@dataclass(frozen=True, slots=True)
class Family:
    """One of llama.cpp's programs.

    `interleaved`: its rotary embedding pairs neighbouring dimensions where transformers pairs the
    two halves of a head, so the rows of q and k are written in that order. `norm_offset` is added
    to norms (Gemma computes with 1 + weight). `head`: it can have a head of its own.
    `windows`: it honours sliding windows. `biases`: its linear layers may have biases, where the
    config asks for them. `frequencies`: the rotary scalings that it can read.
    """

    architecture: str
    activation: str = "silu"
    interleaved: bool = False
    norm_offset: float = 0.0
    head: bool = True
    windows: bool = False
    biases: bool = False
    frequencies: frozenset[str] = frozenset({"default", "linear", "yarn", "dynamic"})
    transformers_reads_it: bool = True


_LLAMA = frozenset({"default", "linear", "yarn", "dynamic", "llama3"})
_PHI = frozenset({"default", "linear", "yarn", "dynamic", "longrope"})
_TANH = "gelu_pytorch_tanh"

FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", interleaved=True, biases=True, frequencies=_LLAMA),
    "mistral": Family("llama", interleaved=True, biases=True, frequencies=_LLAMA),
    # transformers reads the architecture "llama" without experts
    "mixtral": Family("llama", interleaved=True, frequencies=_LLAMA, transformers_reads_it=False),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "qwen3_moe": Family("qwen3moe"),
    "phi3": Family("phi3", frequencies=_PHI),
    "gemma": Family("gemma", _TANH, norm_offset=1.0, head=False, transformers_reads_it=False),
    "gemma2": Family("gemma2", _TANH, norm_offset=1.0, head=False, windows=True),
    "gemma3_text": Family("gemma3", _TANH, norm_offset=1.0, windows=True),
}
LARGEST_LAYERS = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, which llama.cpp knows by that number and scales attention otherwise."""
USUAL_WINDOW_PERIOD = {"gemma2": 2, "gemma3": 6}
"""Every n-th layer sees everything, the others a window, when the file does not say."""


@dataclass(frozen=True, slots=True)
class Experts:
    """Of a mixture: how many there are, how many work on a token, the width of one."""

    count: int
    used: int
    width: int


@dataclass(frozen=True, slots=True)
class Shape:
    """A text model's config in one vocabulary, whatever its family calls things."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    head_dim: int
    rotary_dim: int
    context: int
    norm_epsilon: float
    vocabulary: int
    tied: bool
    window: int | None
    windowed_layers: tuple[bool, ...]
    """Per layer, whether it looks back `window` tokens only; all False without a window."""
    attention_cap: float | None
    logit_cap: float | None
    experts: Experts | None

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        values: dict[str, Any] = config.to_dict()
        heads, hidden = int(values["num_attention_heads"]), int(values["hidden_size"])
        head_dim = int(values.get("head_dim") or hidden // heads)
        window, windowed = _windows(values)
        return cls(
            layers=int(values["num_hidden_layers"]),
            hidden=hidden,
            feed_forward=int(values["intermediate_size"]),
            heads=heads,
            key_value_heads=int(values.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            rotary_dim=int(head_dim * _rotary_share(values)),
            context=int(values["max_position_embeddings"]),
            norm_epsilon=float(values["rms_norm_eps"]),
            vocabulary=int(values["vocab_size"]),
            tied=bool(config.tie_word_embeddings),
            window=window,
            windowed_layers=windowed,
            attention_cap=values.get("attn_logit_softcapping"),
            logit_cap=values.get("final_logit_softcapping"),
            experts=_experts(values),
        )


def _rotary_share(values: dict[str, Any]) -> float:
    parameters = values.get("rope_parameters") or {}
    return float(
        parameters.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0
    )


def _windows(values: dict[str, Any]) -> tuple[int | None, tuple[bool, ...]]:
    """The window in tokens and which layers have it, from the fields that the families use."""
    layers = int(values["num_hidden_layers"])
    window = values.get("sliding_window")
    if not window or values.get("use_sliding_window") is False:
        return None, (False,) * layers
    kinds = values.get("layer_types")
    windowed = tuple(k == "sliding_attention" for k in kinds) if kinds else (True,) * layers
    return (int(window), windowed) if any(windowed) else (None, windowed)


def _experts(values: dict[str, Any]) -> Experts | None:
    count = values.get("num_local_experts") or values.get("num_experts")
    if not count:
        return None
    width = values.get("moe_intermediate_size") or values["intermediate_size"]
    return Experts(int(count), int(values["num_experts_per_tok"]), int(width))


def family_of(config: PreTrainedConfig, where: str) -> Family:
    """The family of a text model. Raises ModelError for one that we do not write, or that does
    something which its llama.cpp program cannot.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError.of(
            Fault(
                f"{where}/config.json",
                f"the architecture {config.model_type!r}",
                "one that is written as GGUF here: " + ", ".join(sorted(FAMILIES)),
                MERGED_WAY + ", or convert it with llama.cpp's convert_hf_to_gguf.py",
            )
        )
    faults = list(_unlike(config, family, Shape.of(config), f"{where}/config.json"))
    if faults:
        raise ModelError.of(*faults)
    return family


def _unlike(config: PreTrainedConfig, family: Family, shape: Shape, where: str) -> Iterator[Fault]:
    """What the model does that the family's program in llama.cpp does otherwise."""
    values: dict[str, Any] = config.to_dict()

    def unlike(name: str, found: object, expected: object) -> Fault:
        reason = f"{expected!r}: llama.cpp's {family.architecture!r} knows nothing else"
        return Fault(f"{where} {name}", repr(found), reason, MERGED_WAY)

    activation = values.get("hidden_activation") or values.get("hidden_act")
    if activation != family.activation:
        yield unlike("hidden_act", activation, family.activation)
    if not family.head and not shape.tied:
        yield unlike("tie_word_embeddings", False, True)
    for bias in ("attention_bias", "mlp_bias"):
        if values.get(bias) and not family.biases:
            yield unlike(bias, True, False)
    if shape.rotary_dim != shape.head_dim and family.architecture != "phi3":
        yield unlike("partial_rotary_factor", shape.rotary_dim / shape.head_dim, 1.0)
    if shape.experts is not None and values.get("norm_topk_prob", True) is not True:
        yield unlike("norm_topk_prob", values["norm_topk_prob"], True)
    dense = values.get("mlp_only_layers")
    if dense:
        yield unlike("mlp_only_layers", dense, [])
    if values.get("decoder_sparse_step", 1) != 1:
        yield unlike("decoder_sparse_step", values["decoder_sparse_step"], 1)
    if values.get("use_bidirectional_attention"):
        yield unlike("use_bidirectional_attention", True, False)
    if family.architecture == "gemma3" and shape.attention_cap is not None:
        yield unlike("attn_logit_softcapping", shape.attention_cap, None)
    if family.architecture in LARGEST_LAYERS:
        scalar = attention_scalar(family.architecture, shape)
        if float(values["query_pre_attn_scalar"]) != scalar:
            yield unlike("query_pre_attn_scalar", values["query_pre_attn_scalar"], scalar)


def attention_scalar(architecture: str, shape: Shape) -> float:
    """What llama.cpp divides the attention of Gemma 2 and 3 by, before the square root."""
    if shape.layers == LARGEST_LAYERS[architecture]:
        return float(shape.hidden // shape.heads)
    return float(shape.head_dim)


def window_note(family: Family, shape: Shape) -> str | None:
    """What to say when the model has sliding windows and llama.cpp's program has none."""
    if shape.window is None or family.windows or shape.window >= shape.context:
        return None
    return (
        f"llama.cpp reads {family.architecture!r} without sliding windows: beyond "
        f"{shape.window} tokens it attends to everything where the model looks back "
        f"{shape.window} tokens, and answers differ"
    )
