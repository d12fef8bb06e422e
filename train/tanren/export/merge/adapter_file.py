"""What an adapter's files hold, by the layer that each tensor belongs to.

The names are PEFT's: `base_model.model.` and the layer's own name, then `lora_A.weight`,
`lora_B.weight`, `lora_magnitude_vector`, `lora_embedding_A/B`, or
`token_adapter.trainable_tokens_delta`; anything else is a whole parameter (`modules_to_save`).
Adapters on stacked experts wrap the layer once for each parameter: the names of the first carry
`base_layer` most often.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tanren.errors import Fault, ModelError
from tanren.rundir import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LOW_RANK = re.compile(
    r"^(?P<layer>.+?)(?P<depth>(\.base_layer)*)\."
    r"(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.(?P<kind>weight|bias))?$"
)
_TOKENS = ".token_adapter.trainable_tokens_delta"

# Settings of PEFT with which a layer computes something else than (W + scale * B A) x.
_OTHER_SUMS = (
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)


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
        """Raises ModelError where this is no LoRA that can be written into weights."""
        adapter = cls(folder, _settings(folder))
        unknown = []
        for name, tensor in _tensors(folder / WEIGHTS).items():
            adapter.bytes += tensor.numel() * tensor.element_size()
            if not adapter._take(name, tensor):
                unknown.append(name)
        if unknown:
            raise ModelError.of(
                Fault(
                    str(folder / WEIGHTS),
                    f"{len(unknown)} tensors of an unknown kind, the first is {unknown[0]}",
                    "A and B matrices, magnitudes, trained tokens and whole modules",
                    "merge it with the library that wrote it",
                )
            )
        adapter._refuse_halves()
        return adapter

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

    def _refuse_halves(self) -> None:
        halves = [u.layer for u in self.layers.values() if u.a is None or u.b is None]
        if halves:
            raise ModelError.of(
                Fault(
                    str(self.folder / WEIGHTS),
                    f"{len(halves)} layers with only one of A and B, the first is {halves[0]}",
                    "both for each layer",
                    "restore the adapter's file",
                )
            )


def _settings(folder: Path) -> Mapping[str, Any]:
    settings = read_json(folder / CONFIG)
    where = str(folder / CONFIG)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else type(settings).__name__
        raise ModelError.of(
            Fault(
                where,
                f"an adapter of type {kind}",
                "LORA (LoRA, QLoRA, DoRA, LoRA+, rsLoRA, PiSSA, OLoRA, EVA)",
                "merge it with the library that wrote it",
            )
        )
    faults = [
        Fault(
            f"{where} {name}",
            repr(settings[name]),
            "a layer that computes (W + scale * B A) x: others cannot be written into weights",
            "serve it through PEFT",
        )
        for name in _OTHER_SUMS
        if settings.get(name)
    ]
    initial = settings.get("init_lora_weights")
    if isinstance(initial, str) and initial.split("_")[0] in ("pissa", "olora", "corda", "loftq"):
        faults.append(
            Fault(
                f"{where} init_lora_weights",
                repr(initial),
                "an adapter for the unchanged base: this one stands on what that start left of it",
                "convert it (PEFT: path_initial_model_for_weight_conversion) and export that",
            )
        )
    if faults:
        raise ModelError.of(*faults)
    return settings


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError.of(
            Fault(
                str(file),
                f"no readable file ({str(error).splitlines()[0][:100]})",
                "the adapter's tensors in safetensors",
                "restore the adapter's folder",
            )
        ) from None
