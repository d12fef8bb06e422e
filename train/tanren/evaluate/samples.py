"""The same questions before and after tuning, so that anyone sees what changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerFast

from tanren.chat import Example, Preference, render_ready
from tanren.config import EvaluationConfig, RunConfig
from tanren.data.read import ChatReader, PreferenceReader
from tanren.generate import Answer, Decoding, answer_all
from tanren.template import ChatRenderer


@dataclass(frozen=True, slots=True)
class Sample:
    """A row's last trained reply, and the conversation before it."""

    messages: tuple[dict[str, Any], ...]
    prompt: str
    reference: str


def choose_samples(config: RunConfig, renderer: ChatRenderer, context: int) -> list[Sample]:
    """Evenly spread rows of the validation file, of the training file without one.

    Rows with tools are left out, and rows whose prompt leaves no room in the context (tokens).
    """
    if config.evaluation.samples == 0:
        return []
    path = Path(config.data.validation or config.data.train)
    rows = [row for row in _examples(path, config) if not row.tools and row.trained_turns]
    count = min(config.evaluation.samples, len(rows))
    places = np.linspace(0, max(len(rows) - 1, 0), count).round().astype(int)
    samples = [_sample(rows[i]) for i in places]
    return [s for s in samples if len(renderer.prompt_ids(s.messages)) + 8 < context]


def _examples(path: Path, config: RunConfig) -> Iterator[Example]:
    """Of the first 1,000 rows; of a preference row its prompt with the preferred answer."""
    if config.objective.name == "dpo":
        pairs = PreferenceReader(path, limit=1000)
        yield from (row.preferred for row in pairs if isinstance(row, Preference))
    else:
        yield from (row for row in ChatReader(path, limit=1000) if isinstance(row, Example))


def _sample(row: Example) -> Sample:
    messages, _ = render_ready(row)
    last = row.trained_turns[-1]
    asked = [m for m in messages[:last] if m["role"] == "user"]
    prompt = str(asked[-1]["content"]) if asked else ""
    return Sample(tuple(messages[:last]), prompt, str(messages[last].get("content", "")))


def answer_samples(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    renderer: ChatRenderer,
    samples: Sequence[Sample],
    settings: EvaluationConfig,
) -> list[Answer]:
    """Greedy answers, in order."""
    if not samples:
        return []
    decoding = Decoding(max_new_tokens=settings.sample_tokens)
    return answer_all(model, tokenizer, renderer, [list(s.messages) for s in samples], decoding)
