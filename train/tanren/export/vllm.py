"""An adapter as vLLM and SGLang read it, and the commands that serve it (T15).

SGLang scales every layer by `lora_alpha / r` and wants rank `r` in every layer; vLLM reads more, by
version. So what is written is plain LoRA: one rank, one alpha, no flags. It is the same update:

    W + s B A  =  W + (alpha' / rank') B' A'

`rank'` is the largest rank, A and B are padded with zeros to it, `alpha' = s rank'`; where `s`
differs from layer to layer, B' takes what is left over.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tanren import privacy
from tanren.artefact import CARD, Prompting
from tanren.errors import Fault, ModelError, ProofError
from tanren.export.scaling import scale_of
from tanren.export.serve_commands import Command, adapter_commands
from tanren.rundir import staged_folder, write_json
from tanren.serving import (
    CONFIG,
    SGLANG,
    VLLM,
    WEIGHTS,
    AdapterFacts,
    Server,
    ServingVerdict,
    adapter_settings,
    tensor_shapes,
    verdict,
)

privacy.apply()

from peft import LoraConfig  # noqa: E402 - telemetry must be off before

Name = Literal["vllm", "sglang"]
TAKERS: Mapping[Name, Server] = {"vllm": VLLM, "sglang": SGLANG}
TOLERANCE = 1e-6
"""Largest relative difference of a layer's update on a random input; float32 rounds at 6e-8."""

COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
TEMPLATE, GENERATION, RECORD = "chat_template.jinja", "generation_config.json", "serving.json"

# What plain LoRA needs in its settings, and what says where it comes from.
_KEPT = (
    "base_model_name_or_path",
    "revision",
    "task_type",
    "peft_type",
    "peft_version",
    "inference_mode",
    "fan_in_fan_out",
    "bias",
    "lora_dropout",
)
_PREFIX = "base_model.model."
_TENSOR = re.compile(
    r"^base_model\.model\.(?P<layer>.+)\.lora_(embedding_)?(?P<part>[AB])(\.weight)?$"
)


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """What was written and how to serve it.

    `rank` and `alpha` as written; `max_rank` is the smallest that the server's flag takes. `folded`
    says in words what was rewritten, `left_out` which settings are not in the copy. `difference`:
    largest relative difference of a layer's update to the original's, both read from disk.
    """

    folder: Path
    server: Name
    name: str
    base: str
    rank: int
    alpha: float
    folded: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    commands: tuple[Command, ...]
    difference: float

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


@dataclass(slots=True)
class _Layer:
    """A (rank, in), B (out, rank) of one layer, and the factor on B A."""

    a_name: str
    b_name: str
    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


def write_served_adapter(
    adapter_folder: Path,
    folder: Path,
    *,
    server: Name,
    name: str | None = None,
    max_model_len: int | None = None,
    finish: Callable[[Path, ServedAdapter], None] | None = None,
) -> ServedAdapter:
    """Write a copy of an adapter that the server applies as it was trained, whole or not at all.

    `name` is what requests call the model by (default: the run's name); `max_model_len` limits the
    context, in tokens. `finish` adds to the staged folder, before it appears. Raises ModelError,
    with every reason, for adapters that must be merged.
    """
    settings = adapter_settings(adapter_folder)
    card = Prompting.read(adapter_folder)
    facts = AdapterFacts.read(
        adapter_folder, four_bit=card.storage == "nf4", model_type=_model_type(card.base)
    )
    if folder.resolve() == adapter_folder.resolve():
        raise ModelError.of(
            Fault("--out", str(folder), "another folder than the adapter's", "choose another --out")
        )
    found = verdict(TAKERS[server], facts)
    _require_unmerged(adapter_folder, found)
    layers = _layers(adapter_folder, settings)
    folded = _fold(layers, settings)
    rank, scale = layers[0].rank, layers[0].scale
    written = _settings(settings, layers, rank=rank, alpha=_alpha(scale, rank))
    commands = _commands(adapter_folder, folder, facts, card, server, name, rank, max_model_len)
    with staged_folder(folder) as staged:
        _copy_files(adapter_folder, staged)
        write_json(staged / CONFIG, written)
        _save(layers, staged / WEIGHTS)
        difference = _prove(adapter_folder, staged, folder)
        served = ServedAdapter(
            folder=folder,
            server=server,
            name=name or default_name(adapter_folder),
            base=card.base,
            rank=rank,
            alpha=written["lora_alpha"],
            folded=tuple(folded),
            left_out=_left_out(settings, written),
            notes=tuple(_notes(card, facts, server)),
            commands=commands,
            difference=difference,
        )
        write_json(staged / RECORD, served.as_dict())
        if finish is not None:
            finish(staged, served)
    return served


def default_name(folder: Path) -> str:
    """The run's name for `runs/mine/adapter`, else the folder's, in letters that servers take."""
    inside_run = folder.name in ("adapter", "merged", "model", "vllm", "sglang")
    own = folder.resolve().parent.name if inside_run else folder.resolve().name
    return re.sub(r"[^\w.-]+", "-", own).strip("-.") or "adapter"


def _model_type(base: str) -> str | None:
    """The family of a base that lies on this disk; None of one that does not."""
    try:
        values = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values.get("model_type") if isinstance(values, dict) else None


def _require_unmerged(folder: Path, found: ServingVerdict) -> None:
    faults = [
        Fault(
            f"{folder / CONFIG} {obstacle.setting}",
            obstacle.found,
            f"what {found.server} {found.version} reads unmerged ({obstacle.why})",
            f"serve it merged: {found.instead}",
        )
        for obstacle in found.obstacles
    ]
    if faults:
        raise ModelError(f"{found.server} cannot serve this adapter unmerged", faults)


def _layers(folder: Path, settings: Mapping[str, Any]) -> list[_Layer]:
    """Every layer's matrices and scale; the order is that of their names."""
    tensors = load_file(folder / WEIGHTS)
    names: dict[str, dict[str, str]] = {}
    for tensor_name in sorted(tensors):
        match = _TENSOR.match(tensor_name)
        if match is None:
            _refuse(folder, f"the tensor {tensor_name}", "A and B matrices only")
        else:
            names.setdefault(match["layer"], {})[match["part"]] = tensor_name
    halves = [layer for layer, parts in names.items() if len(parts) < 2]
    if halves or not names:
        lost = f"only one of A and B on {halves[0]}" if halves else "no layers"
        _refuse(folder, lost, "A and B for each layer")
    return [
        _Layer(
            a_name=parts["A"],
            b_name=parts["B"],
            a=tensors[parts["A"]],
            b=tensors[parts["B"]],
            scale=scale_of(settings, layer, tensors[parts["A"]].shape[0]),
        )
        for layer, parts in names.items()
    ]


def _refuse(folder: Path, found: str, expected: str) -> None:
    raise ModelError.of(
        Fault(str(folder / WEIGHTS), found, expected, "restore the adapter's folder")
    )


def _fold(layers: list[_Layer], settings: Mapping[str, Any]) -> list[str]:
    """Bring all layers to the largest rank and the most frequent scale, in place; says what for."""
    said = []
    rank = max(layer.rank for layer in layers)
    scale = Counter(layer.scale for layer in layers).most_common(1)[0][0]
    padded = [layer for layer in layers if layer.rank < rank]
    scaled = [layer for layer in layers if not math.isclose(layer.scale, scale, rel_tol=1e-12)]
    if settings.get("use_rslora"):
        said.append(f"rsLoRA: its scale {scale:.6g} is in lora_alpha, {_alpha(scale, rank):.6g}")
    if padded:
        least = min(layer.rank for layer in padded)
        said.append(f"{len(padded)} layers of rank {least} or more are padded to rank {rank}")
    if scaled:
        said.append(f"{len(scaled)} layers of another scale than {scale:.6g} have it in B")
    for layer in scaled:
        layer.b = layer.b.float() * (layer.scale / scale)
        layer.scale = scale
    for layer in padded:
        more = rank - layer.rank
        layer.a = torch.nn.functional.pad(layer.a, (0, 0, 0, more))
        layer.b = torch.nn.functional.pad(layer.b, (0, more))
    return said


def _alpha(scale: float, rank: int) -> float:
    """`lora_alpha` whose quotient with the rank is the scale; whole where it is whole."""
    alpha = scale * rank
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 * alpha else alpha


def _settings(
    settings: Mapping[str, Any], layers: list[_Layer], *, rank: int, alpha: float
) -> dict[str, Any]:
    """Plain LoRA. SGLang takes target modules by name only: a pattern becomes the layers' names."""
    targets = settings.get("target_modules")
    by_name = isinstance(targets, list) and not (
        settings.get("layers_to_transform") or settings.get("exclude_modules")
    )
    names = [_TENSOR.sub(r"\g<layer>", layer.a_name) for layer in layers]
    return {
        **{key: settings[key] for key in _KEPT if key in settings},
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": targets if by_name else names,
        "modules_to_save": None,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def _left_out(settings: Mapping[str, Any], written: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings that are not in the copy, but those that stand at PEFT's default."""
    usual = {"peft_type": "LORA", **LoraConfig().to_dict()}
    lost = [k for k, v in settings.items() if k not in written and v != usual.get(k)]
    return tuple(sorted(lost))


def _save(layers: list[_Layer], file: Path) -> None:
    tensors = {}
    for layer in layers:
        tensors[layer.a_name] = layer.a.contiguous()
        tensors[layer.b_name] = layer.b.contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


def _copy_files(source: Path, target: Path) -> None:
    for name in (*COPIED, TEMPLATE, GENERATION, CARD):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _prove(original: Path, staged: Path, final: Path) -> float:
    """Compare every layer's update with the original's, both as a server would read them: here by
    PEFT's rules, there by `lora_alpha / r` alone. Raises ProofError.
    """
    settings = adapter_settings(staged)
    scale = settings["lora_alpha"] / settings["r"]
    before, copy = _layers(original, adapter_settings(original)), load_file(staged / WEIGHTS)
    differences = {
        layer.a_name: _difference(layer, copy[layer.a_name], copy[layer.b_name], scale)
        for layer in before
    }
    ranks = {shape[0] for name, shape in tensor_shapes(staged / WEIGHTS).items() if "_A" in name}
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= TOLERANCE or ranks != {settings["r"]}:
        raise ProofError.of(
            Fault(
                str(final),
                f"an update of {worst} that differs by {differences[worst]:.1e}, ranks {ranks}",
                f"the adapter's own within {TOLERANCE:.0e}, all of rank {settings['r']}",
                "nothing was kept; serve it merged, and report this",
            )
        )
    return differences[worst]


def _difference(layer: _Layer, a: Tensor, b: Tensor, scale: float) -> float:
    """max |s B A x - s' B' A' x| over max |s B A x|, x random, in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(layer.a.shape[1], generator=generator, dtype=torch.float64)
    wanted = layer.scale * (layer.b.double() @ (layer.a.double() @ x))
    got = scale * (b.double() @ (a.double() @ x))
    largest = wanted.abs().max().item()
    return (wanted - got).abs().max().item() / largest if largest else got.abs().max().item()


def _commands(
    adapter_folder: Path,
    folder: Path,
    facts: AdapterFacts,
    card: Prompting,
    server: Name,
    name: str | None,
    rank: int,
    max_model_len: int | None,
) -> tuple[Command, ...]:
    """For the server that was asked for, and for the other one where it reads the same folder."""
    file = adapter_folder / TEMPLATE
    template = file.read_text(encoding="utf-8") if file.is_file() else None
    takers = [server, *(other for other in TAKERS if other != server)]
    takers = [taker for taker in takers if verdict(TAKERS[taker], facts).unmerged != "no"]
    return tuple(
        command
        for taker in takers
        for command in adapter_commands(
            taker,
            folder.absolute(),
            card,
            name=name or default_name(adapter_folder),
            rank=rank,
            template=template,
            generation=(adapter_folder / GENERATION).is_file(),
            max_model_len=max_model_len,
        )
    )


def _notes(card: Prompting, facts: AdapterFacts, server: Name) -> list[str]:
    notes = []
    if card.storage == "nf4":
        notes.append(
            "the base was stored in 4 bits (nf4) in training and is served in 16 bits: the adapter "
            "corrects errors that are no longer there, and answers change; nearer is the base as "
            f"the adapter saw it: {verdict(TAKERS[server], facts).instead} (T5)"
        )
    if card.dtype == "float32":
        notes.append("trained in float32; the server computes in the type that the base names")
    for other in TAKERS:
        judged = verdict(TAKERS[other], facts)
        if other != server and judged.unmerged == "no":
            notes.append(f"{judged.server} does not read this adapter: {judged.why}")
    return notes
