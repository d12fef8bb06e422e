"""What a method's targets mean on a model: checked and spelled out before PEFT sees them (T19).

A mixture of experts keeps the experts of a layer as stacks, parameters of three dimensions that
belong to no linear layer. PEFT (0.21) reads targets on a mixture as they were meant for the same
model's older code: 'all-linear' then adapts the router and every expert too, a fused `gate_up_proj`
with twice the rank that was asked for. Here targets mean what they say: 'all-linear' is the linear
layers outside the experts' blocks, and experts are adapted when `target_parameters` names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from tanren import privacy
from tanren.errors import Fault, ModelError
from tanren.methods import Full, Method

privacy.apply()

from peft.tuners.lora.layer import ParamWrapper  # noqa: E402 - telemetry must be off before
from transformers import PreTrainedModel  # noqa: E402

MODULES, PARAMETERS = "method.target_modules", "method.target_parameters"

# Endings that PEFT takes for the experts of a mixture, and its router, wherever they stand.
READ_AS_EXPERTS = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Targets:
    """What PEFT is told: layers, by a word or names, and stacked weights by the endings of their
    names.
    """

    modules: str | list[str]
    parameters: list[str]


def linear_names(model: nn.Module) -> list[str]:
    """Full names of all linear layers but the output head."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


def stacked_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every stack of expert matrices, (experts, ., .), by its full name in the model as it is."""
    return {
        f"{name}.{own}": parameter
        for name, module in model.named_modules()
        if "." in name and not isinstance(module, _CONVOLUTIONS)
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.shape[0] > 1
    }


def resolve(model: PreTrainedModel, method: Method) -> Targets:
    """The targets of an adapter method, as PEFT must be told them to adapt just these.

    Raises ModelError with a fault for everything that matches nothing, cannot carry an adapter, or
    would be taken for something else.
    """
    assert not isinstance(method, Full)
    stacks = stacked_weights(model)
    named = _named(method.target_modules)
    faults = [fault for target in named for fault in _target_faults(model, stacks, *target)]
    for name in method.target_parameters:
        faults += _parameter_faults(model, stacks, name)
    faults += _saved_faults(model, method.modules_to_save)
    if faults:
        raise ModelError.of(*faults)
    return Targets(_modules(model, stacks, method.target_modules), list(method.target_parameters))


def _modules(
    model: PreTrainedModel, stacks: dict[str, nn.Parameter], targets: str | tuple[str, ...]
) -> str | list[str]:
    if not isinstance(targets, str):
        return list(targets)
    if not stacks:
        return targets
    if targets != "all-linear":
        return [name for name, _ in model.named_modules() if re.fullmatch(targets, name)]
    return _endings(linear_names(model), _outside_experts(model, stacks))


def _outside_experts(model: PreTrainedModel, stacks: dict[str, nn.Parameter]) -> list[str]:
    """Linear layers of no block that is named as the experts' are (`mlp`, `block_sparse_moe`)."""
    blocks = {name.split(".")[-3] for name in stacks}
    return [name for name in linear_names(model) if blocks.isdisjoint(name.split("."))]


def _endings(everything: list[str], wanted: list[str]) -> list[str]:
    """The last words of the wanted names, or the whole names if others end alike."""
    endings = {name.rsplit(".", 1)[-1] for name in wanted}
    meant = [name for name in everything if name.rsplit(".", 1)[-1] in endings]
    return sorted(endings) if meant == wanted else wanted


def _named(targets: str | tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
    """Each target with the pattern of the full names that it means; none for `all-linear`."""
    if isinstance(targets, str):
        return [] if targets == "all-linear" else [(targets, _pattern(targets))]
    return [(target, re.compile(rf"(.*\.)?{re.escape(target)}")) for target in targets]


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ModelError.of(
            Fault(
                MODULES,
                f"{text!r}, which is no pattern ({error})",
                "'all-linear', a list of name endings, or a regular expression for full names",
                "write for example '.*_proj'",
            )
        ) from None


def _target_faults(
    model: PreTrainedModel,
    stacks: dict[str, nn.Parameter],
    target: str,
    pattern: re.Pattern[str],
) -> Iterator[Fault]:
    expected = "'all-linear', endings of layer names, or a pattern for full names"
    endings = sorted({name.rsplit(".", 1)[-1] for name in linear_names(model)})
    remedy = "this model's linear layers are " + ", ".join(endings)
    matched = {n: m for n, m in model.named_modules() if pattern.fullmatch(n)}
    unfit = [m for m in matched.values() if not isinstance(m, nn.Linear | nn.Embedding)]
    if not matched and any(pattern.fullmatch(name) for name in stacks):
        remedy = f"name it in {PARAMETERS}, or leave it out"
        yield Fault(MODULES, f"{target!r}, which is a stack of experts", expected, remedy)
    elif not matched:
        yield Fault(MODULES, f"{target!r}, which matches no layer", expected, remedy)
    elif unfit:
        kind = type(unfit[0]).__name__
        yield Fault(MODULES, f"{target!r}, which is a {kind}", expected, remedy)
    elif stacks and READ_AS_EXPERTS & {name.rsplit(".", 1)[-1] for name in matched}:
        yield Fault(
            MODULES,
            f"{target!r}, which PEFT takes for the experts and their router",
            "layers of the attention",
            f"leave it out; experts are adapted by {PARAMETERS}",
        )
    tied = model.config.get_text_config().tie_word_embeddings
    if tied and any(module is model.get_input_embeddings() for module in matched.values()):
        yield Fault(  # merging would move the head, which is the same tensor (T11)
            MODULES,
            f"{target!r}, which is the embedding that this model also uses as its head",
            "layers inside the model",
            "train it whole instead: method.modules_to_save=[embed_tokens]",
        )
    if any(module is model.get_output_embeddings() for module in matched.values()):
        yield Fault(
            MODULES,
            f"{target!r}, which is or contains the head (lm_head)",
            "layers inside the model",
            "train the head whole instead: method.modules_to_save=[lm_head]",
        )


def _parameter_faults(
    model: nn.Module, stacks: dict[str, nn.Parameter], target: str
) -> Iterator[Fault]:
    if any(_ends(name, target) for name in stacks):
        return
    known = sorted({".".join(name.rsplit(".", 2)[-2:]) for name in stacks})
    remedy = (
        "this model's stacked weights are " + ", ".join(known)
        if known
        else "this model has no stacked weights: name its layers in method.target_modules"
    )
    other = any(_ends(name, target) for name, _ in model.named_parameters())
    what = "which is no stack of experts" if other else "which matches no weight"
    expected = "endings of the names of stacked expert weights"
    yield Fault(PARAMETERS, f"{target!r}, {what}", expected, remedy)


def _saved_faults(model: nn.Module, saved: tuple[str, ...]) -> Iterator[Fault]:
    modules = dict(model.named_modules())
    for name in saved:
        if not any(_ends(module, name) for module in modules):
            yield Fault(
                "method.modules_to_save",
                f"{name!r}, which matches nothing",
                "module names",
                "check the name",
            )


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def require_as_asked(told: Targets, adapted: nn.Module) -> None:
    """Raise ModelError when PEFT put adapters on stacked weights that nobody named."""
    asked = {
        name
        for name in _adapted_stacks(adapted)
        if any(_ends(name, target) for target in told.parameters)
    }
    more = sorted(set(_adapted_stacks(adapted)) - asked)
    if more:
        raise ModelError.of(
            Fault(
                MODULES,
                f"{told.modules}, by which PEFT also adapts {len(more)} stacks, first {more[0]}",
                "only what is named",
                "name the attention's layers alone",
            )
        )


def _adapted_stacks(model: nn.Module) -> list[str]:
    """Full names of the parameters that carry an adapter of their own."""
    return [
        f"{plain_name(name)}.{module.parameter_name}"
        for name, module in model.named_modules()
        if isinstance(module, ParamWrapper)
    ]


def plain_name(name: str) -> str:
    """The name that a module had before adapters were put around it."""
    kept = [part for part in name.split(".") if part != "base_layer"]
    return ".".join(kept).removeprefix("base_model.model.")
