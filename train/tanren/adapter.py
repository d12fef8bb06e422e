"""The adapter on the base: put there, counted, saved as plain PEFT, loaded back."""

from __future__ import annotations

import json
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
from tanren.targets import plain_name, require_as_asked, resolve, stacked_weights

privacy.apply()

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402 - telemetry must be off before
from peft.tuners.lora.layer import ParamWrapper  # noqa: E402
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
    assert isinstance(peft_config, LoraConfig)
    targets = resolve(model, method)
    peft_config.target_modules = targets.modules
    peft_config.base_model_name_or_path = (
        source.name if source.revision is not None else str(source.path)
    )
    peft_config.revision = source.revision
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
    require_as_asked(targets, adapted)
    _in_order(adapted.peft_config["default"])
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if method.dropout == 0:
        _skip_input_cast(adapted)
    return adapted


def _in_order(settings: Any) -> None:
    """A set's order changes from process to process, and with it the saved file (T23)."""
    if isinstance(settings.target_modules, set):
        settings.target_modules = sorted(settings.target_modules)
    if isinstance(settings.target_parameters, set):
        settings.target_parameters = sorted(settings.target_parameters) or None


def _skip_input_cast(model: nn.Module) -> None:
    """Leave inputs in the type of the products: under autocast the result is the same bits, with
    one copy less.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]


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
    targets = resolve(model, method)
    peft_config.target_modules = targets.modules
    peft_config.init_lora_weights = True  # there are no weights to start from
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, peft_config)
    require_as_asked(targets, adapted)
    return adapted


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many layers of each kind carry an adapter: kind -> (adapted, all). Stacked experts are
    kinds of their own, such as `experts.down_proj`.
    """

    kinds: dict[str, tuple[int, int]]
    trained: int
    total: int

    @property
    def stacks(self) -> tuple[str, ...]:
        """The kinds that are stacks of experts."""
        return tuple(kind for kind in self.kinds if "." in kind)

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
    for stack in stacked_weights(model):
        everything[_stack_kind(stack)] += 1
    for name, module in model.named_modules():
        ending = name.rsplit(".", 1)[-1]
        if isinstance(module, ParamWrapper):
            adapted[_stack_kind(f"{plain_name(name)}.{module.parameter_name}")] += 1
        elif isinstance(module, BaseTunerLayer):
            adapted[ending] += 1
            everything[ending] += 1
        elif isinstance(module, nn.Linear) and ending != "base_layer" and ".lora_" not in name:
            everything[ending] += 1
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(_elements(p) for p in model.parameters())
    kinds = {kind: (adapted[kind], everything[kind]) for kind in sorted(everything)}
    return Coverage(kinds, trained, total)


def _stack_kind(name: str) -> str:
    return ".".join(plain_name(name).rsplit(".", 2)[-2:])


def stacked_elements(model: nn.Module) -> int:
    """Parameters of a mixture's experts; 0 for models without stacked weights."""
    return sum(parameter.numel() for parameter in stacked_weights(model).values())


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


_SHAPE: dict[str, Any] = dict.fromkeys(("r", "lora_alpha", "target_modules"))
_SHAPE |= {"use_dora": False, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
"""What an adapter's numbers mean something in, and what a file without it means."""


def go_on_from(model: nn.Module, method: Method, folder: Path, *, base: str) -> None:
    """Begin with the weights of an adapter that was trained before, on the base with this
    fingerprint. Raises ModelError with everything in which it differs from the one asked for.
    """
    settings = _adapter_settings(folder)
    if method.initialisation != "zero" or not isinstance(model, PeftModel):
        remedy = "tune with lora, qlora, dora, lora_plus or rslora, or start from the base"
        raise ModelError.of(
            Fault(
                "model.adapter", f"method {method.name}", "a method that starts from zero", remedy
            )
        )
    asked: Any = model.peft_config["default"]
    faults = [
        Fault(
            f"model.adapter {name}",
            repr(_sorted(settings.get(name) or otherwise)),
            f"{_sorted(getattr(asked, name))!r}, as the method asks",
            "set the method to that of the adapter",
        )
        for name, otherwise in _SHAPE.items()
        if _sorted(settings.get(name) or otherwise) != _sorted(getattr(asked, name))
    ]
    faults += _other_base(folder, base)
    if faults:
        raise ModelError.of(*faults)
    _require_same_tensors(model, folder)
    load_weights(model, folder)


def _other_base(folder: Path, base: str) -> list[Fault]:
    """The same numbers on another base of the same shape are no tuned model, only noise."""
    try:
        card = json.loads((folder / "tanren.json").read_text(encoding="utf-8"))
        made_on = str(card["base_fingerprint"])
    except (OSError, ValueError, LookupError, TypeError):
        made_on = ""
    if made_on == base:
        return []
    return [
        Fault(
            "model.adapter",
            f"{folder}, made on a base with the fingerprint {made_on[:12] or '(not told)'}",
            f"an adapter of this base, {base[:12]}, with its tanren.json",
            "set model.name to the base it was made on, or start from the base alone",
        )
    ]


def _require_same_tensors(model: PeftModel, folder: Path) -> None:
    """PEFT leaves out what it does not know with a remark in a log (T8)."""
    from safetensors import SafetensorError, safe_open

    file = folder / "adapter_model.safetensors"
    try:
        with safe_open(str(file), "pt") as opened:
            stored = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError.of(
            Fault("model.adapter", f"{file} ({error})", "an adapter's weights", "check the folder")
        ) from None
    own = {name: list(tensor.shape) for name, tensor in saved_tensors(model).items()}
    if stored == own:
        return
    odd = sorted(n for n in {**stored, **own} if stored.get(n) != own.get(n))
    raise ModelError.of(
        Fault(
            "model.adapter",
            f"{file}, of which {len(odd)} tensors are others ({', '.join(odd[:3])})",
            "the tensors that the method trains",
            "set the method to that of the adapter",
        )
    )


def _adapter_settings(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError.of(
            Fault(
                "model.adapter", f"{file} ({error})", "a folder with an adapter", "check the path"
            )
        ) from None
    return dict(found)


def _sorted(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | tuple | set) else value


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
