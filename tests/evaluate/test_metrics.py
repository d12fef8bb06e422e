"""Metrics by name, the text they compare, and the laws that all of them keep."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tanren.errors import ConfigError
from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import METRICS, SumMetric, fitted, metric_named, normalised, scores_of
from tanren.evaluate.metrics.text import characters, mecab_words, script_of, words

TRAIN = Path(__file__).parents[2] / "train"


def row(answer: str, reference: str = "", number: int = 1, **facts: Any) -> Answered:
    facts.setdefault("finish_reason", "stop")
    return Answered(number, ({"role": "user", "content": "?"},), reference, answer, **facts)


def embed(texts: list[str]) -> np.ndarray:
    """Counts of a few signs: a toy with known angles."""
    return np.array([[text.count(sign) for sign in "abc"] for text in texts], dtype=float)


SETTINGS: dict[str, dict[str, Any]] = {
    "similarity": {"embed": embed},
    "within_target": {"minimum": 1},
    "json_schema": {"schema": {"type": "object"}},
}
NAMES = sorted(METRICS)


def metric_of(name: str) -> Any:
    if name == "json_schema":
        pytest.importorskip("jsonschema")
    return metric_named(name, **SETTINGS.get(name, {}))


def mixed_rows() -> list[Answered]:
    """Answers of every kind; the last two have an error and no reference."""
    full = {"answer_tokens": 3, "seconds": 0.5, "loss": 1.5, "reference_tokens": 4}
    likely = {"options": ("a", "b"), "option_losses": (1.0, 2.0), "option_tokens": (1, 1)}
    return [
        row("a", "a", 1, **full, **likely),
        row("b", "a", 2, **full, **likely),
        row("#### 12 と言う", "#### 12", 3, **full),
        row('{"a": 1}', '{"a": 1, "b": 2}', 4, **full),
        row("太郎は本を読んだ。", "太郎は本を読みました。", 5, **full),
        row("", "failed", 6, finish_reason="error", error="HTTP 500"),
        row("no reference", "", 7),
    ]


# --- by name --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "meant"), [("rouge-l", "rouge_l"), ("exactmatch", "exact_match"), ("Chrf", "chrf")]
)
def test_an_unknown_name_is_told_the_nearest(asked: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        metric_named(asked)


def test_unknown_and_missing_settings_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        metric_named("similarity", modle="x")
    told = str(caught.value)
    assert "similarity.modle" in told and "did you mean 'model'" in told
    assert "similarity.embed" in told and len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("accuracy", {"by": "luck"}),
        ("accuracy", {"labels": "yes"}),
        ("choice", {"normalise": "words"}),
        ("number", {"tolerance": -1}),
        ("number", {"tolerance": math.nan}),
        ("rouge_l", {"units": "syllables"}),
        ("bleu", {"tokenize": "my-own"}),
        ("repetition", {"n": 0}),
        ("within_target", {}),
        ("within_target", {"target": 70}),
        ("within_target", {"minimum": 1, "target": 70, "tolerance": 5}),
        ("within_target", {"minimum": 5, "maximum": 4}),
        ("within_target", {"minimum": 5, "of": "words"}),
    ],
)
def test_values_that_cannot_be_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        metric_named(name, **options)


# --- laws of all metrics --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_it_says_who_it_is_and_its_details_are_json(name: str) -> None:
    metric = metric_of(name)
    rows = mixed_rows()
    assert metric.name == name and metric.title and metric.unit
    details = metric.details(rows)
    json.dumps(details, allow_nan=False)
    assert details["rows"] + details["errors"] + details["without_score"] == len(rows)
    assert details["errors"] == 1 and details["rows"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_row_changes_nothing(name: str) -> None:
    metric = metric_of(name)
    rows = mixed_rows()
    without = [r for r in rows if r.error is None]
    failed = rows[5]
    assert metric.score(failed) is None
    assert metric.value(rows) == metric.value(without)
    assert metric.value([failed]) is None


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_have_no_value(name: str) -> None:
    metric = metric_of(name)
    assert metric.value([]) is None
    details = metric.details([])
    json.dumps(details, allow_nan=False)
    assert details["rows"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_mean_is_the_mean_of_its_scores_and_sums_give_the_value(name: str) -> None:
    rows = mixed_rows()
    metric = fitted(metric_of(name), rows)
    value = metric.value(rows)
    assert value is not None
    if isinstance(metric, SumMetric):
        sums = metric.parts(rows).sum(axis=0)[None]
        assert metric.from_sums(sums)[0] == pytest.approx(value, rel=1e-12)
        return
    scores = [score for score in scores_of(metric, rows) if score is not None]
    assert value == pytest.approx(sum(scores) / len(scores))


def test_a_row_without_reference_is_left_out_and_counted() -> None:
    rows = [row("x", "x"), row("y", "  \n")]
    metric = metric_named("exact_match")
    assert metric.value(rows) == 1.0
    assert metric.details(rows) == {"rows": 1, "errors": 0, "without_score": 1}


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("ＡＢＣ　１２３！", "abc 123"),
        ("  Yes.\n", "yes"),
        ("ﾊﾟﾝです。", "パンです"),
        ("Straße", "strasse"),
        ("a \t\n b", "a b"),
        ("待って……", "待って"),
        ("3.5", "3.5"),
        ("。。。", ""),
    ],
)
def test_the_normal_form(text: str, plain: str) -> None:
    assert normalised(text) == plain
    assert normalised(normalised(text)) == plain


@pytest.mark.parametrize(
    ("texts", "script"),
    [
        (["太郎は本を読む。"], "japanese"),
        (["絵本", "写真集", "ひまわり"], "japanese"),
        (["GPU を 2 枚つなぐと memory bandwidth はどうなる？"], "japanese"),
        (["今天天气很好"], "chinese"),
        (["오늘은 날씨가 좋다"], "korean"),
        (["The word 日本 means Japan, and that is all."], "other"),
        (["123 !"], "other"),
        ([], "other"),
    ],
)
def test_the_script(texts: list[str], script: str) -> None:
    assert script_of(texts) == script


def test_words_of_both_languages() -> None:
    assert words("It's ＡＩ, don't_panic!") == ["it", "s", "ai", "don", "t", "panic"]
    assert characters("本、 Ab!") == ["本", "a", "b"]
    assert mecab_words("太郎は本を読んだ。") == ["太郎", "は", "本", "を", "読ん", "だ"]


# --- matches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "plain", "held"),
    [
        ("絵本", "絵本", 1, 1, 1),
        ("絵本\n", "絵本", 1, 1, 1),
        ("絵本。", "絵本", 0, 1, 1),
        ("ＹＥＳ", "yes", 0, 1, 1),
        ("それは絵本です", "絵本", 0, 0, 1),
        ("図鑑", "絵本", 0, 0, 0),
        ("", "絵本", 0, 0, 0),
    ],
)
def test_matches(answer: str, reference: str, exact: int, plain: int, held: int) -> None:
    one = row(answer, reference)
    scores = [metric_named(n).score(one) for n in ("exact_match", "normalised_match", "contains")]
    assert scores == [exact, plain, held]


def test_punctuation_is_in_everything_and_says_nothing() -> None:
    assert metric_named("contains").score(row("any", "。")) is None


# --- the room -------------------------------------------------------------------------------------


def test_nothing_heavy_is_loaded() -> None:
    heavy = ("torch", "transformers", "scipy", "sklearn", "sacrebleu", "matplotlib")
    code = (
        "import sys, tanren.evaluate.metrics, tanren.evaluate.statistics, tanren.evaluate.choose\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(TRAIN), "PATH": ""}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
