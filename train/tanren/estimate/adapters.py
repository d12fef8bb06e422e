"""How many parameters an adapter trains, in closed form.

An adapter on a mixture's experts is refused: PEFT's layout for stacked expert weights is not one A
and one B per matrix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tanren.errors import Fault, ModelError
from tanren.estimate.shape import ATTENTION, Linear, ModelShape


@dataclass(frozen=True, slots=True)
class AdapterSize:
    """Trainable parameters of an adapter: `lora` is all A and B, `magnitudes` DoRA's vectors,
    `saved` whole modules.
    """

    modules: int
    lora: int
    magnitudes: int
    saved: int

    @property
    def total(self) -> int:
        return self.lora + self.magnitudes + self.saved


def adapter_size(
    shape: ModelShape,
    rank: int,
    targets: str | Sequence[str] = "all-linear",
    *,
    dora: bool = False,
    saved_modules: Sequence[str] = (),
) -> AdapterSize:
    """`rank * (inputs + outputs)` for each adapted matrix; DoRA adds one magnitude per output.

    `targets` as PEFT reads them: "all-linear", name endings, or one regular expression over whole
    names. Raises ModelError for every target that names nothing (T19), for adapters on experts, the
    head or the embedding, and for `saved_modules` other than `lm_head` and `embed_tokens`.
    """
    faults = _saved_faults(saved_modules)
    adapted: list[Linear] = []
    if shape.experts and targets == "all-linear":
        faults.append(
            Fault(
                "method.target_modules",
                "'all-linear' on a mixture of experts",
                "matrices that stand alone",
                f"name the attention projections: {list(ATTENTION)}",
            )
        )
    elif targets == "all-linear":
        adapted = list(shape.linears) * shape.layers
    elif isinstance(targets, str):
        adapted = [linear for path, linear in _paths(shape) if re.fullmatch(targets, path)]
        if not adapted:
            faults.append(_unmatched(shape, targets))
    else:
        adapted = [
            linear for path, linear in _paths(shape) if any(_ends(path, name) for name in targets)
        ]
        paths = [path for path, _ in _paths(shape)]
        lonely = [name for name in targets if not any(_ends(path, name) for path in paths)]
        faults += [_unmatched(shape, name) for name in lonely]
    if faults:
        raise ModelError.of(*faults)
    return AdapterSize(
        modules=len(adapted),
        lora=rank * sum(linear.inputs + linear.outputs for linear in adapted),
        magnitudes=sum(linear.outputs for linear in adapted) if dora else 0,
        saved=len(set(saved_modules)) * shape.embedding,
    )


def _paths(shape: ModelShape) -> list[tuple[str, Linear]]:
    """Every adaptable matrix with its whole name, in the order of the layers."""
    return [
        (f"model.layers.{layer}.{linear.name}", linear)
        for layer in range(shape.layers)
        for linear in shape.linears
    ]


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _unmatched(shape: ModelShape, target: str) -> Fault:
    known = [linear.name.rpartition(".")[2] for linear in shape.linears]
    near = get_close_matches(target, known, n=1)
    if target in ("lm_head", "embed_tokens"):
        remedy = "name it in method.modules_to_save to train it whole"
    else:
        remedy = f"did you mean {near[0]!r}?" if near else "choose among them or use 'all-linear'"
    return Fault("method.target_modules", repr(target), "one of " + ", ".join(known), remedy)


def _saved_faults(names: Sequence[str]) -> list[Fault]:
    known = ("lm_head", "embed_tokens")
    return [
        Fault("method.modules_to_save", repr(name), "lm_head or embed_tokens", "remove it")
        for name in names
        if name not in known
    ]
