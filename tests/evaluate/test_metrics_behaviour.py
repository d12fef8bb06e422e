"""Lengths, stopping, repetition, speed, loss and similarity."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import metric_named
from tanren.evaluate.metrics.behaviour import longest_repeat


def row(answer: str, reference: str = "", number: int = 1, **facts: Any) -> Answered:
    facts.setdefault("finish_reason", "stop")
    return Answered(number, (), reference, answer, **facts)


# --- lengths --------------------------------------------------------------------------------------


def test_length_statistics_by_hand() -> None:
    rows = [row("あ" * n, "い" * 4, i) for i, n in enumerate((2, 4, 4, 10), 1)]
    told = metric_named("characters").details(rows)
    answers = told["answers"]
    assert metric_named("characters").value(rows) == 5
    assert (answers["mean"], answers["median"], answers["min"], answers["max"]) == (5, 4, 2, 10)
    assert answers["spread"] == pytest.approx(math.sqrt((9 + 1 + 1 + 25) / 3))
    assert told["references"]["mean"] == 4 and told["references"]["spread"] == 0


def test_every_length_stands_in_the_histogram() -> None:
    draw = random.Random(0)
    for top in (3, 19, 20, 21, 500):
        rows = [row("a" * draw.randrange(1, top), "b" * draw.randrange(1, top)) for _ in range(50)]
        drawn = metric_named("characters").details(rows)["histogram"]
        assert sum(drawn["answers"]) == sum(drawn["references"]) == 50
        assert len(drawn["edges"]) == len(drawn["answers"]) + 1 <= 22


def test_a_composed_letter_is_one_character_and_tokens_are_the_models() -> None:
    assert metric_named("characters").score(row("か\u3099 ")) == 1
    assert metric_named("tokens").score(row("がが", answer_tokens=5)) == 5
    assert metric_named("tokens").score(row("がが")) is None


@pytest.mark.parametrize(
    ("options", "inside", "title"),
    [
        ({"minimum": 3, "maximum": 5}, [0, 1, 1, 0], "3 to 5 characters"),
        ({"target": 4, "tolerance": 1}, [0, 1, 1, 0], "3 to 5 characters"),
        ({"maximum": 5}, [1, 1, 1, 0], "At most 5 characters"),
        ({"minimum": 3}, [0, 1, 1, 1], "At least 3 characters"),
    ],
)
def test_the_target_includes_its_ends(
    options: dict[str, Any], inside: list[int], title: str
) -> None:
    metric = metric_named("within_target", **options)
    rows = [row("a" * n) for n in (2, 3, 5, 6)]
    assert [metric.score(r) for r in rows] == inside and metric.title == title
    details = metric.details(rows)
    assert details["too_short"] + details["too_long"] == inside.count(0)


# --- behaviour ------------------------------------------------------------------------------------


def test_stopping_and_saying_nothing() -> None:
    rows = [
        row("a"),
        row(" \n"),
        row("b", finish_reason="length"),
        row("c", finish_reason="length"),
    ]
    assert metric_named("stop_rate").value(rows) == 0.5
    assert metric_named("stop_rate").details(rows)["finish_reasons"] == {"length": 2, "stop": 2}
    assert metric_named("empty").value(rows) == 0.25


def test_repetition() -> None:
    metric = metric_named("repetition")
    assert metric.score(row("太陽の光のうち、青い光が空気にぶつかってよくちらばるからだよ。")) == 0
    assert metric.score(row("短い")) == 0 and metric.score(row("")) == 0
    loop = "そうだよ。" * 20  # 93 eights of which 5 differ
    assert metric.score(row(loop)) == pytest.approx(1 - 5 / 93)
    english = "and so it goes on " * 20
    assert metric.score(row(english)) > 0.9
    assert metric_named("repetition", n=2).score(row("abab")) == pytest.approx(1 / 3)
    assert metric.details([row("x", loop)])["references"] > 0.9


@pytest.mark.parametrize(
    ("text", "length"),
    [("", 0), ("a", 0), ("aa", 1), ("aaaaa", 2), ("abcabc", 3), ("abcXabcY", 3), ("abcdef", 0)],
)
def test_the_longest_repeat_by_hand(text: str, length: int) -> None:
    assert longest_repeat(text) == length


def test_the_longest_repeat_is_that_of_the_plain_search() -> None:
    draw = random.Random(2)
    for _ in range(200):
        text = "".join(draw.choices("ab", k=draw.randrange(40)))
        found = [
            n
            for n in range(1, len(text) // 2 + 1)
            if any(text[i : i + n] in text[i + n :] for i in range(len(text) - n))
        ]
        assert longest_repeat(text) == max(found, default=0), text


# --- speed and loss -------------------------------------------------------------------------------


def test_speed() -> None:
    rows = [row("a", answer_tokens=10, seconds=1.0), row("b", answer_tokens=90, seconds=3.0)]
    assert metric_named("latency").value(rows) == 2.0
    details = metric_named("latency").details(rows)
    assert details["p50"] == 2.0 and details["p95"] == pytest.approx(2.9) and details["total"] == 4
    assert metric_named("tokens_per_second").value(rows) == 25  # not the mean of 10 and 30
    assert metric_named("tokens_per_second").value([row("a")]) is None


def test_loss_weighs_tokens_not_rows() -> None:
    """T31: two rows of 1 and 3 tokens."""
    rows = [
        row("", "x", 1, loss=4.0, reference_tokens=1),
        row("", "y", 2, loss=2.0, reference_tokens=3),
        row("", "z", 3, loss=9.0),
    ]
    assert metric_named("loss").value(rows) == 2.5
    assert metric_named("perplexity").value(rows) == pytest.approx(math.exp(2.5))
    assert metric_named("loss").score(rows[0]) == 4.0
    assert metric_named("loss").details(rows)["without_score"] == 1
    assert metric_named("loss").details(rows)["tokens"] == 4


def test_a_uniform_model_hesitates_between_all_its_tokens() -> None:
    rows = [row("", "x", loss=math.log(512), reference_tokens=n) for n in (1, 5, 9)]
    assert metric_named("perplexity").value(rows) == pytest.approx(512)


# --- similarity -----------------------------------------------------------------------------------


def test_similarity_is_the_cosine_and_each_text_is_embedded_once() -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[text.count("a"), text.count("b")] for text in texts], dtype=float)

    metric = metric_named("similarity", embed=embed, model="toy")
    rows = [row("aa", "a"), row("a", "b"), row("ab", "a"), row(" ", "a"), row("c", "a")]
    expected = [1.0, 0.0, math.sqrt(0.5), 0.0, 0.0]
    assert metric.scores(rows) == pytest.approx(expected)
    assert metric.value(rows) == pytest.approx(sum(expected) / 5)
    assert sorted(asked) == ["a", "aa", "ab", "b", "c"]
    assert metric.details(rows)["model"] == "toy"
