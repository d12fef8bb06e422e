"""A model to talk to: a run, an adapter, a model folder or a hub name, prompted as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedTokenizerFast

from tanren import adapter as adapters
from tanren import model as models
from tanren.artefact import CARD, Prompting
from tanren.config import ModelConfig
from tanren.errors import Fault, ModelError, RunError
from tanren.generate import AnswerStream, Decoding, stream_answer
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
    ) -> AnswerStream:
        """The answer piece by piece. `side="base"` switches the adapter off while the stream is read."""
        stream = stream_answer(self.model, self.tokenizer, self.renderer, messages, decoding)
        if side == "base" and not self.has_base:
            raise ModelError.of(
                Fault(
                    self.name, "no base beside it", "an adapter", "leave --base away, or name a run"
                )
            )
        if side == "base":
            stream = stream.within(lambda: adapters.adapter_switched_off(self.model))
        return stream


def open_session(target: str, *, base: bool = False) -> Session:
    """Load what `target` names: a run (its path or name), an adapter folder, a model folder, a hub name.

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
