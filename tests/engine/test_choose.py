"""The arithmetic of choosing, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tanren.engine.choose import Chosen, Wishes, choose
from tanren.engine.wire import ChatRequest, Target

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, 0.0])


def wishes(choice: int = 0, tokens: int = 50, **options: Any) -> Wishes:
    plain = {"temperature": 0.0, **options}
    return Wishes.of(ChatRequest("r", Target("b", None, None), (), **plain), choice, tokens)


def follow(row: Wishes, steps: int) -> list[int]:
    """Tokens chosen one after another from the same logits."""
    found = []
    for _ in range(steps):
        (chosen,) = choose(LOGITS[None], [row])
        row.take(chosen.token_id)
        found.append(chosen.token_id)
    return found


def test_penalties_follow_the_formula() -> None:
    """logit - count * frequency - (count > 0) * presence, over the answer's tokens."""
    assert follow(wishes(), 4) == [0, 0, 0, 0]
    # 2.0 -> 1.2 (presence) is still above 1.0; presence is taken once only
    assert follow(wishes(presence_penalty=0.8), 5) == [0, 0, 0, 0, 0]
    # 2.0, then 2 - 1.1 = 0.9 < 1.0; then 1 - 1.1 = -0.1: 0.9 again and for ever
    assert follow(wishes(presence_penalty=1.1), 5) == [0, 1, 0, 0, 0]
    # 2.0, 1.4, 0.8 | 1.0 wins, 0.4 | 0.8 again, 0.2 | 0.5 ...
    assert follow(wishes(frequency_penalty=0.6), 5) == [0, 0, 1, 0, 2]
    # 2.0, then 2 - 0.6 - 0.5 = 0.9 | 1.0, then -0.1 | 0.9, then 0.3 | 0.5
    assert follow(wishes(frequency_penalty=0.6, presence_penalty=0.5), 4) == [0, 1, 0, 2]
    # a negative one makes what was said likelier: 1.9 + 0.2 = 2.1 beats 2.0 once it was chosen
    assert follow(wishes(presence_penalty=-0.2), 3) == [0, 0, 0]


def test_bias_is_added_and_unknown_tokens_are_of_no_matter() -> None:
    assert follow(wishes(logit_bias={3: 3.5, 99: 50.0}), 2) == [3, 3]
    assert follow(wishes(logit_bias={0: -100.0}), 2) == [1, 1]
    assert follow(wishes(logit_bias={3: 3.5}, frequency_penalty=1.0), 3) == [3, 0, 3]


def test_rows_do_not_see_each_others_settings() -> None:
    rows = [
        wishes(),
        wishes(logit_bias={4: 10.0}),
        wishes(temperature=1.0, seed=3),
        wishes(temperature=0.7, top_p=0.4, seed=3),
        wishes(frequency_penalty=2.0, logprobs=1),
    ]
    single = [follow(row, 6) for row in rows]
    rows = [
        wishes(),
        wishes(logit_bias={4: 10.0}),
        wishes(temperature=1.0, seed=3),
        wishes(temperature=0.7, top_p=0.4, seed=3),
        wishes(frequency_penalty=2.0, logprobs=1),
    ]
    together: list[list[int]] = [[] for _ in rows]
    for _ in range(6):
        chosen = choose(LOGITS.repeat(len(rows), 1), rows)
        for found, row, token in zip(together, rows, chosen, strict=True):
            row.take(token.token_id)
            found.append(token.token_id)
    assert together == single


def test_frequencies_of_draws_are_the_probabilities() -> None:
    """2,000 choices; each frequency within four standard errors."""
    for temperature, top_p in ((1.0, 1.0), (2.0, 1.0), (1.0, 0.8)):
        rows = [
            wishes(choice, 1, temperature=temperature, top_p=top_p, seed=1)
            for choice in range(2000)
        ]
        chosen = choose(LOGITS.repeat(2000, 1), rows)
        expected = (LOGITS / temperature).softmax(-1)
        if top_p < 1:  # 0.545 + 0.200 < 0.8: the third is in, and no more
            expected = expected.where(torch.tensor([True, True, True, False, False]), 0)
            expected = expected / expected.sum()
        for token, chance in enumerate(expected.tolist()):
            count = sum(each.token_id == token for each in chosen)
            assert abs(count / 2000 - chance) <= 4 * math.sqrt(chance * (1 - chance) / 2000)


def test_logprobs_are_the_models_own() -> None:
    """Before bias, penalties and temperature; the chosen token beside the likeliest ones."""
    row = wishes(logprobs=2, logit_bias={3: 100.0}, temperature=0.2, seed=1)
    (chosen,) = choose(LOGITS[None], [row])
    own = LOGITS.log_softmax(-1)
    assert chosen.token_id == 3
    assert chosen.logprob == pytest.approx(float(own[3]), abs=1e-6)
    assert [token for token, _ in chosen.top] == [0, 1]
    assert [number for _, number in chosen.top] == pytest.approx(own[:2].tolist(), abs=1e-6)
    assert choose(LOGITS[None], [wishes()]) == [Chosen(0)]
    (none_beside,) = choose(LOGITS[None], [wishes(logprobs=0)])
    assert none_beside.top == () and none_beside.logprob is not None


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_marked_alone(broken: float) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 4] = broken
    for options in ({}, {"temperature": 1.0, "seed": 1}, {"logprobs": 3}):
        chosen = choose(logits, [wishes(**options) for _ in range(3)])
        assert [each.token_id < 0 for each in chosen] == [False, True, False]


def test_the_coldest_temperature_is_the_likeliest_token() -> None:
    assert follow(wishes(temperature=1e-9, seed=1), 3) == [0, 0, 0]
