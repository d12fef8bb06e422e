"""The small files beside merged weights, written so that every reader of today finds what it knows.

transformers 5 moved the rotary settings into one dictionary and renamed the tokenizer's class; the
4.x line and servers built on it read the older keys and fall back to other numbers without a word.
Both forms are written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tanren.errors import Fault, ModelError
from tanren.rundir import read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
# How the tokenizer happened to be loaded here.
_OF_THIS_MACHINE = ("local_files_only", "is_local", "backend", "name_or_path")
_DEFAULT_ROPE = "default"


def model_settings(
    base: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    untied: bool,
    vocabulary: int | None,
    generation: Mapping[str, Any],
) -> dict[str, Any]:
    """`config.json` of the merged model: the base's own, without what described its storage.

    `generation` are the values of generation_config.json: what ends a reply stands in both (T4).
    """
    settings = {k: v for k, v in base.items() if k not in ("quantization_config", "_name_or_path")}
    name = str(dtype).removeprefix("torch.")
    settings["dtype"] = settings["torch_dtype"] = name
    for key in ("eos_token_id", "pad_token_id", "bos_token_id"):
        if generation.get(key) is not None:
            settings[key] = generation[key]
    if untied:
        settings["tie_word_embeddings"] = False
    if vocabulary is not None:
        settings["vocab_size"] = vocabulary
    return settings | older_rope(settings) | older_names(settings)


def older_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers 4 calls settings that its successor renamed."""
    if "num_local_experts" in settings and "num_experts" not in settings:
        return {"num_experts": settings["num_local_experts"]}
    return {}


def older_rope(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under the names of transformers 4; empty where they stand already."""
    rope = settings.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" in settings:
        return {}
    if "full_attention" in rope and "sliding_attention" in rope:  # one set for each kind of layer
        whole, local = rope["full_attention"], rope["sliding_attention"]
        found = older_rope({"rope_parameters": whole})
        return {**found, "rope_local_base_freq": local["rope_theta"]}
    if "rope_theta" not in rope:
        return {}
    scaling = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
    found = {"rope_theta": rope["rope_theta"]}
    if "partial_rotary_factor" in rope:
        found["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if scaling.get("rope_type", _DEFAULT_ROPE) != _DEFAULT_ROPE:
        found["rope_scaling"] = scaling
    return found


def copy_tokenizer(folder: Path, into: Path, template: str) -> None:
    """The tokenizer's files with the chat template inline and as a file (T1, T10)."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, into / name)
    own = folder / "tokenizer_config.json"
    if not own.is_file():
        raise ModelError.of(
            Fault(
                str(own),
                "no such file",
                "the tokenizer's settings",
                "download the model's tokenizer again",
            )
        )
    settings = tokenizer_settings(read_json(own))
    settings["chat_template"] = template
    (into / "chat_template.jinja").write_text(template, encoding="utf-8", newline="\n")
    write_settings(into / "tokenizer_config.json", settings)


def tokenizer_settings(own: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json` under the names that transformers 4 and 5 both read."""
    settings = {k: v for k, v in own.items() if k not in _OF_THIS_MACHINE}
    if settings.get("tokenizer_class") in (None, "TokenizersBackend"):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    extra = settings.get("extra_special_tokens")
    if isinstance(extra, list):
        del settings["extra_special_tokens"]
        settings["additional_special_tokens"] = extra
    return settings


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """One JSON file, as transformers writes it. Staging makes it appear whole."""
    text = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")
