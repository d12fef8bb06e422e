"""The section that answers: sorted batches of the size we choose against other sizes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from bench.inputs import word_tokenizer

from gpu_checks.lab import WORDS, Lab, Row, load, methods

WITHIN = 1.5
"""Our own batch size may take so many times the seconds of the best one."""


def answering(lab: Lab) -> Iterator[Row]:
    """300 greedy answers of a random 0.6 B model to prompts of lognormal length."""
    from tanren.generate import BATCH_TOKENS, Decoding, answer_all
    from tanren.template import ChatRenderer

    words = min(WORDS, lab.numbers("qwen3-0.6b")["vocab_size"])
    tokenizer = word_tokenizer(words)
    renderer = ChatRenderer(tokenizer)
    model, _ = load(lab, "qwen3-0.6b", methods()["lora"])
    drawn = np.random.default_rng(0).lognormal(4.5, 0.7, size=lab.pick(300, 6))
    prompts = [
        [{"role": "user", "content": " ".join(f"w{i % (words - 8)}" for i in range(int(n) + 4))}]
        for n in np.clip(drawn, 8, lab.pick(1000, 20))
    ]
    decoding = Decoding(max_new_tokens=lab.pick(64, 4))
    seconds: dict[int, float] = {}
    for tokens in (BATCH_TOKENS, 2048, 8192, 32_768, 65_536, 131_072):
        if lab.seconds_left < 10:
            break
        began = time.perf_counter()
        answers = answer_all(model, tokenizer, renderer, prompts, decoding, batch_tokens=tokens)
        lab.wait()
        seconds[tokens] = time.perf_counter() - began
        written = sum(len(answer.token_ids) for answer in answers)
        yield {
            "positions a batch": tokens,
            "seconds": seconds[tokens],
            "new tokens/s": written / seconds[tokens],
        }
    best = min(seconds.values())
    yield {
        "positions a batch": "ours / best",
        "seconds": seconds[BATCH_TOKENS] / best,
        "ok": seconds[BATCH_TOKENS] <= WITHIN * best or lab.tiny,
    }
