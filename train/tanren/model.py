"""Tokenizer and base: the only place that knows types, quantisation, attention and devices."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tanren import privacy
from tanren.config import ModelConfig
from tanren.errors import Fault, ModelError
from tanren.methods import Full, Method

privacy.apply()

from huggingface_hub.errors import StrictDataclassError  # noqa: E402 - telemetry off before
from transformers import (  # noqa: E402
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_layers import GradientCheckpointingLayer  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

transformers_logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class Source:
    """A base model on disk. `name` is what the user wrote, `path` where it lies, `fingerprint`
    tells it from others.
    """

    name: str
    path: Path
    revision: str | None
    fingerprint: str
    config: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "path": str(self.path),
            "revision": self.revision,
            "fingerprint": self.fingerprint,
        }


def locate(config: ModelConfig) -> Source:
    """Find the base on disk, downloading it once if it is a hub name that is not there yet.

    Raises ModelError when there is nothing, or only pickled weights, or the architecture is
    unknown.
    """
    path = Path(config.name).expanduser()
    if path.is_dir() or path.is_absolute() or config.name.startswith((".", "~")):
        folder, revision = path, None
    else:
        folder, revision = _hub_folder(config)
    faults = list(_folder_faults(config.name, folder))
    if faults:
        raise ModelError.of(*faults)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Source(config.name, folder.resolve(), revision, fingerprint(folder), values)


def locate_base(name: str, revision: str | None) -> Source:
    """The base of an adapter that is there already. Raises ModelError as `locate` does, with the
    way out for a base that was moved.
    """
    try:
        return locate(ModelConfig(name=name, revision=revision))
    except ModelError as error:
        way = "or, if the base was moved, say where it lies: --base FOLDER"
        raise ModelError.of(
            *(replace(fault, remedy=f"{fault.remedy}, {way}") for fault in error.faults)
        ) from None


def _hub_folder(config: ModelConfig) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [
        *("*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model"),
        *("README.md", "LICENSE*", "NOTICE*", "USE_POLICY*"),  # an export carries the terms along
    ]
    try:
        folder = snapshot_download(
            config.name, revision=config.revision, local_files_only=True, allow_patterns=wanted
        )
        if not list(Path(folder).glob("*.safetensors")):
            raise LocalEntryNotFoundError("no weights in the cache")
    except (LocalEntryNotFoundError, ValueError):
        try:
            folder = snapshot_download(config.name, revision=config.revision, allow_patterns=wanted)
        except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
            first = str(error).strip().split("\n")[0]
            raise ModelError.of(
                Fault(
                    "model.name",
                    f"{config.name!r}, which is neither a folder here nor could be downloaded "
                    f"({first[:120]})",
                    "a folder with config.json and safetensors, or a Hugging Face name",
                    "check the name and the network; gated models need `hf auth login` once",
                )
            ) from None
    return Path(folder), Path(folder).name


def _folder_faults(name: str, folder: Path) -> Iterator[Fault]:
    if not folder.is_dir():
        yield Fault("model.name", f"{name!r}, no such folder", "a model folder", "check the path")
        return
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        yield Fault(
            f"{name}/config.json",
            "an adapter" if adapter else "no such file",
            "a whole model",
            "name the adapter's base model"
            if adapter
            else "point to the folder that holds config.json",
        )
    if not list(folder.glob("*.safetensors")):
        pickled = list(folder.glob("*.bin")) + list(folder.glob("*.pt*"))
        yield Fault(
            name,
            "pickled weights only" if pickled else "no weights",
            "*.safetensors",
            "convert them to safetensors first; pickled files can run code when loaded"
            if pickled
            else "download the weights",
        )
    yield from _settings_faults(name, folder)


def _settings_faults(name: str, folder: Path) -> Iterator[Fault]:
    """Settings beside the weights that transformers would stumble over later, and less clearly."""
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        where, remedy = f"{name}/{file}", "download the model again"
        if not (folder / file).is_file():
            continue
        try:
            values = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            yield Fault(where, str(error)[:100], "a JSON object", remedy)
            continue
        if not isinstance(values, dict):
            yield Fault(where, str(values)[:100] or "nothing", "a JSON object", remedy)
        elif file == "generation_config.json":
            yield from _token_faults(where, values)


def _token_faults(where: str, values: Mapping[str, Any]) -> Iterator[Fault]:
    for key in ("eos_token_id", "pad_token_id", "bos_token_id"):
        value = values.get(key)
        ids = value if isinstance(value, list) else [value]
        if value is not None and not all(type(token) is int for token in ids):
            yield Fault(f"{where} {key}", repr(value)[:100], "token ids", "correct it")


def fingerprint(folder: Path) -> str:
    """sha256 over config.json and, of each safetensors file, its size, header and 16 samples of 64
    KiB.

    Any other checkpoint of the same shape differs with certainty in practice, and a 16 GB model
    takes milliseconds. Raises ModelError where a file cannot be read.
    """
    try:
        digest = hashlib.sha256((folder / "config.json").read_bytes())
        for file in sorted(folder.glob("*.safetensors")):
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}:".encode())
            with open(file, "rb") as handle:
                header = handle.read(8)
                digest.update(header + handle.read(min(int.from_bytes(header, "little"), size)))
                for part in range(16):
                    handle.seek(size * part // 16)
                    digest.update(handle.read(65536))
    except OSError as error:
        raise ModelError.of(
            Fault(
                str(error.filename or folder),
                f"a file that cannot be read ({error.strerror})",
                "a file of the model",
                "change its permissions, or download it again",
            )
        ) from None
    return digest.hexdigest()


def load_tokenizer_from(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved beside weights, with its template. Raises ModelError."""
    return _tokenizer_in(folder, str(folder))


def load_whole(folder: Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model saved whole, with its own generation settings, ready to answer."""
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device()},
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.eval()


def load_tokenizer(source: Source, config: ModelConfig | None = None) -> PreTrainedTokenizerFast:
    """The model's fast tokenizer; a template given in the config replaces its own."""
    tokenizer = _tokenizer_in(source.path, source.name)
    if config is not None and config.chat_template:
        tokenizer.chat_template = _read_template(config.chat_template)
    return tokenizer


def _tokenizer_in(folder: Path, name: str) -> PreTrainedTokenizerFast:
    """Damaged files make transformers fail with whatever they lead it to."""
    expected, remedy = "tokenizer.json", "add the tokenizer's files"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        words = " ".join(str(error).split())[:100]
        found = f"no usable tokenizer ({type(error).__name__}: {words})"
        raise ModelError.of(Fault(name, found, expected, remedy)) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError.of(
            Fault(
                name,
                f"a slow tokenizer ({type(tokenizer).__name__})",
                "a fast one (tokenizer.json)",
                "convert it with transformers' AutoTokenizer(..., use_fast=True) once",
            )
        )
    if not tokenizer.encode("a", add_special_tokens=False):
        # transformers makes an empty one when the files are missing
        raise ModelError.of(Fault(name, "a tokenizer without words", expected, remedy))
    return tokenizer


def _read_template(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError.of(
            Fault(
                "model.chat_template",
                f"{name!r} ({type(error).__name__})",
                "a Jinja file",
                "check the path",
            )
        ) from None


def context_length(config: Mapping[str, Any]) -> int:
    """Most tokens that the model of this config.json can attend to."""
    text = config.get("text_config", config)
    return int(text.get("max_position_embeddings", 2048))


def device() -> torch.device:
    """Where this process computes: its own GPU when there is one, unless TANREN_DEVICE=cpu."""
    if os.environ.get("TANREN_DEVICE", "").lower() == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def compute_dtype(config: ModelConfig, where: torch.device | None = None) -> torch.dtype:
    """The type that products run in. auto: bfloat16 on GPUs that have it, float32 elsewhere."""
    if config.dtype == "auto":
        where = where or device()
        fast = where.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def load_base(
    source: Source, method: Method, config: ModelConfig, *, attention: str | None = None
) -> PreTrainedModel:
    """The base model on this process's device, stored as the method asks, frozen and in evaluation
    mode.
    """
    where = device()
    dtype = compute_dtype(config, where)
    if isinstance(method, Full):
        dtype = (
            torch.float32
        )  # master weights: bfloat16 rounds small updates away; products may still run in bfloat16
    quantisation = None
    if method.storage == "nf4":
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype=dtype,
            attn_implementation=attention,
            quantization_config=quantisation,
            device_map={"": where},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "mismatch" not in str(error):
            raise  # the device's memory, say, and no fault of the files
        known = source.config.get("model_type")
        raise ModelError.of(
            Fault(
                source.name,
                f"a model that could not be loaded ({str(error).strip().splitlines()[0][:160]})",
                "a causal language model that this transformers knows",
                f"check the folder; its model_type is {known!r}",
            )
        ) from error
    disable_cpu_repacking(model)
    if quantisation is not None and where.type == "cpu":
        _require_right_4bit(model, source)
    model.requires_grad_(False)
    model.eval()
    return model


def _require_right_4bit(model: nn.Module, source: Source) -> None:
    """Refuse layers that bitsandbytes stores or reads wrongly on this processor.

    Its CPU kernels (0.50, AVX512) give wrong values for some widths, such as 96 or 1376, without
    an error: the base would be another one. Each width in the model is tried on random numbers; NF4
    in blocks of 64 leaves a mean error near 0.07 of a standard normal variable, a wrong one 0.14.
    """
    widths = sorted({int(layer.in_features) for layer in _linear_4bit(model)})
    wrong = [width for width in widths if four_bit_error(width) > 0.11]
    if wrong:
        raise ModelError.of(
            Fault(
                source.name,
                f"layers of {', '.join(map(str, wrong))} inputs, which bitsandbytes reads back "
                "wrongly in 4 bits on this processor",
                "a base that is what was stored",
                "use method=lora on this machine, or train on a GPU",
            )
        )


@lru_cache
def four_bit_error(width: int) -> float:
    """Mean absolute error of standard normal numbers after NF4 and back on the CPU, (64, width)."""
    import bitsandbytes.functional as four_bit

    numbers = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    packed, state = four_bit.quantize_4bit(numbers, quant_type="nf4", compress_statistics=True)
    return float((four_bit.dequantize_4bit(packed, state) - numbers).abs().mean())


def disable_cpu_repacking(model: nn.Module) -> int:
    """Keep bitsandbytes from repacking 4-bit weights in evaluation mode (T32); returns how many
    layers it concerns.

    On CPUs with AVX512-BF16 its `Linear4bit` turns the stored bytes into another layout at the
    first forward pass in evaluation mode. Training afterwards reads them wrongly, with no error:
    gradients change by 98%.
    """
    layers = _linear_4bit(model)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def assert_not_repacked(model: nn.Module) -> None:
    """Fail loudly if any 4-bit layer lies in the inference layout."""
    for layer in _linear_4bit(model):
        state = getattr(layer.weight, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False) or layer.support_avx512bf16_for_cpu:
            raise AssertionError(
                "a 4-bit layer was repacked for inference; its gradients would be wrong (T32)"
            )


def _linear_4bit(model: nn.Module) -> list[Any]:
    if not any(type(module).__name__ == "Linear4bit" for module in model.modules()):
        return []
    import bitsandbytes as bnb

    return [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]


def set_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, stop_ids: tuple[int, ...]
) -> None:
    """Tell model and generation settings where a reply ends (T4). Existing stops stay, ours come
    first.
    """
    old = model.generation_config.eos_token_id
    stops = list(stop_ids) + ([old] if isinstance(old, int) else list(old or []))
    unique = list(dict.fromkeys(stops))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else unique[0]
    model.generation_config.eos_token_id = unique
    model.generation_config.pad_token_id = pad
    text = model.config.get_text_config()
    text.eos_token_id = unique if len(unique) > 1 else unique[0]
    text.pad_token_id = pad
    if tokenizer.bos_token_id is not None:
        text.bos_token_id = tokenizer.bos_token_id
        model.generation_config.bos_token_id = tokenizer.bos_token_id


def recompute_layers(model: PreTrainedModel, count: int) -> None:
    """Recompute the first `count` decoder layers in the backward pass (gradient checkpointing).

    The first, because the backward pass reaches them when the other layers' activations are gone.
    """
    if count == 0:
        return
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(settings)
    else:  # transformers before 5.20
        model.gradient_checkpointing_enable(settings)
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers[count:]:
        layer.gradient_checkpointing = False


def base_of(model: nn.Module) -> PreTrainedModel:
    """The causal language model inside an adapter model, with adapters in place."""
    from peft import PeftModel

    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(inner, PreTrainedModel)
    return inner


def known_architecture(source: Source) -> None:
    """Raise ModelError for an architecture that would need remote code, or that also sees or
    hears.
    """
    senses = [name for name in ("vision_config", "audio_config") if name in source.config]
    if senses:
        raise ModelError.of(
            Fault(
                f"{source.name}/config.json",
                f"a multimodal model ({', '.join(senses)})",
                "a text model",
                "choose the text-only variant of this model",
            )
        )
    try:
        settings = AutoConfig.from_pretrained(
            source.path, local_files_only=True, trust_remote_code=False
        )
    except (
        ValueError,
        KeyError,
        OSError,
        TypeError,
        AttributeError,
        StrictDataclassError,
    ) as error:
        raise ModelError.of(
            Fault(
                f"{source.name}/config.json",
                " ".join(str(error).split())[:160],
                "an architecture that the installed transformers knows",
                "update transformers; code from model folders is never run",
            )
        ) from None
    if type(settings) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError.of(
            Fault(
                f"{source.name}/config.json",
                f"the architecture {settings.model_type!r}",
                "a causal language model",
                "choose a model that writes text",
            )
        )
