"""A model to talk to: a run, an adapter, a model folder or a hub name, prompted as in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from torch import nn
from transformers import PreTrainedTokenizerFast

from tanren import adapter as adapters
from tanren import model as models
from tanren.artefact import CARD, Prompting
from tanren.config import ModelConfig
from tanren.errors import Fault, ModelError, RunError
from tanren.generate import Answer, AnswerStream, Decoding, stream_answer
from tanren.methods import METHODS, Full, Lora
from tanren.rundir import RunDirectory, runs_root
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
    folder = _artefact_of(target)
    if folder is None:
        return _plain_model(target)
    card = Prompting.read(folder)
    config = ModelConfig.model_validate(
        {"name": card.base, "revision": card.base_revision, "dtype": card.dtype}
    )
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
    method = METHODS[card.method["name"]].model_validate(card.method)
    tokenizer = models.load_tokenizer_from(folder)
    renderer = ChatRenderer(tokenizer, thinking=card.thinking, date=card.date)
    if isinstance(method, Full) and not base:
        model: Any = models.load_whole(folder, config)
    else:
        model = models.load_base(source, method, config)
        models.set_tokens(model, tokenizer, card.stop_ids)
        if not base:
            model = adapters.load_adapter(model, folder)
    return Session(
        name=target,
        model=model,
        tokenizer=tokenizer,
        renderer=renderer,
        context_length=models.context_length(source),
        has_base=not base and not isinstance(method, Full),
    )


def _artefact_of(target: str) -> Path | None:
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
        context_length=models.context_length(source),
        has_base=False,
    )
