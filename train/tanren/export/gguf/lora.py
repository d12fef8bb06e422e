"""A LoRA adapter as a GGUF file, which llama.cpp lays over the base's GGUF file (`--lora`).

llama.cpp computes W x + alpha/rank B A x, with one alpha for the file and the rank of each tensor.
Where PEFT scales otherwise (rsLoRA, alpha_pattern), the rest is folded into B.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tanren.artefact import CARD, Prompting
from tanren.errors import Fault, ModelError
from tanren.export.gguf.families import Family, Shape, family_of
from tanren.export.gguf.kinds import GgufFile, GgufType
from tanren.export.gguf.layers import Names, Planned, heads_of, interleave
from tanren.export.gguf.storage import FILE_TYPES, write_tensors
from tanren.export.gguf.weights import Weights
from tanren.export.gguf.write import expected_plan, model_name, text_config
from tanren.export.scaling import configured_rank, scale_of

WHOLE_WAY = "export the merged model instead (--to merged, or --to gguf without an adapter file)"
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Pair:
    """A (rank, in) and B (out, rank) of one layer; `scaling` as PEFT applies it to B A."""

    module: str
    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def alpha(self) -> float:
        """What llama.cpp must be told for this scaling: it divides by the rank itself."""
        return self.scaling * self.rank


def write_lora_gguf(
    adapter_folder: Path,
    base_folder: Path,
    target: Path,
    *,
    type: GgufType,
) -> GgufFile:
    """Write the PEFT adapter of `adapter_folder`, made on `base_folder`, to the file `target`.

    Raises ModelError for adapters that the format cannot hold (DoRA, modules_to_save, trained
    tokens, embeddings, experts, biases) or that do not fit the base, and StorageError for a full
    disk; nothing is written then.
    """
    config = text_config(base_folder)
    family = family_of(config, str(base_folder))
    shape = Shape.of(config)
    settings, tensors = _load(adapter_folder)
    _require_plain(settings, tensors, adapter_folder)
    pairs = list(_pairs(settings, tensors))
    base = {tensor.name: tensor.shape for tensor in expected_plan(config, family, shape).tensors}
    alpha = Counter(pair.alpha for pair in pairs).most_common(1)[0][0]
    plan = _plan(pairs, alpha, family, shape, base, adapter_folder)
    writer = gguf.GGUFWriter(None, family.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(model_name(target, type, strips=False))
    writer.add_file_type(FILE_TYPES[type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    with Weights(adapter_folder) as weights:
        size = write_tensors(writer, plan, weights, target, type)
    return GgufFile(
        path=target,
        type=type,
        architecture=family.architecture,
        tensors=len(plan),
        size_bytes=size,
        likeness=None,
        notes=tuple(_notes(pairs, alpha, adapter_folder)),
        left_out=(),
        transformers_reads_it=False,
    )


def _load(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Raises ModelError when the folder holds no LoRA adapter."""
    try:
        values = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind = str(values.get("peft_type"))
        if kind != "LORA":
            raise ModelError.of(
                Fault(f"{folder}/adapter_config.json", kind, "a LoRA adapter", WHOLE_WAY)
            )
        settings: Any = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(str(folder / "adapter_model.safetensors"))
        single = [n for n in tensors if _other_half(n) not in tensors]
        if single:
            raise OSError(f"{single[0]} has no other half")
        return settings, tensors
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise ModelError.of(
            Fault(
                str(folder),
                f"no whole adapter ({str(error).strip()[:120]})",
                "adapter_config.json and adapter_model.safetensors",
                "point to the adapter folder of a run",
            )
        ) from error


def _other_half(name: str) -> str:
    """The B of an A and the A of a B; anything else is its own."""
    letter = {".lora_A.": ".lora_B.", ".lora_B.": ".lora_A."}
    return re.sub(r"\.lora_[AB]\.(?=weight$)", lambda found: letter[found[0]], name)


# --- what the format cannot hold ------------------------------------------------------------------


def _require_plain(settings: LoraConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    faults = [
        Fault(str(folder), found, f"A and B of linear layers: {reason}", WHOLE_WAY)
        for found, reason in _beyond(settings, tensors)
    ]
    if faults:
        raise ModelError.of(*faults)


def _beyond(settings: LoraConfig, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """What is in the adapter that llama.cpp's adapters have no place for, and why."""
    if settings.use_dora:
        yield "DoRA", "llama.cpp adds B A and cannot rescale the sum with a magnitude"
    if settings.modules_to_save:
        names = ", ".join(settings.modules_to_save)
        yield f"whole modules ({names})", "an adapter file cannot replace weights"
    if settings.trainable_token_indices:
        yield "trained tokens", "an adapter file cannot replace rows of the embedding"
    if settings.target_parameters:
        names = ", ".join(settings.target_parameters)
        yield f"an adapter on parameters ({names})", "stacked experts have no A and B there"
    if settings.bias != "none" or settings.lora_bias:
        yield "trained biases", "llama.cpp reads no bias from an adapter"
    for part, words in {".experts.": "experts", "lora_embedding": "the embedding"}.items():
        count = sum(part in name for name in tensors)
        if count and not settings.target_parameters:
            yield f"{count} tensors on {words}", f"llama.cpp reads no adapter of {words}"
    if not any(_other_half(name) != name for name in tensors):
        yield "no A and B at all", "there is nothing to write"


# --- scaling --------------------------------------------------------------------------------------


def _pairs(settings: LoraConfig, tensors: Mapping[str, Tensor]) -> Iterator[Pair]:
    for name, a in sorted(tensors.items()):
        if not name.endswith(".lora_A.weight"):
            continue
        b = tensors[_other_half(name)]
        module = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        yield Pair(module, a.float(), b.float(), scaling_of(settings, module))


def scaling_of(settings: LoraConfig, module: str) -> float:
    """What PEFT multiplies B A of a module by."""
    values = settings.to_dict()
    return scale_of(values, module, configured_rank(values, module))


def _notes(pairs: list[Pair], alpha: float, folder: Path) -> Iterator[str]:
    if (folder / CARD).is_file() and Prompting.read(folder).storage == "nf4":
        yield (
            "this adapter was trained on a base in 4 bits (nf4); on the file of the original base "
            "it answers otherwise, only the merged model answers as trained"
        )
    folded = sum(pair.alpha != alpha for pair in pairs)
    if folded:
        yield f"the scaling of {folded} of {len(pairs)} layers differs and is folded into their B"


# --- tensors --------------------------------------------------------------------------------------


def _plan(
    pairs: list[Pair],
    alpha: float,
    family: Family,
    shape: Shape,
    base: Mapping[str, tuple[int, ...]],
    folder: Path,
) -> list[Planned]:
    """Two tensors a layer, `<name>.lora_a` (rank, in) and `<name>.lora_b` (out, rank), with the
    rows of B in the order in which the base's file has them.
    """
    names = Names(family.architecture, shape.layers)
    planned, faults = [], []
    for pair in pairs:
        name = names.of(f"{pair.module}.weight")
        size = (int(pair.b.shape[0]), int(pair.a.shape[1]))
        if name is None or base.get(name) != size:
            faults.append(_misfit(folder, pair.module, size, base.get(name or "")))
            continue
        heads = heads_of(f"{pair.module}.weight", shape) if family.interleaved else None
        b = pair.b if heads is None else interleave(pair.b, heads)
        b = b * (pair.alpha / alpha)
        for suffix, values in (("lora_a", pair.a), ("lora_b", b)):
            planned.append(Planned(f"{name}.{suffix}", tuple(values.shape), values=values))
    if faults:
        raise ModelError.of(*faults)
    return planned


def _misfit(
    folder: Path, module: str, size: tuple[int, ...], expected: tuple[int, ...] | None
) -> Fault:
    return Fault(
        f"{folder} {module}",
        f"an adapter of shape {list(size)}",
        f"shape {list(expected)}" if expected else "a linear layer that the base's file has",
        "name the base that the adapter was trained on" if expected else WHOLE_WAY,
    )
