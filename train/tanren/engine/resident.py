"""A base in memory with the adapters that were put on it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import safe_open
from transformers import PreTrainedModel

from tanren.engine.cache import slot_layers
from tanren.engine.row_adapters import NotByRow, RowAdapters, is_plain
from tanren.engine.structure.vocabulary import Vocabulary
from tanren.errors import Fault, ModelError
from tanren.generate.forward import BorrowedModel, PaddedBatch

_LENGTH_DEPENDENT_ROTATIONS = ("dynamic", "longrope")


class ResidentBase:
    """One base. `next_logits` answers each row by the adapter that is named for it."""

    def __init__(self, name: str, model: PreTrainedModel) -> None:
        self.name = name
        self.last_used = 0
        self._model: PreTrainedModel | PeftModel = model
        self._borrowed = BorrowedModel(model)
        self._rows = RowAdapters(self._borrowed.device)
        self._active: str | None = None
        self.eos_ids = self._borrowed.eos_ids
        self.device = self._borrowed.device
        self.context = self._borrowed.context
        self.vocabularies: dict[str, Vocabulary] = {}
        self.vocabulary_size = len(next(model.get_input_embeddings().parameters()))
        self.layers = slot_layers(model.config)
        """Of a cache that answers can join; None: a batch takes in nobody once it has begun."""
        self.rotates_by_length = _rotates_by_length(model)
        """Whether the longest row in a batch changes the others (scaled rotations)."""

    def next_logits(
        self, batch: PaddedBatch, adapters: Sequence[str | None], *, alone: bool
    ) -> torch.Tensor:
        """(rows, vocab) float32. `alone`: all rows have the same adapter, whatever its kind;
        otherwise each has a plain one or none.
        """
        if alone:
            self._activate(adapters[0])
            return self._borrowed.next_logits(batch)
        self._activate(None)
        with self._rows.on(adapters):
            return self._borrowed.next_logits(batch)

    def add(self, folder: Path, name: str) -> bool:
        """Loads an adapter. Whether it may share batches with others (proven by trying).

        Raises ModelError where the files hold other tensors than the adapter has (T8), and whatever
        loading raises; then the adapter is not there.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PEFT, about several adapters and missing keys
            try:
                self._put_on(folder, name)
                self._require_all_tensors(folder, name)
            except BaseException:
                self.remove(name)
                raise
        self._changed()
        return is_plain(self._model, name) and self._shares(name)

    def remove(self, name: str) -> None:
        """Takes it off, also where it was put on half-way."""
        model = self._model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PEFT, about the adapter that is active now
            if isinstance(model, PeftModel):
                if model.peft_config.keys() - {name}:
                    model.delete_adapter(name)
                else:  # PEFT's wrapper cannot be without an adapter
                    self._model = self._unwrapped(model)
            elif not isinstance(model, PeftModel):
                for module in model.modules():
                    if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                        _take_off(module, name)
        self._changed()

    def _unwrapped(self, model: Any) -> PreTrainedModel:
        self._rows = RowAdapters(self.device)
        unwrapped = model.unload()
        assert isinstance(unwrapped, PreTrainedModel)
        return unwrapped

    def close(self) -> None:
        """Lets go of the weights."""
        self._borrowed.forget()
        del self._model, self._borrowed, self._rows

    def _put_on(self, folder: Path, name: str) -> None:
        if isinstance(self._model, PeftModel):
            self._model.load_adapter(str(folder), name, is_trainable=False)
        else:
            self._model = PeftModel.from_pretrained(
                self._model, str(folder), adapter_name=name, is_trainable=False
            )

    def _require_all_tensors(self, folder: Path, name: str) -> None:
        assert isinstance(self._model, PeftModel)
        config: Any = self._model.peft_config[name]
        if config.bias != "none":
            raise ModelError.of(_fault(folder, f"trained biases (bias={config.bias!r})"))
        with safe_open(str(folder / "adapter_model.safetensors"), "pt") as file:
            stored = set(file.keys())
        state = get_peft_model_state_dict(
            self._model, adapter_name=name, save_embedding_layers=False
        )
        if stored != state.keys():
            odd = ", ".join(sorted(stored ^ state.keys())[:3])
            raise ModelError.of(_fault(folder, f"other tensors than its settings name ({odd})"))

    def _changed(self) -> None:
        """Modules came or went: find them again. The adapters rest until they are asked for."""
        self._model.eval()
        self._borrowed.forget()
        self._borrowed = BorrowedModel(self._model)
        self._rows.watch(self._model)
        self._activate(None, anew=True)

    def _activate(self, name: str | None, *, anew: bool = False) -> None:
        """Whose adapter works through PEFT itself; None: nobody's."""
        if not isinstance(self._model, PeftModel) or (name == self._active and not anew):
            return
        tuner: Any = self._model.base_model
        if name is None:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            tuner.set_adapter(name, inference_mode=True)
        self._active = name

    def _shares(self, name: str) -> bool:
        """Whether a row with this adapter beside a row without gives what each gives by itself."""
        size = self.vocabulary_size
        tokens = [[place * 37 % size for place in range(1, 6)]] * 2

        def logits(adapters: list[str | None], *, alone: bool) -> torch.Tensor:
            return self.next_logits(PaddedBatch.of(tokens, self.device), adapters, alone=alone)

        tuned = logits([name, name], alone=True)[1]
        own = logits([None, None], alone=False)[0]
        try:
            beside = logits([None, name], alone=False)
        except NotByRow:
            return False
        exact = next(self._model.parameters()).dtype == torch.float32
        allowed = (1e-4 if exact else 5e-2) * float(tuned.abs().max())
        return all(
            float((one - other).abs().max()) <= allowed
            for one, other in ((own, beside[0]), (tuned, beside[1]))
        )


def _take_off(module: BaseTunerLayer | AuxiliaryTrainingWrapper, name: str) -> None:
    if isinstance(module, BaseTunerLayer):
        module.delete_adapter(name)
    else:
        module.delete_adapter(name, new_active_adapters=None)


def _rotates_by_length(model: PreTrainedModel) -> bool:
    text = model.config.get_text_config(decoder=True).to_dict()
    kinds = str(text.get("rope_parameters") or text.get("rope_scaling") or "")
    return any(kind in kinds for kind in _LENGTH_DEPENDENT_ROTATIONS)


def _fault(folder: Path, found: str) -> Fault:
    return Fault(
        str(folder), found, "an adapter as tanren saves it", "train it again, or export it merged"
    )
