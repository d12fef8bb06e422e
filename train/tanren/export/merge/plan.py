"""What merging will do to each tensor of the checkpoint, decided from names and shapes alone.

The plan can be read and tested without any weights. A tensor's `Change` says what takes its place,
whether it goes through 4 bits, which low-rank updates are added, and which rows are set.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tanren.errors import Fault, ModelError
from tanren.export.merge.adapter_file import AdapterFile, LayerUpdate
from tanren.export.merge.checkpoint import Checkpoint
from tanren.export.scaling import configured_rank, scale_of

Onto = Literal["trained", "original"]


@dataclass(frozen=True, slots=True)
class LowRank:
    """`W += scale * B A` for the part of W that one checkpoint tensor holds.

    `b_rows` are the rows of B that make this tensor's rows; `expert` picks one of stacked experts;
    `swapped`: the tensor is stored (in, out).
    """

    update: LayerUpdate
    scale: float
    b_rows: tuple[int, int]
    expert: int | None = None
    experts: int = 1
    swapped: bool = False


@dataclass
class Change:
    """What happens to one tensor, in this order: replaced, through 4 bits, low-rank updates (with
    magnitude), rows set."""

    replacement: str | None = None
    through_nf4: bool = False
    low_rank: list[LowRank] = field(default_factory=list)
    token_rows: tuple[str, tuple[int, ...]] | None = None

    @property
    def any(self) -> bool:
        return bool(
            self.replacement or self.through_nf4 or self.low_rank or self.token_rows is not None
        )


@dataclass
class MergePlan:
    """`changes` by checkpoint name; tensors without one are copied. `added` are new names, each
    with the tensor that it starts from. `untied`: input and output embeddings part ways.
    """

    checkpoint: Checkpoint
    adapter: AdapterFile | None
    changes: dict[str, Change]
    added: dict[str, str]
    untied: bool
    vocabulary: int | None
    compute_dtype: torch.dtype

    @property
    def changed(self) -> int:
        return sum(change.any for change in self.changes.values())


def plan_merge(
    checkpoint: Checkpoint,
    adapter: AdapterFile | None,
    model: nn.Module,
    *,
    nf4: bool,
    compute_dtype: torch.dtype,
) -> MergePlan:
    """`model` is the base's architecture on the meta device. `nf4`: linear layers take the values
    that the adapter saw in training. Raises ModelError with every tensor that finds no place, and
    with every layer that should have an adapter and has none.
    """
    if adapter is not None:
        adapter.require_all(model)
    return _Planner(checkpoint, adapter, model, compute_dtype).plan(nf4=nf4)


class _Planner:
    def __init__(
        self,
        checkpoint: Checkpoint,
        adapter: AdapterFile | None,
        model: nn.Module,
        compute_dtype: torch.dtype,
    ) -> None:
        self.checkpoint = checkpoint
        self.adapter = adapter
        self.model = model
        self.compute_dtype = compute_dtype
        self.modules = dict(model.named_modules())
        self.changes: defaultdict[str, Change] = defaultdict(Change)
        self.added: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.vocabulary: int | None = None
        self.embedding, self.head = _ends(model)
        self.tied = _tied(model)
        self.prefix = str(model.base_model_prefix)

    def plan(self, *, nf4: bool) -> MergePlan:
        untied = False
        if self.adapter is not None:
            untied = self._untie()
            for name in self.adapter.whole:
                self._replace(name)
            for update in self.adapter.layers.values():
                self._add(update)
            for layer in self.adapter.token_rows:
                self._set_rows(layer, untied)
        if nf4:
            self._through_nf4()
        if self.faults:
            raise ModelError.of(*self.faults)
        return MergePlan(
            self.checkpoint,
            self.adapter,
            dict(self.changes),
            self.added,
            untied,
            self.vocabulary,
            self.compute_dtype,
        )

    # --- the two ends of the model ----------------------------------------------------------------

    def _untie(self) -> bool:
        """Whether the tied embeddings must part: when the adapter does to one what it does not do
        to the other (T11). Then the head gets a tensor of its own in the checkpoint.
        """
        assert self.adapter is not None
        if not self.tied:
            return False
        first, last = f"{self.embedding}.weight", f"{self.head}.weight"
        whole = self.adapter.whole
        if first in whole and last in whole:
            same = torch.equal(whole[first], whole[last])
        else:
            same = (first in whole) == (last in whole)
        low_rank = {layer for layer, _ in self.adapter.layers} & {self.embedding, self.head}
        untied = not same or bool(low_rank)
        if untied and last not in self.checkpoint.places:
            self.added[last] = first
        return untied

    # --- parts of the adapter ---------------------------------------------------------------------

    def _replace(self, name: str) -> None:
        assert self.adapter is not None
        targets = self._stored(name)
        if not targets:
            if self.tied and name == f"{self.head}.weight" and not self.added:
                return  # the same numbers arrive under the embedding's name
            self._homeless(name)
            return
        tensor = self.adapter.whole[name]
        place = self.checkpoint.places[self.added.get(targets[0], targets[0])]
        grown = name in (f"{self.embedding}.weight", f"{self.head}.weight")
        same = tuple(tensor.shape) == place.shape
        if not same and not (grown and tuple(tensor.shape[1:]) == place.shape[1:]):
            self._misshapen(name, tuple(tensor.shape), place.shape)
            return
        if not same:
            self.vocabulary = int(tensor.shape[0])
        self.changes[targets[0]].replacement = name

    def _set_rows(self, layer: str, untied: bool) -> None:
        assert self.adapter is not None
        indices = _token_indices(self.adapter.settings.get("trainable_token_indices"), layer)
        count = self.adapter.token_rows[layer].shape[0]
        if indices is None or len(indices) != count:
            self.faults.append(
                Fault(
                    f"{self.adapter.folder} trainable_token_indices",
                    f"{len(indices or ())} ids for {count} trained rows of {layer}",
                    "one id a row",
                    "restore the adapter's folder",
                )
            )
            return
        names = [f"{layer}.weight"]
        head = f"{self.head}.weight"
        stored = untied or head in self.checkpoint.places
        if self.tied and layer == self.embedding and stored:
            names.append(head)  # PEFT trains the rows of both
        for name in names:
            targets = self._stored(name)
            if not targets:
                self._homeless(name)
                continue
            self.changes[targets[0]].token_rows = (layer, indices)

    def _add(self, update: LayerUpdate) -> None:
        module = self.modules.get(update.layer)
        if module is None:
            self._homeless(update.layer)
        elif isinstance(module, nn.Embedding) or update.embedding:
            self._add_to_embedding(update)
        elif isinstance(module, nn.Linear | Conv1D):
            self._add_to_linear(update, swapped=isinstance(module, Conv1D))
        else:
            self._add_to_experts(update, module)

    def _add_to_linear(self, update: LayerUpdate, *, swapped: bool) -> None:
        assert update.a is not None
        assert update.b is not None
        name = f"{update.layer}.weight"
        targets = self._stored(name)
        if not targets:
            self._homeless(name)
            return
        shape = (update.b.shape[0], update.a.shape[1])
        stored = self.checkpoint.places[self.added.get(targets[0], targets[0])].shape
        if (shape[::-1] if swapped else shape) != stored:
            self._misshapen(name, shape, stored)
            return
        scale = self._scale(update.layer, update.a.shape[0])
        self.changes[targets[0]].low_rank.append(
            LowRank(update, scale, (0, shape[0]), swapped=swapped)
        )

    def _add_to_embedding(self, update: LayerUpdate) -> None:
        assert update.a is not None
        assert update.b is not None
        name = f"{update.layer}.weight"
        targets = self._stored(name)
        if not targets or update.magnitude is not None or not update.embedding:
            self._homeless(name)
            return
        # (vocab, width): the rows are A's columns, so the factors change places
        turned = LayerUpdate(update.layer, a=update.b.T, b=update.a.T)
        scale = self._scale(update.layer, update.a.shape[0])
        self.changes[targets[0]].low_rank.append(LowRank(turned, scale, (0, turned.b.shape[0])))  # type: ignore[union-attr]

    def _add_to_experts(self, update: LayerUpdate, module: nn.Module) -> None:
        """PEFT wraps the module of stacked experts once per adapted parameter, the first
        innermost.
        """
        assert update.a is not None
        assert update.b is not None
        assert self.adapter is not None
        targeted = self.adapter.settings.get("target_parameters") or ()
        wrapped = [
            name
            for name, _ in module.named_parameters(recurse=False)
            if _targets(targeted, f"{update.layer}.{name}")
        ]
        position = len(wrapped) - 1
        if update.depth > position:
            self._homeless(update.layer)
            return
        parameter = wrapped[position - update.depth]
        stacked = module.get_parameter(parameter)
        experts = stacked.shape[0] if stacked.ndim == 3 else 1
        rank = update.a.shape[0] // experts
        scale = self._scale(f"{update.layer}.{parameter}", rank)
        swapped = stacked.ndim == 3 and bool(vars(module).get("is_transposed", False))
        shape = (update.b.shape[0], update.a.shape[1])
        if shape != (tuple(stacked.shape[1:][::-1]) if swapped else tuple(stacked.shape[-2:])):
            self._misshapen(f"{update.layer}.{parameter}", shape, tuple(stacked.shape))
            return
        parts = list(self._expert_parts(update.layer, parameter, experts, shape[0]))
        if not parts:
            self._homeless(f"{update.layer}.{parameter}")
        for name, expert, rows in parts:
            self.changes[name].low_rank.append(
                LowRank(update, scale, rows, expert, experts, swapped)
            )

    def _expert_parts(
        self, layer: str, parameter: str, experts: int, rows: int
    ) -> Iterator[tuple[str, int | None, tuple[int, int]]]:
        """Where a stacked parameter lies in the checkpoint: whole, or a tensor per expert and
        projection (its rows are a half of the stacked ones where two projections are joined).
        """
        whole = self._stored(f"{layer}.{parameter}")
        if whole:
            yield whole[0], None, (0, rows)
            return
        for projections in _PROJECTIONS.get(parameter, ()):
            height = rows // len(projections)
            names = [
                (
                    self._stored(f"{layer}.{e}.{projection}.weight"),
                    e,
                    (i * height, (i + 1) * height),
                )
                for e in range(experts)
                for i, projection in enumerate(projections)
            ]
            if all(found for found, _, _ in names):
                yield from ((found[0], e, part) for found, e, part in names)
                return

    def _scale(self, layer: str, rank: int) -> float:
        """PEFT divides by the configured rank, which the tensors must have."""
        assert self.adapter is not None
        settings = self.adapter.settings
        named = configured_rank(settings, layer)
        if named != rank:
            self.faults.append(
                Fault(
                    f"{self.adapter.folder} {layer}",
                    f"matrices of rank {rank}",
                    f"{named}, as adapter_config.json says",
                    "restore the adapter's folder",
                )
            )
        return scale_of(settings, layer, rank)

    # --- the base ---------------------------------------------------------------------------------

    def _through_nf4(self) -> None:
        """Every linear layer that 4-bit loading replaces: all but the output embedding."""
        for name, module in self.modules.items():
            if isinstance(module, nn.Linear) and name != self.head:
                for target in self._stored(f"{name}.weight"):
                    self.changes[target].through_nf4 = True

    def _stored(self, name: str) -> list[str]:
        """The checkpoint's names for a parameter of the model; empty where it has none."""
        if name in self.checkpoint.places or name in self.added:
            return [name]
        bare = name.removeprefix(f"{self.prefix}.")
        if bare in self.checkpoint.places:  # saved from the model without its head
            return [bare]
        for new, old in _RENAMED:
            if new in name and name.replace(new, old) in self.checkpoint.places:
                return [name.replace(new, old)]
        return []

    def _homeless(self, name: str) -> None:
        assert self.adapter is not None
        self.faults.append(
            Fault(
                f"{self.adapter.folder} {name}",
                "a part of the adapter that the base has no place for",
                f"a layer of {self.checkpoint.folder}",
                "name the base that it was trained on",
            )
        )

    def _misshapen(self, name: str, shape: tuple[int, ...], stored: tuple[int, ...]) -> None:
        assert self.adapter is not None
        self.faults.append(
            Fault(
                f"{self.adapter.folder} {name}",
                f"an update of shape {shape}",
                f"{stored}, as in {self.checkpoint.folder}",
                "name the base that it was trained on",
            )
        )


# Names that transformers 5 gives to modules on loading, and what the files call them.
_RENAMED = ((".mlp.", ".block_sparse_moe."),)

# Stacked parameter -> the projections that it joins, as checkpoints name them expert by expert.
_PROJECTIONS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}


def _targets(targeted: tuple[str, ...], name: str) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targeted)


def _ends(model: nn.Module) -> tuple[str, str]:
    """Names of the input embedding and of the output head."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    names = {id(module): name for name, module in model.named_modules()}
    return names[id(first)], names.get(id(last), "")


def _tied(model: nn.Module) -> bool:
    return bool(model.config.get_text_config().tie_word_embeddings)  # type: ignore[union-attr,operator]


def _token_indices(setting: object, layer: str) -> tuple[int, ...] | None:
    """Ids whose rows were trained on this layer: a list means the input embedding."""
    if isinstance(setting, list):
        return tuple(setting)
    if isinstance(setting, dict):
        for name, ids in setting.items():
            if re.fullmatch(rf"(.*\.)?{re.escape(name)}", layer):
                return tuple(ids)
    return None
