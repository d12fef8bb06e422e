"""What is exported: a run's adapter or whole model, or an adapter from elsewhere, with its base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from tanren import adapter as adapters
from tanren import model as models
from tanren.artefact import CARD, Prompting, artefact_of
from tanren.config import ModelConfig
from tanren.errors import Fault, ModelError
from tanren.export.merge.adapter_file import CONFIG, AdapterFile
from tanren.export.merge.checkpoint import Checkpoint
from tanren.export.merge.nf4 import through_nf4
from tanren.methods import Lora, QLora
from tanren.model import Source
from tanren.rundir import COMPLETE, RunDirectory, missing_files, read_json
from tanren.template import ChatRenderer

Onto = Literal["trained", "nf4", "original"]
Base = Literal["trained", "dequantised", "original"]


@dataclass(frozen=True)
class Tuned:
    """Everything that an export needs to know. `adapter` is None where all weights were trained;
    then `checkpoint` is the tuned model itself. `nf4`: the adapter saw a base in 4 bits.
    """

    name: str
    folder: Path
    run: RunDirectory | None
    card: Prompting | None
    source: Source | None
    checkpoint: Checkpoint
    adapter: AdapterFile | None
    tokenizer: PreTrainedTokenizerFast
    renderer: ChatRenderer
    nf4: bool
    dtype: torch.dtype
    """The type that products ran in."""

    @property
    def model_folder(self) -> Path:
        """Where config.json and the weights that the export starts from lie."""
        return self.checkpoint.folder

    @property
    def settings(self) -> dict[str, Any]:
        """config.json of the base, or of the model that was trained whole."""
        values = read_json(self.model_folder / "config.json")
        assert isinstance(values, dict)
        return values

    @property
    def template(self) -> str:
        """The chat template that any program renders as training did, without arguments."""
        own = self.tokenizer.chat_template
        return own if self.card and isinstance(own, str) else self.renderer.artefact_template()

    def outline(self) -> nn.Module:
        """The base's architecture on the meta device: names and shapes, no numbers."""
        config = AutoConfig.from_pretrained(self.model_folder, local_files_only=True)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config)
        return model

    def load(self, on: Base = "trained") -> nn.Module:
        """The tuned model, ready to answer: base and adapter side by side.

        `on` tells the base: as it was trained, in 4 bits if so; `dequantised`: those values at full
        width; `original`: as its files have it.
        """
        if self.adapter is None:
            return models.load_whole(self.folder)
        assert self.source is not None
        method = QLora() if self.nf4 and on == "trained" else Lora()
        config = ModelConfig.model_validate(
            {"name": self.source.name, "dtype": str(self.dtype).removeprefix("torch.")}
        )
        base = models.load_base(self.source, method, config)
        if self.nf4 and on == "dequantised":
            _dequantise(base)
        models.set_tokens(base, self.tokenizer, self.renderer.facts.stop_ids)
        _make_room(base, self.adapter)
        return adapters.load_adapter(base, self.folder)

    def generation(self) -> dict[str, Any]:
        """generation_config.json as the export carries it: the base's, with what ends a reply."""
        for folder in (self.folder, self.model_folder):
            if (folder / "generation_config.json").is_file():
                config = GenerationConfig.from_pretrained(folder, local_files_only=True)
                break
        else:
            config = GenerationConfig()
        stops = list(self.renderer.facts.stop_ids)
        old = config.eos_token_id
        stops += [old] if isinstance(old, int) else list(old or [])
        config.eos_token_id = list(dict.fromkeys(stops))
        if config.pad_token_id is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        values: dict[str, Any] = config.to_diff_dict()
        return {k: v for k, v in values.items() if k != "_from_model_config"}


def open_tuned(target: str, *, base: str | None = None, onto: Onto = "trained") -> Tuned:
    """Find what `target` names: a run (its path or name) or a folder with an adapter or a whole
    model. `base` says where the base lies now. Raises RunError or ModelError with what to do.
    """
    folder = artefact_of(target) or Path(target)
    if not (folder / CONFIG).is_file() and not (folder / CARD).is_file():
        raise ModelError.of(
            Fault(
                target,
                "neither a run nor an adapter",
                "a finished run, or a folder with adapter_config.json",
                "`tanren runs` lists the runs there are",
            )
        )
    _require_whole(folder)
    card = Prompting.read(folder) if (folder / CARD).is_file() else None
    adapter = AdapterFile.read(folder) if (folder / CONFIG).is_file() else None
    source = None if adapter is None else _base_of(folder, adapter, card, base)
    weights = folder if source is None else source.path
    tokenizer = _tokenizer_of(folder, source)
    return Tuned(
        name=target,
        folder=folder,
        run=_run_of(folder),
        card=card,
        source=source,
        checkpoint=Checkpoint(weights),
        adapter=adapter,
        tokenizer=tokenizer,
        renderer=ChatRenderer(
            tokenizer,
            thinking=card.thinking if card else None,
            date=card.date if card else None,
        ),
        nf4=adapter is not None and (onto == "nf4" or (card is not None and card.storage == "nf4")),
        dtype=_dtype_of(card),
    )


def _require_whole(folder: Path) -> None:
    """A folder that we sealed must still be what we sealed."""
    sealed = (folder / COMPLETE).is_file() or _run_of(folder) is not None
    if not (folder / CARD).is_file() or not sealed:
        return  # from elsewhere: the Hub gets no seal
    problems = [p for p in missing_files(folder) if not p.startswith("README.md has")]
    if problems:
        raise ModelError.of(
            *(
                Fault(str(folder), problem, "the folder as it was saved", "restore it")
                for problem in problems
            )
        )


def _base_of(
    folder: Path, adapter: AdapterFile, card: Prompting | None, base: str | None
) -> Source:
    name = base or (card.base if card else adapter.settings.get("base_model_name_or_path"))
    if not name:
        raise ModelError.of(
            Fault(
                str(folder / CONFIG),
                "no base_model_name_or_path",
                "the base that the adapter was trained on",
                "name it: --base FOLDER",
            )
        )
    revision = None
    if base is None:
        revision = card.base_revision if card else adapter.settings.get("revision")
    source = models.locate_base(str(name), revision)
    models.known_architecture(source)
    faults = []
    if "quantization_config" in source.config:
        faults.append(
            Fault(
                f"{source.name}/config.json",
                "a base whose files are quantised",
                "the base in 16 or 32 bits",
                "name it: --base FOLDER (with --onto nf4 if it was trained in 4 bits)",
            )
        )
    if card is not None and source.fingerprint != card.base_fingerprint:
        faults.append(
            Fault(
                source.name,
                f"a base with fingerprint {source.fingerprint[:12]}",
                f"{card.base_fingerprint[:12]}, the one that was tuned",
                "restore that model or that revision, or say where it lies: --base FOLDER",
            )
        )
    if faults:
        raise ModelError.of(*faults)
    return source


def _tokenizer_of(folder: Path, source: Source | None) -> PreTrainedTokenizerFast:
    if (folder / "tokenizer.json").is_file() or source is None:
        return models.load_tokenizer_from(folder)
    return models.load_tokenizer(source)


def tokenizer_folder(tuned: Tuned) -> Path:
    """Where the files of the tuned model's tokenizer lie."""
    own = (tuned.folder / "tokenizer.json").is_file()
    return tuned.folder if own else tuned.model_folder


def _run_of(folder: Path) -> RunDirectory | None:
    return RunDirectory(folder.parent) if (folder.parent / "config.yaml").is_file() else None


def _dtype_of(card: Prompting | None) -> torch.dtype:
    if card is not None and card.method["name"] == "full":
        return torch.float32  # kept so, whatever the products ran in
    if card is None or card.dtype == "auto":
        return models.compute_dtype(ModelConfig(name="-"))
    return torch.bfloat16 if card.dtype == "bfloat16" else torch.float32


def _dequantise(base: Any) -> None:
    """Give every linear layer but the head the values that 4-bit loading would have given it."""
    head = base.get_output_embeddings()
    for layer in base.modules():
        if isinstance(layer, nn.Linear) and layer is not head:
            layer.weight.data = through_nf4(layer.weight.data)


def _make_room(base: Any, adapter: AdapterFile) -> None:
    """An adapter trained with added tokens carries an embedding of more rows than the base."""
    rows = base.get_input_embeddings().weight.shape[0]
    for name, tensor in adapter.whole.items():
        embedding = base.get_submodule(name.rpartition(".")[0]) is base.get_input_embeddings()
        if embedding and tensor.shape[0] != rows:
            base.resize_token_embeddings(tensor.shape[0], mean_resizing=False)
