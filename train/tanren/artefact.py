"""What a run leaves for others: adapter (or whole weights), tokenizer with template, stops, and how
to prompt it.

The folder is plain PEFT or plain transformers; `tanren.json` beside it holds what those have no
place for. A checkpoint holds the same beside what resuming needs, so that it can be talked to.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from tanren import adapter as adapters
from tanren.checkpoint import AS_TRAINED
from tanren.environment import everyone_waits, this_rank, versions
from tanren.errors import Fault, ModelError, RunError
from tanren.gate import Gate
from tanren.methods import Full
from tanren.model import base_of
from tanren.rundir import (
    COMPLETE,
    RunDirectory,
    read_json,
    run_named,
    staged_folder,
    write_json,
)

CARD = "tanren.json"


@dataclass(frozen=True, slots=True)
class Prompting:
    """How the model was prompted in training, and on which base it stands."""

    thinking: bool | None
    date: str | None
    stop_ids: tuple[int, ...]
    base: str
    base_revision: str | None
    base_fingerprint: str
    dtype: str
    storage: str
    method: dict[str, Any]
    data_sha256: str
    versions: dict[str, str | None]

    @classmethod
    def of(cls, gate: Gate) -> Prompting:
        thinking = gate.config.data.thinking
        return cls(
            thinking=thinking if isinstance(thinking, bool) else None,
            date=gate.config.data.date,
            stop_ids=gate.renderer.facts.stop_ids,
            base=gate.source.name if gate.source.revision else str(gate.source.path),
            base_revision=gate.source.revision,
            base_fingerprint=gate.source.fingerprint,
            dtype=gate.plan.dtype,
            storage=gate.config.method.storage,
            method=gate.config.method.model_dump(mode="json"),
            data_sha256=str(gate.survey.train.counts.sha256),
            versions=versions(),
        )

    @classmethod
    def read(cls, folder: Path) -> Prompting:
        values = read_json(folder / CARD)
        try:
            return cls(**{**values, "stop_ids": tuple(values["stop_ids"])})
        except (TypeError, KeyError) as error:
            raise ModelError.of(
                Fault(
                    str(folder / CARD),
                    str(error),
                    "a card of this version",
                    "save the adapter again",
                )
            ) from None


def artefact_of(target: str) -> Path | None:
    """The folder with weights and card that `target` means; None for a plain model."""
    path = Path(target)
    if (path / CARD).is_file():
        return path
    found = run_named(target)
    if found is None:
        return None
    run = RunDirectory(found)
    for folder in (run.adapter, run.model):
        if (folder / CARD).is_file():
            return folder
    raise RunError.of(
        Fault(
            str(found),
            f"a run without a result (it is {run.state()})",
            "a finished run",
            f"go on with it: tanren train --resume {found}",
        )
    )


def save_artefact(
    run: RunDirectory, model: nn.Module, gate: Gate, *, initial: Path | None = None
) -> Path:
    """Write `adapter/` (or `model/`), whole or not at all; returns the folder. The first process
    writes, all wait.
    """
    folder = run.model if isinstance(gate.config.method, Full) else run.adapter
    if this_rank() == 0:
        with staged_folder(folder) as staged:
            adapters.save_adapter(model, staged, initial=initial)
            save_prompting(gate, model, staged)
    everyone_waits()
    return folder


def save_prompting(gate: Gate, model: nn.Module, folder: Path) -> None:
    """All that answering needs beside weights: tokenizer with template, stops, and the card."""
    save_tokenizer(gate, folder)
    base_of(model).generation_config.save_pretrained(str(folder))
    write_json(folder / CARD, asdict(Prompting.of(gate)))


class CheckpointWeights:
    """Writes a checkpoint's weights, with all that is needed to talk to them.

    What prompts the model is written once, into `prompting/` of the run, and checkpoints hold hard
    links to it (copies where a file system has none). With `initial`, the start of a method that
    changes the base, the folder holds a plain LoRA for the unchanged base; the weights as they are
    trained, which resuming needs, lie in it apart (`AS_TRAINED`).
    """

    def __init__(
        self, run: RunDirectory, model: nn.Module, gate: Gate, *, initial: Path | None = None
    ) -> None:
        self._model, self._gate, self._initial = model, gate, initial
        self._prompting = run.path / "prompting"
        self._written = False

    def __call__(self, folder: Path) -> None:
        if self._initial is None:
            adapters.save_adapter(self._model, folder)
        else:
            adapters.save_adapter(self._model, folder / AS_TRAINED)
            plain_lora(folder / AS_TRAINED, self._initial, folder)
        self._put_prompting(folder)

    def _put_prompting(self, folder: Path) -> None:
        if not self._written:
            with staged_folder(self._prompting) as staged:
                save_prompting(self._gate, self._model, staged)
            self._written = True
        for file in sorted(self._prompting.iterdir()):
            if file.name != COMPLETE:
                _link(file, folder / file.name)


def _link(file: Path, place: Path) -> None:
    place.unlink(missing_ok=True)  # whole models bring generation settings of their own
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def plain_lora(trained: Path, initial: Path, folder: Path) -> None:
    """Write the difference of two saved adapters as a LoRA of twice the rank: with W the base and
    W - s B0 A0 what was trained on, s (B A - B0 A0) = s [B, -B0] [A; A0] is what W lacks.

    What has no A or B (whole modules) is taken as it is.
    """
    name = "adapter_model.safetensors"
    now, before = load_file(trained / name), load_file(initial / name)
    joined = {}
    for key, tensor in now.items():
        if "lora_A" in key:
            joined[key] = torch.cat([tensor, before[key]], dim=0)
        elif "lora_B" in key:
            joined[key] = torch.cat([tensor, -before[key]], dim=1)
        else:
            joined[key] = tensor
    save_file(joined, folder / name, metadata={"format": "pt"})
    settings = read_json(trained / "adapter_config.json")
    doubled = {key: 2 * settings[key] for key in ("r", "lora_alpha")}
    patterns = {
        key: {layer: 2 * value for layer, value in (settings.get(key) or {}).items()}
        for key in ("rank_pattern", "alpha_pattern")
    }
    plain = {**settings, **doubled, **patterns, "init_lora_weights": True}
    write_json(folder / "adapter_config.json", plain)


def save_tokenizer(gate: Gate, folder: Path) -> None:
    """The tokenizer with the template that was trained with, inline and as a file (T1, T10)."""
    tokenizer: PreTrainedTokenizerFast = gate.tokenizer
    before = tokenizer.chat_template
    tokenizer.chat_template = gate.renderer.artefact_template()
    try:
        tokenizer.save_pretrained(str(folder))
    finally:
        tokenizer.chat_template = before
