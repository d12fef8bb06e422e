"""What decides whether a server reads an adapter as it was trained: of a method before training, of
a saved adapter's settings and tensors after it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tanren.errors import Fault, ModelError
from tanren.methods import Method
from tanren.rundir import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings of PEFT that change the sum W + scale * B A, with the values that leave it alone.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "layer_replication": (),
    "alora_invocation_tokens": (),
    "arrow_config": (),
    "velora_config": (),
    "kasa_config": (),
    "monteclora_config": (),
    "use_bdlora": (False,),
    "use_qalora": (False,),
}
# Starts that only fill A and B; all others change the base that the adapter stands on.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")
_CONVERTED_STARTS = ("pissa", "olora")
_ON_LAYER = re.compile(r"^(?P<layer>.+)\.lora_(embedding_)?A(\.weight)?$")
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What decides whether a server reads an adapter as it was trained.

    `rank`: the largest of any layer, before training the largest possible; 0 when the whole model
    was trained. `patterns`: ranks or alphas differ from layer to layer. `embeddings`: adapted
    embedding layers. `lonely`: parts of a fused layer that are adapted without the part that a
    server looks for. `other`: settings of PEFT that change the sum `W + scale * B A`, as
    `name=value`. `four_bit`: the base was stored in 4 bits while it trained.
    """

    rank: int
    rslora: bool = False
    dora: bool = False
    patterns: bool = False
    saved_modules: tuple[str, ...] = ()
    trained_tokens: bool = False
    experts: bool = False
    embeddings: tuple[str, ...] = ()
    lonely: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    four_bit: bool = False
    model_type: str | None = None

    @classmethod
    def planned(cls, method: Method, *, model_type: str | None = None) -> AdapterFacts:
        """Of a method that has not trained yet, from nothing but its class: what PEFT is told says
        everything.
        """
        peft_config = method.peft_config()
        if peft_config is None:
            return cls(rank=0, model_type=model_type)
        settings = dict(peft_config.to_dict())
        start = settings.get("init_lora_weights")
        rank = int(settings.get("r") or 1)
        if start in _CONVERTED_STARTS:  # saved as the difference to its start: twice the rank
            settings |= {"r": 2 * rank, "init_lora_weights": True}
        if start == "eva":  # ranks move between layers, to `rho` times the rank at most
            rho = float((settings.get("eva_config") or {}).get("rho", 2.0))
            settings |= {"r": math.ceil(rho * rank)}
        targets = settings.get("target_modules")
        names = list(targets) if isinstance(targets, list | tuple | set) else []
        facts = cls._of(
            settings, names, four_bit=method.storage == "nf4", model_type=model_type, shapes={}
        )
        return replace(facts, patterns=facts.patterns or start == "eva")

    @classmethod
    def saved(
        cls,
        settings: Mapping[str, Any],
        shapes: Mapping[str, Sequence[int]],
        *,
        four_bit: bool = False,
        model_type: str | None = None,
    ) -> AdapterFacts:
        """Of a saved adapter: `settings` is its adapter_config.json, `shapes` its tensors'."""
        layers = [m["layer"].removeprefix(_PEFT_PREFIX) for m in map(_ON_LAYER.match, shapes) if m]
        return cls._of(settings, layers, four_bit=four_bit, model_type=model_type, shapes=shapes)

    @classmethod
    def read(
        cls, folder: Path, *, four_bit: bool = False, model_type: str | None = None
    ) -> AdapterFacts:
        """Of an adapter's folder. Raises ModelError where there is none that can be read."""
        return cls.saved(
            adapter_settings(folder),
            tensor_shapes(folder / WEIGHTS),
            four_bit=four_bit,
            model_type=model_type,
        )

    @classmethod
    def _of(
        cls,
        settings: Mapping[str, Any],
        layers: Sequence[str],
        *,
        shapes: Mapping[str, Sequence[int]],
        four_bit: bool,
        model_type: str | None,
    ) -> AdapterFacts:
        ranks = [int(shape[0]) for name, shape in shapes.items() if _ON_LAYER.match(name)]
        tokens = settings.get("trainable_token_indices")
        bias = any(".lora_B.bias" in name for name in shapes)
        return cls(
            rank=max(ranks, default=int(settings.get("r") or 1)),
            rslora=bool(settings.get("use_rslora")),
            dora=bool(settings.get("use_dora")) or any("lora_magnitude" in n for n in shapes),
            patterns=bool(settings.get("rank_pattern") or settings.get("alpha_pattern")),
            saved_modules=tuple(settings.get("modules_to_save") or _whole(shapes)),
            trained_tokens=bool(tokens) or any("trainable_tokens" in name for name in shapes),
            experts=bool(settings.get("target_parameters")) or _on_stacks(layers),
            embeddings=_adapted_embeddings(layers, shapes),
            lonely=tuple(_lonely(layers)),
            other=(*_other(settings), *(["lora_bias=True"] if bias else [])),
            four_bit=four_bit,
            model_type=model_type,
        )


def _whole(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Layers saved whole, which is how `modules_to_save` lie in the file."""
    names = [n.removeprefix(_PEFT_PREFIX) for n in shapes if "lora_" not in n]
    return tuple(sorted({n.rsplit(".", 1)[0] for n in names if "trainable_tokens" not in n}))


def _on_stacks(layers: Iterable[str]) -> bool:
    """PEFT wraps a stack of experts in a layer that has no number behind `experts`."""
    return any(re.search(r"\.experts(\.base_layer)*$", layer) for layer in layers)


def _adapted_embeddings(
    layers: Iterable[str], shapes: Mapping[str, Sequence[int]]
) -> tuple[str, ...]:
    named = {layer.rsplit(".", 1)[-1] for layer in layers}
    stored = [n.split(".lora_embedding_A")[0] for n in shapes if ".lora_embedding_A" in n]
    return tuple(sorted((named & {"embed_tokens", "wte"}) | {s.rsplit(".", 1)[-1] for s in stored}))


# part -> the part that SGLang starts from when it puts the fused layer together; without it the
# rest is left out, or loading fails (sglang/srt/lora/lora.py, normalize_qkv_proj and
# normalize_gate_up_proj, 0.5.23). A missing k_proj or gate's up_proj it fills with zeros itself.
_NEEDS = {"q_proj": "v_proj", "k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


def _lonely(layers: Iterable[str]) -> Iterator[str]:
    blocks: dict[str, set[str]] = {}
    for layer in layers:
        parent, _, ending = layer.rpartition(".")
        blocks.setdefault(parent, set()).add(ending)
    found = {
        f"{part} without {needed}"
        for endings in blocks.values()
        for part, needed in _NEEDS.items()
        if part in endings and needed not in endings
    }
    yield from sorted(found)


def _other(settings: Mapping[str, Any]) -> Iterator[str]:
    kind = settings.get("peft_type", "LORA")
    kind = str(kind.value if hasattr(kind, "value") else kind)
    if kind != "LORA":
        yield f"peft_type={kind}"
    for name, neutral in _NEUTRAL.items():
        value = settings.get(name)
        if value is not None and value not in neutral:
            yield f"{name}={value!r}"
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        yield f"init_lora_weights={start!r}"


def adapter_settings(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a folder. Raises ModelError where there is no adapter."""
    if not (folder / CONFIG).is_file():
        whole = (folder / "config.json").is_file()
        raise ModelError.of(
            Fault(
                str(folder),
                "a whole model" if whole else f"no {CONFIG}",
                "a saved adapter",
                "serve the folder as it is" if whole else "name a run's adapter folder",
            )
        )
    settings = read_json(folder / CONFIG)
    damage = None
    if not isinstance(settings, dict):
        damage = f"{type(settings).__name__} instead of a JSON object"
    elif settings.get("peft_type", "LORA") == "LORA":
        numbers = {name: settings.get(name) for name in ("r", "lora_alpha")}
        wrong = [f"{k} {v!r}" for k, v in numbers.items() if not isinstance(v, int | float)]
        damage = ", ".join(wrong) or None
    if damage is not None:
        raise ModelError.of(
            Fault(
                str(folder / CONFIG),
                damage,
                "an adapter's settings with numbers r and lora_alpha",
                "restore the adapter's folder",
            )
        )
    return dict(settings)


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file; no tensor is read."""
    try:
        with safe_open(file, framework="np") as opened:
            names = opened.keys()
            return {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise ModelError.of(
            Fault(
                str(file),
                f"no readable file ({str(error).splitlines()[0][:100]})",
                "the adapter's tensors in safetensors",
                "restore the adapter's folder",
            )
        ) from None
