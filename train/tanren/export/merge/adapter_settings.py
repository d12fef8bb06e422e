"""adapter_config.json, checked before anything is computed from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tanren.errors import Fault, ModelError

CONFIG = "adapter_config.json"
_LARGEST = 1e30
_RESTORE = "restore the adapter's folder"

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

# Starts that take a part out of the base: their adapter stands on what is left of it.
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


def read_settings(folder: Path) -> dict[str, Any]:
    """Raises ModelError for a file that cannot be read, and for adapters other than LoRA."""
    file = folder / CONFIG
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        words = str(error)[:100]
        raise ModelError.of(
            Fault(str(file), f"no readable file ({words})", "a JSON object in UTF-8", _RESTORE)
        ) from None
    kind = settings.get("peft_type") if isinstance(settings, dict) else type(settings).__name__
    if not isinstance(settings, dict) or kind != "LORA":
        raise ModelError.of(
            Fault(
                str(file),
                f"an adapter of type {kind}",
                "LORA (LoRA, QLoRA, DoRA, LoRA+, rsLoRA, PiSSA, OLoRA, EVA)",
                "merge it with the library that wrote it",
            )
        )
    return settings


def settings_faults(folder: Path, settings: Mapping[str, Any]) -> Iterator[Fault]:
    """Everything that cannot be merged, or is of another type than PEFT writes."""
    where = str(folder / CONFIG)
    for name, (fits, expected) in _TYPES.items():
        value = settings.get(name)
        if name in settings and (fits(value) or (value is None and name not in _NEEDED)):
            continue
        if name in settings or name in _NEEDED:
            found = repr(value)[:100] if name in settings else "nothing"
            yield Fault(f"{where} {name}", found, expected, _RESTORE)
    for name in _OTHER_SUMS:
        if settings.get(name):
            yield Fault(
                f"{where} {name}",
                repr(settings[name])[:100],
                "a layer that computes (W + scale * B A) x: others cannot be written into weights",
                "serve it through PEFT",
            )
    initial = settings.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower().replace("-", "_").startswith(_OTHER_BASES):
        yield Fault(
            f"{where} init_lora_weights",
            repr(initial),
            "an adapter for the unchanged base: this one stands on what that start left of it",
            "convert it (PEFT: path_initial_model_for_weight_conversion) and export that",
        )


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_index(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST  # no NaN either


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        re.compile(value)
    except re.error:
        return False
    return True


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_targets(value: Any) -> bool:
    return _is_pattern(value) or _are_names(value)


def _are_indices(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_index, value))


def _are_layers(value: Any) -> bool:
    return _is_index(value) or _are_indices(value)


def _are_tokens(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_are_indices, value.values()))
    return _are_indices(value)


def _by_pattern(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def fit(value: Any) -> bool:
        return isinstance(value, dict) and all(
            _is_pattern(key) and fits(own) for key, own in value.items()
        )

    return fit


_TARGETS = "names of layers, or a regular expression"
_FLAG = "true or false"
_NEEDED = ("r", "lora_alpha")
_TYPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_count, "a rank of 1 or more"),
    "lora_alpha": (_is_number, "a finite number"),
    "rank_pattern": (_by_pattern(_is_count), "ranks by regular expression"),
    "alpha_pattern": (_by_pattern(_is_number), "finite numbers by regular expression"),
    "target_modules": (_are_targets, _TARGETS),
    "exclude_modules": (_are_targets, _TARGETS),
    "target_parameters": (_are_names, "names of parameters"),
    "modules_to_save": (_are_names, "names of modules"),
    "layers_to_transform": (_are_layers, "numbers of layers"),
    "layers_pattern": (_are_targets, _TARGETS),
    "trainable_token_indices": (_are_tokens, "token ids"),
    "use_rslora": (_is_flag, _FLAG),
    "use_dora": (_is_flag, _FLAG),
    "fan_in_fan_out": (_is_flag, _FLAG),
    "ensure_weight_tying": (_is_flag, _FLAG),
}
