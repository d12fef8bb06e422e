"""A whole model folder as one GGUF file, that llama.cpp and Ollama run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import torch

from tanren import privacy
from tanren.errors import Fault, ModelError
from tanren.export.gguf.families import (
    MERGED_WAY,
    USUAL_WINDOW_PERIOD,
    Family,
    Shape,
    family_of,
    window_note,
)
from tanren.export.gguf.kinds import GgufFile, GgufType
from tanren.export.gguf.layers import Plan, Planned, plan_tensors
from tanren.export.gguf.rope import Rope, rope_of
from tanren.export.gguf.storage import FILE_TYPES, write_tensors
from tanren.export.gguf.vocabulary import Vocabulary, vocabulary_of
from tanren.export.gguf.weights import Weights
from tanren.model import load_tokenizer_from

privacy.apply()

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig  # noqa: E402


def write_gguf(
    model_folder: Path,
    target: Path,
    *,
    type: GgufType,
    prompts: Iterable[str] = (),
    adds_bos: bool | None = None,
) -> GgufFile:
    """Write `model_folder` (whole, as transformers reads it) to the file `target`.

    `prompts`: texts on which llama.cpp's tokens are compared with the model's, besides our own
    probes. `adds_bos`: whether readers are to begin prompts with a BOS (T17); None: as the
    tokenizer begins plain text. Raises ModelError, before anything is written, for models and
    tokenizers that llama.cpp cannot run as they are, and StorageError for a full disk; `target` is
    then as it was.
    """
    config = text_config(model_folder)
    family = family_of(config, str(model_folder))
    shape = Shape.of(config)
    rope = rope_of(config, family, shape, str(model_folder))
    with Weights(model_folder) as weights:
        plan = plan_tensors(weights.shapes, family, shape)
        _require_complete(plan, expected_plan(config, family, shape), model_folder)
        tokenizer = load_tokenizer_from(model_folder)
        vocabulary = vocabulary_of(tokenizer, model_folder, shape.vocabulary, prompts)
        if adds_bos is not None:
            vocabulary = replace(vocabulary, adds_bos=adds_bos)
        writer = gguf.GGUFWriter(None, family.architecture)
        _add_general(writer, target, vocabulary, type)
        _add_shape(writer, family, shape)
        _add_rope(writer, rope, shape)
        vocabulary.add_to(writer)
        tensors = [*_factors(rope), *plan.tensors]
        size = write_tensors(writer, tensors, weights, target, type)
    return GgufFile(
        path=target,
        type=type,
        architecture=family.architecture,
        tensors=len(tensors),
        size_bytes=size,
        likeness=vocabulary.likeness,
        notes=(*_notes(family, shape, rope), *vocabulary.notes),
        left_out=plan.left_out,
        transformers_reads_it=family.transformers_reads_it,
    )


def text_config(folder: Path) -> PreTrainedConfig:
    """The config of the part that writes text. Raises ModelError when there is none."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError.of(
            Fault(
                f"{folder}/config.json",
                str(error).strip().splitlines()[0][:160],
                "the config of a model that this transformers knows",
                "point to a whole model folder: merge the adapter first",
            )
        ) from error
    text: PreTrainedConfig = config.get_text_config()
    return text


def expected_plan(config: PreTrainedConfig, family: Family, shape: Shape) -> Plan:
    """The plan of the architecture itself, from a model without numbers."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return plan_tensors(shapes, family, shape)


def _require_complete(found: Plan, expected: Plan, folder: Path) -> None:
    """Every tensor of the architecture in its shape, and none that nobody knows."""
    faults = [*_unknown_faults(found, folder), *_missing_faults(found, expected, folder)]
    if faults:
        raise ModelError.of(*faults)


def _unknown_faults(found: Plan, folder: Path) -> Iterator[Fault]:
    if found.unknown:
        yield Fault(
            str(folder),
            f"{len(found.unknown)} tensors of unknown meaning, the first is {found.unknown[0]}",
            "the tensors of the model's family",
            MERGED_WAY,
        )


def _missing_faults(found: Plan, expected: Plan, folder: Path) -> Iterator[Fault]:
    shapes = {tensor.name: tensor.shape for tensor in found.tensors}
    wanted = {tensor.name: tensor.shape for tensor in expected.tensors}
    missing = [name for name in wanted if name not in shapes]
    other = [name for name in wanted if shapes.get(name, wanted[name]) != wanted[name]]
    surplus = [name for name in shapes if name not in wanted]
    remedy = "merge the model again: the folder is not whole"
    if missing:
        count = f"{len(missing)} tensors missing, the first is {missing[0]}"
        yield Fault(str(folder), count, "every tensor of the architecture", remedy)
    if other:
        name = other[0]
        sizes = f"{name} of shape {list(shapes[name])} ({len(other)} such tensors)"
        yield Fault(str(folder), sizes, f"shape {list(wanted[name])}", remedy)
    if surplus:
        count = f"{len(surplus)} tensors too many, the first is {surplus[0]}"
        yield Fault(str(folder), count, "the tensors that config.json speaks of", remedy)


def _factors(rope: Rope) -> list[Planned]:
    return [Planned(n, tuple(values.shape), values=values) for n, values in rope.factors.items()]


def _notes(family: Family, shape: Shape, rope: Rope) -> Iterator[str]:
    if (note := window_note(family, shape)) is not None:
        yield note
    yield from rope.notes


# --- keys -----------------------------------------------------------------------------------------


def model_name(target: Path, kind: GgufType, *, strips: bool) -> str:
    """The model's name in the file, by the file's: `tiny-chat-f16.gguf` holds "Tiny Chat".

    llama.cpp reads behaviour out of it: "phi-3" makes it strip behind special tokens, so the words
    stand there exactly when the tokenizer does that.
    """
    words = re.split(r"[-_ ]+", target.stem.removesuffix(f"-{kind}"))
    name = " ".join(word[:1].upper() + word[1:] for word in words if word) or "Model"
    if strips:
        return f"{name} (phi-3)"
    return re.sub(r"(?i)phi-?3", "Phi 3", name)


def _add_general(
    writer: gguf.GGUFWriter, target: Path, vocabulary: Vocabulary, kind: GgufType
) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(model_name(target, kind, strips=vocabulary.likeness.strips))
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_shape(writer: gguf.GGUFWriter, family: Family, shape: Shape) -> None:
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocabulary)
    if shape.attention_cap is not None:
        writer.add_attn_logit_softcapping(shape.attention_cap)
    if shape.logit_cap is not None:
        writer.add_final_logit_softcapping(shape.logit_cap)
    if shape.experts is not None:
        writer.add_expert_count(shape.experts.count)
        writer.add_expert_used_count(shape.experts.used)
        writer.add_expert_feed_forward_length(shape.experts.width)
    _add_windows(writer, family, shape)


def _add_windows(writer: gguf.GGUFWriter, family: Family, shape: Shape) -> None:
    if family.architecture == "phi3":  # llama.cpp takes the absence for an older conversion
        writer.add_sliding_window(shape.window or 0)
    if not family.windows or shape.window is None:
        return
    writer.add_sliding_window(shape.window)
    period = USUAL_WINDOW_PERIOD[family.architecture]
    usual = tuple(layer % period < period - 1 for layer in range(shape.layers))
    if shape.windowed_layers != usual:
        writer.add_sliding_window_pattern(shape.windowed_layers)


def _add_rope(writer: gguf.GGUFWriter, rope: Rope, shape: Shape) -> None:
    writer.add_rope_dimension_count(shape.rotary_dim)
    writer.add_rope_freq_base(rope.base)
    if rope.window_base is not None:
        writer.add_rope_freq_base_swa(rope.window_base)
    if rope.scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.scaling))
    if rope.factor is not None:
        writer.add_rope_scaling_factor(rope.factor)
    if rope.original_context is not None:
        writer.add_rope_scaling_orig_ctx_len(rope.original_context)
    if rope.attention_factor is not None:
        writer.add_rope_scaling_attn_factors(rope.attention_factor)
