"""One forward pass after another: a left-padded batch, and a model that is put back after each."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch
from transformers import Cache, PreTrainedModel

from tanren.errors import Fault, ModelError

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


@dataclass(slots=True)
class PaddedBatch:
    """What the next forward pass reads. Prompts end at the same column; padding stands before."""

    tokens: torch.Tensor
    """(rows, new) int64: the prompts, then one column at a time."""
    positions: torch.Tensor
    """(rows, new) int64, counted from each row's first real token."""
    mask: torch.Tensor | None
    """(rows, cached + new) int64, 0 on padding. None where no row is padded."""
    cache: Cache | None = None

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], device: torch.device) -> PaddedBatch:
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        # Token 0 fills up: masked, it is never read, so no tokenizer needs a padding token.
        tokens = torch.tensor([[0] * (width - len(prompt)) + [*prompt] for prompt in prompts])
        real = torch.arange(width) >= (width - lengths)[:, None]
        positions = (real.cumsum(-1) - 1).clamp(min=0)
        mask = None if bool(real.all()) else real.long().to(device)
        return cls(tokens.to(device), positions.to(device), mask)

    def append(self, chosen: torch.Tensor) -> None:
        """Makes the chosen token of each row, (rows,), the next input."""
        self.tokens = chosen[:, None]
        self.positions = self.positions[:, -1:] + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(chosen), 1)], dim=1)

    def keep(self, rows: torch.Tensor) -> None:
        """Drops all rows but these (an int64 index)."""
        assert self.cache is not None
        self.tokens, self.positions = self.tokens[rows], self.positions[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        # Beam search's selection takes fewer rows as well and, unlike `batch_select_indices`,
        # linear-attention layers have it too.
        self.cache.reorder_cache(rows)  # type: ignore[arg-type]  # upstream asks for LongTensor


class BorrowedModel:
    """A causal language model, with or without adapters, for generation.

    Settings that training needs are never changed: the cache is asked for call by call, gradient
    checkpointing rests in evaluation mode by itself. Raises ModelError for prompt tuning.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        base = _base_model(model)
        config = base.config.get_text_config(decoder=True)
        self.context = math.inf
        """Tokens of prompt and answer together; infinite for models without such a limit."""
        if hasattr(config, "max_position_embeddings"):
            self.context = config.max_position_embeddings
        self.eos_ids = _eos_ids(base)
        self.device: torch.device = next(base.get_input_embeddings().parameters()).device
        self._model = model
        self._accepts = inspect.signature(base.forward).parameters
        self._modules = list(model.modules())
        self._dora = _DoraCache(self._modules, self.device)

    def next_logits(self, batch: PaddedBatch) -> torch.Tensor:
        """(rows, vocab) float32 for the token after each row. Fills the batch's cache."""
        inputs: dict[str, object] = {
            "input_ids": batch.tokens,
            "past_key_values": batch.cache,
            "use_cache": True,
            "return_dict": True,
        }
        if batch.mask is not None:
            inputs["attention_mask"] = batch.mask
        if "position_ids" in self._accepts:
            inputs["position_ids"] = batch.positions
        if "logits_to_keep" in self._accepts:  # else a prompt's logits are (rows, time, vocab)
            inputs["logits_to_keep"] = 1
        # Not inference_mode: its tensors, kept in a buffer by the model, would break training.
        with torch.no_grad(), self._evaluating(), self._dora.active():
            output = self._model(**inputs)
        if not isinstance(output.past_key_values, Cache):
            raise ModelError.of(_no_cache(self._model))
        batch.cache = output.past_key_values
        logits: torch.Tensor = output.logits[:, -1].to(self.device, torch.float32)
        return logits

    def forget(self) -> None:
        """Frees what was cached between passes. Call it when an answer is complete or given up."""
        self._dora.clear()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Puts back each module's own flag: parts of a training model may be evaluating already."""
        training = [module for module in self._modules if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


class _DoraCache:
    """PEFT's cache of DoRA's weight norms, which are else computed anew for every token.

    It holds a full matrix per layer, so it is used where that takes at most half of the free
    memory. It outlives changes of the weights, so it is emptied before and after.
    """

    def __init__(self, modules: Sequence[torch.nn.Module], device: torch.device) -> None:
        self._layers: list[torch.nn.Module] = []
        needed = 0  # bytes
        if "peft" in sys.modules:  # importing takes seconds, and without it there is no adapter
            from peft.tuners.lora import LoraLayer

            for module in modules:
                if isinstance(module, LoraLayer):
                    for name, magnitude in module.lora_magnitude_vector.items():
                        self._layers.append(magnitude)
                        needed += _merged_bytes(module, name)
        self._fits = bool(self._layers) and needed <= _free_bytes(device) // 2
        self.clear()

    @contextmanager
    def active(self) -> Iterator[None]:
        if not self._fits:
            yield
            return
        from peft.helpers import DoraCaching

        with DoraCaching():
            yield

    def clear(self) -> None:
        for layer in self._layers:
            training = layer.training
            layer.train()  # this empties it
            layer.train(training)


def _merged_bytes(layer: LoraLayer, adapter: str) -> int:
    """Bytes of B times A, the update of the layer's weight written out."""
    if adapter in layer.lora_embedding_A:
        a, b = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    else:
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    rank = layer.r[adapter]
    return int(a.numel() * b.numel() * a.element_size() // rank**2)


def _base_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model, below PEFT's wrapper where there is one."""
    base = model
    if "peft" in sys.modules:
        from peft import PeftModel

        if isinstance(model, PeftModel):
            configs = model.peft_config.items()
            virtual = [name for name, config in configs if config.is_prompt_learning]
            if virtual:
                raise ModelError.of(_virtual_tokens(virtual))
            base = model.get_base_model()
    assert isinstance(base, PreTrainedModel), type(base)
    return base


def _eos_ids(base: PreTrainedModel) -> frozenset[int]:
    ids = None if base.generation_config is None else base.generation_config.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(psutil.virtual_memory().available)


def _no_cache(model: torch.nn.Module) -> Fault:
    return Fault(
        type(model).__name__,
        "an output without key/value cache",
        "a causal language model of transformers that returns past_key_values",
        "choose another model",
    )


def _virtual_tokens(adapters: Sequence[str]) -> Fault:
    return Fault(
        f"adapter {', '.join(adapters)}",
        "virtual tokens (prompt or prefix tuning)",
        "an adapter of the weights, such as LoRA or DoRA",
        "train with one of tanren's methods",
    )
