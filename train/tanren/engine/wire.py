"""What service and engine say to each other: one JSON object a line, in both directions.

The service sends `ChatRequest`, `Cancel`, `Unload`; the engine answers with lines that hold a list
of replies, one line for each step of its loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class Target:
    """Which weights answer: a base, or what was tuned on it."""

    base: str
    """A model folder or a hub name."""
    revision: str | None
    folder: str | None
    """An adapter folder, a checkpoint or whole weights, with a `tanren.json` card; None: the base
    itself.
    """


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer must be. `schema`: JSON of this schema; `{}`: any JSON object.

    `tools`: calls of these functions alone, at least one; with `parallel` false exactly one.
    """

    kind: Literal["json", "tools"]
    schema: dict[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One conversation to be answered `choices` times.

    `messages` and `tools` are as `chat.render_ready` gives them: text content, arguments as
    objects. `logprobs`: how many likely tokens to name beside each chosen one; None: no logprobs.
    """

    id: str
    target: Target
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None = None
    choices: int = 1
    max_tokens: int | None = None
    """None: as many as the model's context has room for, at most the service's setting."""
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    constraint: Constraint | None = None
    read_tools: bool = True
    """Whether tool calls in the answer become `ToolCall` replies; with `tool_choice: none` they
    stay text.
    """


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request was rendered; its answers follow."""

    id: str
    prompt_tokens: int
    fingerprint: str
    """`fp_...`: of weights, adapter and library versions."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token, its natural log-probability, and the likeliest ones at its place.

    `bytes` are the token's own: several tokens may share a character.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top: tuple[tuple[str, float, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of choice `index` that became certain, and the tokens that it was made of."""

    id: str
    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call in choice `index`; `arguments` is JSON text."""

    id: str
    index: int
    call: int
    """Its place among the calls of this choice."""
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Choice `index` is complete."""

    id: str
    index: int
    reason: FinishReason
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ends here. `kind` decides on the HTTP status: request 400, model 404, busy 429,
    engine 500.
    """

    id: str
    kind: Literal["request", "model", "busy", "engine"]
    message: str
    param: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client has gone away."""

    id: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Forget these weights (a tuned model was deleted), or all of them (memory is needed)."""

    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Unloaded:
    """Memory is free again."""

    folder: str | None = None


Reply = Accepted | Piece | ToolCall | Finished | Failed | Unloaded


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the service tells a new engine, before anything else. Meanings as in `Serving`."""

    max_batch: int = 64
    batch_tokens: int = 65_536
    max_waiting: int = 256
    max_adapters: int = 16
    max_bases: int = 1
    max_tokens: int = 1024
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine is doing.

    `running` counts answers, `waiting` requests that have no place yet. `steps` and `tokens` count
    since its process began. `process` is None where there is no process.
    """

    running: int = 0
    waiting: int = 0
    bases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    memory_bytes: int = 0
    """Of the accelerator, or of the process where there is none."""
    steps: int = 0
    tokens: int = 0
    process: int | None = None
