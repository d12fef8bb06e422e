"""BLEU, chrF and ROUGE against hand-computed and published values, in both languages."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from sacrebleu.metrics import BLEU, CHRF

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import SumMetric, metric_named
from tanren.evaluate.metrics.rouge import common_subsequence


def row(answer: str, reference: str, number: int = 1) -> Answered:
    return Answered(number, (), reference, answer, "stop")


def rows_of(pairs: Sequence[tuple[str, str]]) -> list[Answered]:
    return [row(answer, reference, i) for i, (answer, reference) in enumerate(pairs, 1)]


JAPANESE = [
    ("今日は良い天気です。", "今日は天気が良いです。"),
    ("空が青いのは光がちらばるからだよ。", "青い光が空気にぶつかってちらばるからだよ。"),
    ("", "風がふくのは空気がおし合うからだよ。"),
    ("同じ文です。", "同じ文です。"),
]
ENGLISH = [
    ("The dog bit the man.", "The dog bit the man."),
    ("It wasn't surprising.", "It was not unexpected."),
    ("The man had just bitten him.", "The man bit him first."),
]


# --- BLEU and chrF --------------------------------------------------------------------------------


def test_bleu_by_hand() -> None:
    """今日/は/良い/天気/です/。 against 今日/は/天気/が/良い/です/。: all 6 words, 2 of 5 pairs,
    none of the 4 triples (smoothed to 1/2 of one) and 3 fours (1/4), brevity exp(1 - 7/6).
    """
    expected = 100 * math.exp(1 - 7 / 6) * (1 * 2 / 5 * (1 / 2) / 4 * (1 / 4) / 3) ** (1 / 4)
    assert metric_named("bleu").value(rows_of(JAPANESE[:1])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pairs", "tokenize"), [(JAPANESE, "ja-mecab"), (ENGLISH, "13a"), (JAPANESE, "char")]
)
def test_bleu_is_sacrebleus_with_its_signature(pairs: list[tuple[str, str]], tokenize: str) -> None:
    metric = metric_named("bleu", **({"tokenize": "char"} if tokenize == "char" else {}))
    rows = rows_of(pairs)
    theirs = BLEU(tokenize=tokenize)
    score = theirs.corpus_score([a for a, _ in pairs], [[b for _, b in pairs]])
    assert metric.value(rows) == pytest.approx(score.score, rel=1e-12)
    details = metric.details(rows)
    assert details["signature"] == str(theirs.get_signature())
    assert f"tok:{tokenize}" in details["signature"]


@pytest.mark.parametrize("pairs", [JAPANESE, ENGLISH])
def test_chrf_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    rows = rows_of(pairs)
    score = CHRF().corpus_score([a for a, _ in pairs], [[b for _, b in pairs]]).score
    assert metric_named("chrf").value(rows) == pytest.approx(score, rel=1e-12)
    assert "nc:6" in metric_named("chrf").details(rows)["signature"]


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_sums_of_any_rows_give_the_corpus_value(name: str) -> None:
    """So that thousands of resamples need no more than a matrix product."""
    rows = rows_of([*JAPANESE, ("短", "短い"), ("あ い", "あい"), ("長く長く言う", "長い")])
    metric = metric_named(name, **({"tokenize": "ja-mecab"} if name == "bleu" else {}))
    assert isinstance(metric, SumMetric)
    parts = metric.parts(rows)
    for size in (1, 2, 3, 7):
        for chosen in itertools.combinations(range(len(rows)), size):
            expected = metric.value([rows[i] for i in chosen])
            found = metric.from_sums(parts[list(chosen)].sum(axis=0)[None])[0]
            assert found == pytest.approx(expected, rel=1e-12), chosen


def test_bounds() -> None:
    same = rows_of([(b, b) for _, b in JAPANESE])
    for name in ("bleu", "chrf"):
        assert metric_named(name).value(same) == pytest.approx(100)
        assert metric_named(name).value(rows_of([("", "何か言う人")])) == 0


# --- ROUGE ----------------------------------------------------------------------------------------


def test_rouge_of_lins_paper() -> None:
    """Lin 2004, section 3: S2 shares 3 words in order with S1, S3 and S4 share 2."""
    reference = "police killed the gunman"
    for answer, expected in (
        ("police kill the gunman", 3 / 4),
        ("the gunman kill police", 1 / 2),
        ("the gunman police killed", 1 / 2),
    ):
        assert metric_named("rouge_l").score(row(answer, reference)) == expected
    first, second = "police kill the gunman", "the gunman kill police"
    rouge_2 = metric_named("rouge_2")
    assert rouge_2.score(row(first, reference)) == pytest.approx(1 / 3)
    assert rouge_2.score(row(second, reference)) == pytest.approx(1 / 3)
    assert metric_named("rouge_1").score(row(second, reference)) == 3 / 4


def test_rouge_of_japanese_by_hand() -> None:
    """太郎/は/本/を/読ん/だ against 太郎/は/新しい/本/を/買っ/た: 太郎 は 本 を are common and in
    order; pairs 太郎-は and 本-を of 5 and 6.
    """
    one = row("太郎は本を読んだ。", "太郎は新しい本を買った。")
    assert metric_named("rouge_1").score(one) == pytest.approx(2 * 4 / (6 + 7))
    assert metric_named("rouge_2").score(one) == pytest.approx(2 * 2 / (5 + 6))
    assert metric_named("rouge_l").score(one) == pytest.approx(2 * 4 / (6 + 7))
    by_sign = metric_named("rouge_l", units="characters")
    assert by_sign.score(one) == pytest.approx(2 * 5 / (8 + 11))  # 太郎は本を of 8 and 11 signs
    assert metric_named("rouge_l").details([one])["units"] == "mecab"


def test_units_are_of_all_references_together() -> None:
    """One short label in Latin letters among Japanese rows is cut as Japanese is."""
    rows = rows_of([("空は青い", "空は青い"), ("OK", "OK です")])
    assert metric_named("rouge_1").details(rows)["units"] == "mecab"
    assert metric_named("rouge_1").scores(rows) == [1.0, pytest.approx(2 / 3)]


def test_words_repeat_only_as_often_as_they_are_meant() -> None:
    assert metric_named("rouge_1").score(row("the the the", "the cat")) == pytest.approx(2 / 5)


def test_rouge_of_nothing() -> None:
    assert metric_named("rouge_l").score(row("", "word")) == 0
    assert metric_named("rouge_l").score(row("word", "...")) is None
    assert metric_named("rouge_2").score(row("word", "word")) == 0


def plain_lcs(a: str, b: str) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in itertools.product(range(len(a)), range(len(b))):
        same = table[i][j] + 1 if a[i] == b[j] else 0
        table[i + 1][j + 1] = max(same, table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_the_common_subsequence_is_that_of_the_plain_table() -> None:
    draw = random.Random(1)
    for _ in range(300):
        a, b = ("".join(draw.choices("abcde", k=draw.randrange(90))) for _ in range(2))
        assert common_subsequence(a, b) == plain_lcs(a, b)
