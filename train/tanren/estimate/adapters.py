"""How many parameters an adapter trains, in closed form.

A stack of experts gets one A and one B per expert, which PEFT keeps side by side in two matrices:
A `(experts * rank, inputs)`, B `(outputs, experts * rank)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tanren.errors import Fault, ModelError
from tanren.estimate.shape import Linear, ModelShape


@dataclass(frozen=True, slots=True)
class AdapterSize:
    """Trainable parameters of an adapter: `lora` is all A and B, `idle` the part of them that
    belongs to experts which a token does not visit, `magnitudes` DoRA's vectors, `saved` whole
    modules. `modules` counts adapted layers and stacks.
    """

    modules: int
    lora: int
    magnitudes: int
    saved: int
    idle: int = 0

    @property
    def total(self) -> int:
        return self.lora + self.magnitudes + self.saved


def adapter_size(
    shape: ModelShape,
    rank: int,
    targets: str | Sequence[str] = "all-linear",
    *,
    parameters: Sequence[str] = (),
    dora: bool = False,
    saved_modules: Sequence[str] = (),
) -> AdapterSize:
    """`rank * (inputs + outputs)` for each adapted matrix, an expert's included; DoRA adds one
    magnitude per output.

    `targets` are "all-linear" (in mixtures the attention), name endings, or one regular expression
    over whole names; `parameters` are name endings of stacked experts. Raises ModelError for every
    target that names nothing (T19), for the head or the embedding, and for `saved_modules` other
    than `lm_head` and `embed_tokens`.
    """
    faults = _saved_faults(saved_modules)
    adapted: list[Linear] = []
    if targets == "all-linear":
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
    faults += _parameter_faults(shape, parameters)
    if faults:
        raise ModelError.of(*faults)
    experts = shape.experts.count if shape.experts else 0
    stacks = [matrix for layer in adapted_stacks(shape, parameters) for matrix in layer]
    each = sum(matrix.inputs + matrix.outputs for matrix in stacks)
    return AdapterSize(
        modules=len(adapted) + len(stacks),
        lora=rank * (sum(linear.inputs + linear.outputs for linear in adapted) + experts * each),
        magnitudes=sum(linear.outputs for linear in adapted) if dora else 0,
        saved=len(set(saved_modules)) * shape.embedding,
        idle=idle_parameters(shape, rank, parameters),
    )


def idle_parameters(shape: ModelShape, rank: int, parameters: Sequence[str]) -> int:
    """A and B of the experts that one token does not visit: they take part in no product of it."""
    if shape.experts is None:
        return 0
    idle = shape.experts.count - shape.experts.active
    stacks = [matrix for layer in adapted_stacks(shape, parameters) for matrix in layer]
    return idle * rank * sum(matrix.inputs + matrix.outputs for matrix in stacks)


def adapted_stacks(shape: ModelShape, parameters: Sequence[str]) -> list[list[Linear]]:
    """Per layer, one expert's matrix of each stack that `parameters` name."""
    return [
        [matrix for path, matrix in layer if any(_ends(path, name) for name in parameters)]
        for layer in _stack_paths(shape)
    ]


def _stack_paths(shape: ModelShape) -> list[list[tuple[str, Linear]]]:
    matrices = shape.experts.matrices if shape.experts else ()
    return [
        [(f"model.layers.{layer}.{matrix.name}", matrix) for matrix in matrices]
        for layer in range(shape.layers)
    ]


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


def _parameter_faults(shape: ModelShape, parameters: Sequence[str]) -> list[Fault]:
    paths = [path for layer in _stack_paths(shape) for path, _ in layer]
    known = sorted({".".join(path.rsplit(".", 2)[-2:]) for path in paths})
    expected = "one of " + ", ".join(known) if known else "nothing, for there are no stacks"
    return [
        Fault("method.target_parameters", repr(name), expected, "check the name")
        for name in parameters
        if not any(_ends(path, name) for path in paths)
    ]


def _saved_faults(names: Sequence[str]) -> list[Fault]:
    known = ("lm_head", "embed_tokens")
    return [
        Fault("method.modules_to_save", repr(name), "lm_head or embed_tokens", "remove it")
        for name in names
        if name not in known
    ]
