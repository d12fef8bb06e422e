"""The tuned model, asked once before anything is written: every export is compared with this."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tanren.errors import Fault, ModelError, UserError
from tanren.evaluate.samples import choose_samples
from tanren.export.ollama.conversations import CONVERSATIONS
from tanren.export.proof import (
    TUNED,
    Distance,
    Message,
    Said,
    answers_of,
    base_logits,
    distance,
    logits_on,
)
from tanren.export.tuned import Base, Tuned
from tanren.model import context_length

BUILT_IN = "conversations that are built in"


@dataclass(frozen=True)
class Reference:
    """`said` by the tuned model; `expected` are the logits that the export must show, which are
    its own unless another base was asked for. `others` has what each way of merging would change.
    """

    conversations: tuple[tuple[Message, ...], ...]
    prompts_from: str
    said: Said
    expected: tuple[Tensor, ...]
    moved: Distance | None
    others: Mapping[str, Distance]
    compared_with: str


def take_reference(tuned: Tuned, *, prompts: int, original: bool) -> Reference:
    """Load the tuned model, let it answer, and leave memory as it was. For a base in 4 bits the
    adapter is also tried on that base read back to full width and on the original one.
    """
    conversations, origin = choose_conversations(tuned, prompts)
    if not conversations:
        raise ModelError.of(
            Fault(
                tuned.name,
                f"a context of {context_length(tuned.settings)} tokens, too short for any "
                "conversation of the proof",
                "room for a question and an answer",
                "for --to merged add --proof numbers",
            )
        )
    model = tuned.load()
    said = answers_of(model, tuned.tokenizer, tuned.renderer, conversations)
    before = base_logits(model, said.probes)
    del model
    release()
    moved = None if before is None else distance(said.logits, before)
    others: dict[str, Distance] = {}
    expected, compared_with = said.logits, TUNED
    if tuned.nf4:
        ways: tuple[Base, ...] = ("dequantised", "original") if original else ("original",)
        for way in ways:
            model = tuned.load(way)
            logits = logits_on(model, said.probes)
            others[f"adapter on the {way} base"] = distance(said.logits, logits)
            if original and way == "original":
                expected, compared_with = logits, "the adapter on the original base"
            del model
            release()
    return Reference(conversations, origin, said, expected, moved, others, compared_with)


def choose_conversations(tuned: Tuned, count: int) -> tuple[tuple[tuple[Message, ...], ...], str]:
    """Rows of the run's own data where it still lies, else ours; with where they came from."""
    context = context_length(tuned.settings)
    if tuned.run is not None:
        config = tuned.run.config()
        samples = config.evaluation.model_copy(update={"samples": count})
        try:
            found = choose_samples(
                config.model_copy(update={"evaluation": samples}), tuned.renderer, context
            )
        except (OSError, UserError):  # the data was moved: any conversation will do
            found = []
        if found:
            kind = "validation" if config.data.validation else "training"
            return tuple(sample.messages for sample in found), f"rows of the run's {kind} data"
    chosen = [tuple(c.messages) for c in CONVERSATIONS if _fits(tuned, c.messages, context)]
    return tuple(chosen[:count]), BUILT_IN


def _fits(tuned: Tuned, messages: list[Message], context: int) -> bool:
    """Whether the template takes the conversation and the model has room for an answer."""
    try:
        return len(tuned.renderer.prompt_ids(messages)) + 8 < min(context, 1024)
    except UserError:
        return False


def release() -> None:
    """Give back the memory of a model that nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
