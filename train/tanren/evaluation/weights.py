"""Models in memory: loaded when the first answer is missing, shared, and let go of."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from tanren.evaluate.answering import LocalModel
from tanren.evaluate.judges import Judge, judge_from_session
from tanren.evaluate.named_models import BASE, NamedModel, read_model
from tanren.evaluate.opinions import JudgeFile
from tanren.evaluate.settings import EvaluateConfig
from tanren.model import load_tokenizer_from
from tanren.session import Session, open_session
from tanren.template import ChatRenderer

Tell = Callable[..., None]
"""`tell(event, **fields)`: `stage` (name, text) and `progress` (done, total)."""


class Weights:
    """A group's model in memory, loaded when the first answer is missing."""

    def __init__(
        self, group: Sequence[NamedModel], config: EvaluateConfig, created: str, tell: Tell
    ) -> None:
        self._group = group
        self._config = config
        self._date = created[:10]
        self._tell = tell
        self._session: Session | None = None

    def of(self, model: NamedModel) -> LocalModel:
        session = self._opened()
        return LocalModel(
            model=session.model,
            tokenizer=session.tokenizer,
            renderer=session.renderer,
            context=session.context_length,
            base_side=model.is_base and session.has_base,
            batch_tokens=self._config.batch_tokens,
        )

    def _opened(self) -> Session:
        if self._session is None:
            first = self._group[0]
            self._tell("stage", name="load", text=f"loading {first.target}")
            alone = all(model.is_base for model in self._group)
            self._session = open_session(first.target.removesuffix(BASE), base=alone)
            self._session.renderer = self._renderer(first, self._session)
        return self._session

    def _renderer(self, model: NamedModel, session: Session) -> ChatRenderer:
        """A plain model is prompted as the one tuned from it, or with the day of the evaluation."""
        if model.prompted_as is not None and model.prompted_as.folder is not None:
            card = model.prompted_as.card
            assert card is not None
            tokenizer = load_tokenizer_from(model.prompted_as.folder)
            return ChatRenderer(tokenizer, thinking=card.thinking, date=card.date)
        if model.card is None:
            return ChatRenderer(session.tokenizer, date=self._date)
        return session.renderer

    def release(self) -> None:
        """Let go of the weights before the next ones are loaded."""
        self._session = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def local_judge(file: JudgeFile) -> Judge:
    """A judge on this machine, loaded when its first question is asked."""
    assert file.local is not None
    model = read_model(file.local)

    def load() -> LocalModel:
        session = open_session(model.target.removesuffix(BASE), base=model.is_base)
        return LocalModel(
            session.model, session.tokenizer, session.renderer, session.context_length
        )

    return judge_from_session(
        load, name=file.name, identity=model.identity, max_tokens=file.max_tokens
    )
