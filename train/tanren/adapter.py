"""The adapter on the base: put there, counted, saved as plain PEFT, loaded back."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tanren import privacy
from tanren.errors import Fault, ModelError, RunError
from tanren.methods import Full, Method
from tanren.model import Source

privacy.apply()

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402 - telemetry must be off before
from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel  # noqa: E402


def add_adapter(
    model: PreTrainedModel, source: Source, method: Method, *, seed: int
) -> PeftModel | PreTrainedModel:
    """Put the method's adapter on the base: seeded (T23), in float32 (T33), checked for coverage
    (T19).

    Full fine-tuning returns the model itself with every weight trained.
    """
    peft_config = method.peft_config()
    if peft_config is None:
        model.requires_grad_(True)
        return model
    assert not isinstance(method, Full)
    _check_targets(model, method.target_modules, method.modules_to_save)
    peft_config.base_model_name_or_path = (
        source.name if source.revision is not None else str(source.path)
    )
    peft_config.revision = source.revision
    assert isinstance(peft_config, LoraConfig)
    if (
        model.config.get_text_config().tie_word_embeddings
    ):  # one tensor trained, saved, merged (T11)
        peft_config.ensure_weight_tying = bool(
            {"embed_tokens", "lm_head"} & {*method.modules_to_save}
        )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        warnings.filterwarnings("ignore", message=".*with eva initialization used with.*")
        adapted = get_peft_model(model, peft_config)
    settings: Any = adapted.peft_config["default"]
    if isinstance(settings.target_modules, set):
        # a set's order changes from process to process, and with it the saved file (T23)
        settings.target_modules = sorted(settings.target_modules)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if method.dropout == 0:
        _skip_input_cast(adapted)
    return adapted


def _skip_input_cast(model: nn.Module) -> None:
    """Leave inputs in the type of the products: under autocast the result is the same bits, with
    one copy less.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]


def linear_names(model: nn.Module) -> list[str]:
    """Full names of all linear layers but the output head."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


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
                "method.target_modules",
                f"{text!r}, which is no pattern ({error})",
                "'all-linear', a list of name endings, or a regular expression for full names",
                "write for example '.*_proj'",
            )
        ) from None


def _target_faults(
    model: PreTrainedModel, target: str, pattern: re.Pattern[str]
) -> Iterator[Fault]:
    place = "method.target_modules"
    expected = "'all-linear', endings of layer names, or a pattern for full names"
    endings = sorted({name.rsplit(".", 1)[-1] for name in linear_names(model)})
    remedy = "this model's linear layers are " + ", ".join(endings)
    matched = {n: m for n, m in model.named_modules() if pattern.fullmatch(n)}
    unfit = [m for m in matched.values() if not isinstance(m, nn.Linear | nn.Embedding)]
    if not matched:
        yield Fault(place, f"{target!r}, which matches no layer", expected, remedy)
    elif unfit:
        kind = type(unfit[0]).__name__
        yield Fault(place, f"{target!r}, which is a {kind}", expected, remedy)
    tied = model.config.get_text_config().tie_word_embeddings
    if tied and any(module is model.get_input_embeddings() for module in matched.values()):
        yield Fault(  # merging would move the head, which is the same tensor (T11)
            place,
            f"{target!r}, which is the embedding that this model also uses as its head",
            "layers inside the model",
            "train it whole instead: method.modules_to_save=[embed_tokens]",
        )
    if any(module is model.get_output_embeddings() for module in matched.values()):
        yield Fault(
            place,
            f"{target!r}, which is or contains the head (lm_head)",
            "layers inside the model",
            "train the head whole instead: method.modules_to_save=[lm_head]",
        )


def _check_targets(
    model: PreTrainedModel, targets: str | tuple[str, ...], saved: tuple[str, ...]
) -> None:
    """Every named target must match something (T19); `all-linear` always does."""
    modules = dict(model.named_modules())
    faults = [fault for target in _named(targets) for fault in _target_faults(model, *target)]
    for name in saved:
        if not any(module == name or module.endswith(f".{name}") for module in modules):
            faults.append(
                Fault(
                    "method.modules_to_save",
                    f"{name!r}, which matches nothing",
                    "module names",
                    "check the name",
                )
            )
    if faults:
        raise ModelError.of(*faults)


def sketch(source: Source, method: Method) -> nn.Module:
    """The adapted model without any numbers (on torch's meta device): names and shapes of a model
    of any size, at once. Raises ModelError for targets that match nothing (T19).
    """
    settings = AutoConfig.from_pretrained(source.path, local_files_only=True)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings)
    except ValueError as error:
        raise ModelError.of(
            Fault(
                f"{source.name}/config.json",
                f"the architecture {settings.model_type!r}",
                "a causal language model",
                "choose a model that writes text",
            )
        ) from error
    peft_config: Any = method.peft_config()
    if peft_config is None:
        return model
    assert not isinstance(method, Full)
    model.requires_grad_(False)
    _check_targets(model, method.target_modules, method.modules_to_save)
    peft_config.init_lora_weights = True  # there are no weights to start from
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return get_peft_model(model, peft_config)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many layers of each kind carry an adapter: kind -> (adapted, all)."""

    kinds: dict[str, tuple[int, int]]
    trained: int
    total: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "layers": {kind: {"adapted": a, "all": n} for kind, (a, n) in self.kinds.items()},
            "trained_parameters": self.trained,
            "all_parameters": self.total,
        }


def coverage(model: nn.Module) -> Coverage:
    """Count adapted layers and trained parameters. 4-bit weights count with their real number of
    elements.
    """
    adapted: Counter[str] = Counter()
    everything: Counter[str] = Counter()
    names = dict(model.named_modules())
    for name, module in names.items():
        ending = name.rsplit(".", 1)[-1]
        if isinstance(module, BaseTunerLayer):
            adapted[ending] += 1
            everything[ending] += 1
        elif isinstance(module, nn.Linear) and ending != "base_layer" and ".lora_" not in name:
            everything[ending] += 1
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(_elements(p) for p in model.parameters())
    kinds = {kind: (adapted[kind], everything[kind]) for kind in sorted(everything)}
    return Coverage(kinds, trained, total)


def _elements(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return int(torch.Size(state.shape).numel()) if state is not None else parameter.numel()


@contextmanager
def adapter_switched_off(model: nn.Module) -> Iterator[None]:
    """The base's own behaviour, for comparing; a no-op on models without an adapter."""
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            yield
    else:
        yield


def initialise_from_data(
    model: nn.Module, method: Method, inputs: Iterable[dict[str, Any]]
) -> None:
    """EVA's start: singular vectors of each layer's inputs on some training rows; ranks move with
    the variance.

    A no-op for methods that start from weights or zero. `inputs` are model inputs, one pass each.
    """
    if method.initialisation != "eva":
        return
    from peft import initialize_lora_eva_weights

    rows = list(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of layers whose inputs are equal and are shared
        initialize_lora_eva_weights(model, rows, show_progress_bar=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def save_initial(model: nn.Module, method: Method, folder: Path) -> None:
    """Keep the starting adapter of methods that change the base, so that the result can be plain
    LoRA.
    """
    if method.initialisation not in ("pissa", "olora"):
        return
    assert isinstance(model, PeftModel)
    settings: Any = model.peft_config["default"]
    initialisation = settings.init_lora_weights
    settings.init_lora_weights = True
    try:
        model.save_pretrained(str(folder), save_embedding_layers=False)
    finally:
        settings.init_lora_weights = initialisation


def save_adapter(model: nn.Module, folder: Path, *, initial: Path | None = None) -> None:
    """Plain PEFT files. With `initial`, the difference to the starting adapter: a LoRA of twice the
    rank on the unchanged base (PiSSA and OLoRA otherwise load wrongly without their own residual
    base).
    """
    with warnings.catch_warnings():
        # PEFT says that the base was changed: that is what `initial` undoes
        warnings.filterwarnings("ignore", message=".*changes the base weights of the model.*")
        if isinstance(model, PeftModel) and initial is not None:
            model.save_pretrained(
                str(folder),
                save_embedding_layers=False,
                path_initial_model_for_weight_conversion=str(initial),
            )
        elif isinstance(model, PeftModel):
            # Left to itself PEFT adds the base's whole embedding when an adapter sits on it.
            model.save_pretrained(str(folder), save_embedding_layers=False)
        else:
            model.save_pretrained(str(folder))  # type: ignore[operator]
    (folder / "README.md").unlink(missing_ok=True)  # a form with nothing filled in


def load_adapter(base: PreTrainedModel, folder: Path) -> PreTrainedModel | PeftModel:
    """An adapter from disk on a fresh base, ready to answer."""
    return PeftModel.from_pretrained(base, str(folder), is_trainable=False).eval()


def saved_keys(model: nn.Module) -> frozenset[str]:
    """Names of the tensors that saving this adapter writes; empty for whole models, which name
    their own.
    """
    if not isinstance(model, PeftModel):
        return frozenset()
    from peft import get_peft_model_state_dict

    return frozenset(get_peft_model_state_dict(model, save_embedding_layers=False))


def saved_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies, on the CPU, of what saving this adapter writes; empty for whole models."""
    if not isinstance(model, PeftModel):
        return {}
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}


def load_weights(model: nn.Module, folder: Path) -> None:
    """Put saved weights into the model in memory, bit for bit. Raises RunError when names
    differ.
    """
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), "default", is_trainable=True)
        return
    from safetensors.torch import load_file

    missing, unexpected = {name for name, _ in model.named_parameters()}, set()
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(str(file))
        result = model.load_state_dict(tensors, strict=False)
        unexpected |= set(result.unexpected_keys)
        missing -= tensors.keys()
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    if unexpected or missing - tied:
        names = ", ".join(sorted(unexpected | (missing - tied))[:3])
        raise RunError.of(
            Fault(
                str(folder),
                f"other tensors than this model has ({names})",
                "the model's own names",
                "resume with the versions that wrote it",
            )
        )
