"""Which tensor of the folder becomes which tensor of the file, planned from names and shapes alone.

A plan is made twice: from the files, and from the architecture without numbers. When the two name
the same tensors with the same shapes, nothing is missing and nothing is strange.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import gguf
from torch import Tensor

from tanren.export.gguf.families import Family, Shape
from tanren.export.gguf.weights import Weights

Shapes = Mapping[str, tuple[int, ...]]

# Other names of the same thing: wrappers of models that also see, and Mixtral's experts on disk.
_RENAMED = (
    (re.compile(r"^(model\.)?language_model\.(model\.)?"), "model."),
    (re.compile(r"^model\.lm_head\."), "lm_head."),
    (re.compile(r"\.block_sparse_moe\."), ".mlp."),
    (re.compile(r"(\.experts\.\d+)\.w1\."), r"\1.gate_proj."),
    (re.compile(r"(\.experts\.\d+)\.w2\."), r"\1.down_proj."),
    (re.compile(r"(\.experts\.\d+)\.w3\."), r"\1.up_proj."),
)
_NOT_TEXT = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector|audio_tower)\.")
_EXPERT = re.compile(r"^(model\.layers\.\d+\.mlp\.experts)\.(\d+)\.(\w+_proj)\.weight$")
_STACKED = re.compile(r"^(model\.layers\.\d+\.mlp\.experts)\.(gate_up_proj|down_proj)$")
_ROTARY = re.compile(r"rotary_emb\.inv_freq$")


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor of the file.

    `sources`: tensors of the folder; several are laid one after another along a new first axis.
    `half`: only that half of stacked gate-and-up experts (0 gate, 1 up). `heads`: the rows are
    reordered within each of so many heads. `offset` is added. `values` stands for itself.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    half: int | None = None
    heads: int | None = None
    offset: float = 0.0
    values: Tensor | None = None

    def pieces(self, weights: Weights) -> Iterator[Tensor]:
        """The numbers in order, in blocks of whole rows."""
        if self.values is not None:
            yield self.values
        for source in self.sources:
            if self.half is not None:
                yield from weights.expert_rows(source, self.half)
            elif self.heads is not None:
                yield interleave(weights.whole(source), self.heads)
            elif self.offset:
                yield weights.whole(source).float() + self.offset
            else:
                yield from weights.rows(source)


@dataclass(frozen=True, slots=True)
class Plan:
    """`left_out`: tensors that have no place in a text model's file. `unknown`: names that nothing
    is known about.
    """

    tensors: tuple[Planned, ...]
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]


def interleave(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k, (heads x head_dim, ...), from halves of a head to neighbouring pairs.

    transformers rotates dimension i with i + head_dim/2, llama.cpp's "llama" 2i with 2i + 1.
    """
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()


def canonical(name: str) -> str:
    """A tensor's name as text models of transformers have it in memory."""
    for pattern, text in _RENAMED:
        name = pattern.sub(text, name)
    return name


class Names:
    """Names of one architecture, by the gguf package."""

    def __init__(self, architecture: str, layers: int) -> None:
        by_name = {text: arch for arch, text in gguf.MODEL_ARCH_NAMES.items()}
        self._map = gguf.get_tensor_name_map(by_name[architecture], layers)

    def of(self, name: str) -> str | None:
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        return str(found) if found is not None else None


def plan_tensors(shapes: Shapes, family: Family, shape: Shape) -> Plan:
    """The file's tensors in the order of the folder's layers."""
    names = Names(family.architecture, shape.layers)
    tensors: dict[str, Planned] = {}
    left_out, unknown = [], []
    for source in sorted(shapes, key=_natural):
        name = canonical(source)
        if _NOT_TEXT.match(source) or _ROTARY.search(source) or _is_tied_head(name, shape):
            left_out.append(source)
            continue
        found = list(_planned(name, source, shapes[source], names, family, shape))
        if not found:
            unknown.append(source)
        for planned in found:
            before = tensors.get(planned.name)
            if before is not None:  # one more expert
                planned = replace(
                    before,
                    shape=(before.shape[0] + 1, *before.shape[1:]),
                    sources=(*before.sources, source),
                )
            tensors[planned.name] = planned
    return Plan(tuple(tensors.values()), tuple(left_out), tuple(unknown))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key with layer 2 before layer 10."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def _is_tied_head(name: str, shape: Shape) -> bool:
    return shape.tied and name == "lm_head.weight"


def _planned(
    name: str, source: str, size: tuple[int, ...], names: Names, family: Family, shape: Shape
) -> Iterator[Planned]:
    """What one tensor of the folder becomes; nothing when its name is unknown."""
    if expert := _EXPERT.match(name):
        if found := names.of(f"{expert[1]}.{expert[3]}.weight"):
            yield Planned(found, (1, *size), (source,))
        return
    if stacked := _STACKED.match(name):
        yield from _stacked(stacked[1], stacked[2], source, size, names)
        return
    if found := names.of(name):
        offset = family.norm_offset if name.endswith("norm.weight") else 0.0
        heads = heads_of(name, shape) if family.interleaved else None
        yield Planned(found, size, (source,), heads=heads, offset=offset)


def _stacked(
    place: str, kind: str, source: str, size: tuple[int, ...], names: Names
) -> Iterator[Planned]:
    """Experts in one tensor (experts, out, in), gate above up in `gate_up_proj`."""
    if kind == "down_proj":
        if found := names.of(f"{place}.down_proj.weight"):
            yield Planned(found, size, (source,))
        return
    for half, part in enumerate(("gate_proj", "up_proj")):
        if found := names.of(f"{place}.{part}.weight"):
            yield Planned(found, (size[0], size[1] // 2, size[2]), (source,), half=half)


def heads_of(name: str, shape: Shape) -> int | None:
    """How many heads the rows of a q or k projection hold; None for everything else."""
    if ".q_proj." in name:
        return shape.heads
    return shape.key_value_heads if ".k_proj." in name else None
