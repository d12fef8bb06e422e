"""Peak memory of training, part by part, for given choices. `plan.py` makes the choices.

Notation of the formulas: T tokens per forward pass, L layers, n of them checkpointed, h hidden, q
and k widths of queries and keys, I width of the MLP, V vocabulary, e bytes per element of the
compute type. GB are 1e9 bytes.

What a layer keeps for its backward pass was counted tensor by tensor on Llama, Qwen, Gemma 3 and
Phi-3 blocks with adapters on all matrices (the tests count again). Fewer targets keep a little
less, and so do mixtures of experts; the formula is then an upper bound. An adapted stack of experts
costs more than its adapter: PEFT adds the update to the whole stack in every pass, and autograd
keeps that sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tanren.errors import Fault, ModelError
from tanren.estimate.adapters import AdapterSize, adapted_stacks, adapter_size
from tanren.estimate.shape import ModelShape
from tanren.methods import Full, Method

# NF4 with double quantisation, bits per weight: 4, an 8-bit scale per 64 weights, a 32-bit one per
# 64 * 256.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)

# Bytes of optimizer state per trained parameter. AdamW keeps two moments in float32; its 8-bit form
# keeps two bytes and two 32-bit scales per block of 256. Paged state may move to host memory under
# pressure; here it counts in full.
STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2 + 2 * 4 / 256, "paged_adamw_8bit": 2 + 2 * 4 / 256}

# Logits that exist at once in the chunked loss, and the fewest positions of a chunk
# (`tanren.loss.chunk_length`).
LOSS_CHUNK_LOGITS = 2**25
LOSS_CHUNK_POSITIONS = 64

# What the process holds before the first tensor: the CUDA context, kernels and library workspaces;
# on a CPU the interpreter with torch, transformers and peft imported.
RUNTIME_BYTES = {"cuda": 600_000_000, "cpu": 800_000_000, "mps": 600_000_000}

# Share of the memory left alone: holes between the allocator's blocks; on a CPU also the user's
# other programs.
RESERVE_SHARE = {"cuda": 0.05, "cpu": 0.10, "mps": 0.15}

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Device = Literal["cuda", "cpu", "mps"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """What memory depends on in a method.

    `storage`: how the base is kept, in the compute type ("dtype") or in 4 bits ("nf4"). `rank`
    None: every weight trains and there is no adapter. `targets`, `parameters` and `saved_modules`
    as in `adapter_size`.
    """

    storage: Literal["dtype", "nf4"] = "dtype"
    rank: int | None = 16
    targets: str | Sequence[str] = "all-linear"
    parameters: Sequence[str] = ()
    dora: bool = False
    dropout: float = 0.0
    saved_modules: Sequence[str] = ()
    optimizer: Optimizer = "adamw"

    @classmethod
    def of(cls, method: Method, optimizer: Optimizer) -> MethodFacts:
        """The facts of a configured method."""
        if isinstance(method, Full):
            return cls(rank=None, optimizer=optimizer)
        return cls(
            storage=method.storage,
            rank=method.rank,
            targets=method.target_modules,
            parameters=method.target_parameters,
            dora=method.use_dora,
            dropout=method.dropout,
            saved_modules=method.modules_to_save,
            optimizer=optimizer,
        )

    def adapter(self, shape: ModelShape) -> AdapterSize:
        if self.rank is None:
            return AdapterSize(modules=0, lora=0, magnitudes=0, saved=0)
        return adapter_size(
            shape,
            self.rank,
            self.targets,
            parameters=self.parameters,
            dora=self.dora,
            saved_modules=self.saved_modules,
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be trained on what.

    `memory_bytes`: what this job may use, free memory rather than the card's size. `longest_row`:
    tokens; a row is never split over passes, and `sequences` (two in a pair
    of answers) share it. `batch_tokens`: tokens of one optimizer step. `checkpointing`: True for
    all layers, False for none. `micro_batch_tokens`: None to choose.
    `attention` "sdpa" holds a mask, "eager" the whole score matrix, "varlen" neither. `grouped`:
    attention reads grouped keys and values as they are, instead of repeating them to every head.
    `packed`: rows lie side by side in one row of T tokens. `activations`: "eager" for plain torch
    layers, "eager_casts" when PEFT casts every adapter's input, "fused" for kernels that keep
    inputs and outputs only.
    """

    memory_bytes: int
    longest_row: int
    batch_tokens: int
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: Device = "cuda"
    checkpointing: Literal["auto"] | bool = "auto"
    micro_batch_tokens: int | None = None
    attention: Literal["varlen", "sdpa", "eager"] = "sdpa"
    grouped: bool = False
    packed: bool = False
    sequences: int = 1
    activations: Literal["eager", "eager_casts", "fused"] = "eager"


@dataclass(frozen=True, slots=True)
class Part:
    """One consumer of memory: what it is, how many bytes, and the formula that says so."""

    name: str
    bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The chosen pass and its peak. `advice` says in sentences what was chosen, or what to change
    if it does not fit.

    The first `checkpointed_layers` layers are the ones to checkpoint: the backward pass reaches
    them last, when the other layers' activations are gone, so that recomputing them adds nothing to
    the peak.
    """

    parts: tuple[Part, ...]
    memory_bytes: int
    micro_batch_tokens: int
    checkpointed_layers: int
    layers: int
    trainable_parameters: int
    advice: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def headroom_bytes(self) -> int:
        """Bytes left over; negative when it does not fit."""
        return self.memory_bytes - self.total_bytes

    @property
    def fits(self) -> bool:
        return self.headroom_bytes >= 0

    def bytes_of(self, name: str) -> int:
        """Bytes of the part of that name; 0 if this plan has none."""
        return sum(part.bytes for part in self.parts if part.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        derived = {
            "total_bytes": self.total_bytes,
            "headroom_bytes": self.headroom_bytes,
            "fits": self.fits,
        }
        return {**asdict(self), **derived}


def memory_parts(
    shape: ModelShape,
    facts: MethodFacts,
    work: Workload,
    *,
    micro_batch_tokens: int,
    checkpointed_layers: int,
) -> tuple[Part, ...]:
    """Peak bytes of a training step, part by part. Parts of zero bytes are left out.

    "loss" and "backward workspace" follow each other in time and are still added up, so the sum
    is on the safe side by the smaller of the two. Raises ModelError when the method cannot be
    counted on this model.
    """
    parts = (
        *_weight_parts(shape, facts, work),
        *_activation_parts(shape, facts, work, micro_batch_tokens, checkpointed_layers),
        _experts_part(shape, facts, work, checkpointed_layers),
        *_workspace_parts(shape, facts, work, micro_batch_tokens),
        Part(
            "runtime",
            RUNTIME_BYTES[work.device],
            "device context, kernels and libraries (constant)",
        ),
        Part(
            "reserve",
            round(work.memory_bytes * RESERVE_SHARE[work.device]),
            f"{RESERVE_SHARE[work.device]:.0%} of the memory, for fragmentation",
        ),
    )
    return tuple(part for part in parts if part.bytes)


def base_weight_bytes(shape: ModelShape, facts: MethodFacts, dtype: str) -> float:
    """Bytes of the frozen base: all parameters at the compute type, or the linear layers in NF4 and
    the rest not. Stacked experts are no linear layers.
    """
    if facts.storage == "dtype":
        return ELEMENT_BYTES[dtype] * shape.total
    small = shape.standing_lin
    return small * NF4_BITS / 8 + ELEMENT_BYTES[dtype] * (shape.total - small)


def layer_activation_bytes(shape: ModelShape, facts: MethodFacts, work: Workload) -> int:
    """Bytes per token that one layer keeps for its backward pass, without attention masks and score
    matrices.

    "fused": inputs, projections and MLP halves once each, e(4h + 2q + 2k + 2I). "eager": each RMS
    norm keeps a float32 copy of its input (4 bytes: h per hidden norm, q + k for norms on heads);
    the two adapter inputs of width h; queries, keys, values and attention output; the gate, its
    activation, the up half and their product. "eager_casts" adds a copy of the input for q, k, v,
    o, gate and up each that would otherwise be shared or kept already.
    """
    e = ELEMENT_BYTES[work.dtype]
    h, q, k, intermediate = shape.hidden, shape.q, shape.k, shape.intermediate
    if work.activations == "fused":
        count = e * (4 * h + 2 * q + 2 * k + 2 * intermediate)
    else:
        norms = 4 * (shape.hidden_norms * h + (q + k if shape.head_norm_width else 0))
        count = norms + e * (2 * h + _attention_kept(shape, work) + 4 * intermediate)
        if work.activations == "eager_casts" and e < 4 and not _is_fused(shape):
            count += e * (3 * h + q)
    if facts.dora:
        # The magnitude's gradient needs the base's and the adapter's output of each matrix.
        count += 2 * e * sum(linear.outputs for linear in shape.linears)
    if facts.dropout:
        # Each adapter keeps its own thinned input and what was dropped: a byte per element on GPUs,
        # float32 factors elsewhere. The inputs that adapters would share are then not kept.
        noise = 1 if work.device == "cuda" else 4
        shared = 0 if work.activations == "fused" else e * (2 * h + intermediate)
        count += (e + noise) * sum(linear.inputs for linear in shape.linears) - shared
    if facts.rank is None:
        # A trained norm needs its normalised input as well.
        count += e * shape.hidden_norms * h
    if shape.experts:
        # Tokens are gathered per expert: one copy in, one out.
        count += 2 * e * shape.experts.active * h
    return count


def _attention_kept(shape: ModelShape, work: Workload) -> int:
    """Elements per token: queries, keys, values, output; of a fused projection its whole output
    besides.
    """
    q, k = shape.q, shape.k
    if work.grouped:
        return 4 * q + 3 * k if _is_fused(shape) else 2 * q + 2 * k
    return 5 * q if _is_fused(shape) else 4 * q


def _is_fused(shape: ModelShape) -> bool:
    return any(linear.name.endswith("qkv_proj") for linear in shape.linears)


def _weight_parts(shape: ModelShape, facts: MethodFacts, work: Workload) -> tuple[Part, ...]:
    e = ELEMENT_BYTES[work.dtype]
    if facts.storage == "nf4" and facts.rank is None:
        found = "nf4 with every weight trained"
        remedy = "choose a method that keeps the base in its own type"
        raise ModelError.of(Fault("method.name", found, "an adapter", remedy))
    base = round(base_weight_bytes(shape, facts, work.dtype))
    stored = f"{e} bytes x {shape.total:,} parameters"
    if facts.storage == "nf4":
        small = shape.standing_lin
        stored = f"{NF4_BITS:.3f} bits x {small:,} + {e} bytes x {shape.total - small:,}"
    state = STATE_BYTES[facts.optimizer]
    if facts.rank is None:
        # Moments and gradients of weights that train themselves have the weights' own type.
        state = state if state < e else 2.0 * e
        return (
            Part("base weights", base, stored),
            Part("gradients", e * shape.total, f"{e} bytes x {shape.total:,} parameters"),
            Part(
                "optimizer",
                round(state * shape.total),
                f"{state:.3g} bytes x {shape.total:,} ({facts.optimizer})",
            ),
        )
    adapter = facts.adapter(shape)
    trained = adapter.total
    casts = e * adapter.lora if e < 4 else 0
    return (
        Part("base weights", base, stored),
        Part("adapter", 4 * trained, f"4 bytes x {trained:,} trained parameters"),
        Part("adapter casts", casts, f"{e} bytes x {adapter.lora:,} in the compute type"),
        Part("gradients", 4 * trained, f"4 bytes x {trained:,}"),
        Part(
            "optimizer",
            round(state * trained),
            f"{state:.3g} bytes x {trained:,} ({facts.optimizer})",
        ),
    )


def _activation_parts(
    shape: ModelShape, facts: MethodFacts, work: Workload, tokens: int, checkpointed: int
) -> tuple[Part, ...]:
    e = ELEMENT_BYTES[work.dtype]
    per_token = layer_activation_bytes(shape, facts, work)
    mask, mask_formula = _mask_bytes(shape, work, tokens)
    kept = shape.layers - checkpointed
    layer = per_token * tokens + mask
    formula = f"x (T {tokens:,} x {per_token:,} bytes{mask_formula})"
    return (
        Part("activations", kept * layer, f"{kept} layers {formula}"),
        Part(
            "checkpoints",
            checkpointed * e * shape.hidden * tokens,
            f"n {checkpointed} x {e}hT, h {shape.hidden:,}, T {tokens:,}",
        ),
        # With any layer kept, its memory is free again by the time the first recomputed layer needs
        # it.
        Part("recomputed layer", 0 if kept else layer, f"1 layer {formula}"),
    )


def _experts_part(shape: ModelShape, facts: MethodFacts, work: Workload, checkpointed: int) -> Part:
    """Stacks with their update, one sum for each layer whose activations stay, and the gradient of
    the largest sum. Independent of the tokens in a pass.
    """
    e = ELEMENT_BYTES[work.dtype]
    count = shape.experts.count if shape.experts else 0
    layers = adapted_stacks(shape, facts.parameters if facts.rank else ())
    sums = max(sum(matrix.weights for matrix in layer) for layer in layers)
    largest = max((matrix.weights for layer in layers for matrix in layer), default=0)
    kept = max(shape.layers - checkpointed, 1)
    return Part(
        "adapted experts",
        e * count * (kept * sums + largest),
        f"{e} bytes x {count} experts x ({kept} layers x {sums:,} + gradient {largest:,})",
    )


def _mask_bytes(shape: ModelShape, work: Workload, tokens: int) -> tuple[int, str]:
    """Bytes per layer of what grows with T times the row's width: masks, or eager attention's score
    matrices.

    An eager layer keeps the scores' softmax in float32 and in the compute type, and their mask.
    """
    e = ELEMENT_BYTES[work.dtype]
    width = tokens if work.packed else min(work.longest_row, tokens)
    if work.attention == "varlen":
        return 0, ""
    if work.attention == "sdpa":
        return e * tokens * width, f" + {e} bytes x T x {width:,}"
    each = (4 + e) * shape.heads + e
    return each * tokens * width, f" + {each} bytes x T x {width:,}"


def _workspace_parts(
    shape: ModelShape, facts: MethodFacts, work: Workload, tokens: int
) -> tuple[Part, ...]:
    e = ELEMENT_BYTES[work.dtype]
    h, intermediate = shape.hidden, shape.intermediate
    gradients = e * (3 * intermediate + 2 * h) * tokens
    chunk = min(tokens, max(LOSS_CHUNK_POSITIONS, LOSS_CHUNK_LOGITS // shape.vocab))
    head = chunk * shape.vocab * (4 + e) + (4 + 2 * e) * h * tokens
    largest = max(linear.weights for linear in shape.linears)
    copies = (e if facts.storage == "nf4" else 0) + (3 * 4 if facts.dora else 0)
    return (
        Part(
            "backward workspace",
            gradients * (2 if facts.dora else 1),
            f"{'2 x ' if facts.dora else ''}eT(3I + 2h): gradients inside one layer",
        ),
        Part(
            "loss",
            head,
            f"{chunk:,} positions x V {shape.vocab:,} x {4 + e} bytes + {4 + 2 * e}hT",
        ),
        Part(
            "weight workspace",
            copies * largest,
            f"{copies} bytes x {largest:,}, the largest matrix (4-bit decoding, DoRA norm)",
        ),
    )
