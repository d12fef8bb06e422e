"""What a run leaves for others: adapter (or whole weights), tokenizer with template, stops, and how
to prompt it.

The folder is plain PEFT or plain transformers; `tanren.json` beside it holds what those have no
place for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerFast

from tanren import adapter as adapters
from tanren.environment import everyone_waits, this_rank, versions
from tanren.errors import Fault, ModelError, RunError
from tanren.gate import Gate
from tanren.methods import Full
from tanren.model import base_of
from tanren.rundir import RunDirectory, read_json, runs_root, staged_folder, write_json

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
    for candidate in (path, runs_root() / target):
        if (candidate / "config.yaml").is_file():
            run = RunDirectory(candidate)
            for folder in (run.adapter, run.model):
                if (folder / CARD).is_file():
                    return folder
            raise RunError.of(
                Fault(
                    str(candidate),
                    f"a run without a result (it is {run.state()})",
                    "a finished run",
                    f"go on with it: tanren train --resume {candidate}",
                )
            )
    return None


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
            save_tokenizer(gate, staged)
            base_of(model).generation_config.save_pretrained(str(staged))
            write_json(staged / CARD, asdict(Prompting.of(gate)))
    everyone_waits()
    return folder


def save_tokenizer(gate: Gate, folder: Path) -> None:
    """The tokenizer with the template that was trained with, inline and as a file (T1, T10)."""
    tokenizer: PreTrainedTokenizerFast = gate.tokenizer
    before = tokenizer.chat_template
    tokenizer.chat_template = gate.renderer.artefact_template()
    try:
        tokenizer.save_pretrained(str(folder))
    finally:
        tokenizer.chat_template = before
