"""Answers from a model: many at once (`answer_all`), or one while it is being written.

Both walk the same loop of tokens, so a streamed answer is the batched one: greedy in fp32, and
sampled with a seed too, because every conversation has random draws of its own. The model is
borrowed for one token at a time: between tokens, and after a stream is closed half-way, training
modes, gradients and random state are as the caller left them.
"""

from tanren.generate.answers import (
    BATCH_TOKENS,
    Answer,
    AnswerStream,
    PromptRenderer,
    answer_all,
    stream_answer,
)
from tanren.generate.choose import Decoding

__all__ = [
    "BATCH_TOKENS",
    "Answer",
    "AnswerStream",
    "Decoding",
    "PromptRenderer",
    "answer_all",
    "stream_answer",
]
