"""Whatever shares the batch, whenever it joins: every answer is what it would be by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from engine.answering import Asking, request, target
from transformers import AutoConfig

from tanren.engine import loop
from tanren.engine.cache import slot_layers
from tanren.generate import Decoding, answer_all
from tanren.session import open_session

TEXTS = [*tiny.QUESTIONS, "the cat sat on the mat " * 8, "月", "犬はなぜ？ " * 12]


def references(base: Path, decoding: Decoding) -> list[str]:
    session = open_session(str(base))
    conversations = [[{"role": "user", "content": text}] for text in TEXTS]
    answers = answer_all(
        session.model, session.tokenizer, session.renderer, conversations, decoding, streams=[0] * 9
    )
    return [answer.text for answer in answers]


def joining(asking: Asking, base: Path, pace: int = 0, **options: Any) -> list[str]:
    """All texts, each submitted some steps after the one before, with different limits."""
    steps = random.Random(pace)
    for number, text in enumerate(TEXTS):
        asking.submit(request(str(number), target(base), text, **options))
        asking.step(steps.choice([0, 0, 1, 3, 7]))
    told = asking.finish()
    assert not [each.failed for each in told.values() if each.failed]
    return [told[str(number)].text for number in range(len(TEXTS))]


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_an_answer_is_the_same_whoever_joins_and_leaves(
    family: str, tiny_model: Callable[..., Path], ask: Callable[..., Asking]
) -> None:
    base = tiny_model(family)
    drawn = {"temperature": 1.0, "seed": 5}
    expected = references(base, Decoding(max_new_tokens=30, **drawn))
    assert len(set(expected)) > 6, "answers that tell nothing apart"
    assert joining(ask(), base, max_tokens=30, **drawn) == expected
    greedy = references(base, Decoding(max_new_tokens=12))
    assert joining(ask(), base, 1) == greedy


def test_sampling_with_a_seed_is_the_same_whoever_shares_the_batch(
    tiny_model: Callable[..., Path], ask: Callable[..., Asking]
) -> None:
    base = tiny_model()
    for top_p in (1.0, 0.8):
        expected = references(
            base, Decoding(max_new_tokens=20, temperature=0.9, top_p=top_p, seed=5)
        )
        found = joining(ask(), base, 1, max_tokens=20, temperature=0.9, top_p=top_p, seed=5)
        assert found == expected


def test_a_prompt_read_in_chunks_is_answered_the_same(
    tiny_model: Callable[..., Path], ask: Callable[..., Asking], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_model("gemma3")
    expected = references(base, Decoding(max_new_tokens=16))
    monkeypatch.setitem(loop.CHUNK_TOKENS, "cpu", 8)
    asking = ask()
    assert joining(asking, base, max_tokens=16) == expected
    assert asking.engine.state().steps > 40, "nothing was read in chunks"


def test_a_long_prompt_does_not_stop_the_others(
    tiny_model: Callable[..., Path], ask: Callable[..., Asking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loop.CHUNK_TOKENS, "cpu", 8)
    asking = ask()
    to = target(tiny_model())
    asking.submit(request("short", to, max_tokens=100, logit_bias={2: -100.0}))
    asking.until(lambda: bool(asking.told["short"].pieces))
    asking.submit(request("long", to, "the cat sat on the mat " * 6, max_tokens=2))
    before = asking.engine.state().tokens
    asking.step(4)
    assert asking.told["long"].accepted is not None and not asking.told["long"].pieces
    assert asking.engine.state().tokens == before + 4  # a token of `short` for each chunk


def test_models_that_keep_a_state_are_answered_in_batches_that_nobody_joins(
    tmp_path: Path, ask: Callable[..., Asking], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short convolution per layer: neither keys nor values that could stand beside others'."""
    layers = {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3, "block_dim": 64}
    monkeypatch.setattr(tiny, "FAMILIES", {"lfm2": {"model_type": "lfm2", **layers}})
    base = tiny.build_model(tmp_path / "lfm2", "lfm2")
    assert slot_layers(AutoConfig.from_pretrained(base)) is None
    expected = references(base, Decoding(max_new_tokens=12))
    assert joining(ask(), base) == expected


def test_choices_of_one_prompt_have_draws_of_their_own(
    tiny_model: Callable[..., Path], ask: Callable[..., Asking]
) -> None:
    base = tiny_model()
    options = {"temperature": 1.0, "seed": 3, "max_tokens": 15}
    asking = ask(max_batch=4)
    asking.submit(request("six", target(base), choices=6, **options))
    asking.submit(request("two", target(base), choices=2, **options))
    told = asking.finish()
    assert len(set(told["six"].texts.values())) >= 5
    assert told["two"].texts == {index: told["six"].texts[index] for index in (0, 1)}
    assert sorted(told["six"].ends) == list(range(6))
    session = open_session(str(base))
    decoding = Decoding(max_new_tokens=15, temperature=1.0, seed=3)
    messages = [{"role": "user", "content": "Who are you?"}]
    answers = answer_all(
        session.model, session.tokenizer, session.renderer, [messages] * 6, decoding
    )
    assert [told["six"].texts[index] for index in range(6)] == [a.text for a in answers]


def test_scaled_rotations_do_not_follow_the_longest_row(
    tmp_path: Path, ask: Callable[..., Asking]
) -> None:
    """LongRoPE turns all rows of a pass by the longest one's table, so each is written alone."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [9.0] * 8,
        "original_max_position_embeddings": 40,
    }
    base = tiny.build_model(
        tmp_path / "model", "phi3", rope_parameters=rope, original_max_position_embeddings=40
    )
    session = open_session(str(base))
    decoding = Decoding(max_new_tokens=12)
    asking = ask()
    found = joining(asking, base)
    for text, answer in zip(TEXTS, found, strict=True):
        messages = [{"role": "user", "content": text}]
        (expected,) = answer_all(
            session.model, session.tokenizer, session.renderer, [messages], decoding
        )
        assert answer == expected.text
