"""Tuned models without training, requests, and an engine run to the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tanren import adapter as adapters
from tanren import model as models
from tanren.artefact import CARD, Prompting
from tanren.config import ModelConfig
from tanren.engine.loop import Engine
from tanren.engine.wire import (
    Accepted,
    ChatRequest,
    Failed,
    Finished,
    Piece,
    Reply,
    Target,
    TokenLogprob,
    ToolCall,
)
from tanren.environment import versions
from tanren.generate import Decoding, answer_all
from tanren.methods import METHODS
from tanren.rundir import write_json
from tanren.session import Session, open_session
from tanren.template import ChatRenderer


def make_tuned(
    base: Path, folder: Path, method: str = "lora", *, seed: int = 1, **settings: Any
) -> Path:
    """An adapter (or, for full, whole weights) as a run leaves it, every trained number nudged."""
    extra = {} if method == "full" else {"rank": 4}
    chosen = METHODS[method].model_validate({"name": method, **extra, **settings})
    config = ModelConfig(name=str(base), dtype="float32")
    source = models.locate(config)
    model = adapters.add_adapter(models.load_base(source, chosen, config), source, chosen, seed=3)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.08 * torch.randn(parameter.shape, generator=generator)
    adapters.save_adapter(model, folder)
    tokenizer = models.load_tokenizer(source, config)
    tokenizer.save_pretrained(str(folder))
    card = Prompting(
        thinking=None,
        date=None,
        stop_ids=ChatRenderer(tokenizer).facts.stop_ids,
        base=str(source.path),
        base_revision=None,
        base_fingerprint=source.fingerprint,
        dtype="float32",
        storage="dtype",
        method=chosen.model_dump(mode="json"),
        data_sha256="0" * 64,
        versions=versions(),
    )
    write_json(folder / CARD, asdict(card))
    return folder


def target(base: Path, folder: Path | None = None) -> Target:
    return Target(str(base), None, None if folder is None else str(folder))


def request(name: str, to: Target, text: str = "Who are you?", **options: Any) -> ChatRequest:
    """Greedy, 12 tokens."""
    chosen = {"temperature": 0.0, "max_tokens": 12, **options}
    return ChatRequest(name, to, ({"role": "user", "content": text},), **chosen)


@dataclass
class Told:
    """What was said about one request."""

    accepted: Accepted | None = None
    texts: dict[int, str] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    ends: dict[int, Finished] = field(default_factory=dict)
    failed: Failed | None = None

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [token for piece in self.pieces for token in piece.logprobs]

    def add(self, reply: Reply) -> None:
        assert self.failed is None, "nothing follows a failure"
        if isinstance(reply, Accepted):
            self.accepted = reply
        elif isinstance(reply, Piece):
            assert reply.index not in self.ends, "nothing follows the end"
            self.texts[reply.index] = self.texts.get(reply.index, "") + reply.text
            self.pieces.append(reply)
        elif isinstance(reply, ToolCall):
            self.calls.append(reply)
        elif isinstance(reply, Finished):
            self.ends[reply.index] = reply
        else:
            assert isinstance(reply, Failed)
            self.failed = reply


class Asking:
    """An engine and what it says."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.told: dict[str, Told] = {}

    def submit(self, *requests: ChatRequest) -> None:
        for each in requests:
            self.told[each.id] = Told()
            self._hear(self.engine.submit(each))

    def step(self, steps: int = 1) -> None:
        for _ in range(steps):
            self._hear(self.engine.step())

    def finish(self, most: int = 2000) -> dict[str, Told]:
        for _ in range(most):
            if self.engine.idle:
                return self.told
            self.step()
        raise AssertionError(f"not done after {most} steps: {self.engine.state()}")

    def until(self, reached: Callable[[], bool], most: int = 200) -> None:
        for _ in range(most):
            if reached():
                return
            self.step()
        raise AssertionError(f"not reached after {most} steps")

    def _hear(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if isinstance(reply, (Accepted, Piece, ToolCall, Finished, Failed)):
                self.told[reply.id].add(reply)


@cache
def alone(to: Target, text: str, tokens: int = 12) -> str:
    """What the model answers by itself, greedily, as `tanren chat` would."""
    session = session_of(to.folder or to.base)
    messages = [{"role": "user", "content": text}]
    decoding = Decoding(max_new_tokens=tokens)
    answers = answer_all(session.model, session.tokenizer, session.renderer, [messages], decoding)
    return answers[0].text


@cache
def session_of(name: str) -> Session:
    return open_session(name)
