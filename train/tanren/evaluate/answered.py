"""One row of an evaluation: what was asked, what was expected, what came back.

This is what metrics, judges, statistics and reports read, and what lies in `rows.jsonl`, one JSON
object a line. It needs no torch: answers may come from a model, an endpoint or a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Answered:
    """`row` is the row's number in its file, from 1. `loss` is the mean loss of the reference's
    tokens, in nats, where a model could be asked for it. `options` are the labels or choices of the
    row where it has its own; `option_losses` each one's mean loss over its `option_tokens`, in the
    same order. `error` says why there is no answer (an endpoint failed); such rows are counted and
    left out of every metric.
    """

    row: int
    messages: tuple[Message, ...]
    reference: str
    answer: str
    finish_reason: Literal["stop", "length", "error"]
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    seconds: float | None = None
    loss: float | None = None
    reference_tokens: int | None = None
    options: tuple[str, ...] = ()
    option_losses: tuple[float, ...] = ()
    option_tokens: tuple[int, ...] = ()
    error: str | None = None
    reasoning: str = ""
    """What a reasoning model thought before its answer; it is in no metric."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """By metric: a number where the metric says something of single rows, None where it cannot."""

    @property
    def question(self) -> str:
        """The last thing the user said."""
        asked = [m for m in self.messages if m.get("role") == "user"]
        return str(asked[-1].get("content", "")) if asked else ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Answered:
        """From a line of `rows.jsonl`."""
        tuples = ("messages", "options", "option_losses", "option_tokens")
        return cls(**{**values, **{name: tuple(values.get(name) or ()) for name in tuples}})


def read_rows(path: Path) -> Iterator[Answered]:
    """Rows of a `rows.jsonl`; a torn last line (the machine died while it was written) is left
    out.
    """
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield Answered.of(json.loads(line))
