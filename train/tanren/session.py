"""A model to talk to: a run, an adapter, a model folder or a hub name, prompted as in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from tanren import adapter as adapters
from tanren import model as models
from tanren.artefact import Prompting, artefact_of
from tanren.config import ModelConfig
from tanren.errors import Fault, ModelError
from tanren.generate import Answer, AnswerStream, Decoding, stream_answer
from tanren.methods import METHODS, Full, Lora
from tanren.template import ChatRenderer

Side = Literal["tuned", "base"]


@dataclass
class Session:
    """A loaded model. `has_base`: the base's own answers can be had beside the tuned ones."""

    name: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerFast
    renderer: ChatRenderer
    context_length: int
    has_base: bool

    def stream(
        self, messages: Sequence[dict[str, Any]], decoding: Decoding, *, side: Side = "tuned"
    ) -> AnswerStream | BaseStream:
        """The answer piece by piece. `side="base"` switches the adapter off while the stream is
        read.
        """
        if side == "base" and not self.has_base:
            raise ModelError.of(
                Fault(
                    self.name, "no base beside it", "an adapter", "leave --base away, or name a run"
                )
            )
        stream = stream_answer(self.model, self.tokenizer, self.renderer, messages, decoding)
        return BaseStream(stream, self.model) if side == "base" else stream


class BaseStream(Iterator[str]):
    """An answer of the base: each piece is made with the adapter switched off."""

    def __init__(self, stream: AnswerStream, model: nn.Module) -> None:
        self._stream = stream
        self._model = model

    def __next__(self) -> str:
        with adapters.adapter_switched_off(self._model):
            return next(self._stream)

    @property
    def answer(self) -> Answer:
        return self._stream.answer

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_session(target: str, *, base: bool = False) -> Session:
    """Load what `target` names: a run (its path or name), an adapter folder, a model folder, a hub
    name.

    `base` loads the base of a run or adapter alone. Raises RunError or ModelError with what to do.
    """
    folder = artefact_of(target)
    if folder is None:
        return _plain_model(target)
    card = Prompting.read(folder)
    config = ModelConfig.model_validate(
        {"name": card.base, "revision": card.base_revision, "dtype": card.dtype}
    )
    tokenizer = models.load_tokenizer_from(folder)
    renderer = ChatRenderer(tokenizer, thinking=card.thinking, date=card.date)
    whole = not (folder / "adapter_config.json").is_file()
    if whole and not base:
        model: Any = models.load_whole(folder, dtype=_kept_in(card, config))
    else:
        source = _same_base(card, config)
        method = METHODS[card.method["name"]].model_validate(card.method)
        model = models.load_base(source, Lora() if whole else method, config)
        models.set_tokens(model, tokenizer, card.stop_ids)
        if not base:
            model = adapters.load_adapter(model, folder)
    return Session(
        name=target,
        model=model,
        tokenizer=tokenizer,
        renderer=renderer,
        context_length=models.context_length(models.base_of(model).config.to_dict()),
        has_base=not base and not whole,
    )


def _kept_in(card: Prompting, config: ModelConfig) -> torch.dtype:
    """Weights that were all trained are kept in float32; merged ones in the type of the run."""
    if card.method["name"] == Full().name:
        return torch.float32
    return models.compute_dtype(config)


def _same_base(card: Prompting, config: ModelConfig) -> models.Source:
    source = models.locate(config)
    if source.fingerprint != card.base_fingerprint:
        raise ModelError.of(
            Fault(
                source.name,
                f"a base with fingerprint {source.fingerprint[:12]}",
                f"{card.base_fingerprint[:12]}, the one that was tuned",
                "restore that model or that revision",
            )
        )
    return source


def _plain_model(target: str) -> Session:
    config = ModelConfig(name=target)
    source = models.locate(config)
    models.known_architecture(source)
    tokenizer = models.load_tokenizer(source, config)
    renderer = ChatRenderer(tokenizer)
    model = models.load_base(source, Lora(), config)
    models.set_tokens(model, tokenizer, renderer.facts.stop_ids)
    return Session(
        name=target,
        model=model,
        tokenizer=tokenizer,
        renderer=renderer,
        context_length=models.context_length(source.config),
        has_base=False,
    )
