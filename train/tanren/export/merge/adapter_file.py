"""What an adapter's files hold, by the layer that each tensor belongs to.

The names are PEFT's: `base_model.model.` and the layer's own name, then `lora_A.weight`,
`lora_B.weight`, `lora_magnitude_vector`, `lora_embedding_A/B`, or
`token_adapter.trainable_tokens_delta`; anything else is a whole parameter (`modules_to_save`).
Adapters on stacked experts wrap the layer once for each parameter: the names of the first carry
`base_layer` most often.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tanren import privacy
from tanren.errors import Fault, ModelError
from tanren.export.merge.adapter_settings import CONFIG, read_settings, settings_faults

privacy.apply()

from transformers import PreTrainedModel  # noqa: E402 - telemetry must be off before

WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_LOW_RANK = re.compile(
    r"^(?P<layer>.+?)(?P<depth>(\.base_layer)*)\."
    r"(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.(?P<kind>weight|bias))?$"
)
_TOKENS = ".token_adapter.trainable_tokens_delta"


@dataclass
class LayerUpdate:
    """Low-rank factors on one layer. Linear: a (rank, in), b (out, rank), magnitude (out) or None.
    Embedding: a (rank, vocab), b (width, rank). Stacked experts: a (experts * rank, in), b (out,
    rank * experts), and `depth` says which of the layer's parameters they are for.
    """

    layer: str
    depth: int = 0
    embedding: bool = False
    a: Tensor | None = None
    b: Tensor | None = None
    magnitude: Tensor | None = None


@dataclass
class AdapterFile:
    """An adapter in memory: `layers` by (name, depth), whole parameters by name, token rows by
    layer.
    """

    folder: Path
    settings: Mapping[str, Any]
    layers: dict[tuple[str, int], LayerUpdate] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)
    token_rows: dict[str, Tensor] = field(default_factory=dict)
    bytes: int = 0

    @classmethod
    def read(cls, folder: Path) -> AdapterFile:
        """Raises ModelError with everything for which this is no LoRA that can be written into
        weights.
        """
        settings = read_settings(folder)
        faults = list(settings_faults(folder, settings))
        tensors = _tensors(folder, faults)
        adapter = cls(folder, settings)
        unknown = []
        for name, tensor in tensors.items():
            adapter.bytes += tensor.numel() * tensor.element_size()
            if not adapter._take(name, tensor):
                unknown.append(name)
        if unknown:
            faults.append(
                Fault(
                    str(folder / WEIGHTS),
                    f"{len(unknown)} tensors of an unknown kind, the first is {unknown[0]}",
                    "A and B matrices, magnitudes, trained tokens and whole modules",
                    "merge it with the library that wrote it",
                )
            )
        faults += adapter._tensor_faults()
        if faults:
            raise ModelError.of(*faults)
        return adapter

    def require_all(self, model: nn.Module) -> None:
        """Raise ModelError unless there is a tensor for everything that the settings name on this
        base (`model`: its architecture on the meta device).

        PEFT puts an untrained matrix where one is missing and says so only in a warning.
        """
        asked = AdapterFile(self.folder, self.settings)
        for name, tensor in _as_configured(self.folder, self.settings, model).items():
            asked._take(name, tensor)
        missing = [*self._missing_updates(asked), *self._missing_whole(asked, model)]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ModelError.of(
                Fault(
                    str(self.folder / WEIGHTS),
                    f"nothing for {', '.join(missing[:3])}{more}",
                    f"tensors for all that {CONFIG} names",
                    "restore the adapter's folder: a part of it was lost, or its settings changed",
                )
            )

    def _missing_updates(self, asked: AdapterFile) -> Iterator[str]:
        for key, update in asked.layers.items():
            own = self.layers.get(key)
            if own is None:
                yield update.layer
            elif update.magnitude is not None and own.magnitude is None:
                yield f"the magnitude of {update.layer}"

    def _missing_whole(self, asked: AdapterFile, model: nn.Module) -> Iterator[str]:
        """Of tied embeddings one is enough: which of the two is saved depends on PEFT's version."""
        ends = _tied_ends(model)
        for own, wanted, suffix in (
            (self.whole.keys(), asked.whole.keys(), ".weight"),
            (self.token_rows.keys(), asked.token_rows.keys(), ""),
        ):
            tied = {f"{end}{suffix}" for end in ends}
            yield from sorted(name for name in wanted - own if not (name in tied and tied & own))

    def _take(self, name: str, tensor: Tensor) -> bool:
        if not name.startswith(_PREFIX):
            return False
        inner = name.removeprefix(_PREFIX)
        if inner.endswith(_TOKENS):
            self.token_rows[inner.removesuffix(_TOKENS)] = tensor
            return True
        match = _LOW_RANK.match(inner)
        if match is None:
            if ".lora_" in inner:
                return False
            self.whole[inner.replace(".base_layer.", ".")] = tensor
            return True
        if match["kind"] == "bias":
            return False
        depth = match["depth"].count(".base_layer")
        update = self.layers.setdefault((match["layer"], depth), LayerUpdate(match["layer"], depth))
        update.embedding = "embedding" in match["part"]
        if match["part"] == "lora_magnitude_vector":
            update.magnitude = tensor.reshape(-1)
        elif match["part"].endswith("A"):
            update.a = tensor
        else:
            update.b = tensor
        return True

    def _tensor_faults(self) -> Iterator[Fault]:
        where = str(self.folder / WEIGHTS)
        if not self.layers and not self.whole and not self.token_rows:
            yield Fault(where, "no tensors", "a trained adapter", "restore the adapter's file")
        halves = [u.layer for u in self.layers.values() if u.a is None or u.b is None]
        if halves:
            yield Fault(
                where,
                f"{len(halves)} layers with only one of A and B, the first is {halves[0]}",
                "both for each layer",
                "restore the adapter's file",
            )
        parts = [(u.layer, t) for u in self.layers.values() for t in (u.a, u.b) if t is not None]
        parts += self.token_rows.items()
        odd = [(n, t) for n, t in parts if t.ndim != 2 or not t.is_floating_point()]
        if odd:
            layer, tensor = odd[0]
            yield Fault(
                where,
                f"{len(odd)} tensors that are no matrix of numbers, the first is "
                f"{tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}, of {layer}",
                "matrices of two dimensions in floating point",
                "restore the adapter's file; convolutions are not merged",
            )


def _tensors(folder: Path, faults: list[Fault]) -> dict[str, Tensor]:
    """Raises ModelError, with `faults` found before, where there is nothing to read."""
    file = folder / WEIGHTS
    found, remedy = "", "restore the adapter's folder"
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        found = f"no readable file ({str(error).splitlines()[0][:100]})"
    if not file.exists() and (folder / PICKLED).is_file():
        found = f"pickled weights only ({PICKLED}), which can run code when they are loaded"
        remedy = (
            "if you trust them, convert them once: load the adapter with PEFT and call "
            "save_pretrained, which writes safetensors"
        )
    fault = Fault(str(file), found, "the adapter's tensors in safetensors", remedy)
    raise ModelError.of(*faults, fault)


def _as_configured(
    folder: Path, settings: Mapping[str, Any], model: nn.Module
) -> dict[str, Tensor]:
    """What PEFT would save for these settings on this base, without numbers."""
    from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict

    chosen = {**settings, "init_lora_weights": False, "task_type": None}
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            config = PeftConfig.from_peft_type(**chosen)
            assert isinstance(config, LoraConfig)
            adapted = get_peft_model(copy.deepcopy(model), config, low_cpu_mem_usage=True)
            found = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError.of(
            Fault(
                str(folder / CONFIG),
                f"settings that PEFT cannot put on this base ({words})",
                "an adapter for this base",
                "name the base that it was trained on, or restore the adapter's folder",
            )
        ) from None
    return dict(found)


def _tied_ends(model: nn.Module) -> set[str]:
    """Names of the input embedding and the head where both are one tensor."""
    if not isinstance(model, PreTrainedModel):
        return set()
    if not model.config.get_text_config().tie_word_embeddings:
        return set()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {name for name, module in model.named_modules() if any(module is end for end in ends)}
