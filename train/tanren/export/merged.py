"""The merged folder: what plain transformers, vLLM and SGLang read without PEFT."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch

from tanren.artefact import CARD, Prompting
from tanren.environment import versions
from tanren.export.merge import merge, plan_merge
from tanren.export.merge.adapter_file import CONFIG
from tanren.export.merge.apply import Progress
from tanren.export.merge.checkpoint import INDEX
from tanren.export.merge.plan import MergePlan
from tanren.export.settings import copy_tokenizer, model_settings, write_settings
from tanren.export.tuned import Onto, Tuned, tokenizer_folder
from tanren.model import device
from tanren.rundir import read_json, write_json

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def plan_of(tuned: Tuned, onto: Onto) -> MergePlan:
    """What merging will do. Raises ModelError where adapter and base do not fit together."""
    return plan_merge(
        tuned.checkpoint,
        tuned.adapter,
        tuned.outline(),
        nf4=tuned.nf4 and onto != "original",
        compute_dtype=tuned.dtype,
    )


def stored_dtype(tuned: Tuned) -> torch.dtype:
    """The type that holds most of the base's numbers."""
    sizes: dict[torch.dtype, int] = {}
    for place in tuned.checkpoint.places.values():
        if place.dtype.is_floating_point:
            sizes[place.dtype] = sizes.get(place.dtype, 0) + place.elements
    return max(sizes, key=lambda dtype: sizes[dtype])


def write_merged(
    tuned: Tuned,
    plan: MergePlan,
    folder: Path,
    *,
    dtype: torch.dtype | None,
    base_name: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Weights, config, tokenizer with template, generation settings and our card, into `folder`.

    `dtype` None keeps what the base has. The card names the base by `base_name` or its folder's own
    name: a path of this machine is nobody else's business.
    """
    merge(plan, folder, dtype=dtype, device=device(), progress=progress)
    generation = tuned.generation()
    settings = model_settings(
        tuned.settings,
        dtype=dtype or stored_dtype(tuned),
        untied=plan.untied,
        vocabulary=plan.vocabulary,
        generation=generation,
    )
    write_settings(folder / "config.json", settings)
    write_settings(folder / "generation_config.json", generation)
    copy_tokenizer(tokenizer_folder(tuned), folder, tuned.template)
    if tuned.card is not None:
        name = base_name or _public_name(tuned.card)
        write_json(folder / CARD, asdict(replace(tuned.card, base=name, versions=versions())))


def _public_name(card: Prompting) -> str:
    return card.base if card.base_revision is not None else Path(card.base).name


def bytes_of(plan: MergePlan, dtype: torch.dtype | None) -> int:
    """Size of the merged weights."""
    total = 0
    for place in plan.checkpoint.places.values():
        wider = dtype is not None and place.dtype.is_floating_point
        total += place.elements * (dtype.itemsize if wider and dtype else place.dtype.itemsize)
    return total


def copy_adapter(tuned: Tuned, folder: Path) -> None:
    """The adapter's own files: plain PEFT, tokenizer, template, stops, card."""
    for file in sorted(tuned.folder.iterdir()):
        if file.is_file() and file.name != "COMPLETE.json":
            shutil.copyfile(file, folder / file.name)


def name_base(folder: Path, name: str | None) -> None:
    """Let an exported adapter name its base by a public name in place of a folder here."""
    if name is None:
        return
    settings = read_json(folder / CONFIG)
    write_settings(folder / CONFIG, settings | {"base_model_name_or_path": name})
    if (folder / CARD).is_file():
        write_json(folder / CARD, read_json(folder / CARD) | {"base": name})


def tokenized_base(tuned: Tuned, beside: Path) -> Path:
    """A folder `.base` with the base's weights, linked, and the tokenizer of the tuned model."""
    folder = beside / ".base"
    folder.mkdir()
    for file in tuned.checkpoint.files:
        (folder / file.name).symlink_to(file.resolve())
    for name in (INDEX, "config.json"):
        if (tuned.model_folder / name).is_file():
            shutil.copyfile(tuned.model_folder / name, folder / name)
    write_settings(folder / "generation_config.json", tuned.generation())
    copy_tokenizer(tokenizer_folder(tuned), folder, tuned.template)
    return folder
