"""A model's dimensions and parameter counts, read from its `config.json` alone: no weights, no
torch.

Counts are exact for the families below and refused for all others: a wrong number would look as
sure as a right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tanren.errors import Fault, ModelError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Family:
    """What a `model_type` does beyond the Llama block, as its published modelling code defines it.

    `hidden_norms`: RMS norms as wide as the hidden state, per layer. `head_norms`: one norm of
    `head_dim` weights on queries and one on keys. `fused`: one `qkv_proj` and one `gate_up_proj`.
    `always_biased`: projections with a bias whatever the config says; `bias_keys`: config keys that
    switch biases on, each with the projections it rules. `tied`, `head_dim`, `pattern`: what a
    missing key means. `one_kv_head_each`: whether a missing `num_key_value_heads` means one per
    attention head. `window`: which layers see only `sliding_window` tokens.
    """

    hidden_norms: int = 2
    head_norms: bool = False
    fused: bool = False
    always_biased: tuple[str, ...] = ()
    bias_keys: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tied: bool = False
    head_dim: int | None = None
    one_kv_head_each: bool = False
    window: str = "none"
    pattern: int = 0
    experts: bool = False


_ATTENTION_BIAS = ("attention_bias", ATTENTION)
_MLP_BIAS = ("mlp_bias", MLP)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(bias_keys=(_ATTENTION_BIAS, _MLP_BIAS), one_kv_head_each=True),
    "mistral": Family(window="all"),
    "ministral": Family(window="all"),
    "mixtral": Family(window="all", experts=True),
    "granite": Family(bias_keys=(_ATTENTION_BIAS, _MLP_BIAS), one_kv_head_each=True),
    "smollm3": Family(bias_keys=(_ATTENTION_BIAS, _MLP_BIAS), tied=True),
    "qwen2": Family(always_biased=QUERY_KEY_VALUE, window="late"),
    "qwen3": Family(head_norms=True, bias_keys=(_ATTENTION_BIAS,), head_dim=128, window="late"),
    "qwen3_moe": Family(head_norms=True, bias_keys=(_ATTENTION_BIAS,), experts=True),
    "gemma": Family(bias_keys=(_ATTENTION_BIAS,), tied=True, head_dim=256),
    "gemma2": Family(
        hidden_norms=4,
        bias_keys=(_ATTENTION_BIAS,),
        tied=True,
        head_dim=256,
        window="pattern",
        pattern=2,
    ),
    "gemma3_text": Family(
        hidden_norms=4,
        head_norms=True,
        bias_keys=(_ATTENTION_BIAS,),
        tied=True,
        head_dim=256,
        window="pattern",
        pattern=6,
    ),
    "phi3": Family(fused=True, one_kv_head_each=True, window="all"),
}


@dataclass(frozen=True, slots=True)
class Linear:
    """One weight matrix `(outputs, inputs)` that stands in every layer, e.g. `self_attn.q_proj`."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Experts:
    """Stacked expert weights of one layer, with the router that picks `active` of `count` per
    token. `matrices` are those of one expert, each with the name of the stack that it lies in.
    """

    count: int
    active: int
    matrices: tuple[Linear, ...]
    router: int

    @property
    def weights_each(self) -> int:
        return sum(matrix.weights for matrix in self.matrices)

    @property
    def weights(self) -> int:
        return self.count * self.weights_each + self.router

    @property
    def active_weights(self) -> int:
        return self.active * self.weights_each + self.router


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions and counts of a decoder. All counts are numbers of parameters, not bytes.

    `q = num_attention_heads * head_dim`, `k = num_key_value_heads * head_dim`; `intermediate` is
    the width that one token passes through in the MLP (for experts: the active ones together).
    `windows` holds, per layer, how many tokens back attention sees; None is all.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    q: int
    k: int
    intermediate: int
    vocab: int
    tied: bool
    hidden_norms: int
    head_norm_width: int
    linears: tuple[Linear, ...]
    experts: Experts | None
    windows: tuple[int | None, ...]
    max_positions: int | None

    @property
    def lin(self) -> int:
        """Weights of all layers' matrices, without embedding, head, norms and biases."""
        experts = self.experts.weights if self.experts else 0
        return self.layers * (sum(linear.weights for linear in self.linears) + experts)

    @property
    def standing_lin(self) -> int:
        """The part of `lin` that lies in linear layers: all of it, except in mixtures of experts,
        whose stacks and router are no such layers.
        """
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def active_lin(self) -> int:
        """The part of `lin` that one token is multiplied with: all of it, except in mixtures of
        experts.
        """
        experts = self.experts.active_weights if self.experts else 0
        return self.layers * (sum(linear.weights for linear in self.linears) + experts)

    @property
    def embedding(self) -> int:
        return self.vocab * self.hidden

    @property
    def head(self) -> int:
        """Weights that the output is multiplied with; the embedding's own when `tied`."""
        return self.vocab * self.hidden

    @property
    def biases(self) -> int:
        return self.layers * sum(linear.outputs for linear in self.linears if linear.bias)

    @property
    def norm(self) -> int:
        per_layer = self.hidden_norms * self.hidden + 2 * self.head_norm_width
        return self.layers * per_layer + self.hidden

    @property
    def total(self) -> int:
        """Every stored parameter, a tied head counted once."""
        head = 0 if self.tied else self.head
        return self.embedding + head + self.lin + self.biases + self.norm

    def attention_work(self, length: float) -> float:
        """`A` of the FLOP formulas: the sum over layers of `q * S`, S the length of a row in
        tokens.

        Causal attention reads S/2 keys on average. A window of W < S reads W - W^2/(2S), which is
        what causal attention over an S of 2W - W^2/S would read, so that value stands for S in such
        a layer.
        """
        return self.q * sum(_causal_length(length, window) for window in self.windows)


def shape_of(config: Mapping[str, Any], *, source: str = "config.json") -> ModelShape:
    """Read a Hugging Face `config.json`. Raises ModelError with every fault when it cannot be
    counted exactly.
    """
    family = _family(config, source)
    numbers, faults = _numbers(config, family, source)
    if faults:
        raise ModelError.of(*faults)
    hidden, heads = numbers["hidden_size"], numbers["num_attention_heads"]
    head_dim = numbers.get("head_dim") or family.head_dim or hidden // heads
    q, k = heads * head_dim, numbers.get("num_key_value_heads", heads) * head_dim
    experts = _experts(numbers) if family.experts else None
    intermediate = numbers.get("moe_intermediate_size") or numbers["intermediate_size"]
    tied = config.get("tie_word_embeddings")
    return ModelShape(
        model_type=config["model_type"],
        layers=numbers["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        q=q,
        k=k,
        intermediate=intermediate * (experts.active if experts else 1),
        vocab=numbers["vocab_size"],
        tied=family.tied if tied is None else bool(tied),
        hidden_norms=family.hidden_norms,
        head_norm_width=head_dim if family.head_norms else 0,
        linears=_linears(config, family, hidden, q, k, intermediate),
        experts=experts,
        windows=_windows(config, family, numbers["num_hidden_layers"], source),
        max_positions=numbers.get("max_position_embeddings"),
    )


def _family(config: Mapping[str, Any], source: str) -> Family:
    name = config.get("model_type")
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    if "text_config" in config:
        fault = Fault(
            f"{source} model_type",
            f"{name!r}, which has more than a text part",
            "a text model",
            "take the text-only checkpoint of the same family; images and sound are not counted",
        )
    else:
        near = get_close_matches(str(name), FAMILIES, n=1)
        fault = Fault(
            f"{source} model_type",
            repr(name),
            "one of " + ", ".join(FAMILIES),
            f"did you mean {near[0]!r}?" if near else "sizes of this family are not known here",
        )
    raise ModelError.of(fault)


def _numbers(
    config: Mapping[str, Any], family: Family, source: str
) -> tuple[dict[str, int], list[Fault]]:
    """The whole numbers of the config that are there, and a fault for each that is wrong or
    missing.
    """
    required = ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
    optional = ["head_dim", "max_position_embeddings"]
    (optional if family.one_kv_head_each else required).append("num_key_value_heads")
    values = dict(config)
    if family.experts:
        required.append("num_experts_per_tok")
        # The same number has two names: the second is the older one of the Qwen configs.
        values["num_experts"] = config.get("num_local_experts", config.get("num_experts"))
        required.append("num_experts")
    required.append(
        "moe_intermediate_size" if config["model_type"] == "qwen3_moe" else "intermediate_size"
    )
    faults = []
    numbers: dict[str, int] = {}
    for key in required + optional:
        value = values.get(key)
        if value is None and key in optional:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            numbers[key] = value
        else:
            found = "nothing" if value is None else repr(value)
            faults.append(
                Fault(f"{source} {key}", found, "a whole number above 0", "mend the config")
            )
    heads, kv_heads = numbers.get("num_attention_heads"), numbers.get("num_key_value_heads")
    if heads and kv_heads and heads % kv_heads:
        where = f"{source} num_key_value_heads"
        faults.append(Fault(where, repr(kv_heads), f"a divisor of {heads}", "mend the config"))
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        where = f"{source} mlp_only_layers, decoder_sparse_step"
        found = "layers of two kinds"
        faults.append(
            Fault(where, found, "experts in every layer", "such a mixture is not counted")
        )
    return numbers, faults


def _experts(numbers: Mapping[str, int]) -> Experts:
    hidden, count = numbers["hidden_size"], numbers["num_experts"]
    width = numbers.get("moe_intermediate_size") or numbers["intermediate_size"]
    return Experts(
        count=count,
        active=min(numbers["num_experts_per_tok"], count),
        matrices=(
            Linear("mlp.experts.gate_up_proj", hidden, 2 * width),
            Linear("mlp.experts.down_proj", width, hidden),
        ),
        router=count * hidden,
    )


def _linears(
    config: Mapping[str, Any], family: Family, hidden: int, q: int, k: int, intermediate: int
) -> tuple[Linear, ...]:
    biased = set(family.always_biased)
    for key, names in family.bias_keys:
        if config.get(key):
            biased.update(names)
    if family.fused:
        attention = [("qkv_proj", hidden, q + 2 * k), ("o_proj", q, hidden)]
        mlp = [("gate_up_proj", hidden, 2 * intermediate), ("down_proj", intermediate, hidden)]
    else:
        attention = [
            ("q_proj", hidden, q),
            ("k_proj", hidden, k),
            ("v_proj", hidden, k),
            ("o_proj", q, hidden),
        ]
        mlp = [
            ("gate_proj", hidden, intermediate),
            ("up_proj", hidden, intermediate),
            ("down_proj", intermediate, hidden),
        ]
    parts = (
        [("self_attn", attention)] if family.experts else [("self_attn", attention), ("mlp", mlp)]
    )
    return tuple(
        Linear(f"{part}.{name}", inputs, outputs, name in biased)
        for part, matrices in parts
        for name, inputs, outputs in matrices
    )


def _windows(
    config: Mapping[str, Any], family: Family, layers: int, source: str
) -> tuple[int | None, ...]:
    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    if kinds is not None:
        strange = sorted(set(kinds) - {"full_attention", "sliding_attention"})
        if strange or len(kinds) != layers:
            found = f"{strange}" if strange else f"{len(kinds)} layers"
            expected = f"{layers} of full_attention or sliding_attention"
            where = f"{source} layer_types"
            raise ModelError.of(
                Fault(where, found, expected, "this kind of attention is not counted")
            )
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    if family.window == "all":
        return (window,) * layers
    if family.window == "late" and config.get("use_sliding_window"):
        first = config.get("max_window_layers", layers)
        return tuple(window if index >= first else None for index in range(layers))
    if family.window == "pattern":
        every = config.get("sliding_window_pattern", family.pattern)
        return tuple(window if (index + 1) % every else None for index in range(layers))
    return (None,) * layers


def _causal_length(length: float, window: int | None) -> float:
    if window is None or window >= length:
        return length
    return 2 * window - window**2 / length
