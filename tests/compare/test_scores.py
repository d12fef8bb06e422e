from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from compare.hand_made import evaluation
from evaluate.planted import answered, evaluated
from scipy import stats

from tanren.compare.crossed import TEST
from tanren.compare.scores import (
    CorpusScores,
    MeanScores,
    compared_rows,
    metric_scores,
    model_name,
    pseudo_values,
)
from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import metric_named
from tanren.evaluate.report.data import Evaluation

WORDS = ("the cat sat on the mat", "a dog ran over the hill", "two birds sing in the tree", "rain")


def texts(random: np.random.Generator, rows: int, share: float) -> tuple[list[str], list[str]]:
    """References, and answers of which a share of the words is right."""
    references = [WORDS[i % 4] + f" {i}" for i in range(rows)]
    answers = [
        " ".join(word if random.random() < share else "x" for word in text.split())
        for text in references
    ]
    return references, answers


def both(rows: int, shares: Sequence[float], metrics: Sequence[str]) -> dict[str, Evaluation]:
    random = np.random.default_rng(0)
    found = {}
    for arm, share in zip(("lora", "dora"), shares, strict=True):
        models = {"base": answered(*texts(random, rows, 0.1))}
        models |= {
            model_name(arm, seed): answered(*texts(random, rows, share)) for seed in (1, 2, 3)
        }
        found[arm] = evaluated(models, metrics)
    return found


@pytest.mark.parametrize("name", ["bleu", "chrf", "macro_f1", "loss"])
def test_pseudo_values_have_the_metrics_value_as_their_mean(name: str) -> None:
    random = np.random.default_rng(1)
    rows = [
        replace(row, loss=float(random.random()), reference_tokens=int(random.integers(1, 30)))
        for row in answered(*texts(random, 12, 0.7))
    ]
    metric = metric_named(name)
    value = metric.value(rows)
    assert value is not None and value > 0
    assert pseudo_values(metric, rows).mean() == pytest.approx(value)


def test_of_a_mean_they_are_the_scores_themselves() -> None:
    """The token-weighted loss of rows of equal length is a mean."""
    losses = [0.5, 2.0, 1.0, 4.0]
    rows = [
        replace(row, loss=loss, reference_tokens=7)
        for row, loss in zip(answered(["a"] * 4, ["a"] * 4), losses, strict=True)
    ]
    assert pseudo_values(metric_named("loss"), rows) == pytest.approx(losses)


def test_they_scatter_as_the_value_does() -> None:
    """Against drawing new rows again and again: the jackknife's standard error of BLEU is right."""
    random = np.random.default_rng(2)
    metric = metric_named("bleu")
    errors, values = [], []
    for _ in range(60):
        rows = answered(*texts(random, 40, 0.8))
        pseudo = pseudo_values(metric, rows)
        errors.append(pseudo.std(ddof=1) / 40**0.5)
        values.append(metric.value(rows) or 0.0)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.3)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("exact_match", MeanScores), ("rouge_l", MeanScores), ("bleu", CorpusScores)],
)
def test_the_numbers_tell_which_metric_is_a_mean(name: str, kind: type) -> None:
    found = metric_scores(name, both(9, (0.7, 0.9), (name,)), (1, 2, 3))
    assert type(found) is kind


def test_a_value_that_cannot_be_made_anew_is_paired_by_seeds_alone() -> None:
    evaluations = both(9, (0.7, 0.9), ("bleu",))
    one = evaluations["dora"]
    odd = {
        key: replace(value, value=(value.value or 0) + 5)
        for key, value in one.metrics[0].values.items()
    }
    metric = replace(one.metrics[0], values=odd)
    changed = {**evaluations, "dora": replace(one, metrics=(metric,))}
    assert metric_scores("bleu", changed, (1, 2, 3)) is None
    named = {
        arm: replace(one, metrics=(replace(one.metrics[0], name="arc_easy"),))
        for arm, one in evaluations.items()
    }
    assert metric_scores("arc_easy", named, (1, 2, 3)) is None


def test_a_corpus_metric_is_compared_by_its_own_value() -> None:
    evaluations = both(30, (0.6, 0.9), ("bleu",))
    scores = metric_scores("bleu", evaluations, (1, 2, 3))
    assert scores is not None
    found = compared_rows(scores, "dora", "lora", (1, 2, 3))
    assert found is not None and found.test == TEST and found.rows == 30
    values = {
        arm: np.mean([one.metrics[0].values[model_name(arm, s)].value for s in (1, 2, 3)])
        for arm, one in evaluations.items()
    }
    assert found.difference == pytest.approx(values["dora"] - values["lora"])
    assert found.p_value is not None and found.p_value < 0.05


def test_rows_that_any_side_lacks_are_left_out_and_counted() -> None:
    cells = {
        "a": {1: {1: 1.0, 2: 0.0, 3: 1.0, 4: 1.0}, 2: {1: 1.0, 2: 1.0, 3: 0.5}},
        "b": {1: {2: 1.0, 3: 0.0, 9: 1.0}, 2: {2: 0.0, 3: 0.0, 4: 1.0}, 3: {1: 1.0}},
    }
    found = compared_rows(MeanScores(cells), "a", "b", (1, 2, 3))
    assert found is not None
    assert (found.rows, found.left_out, found.seeds) == (2, 3, 2)
    assert found.difference == pytest.approx(np.mean([-1.0, 1.0, 1.0, 0.5]))
    nothing = MeanScores({"a": {1: {1: 1.0}}, "b": {1: {2: 1.0}}})
    apart = compared_rows(nothing, "a", "b", (1,))
    assert apart is not None and apart.difference is None and apart.left_out == 2
    assert compared_rows(nothing, "a", "b", (2,)) is None


def test_rows_with_an_error_are_no_rows() -> None:
    one = evaluation("lora", {1: [1, 2]}, 4)
    name = model_name("lora", 1)
    rows: tuple[Answered, ...] = (
        replace(one.answers[name][0], error="cut"),
        *one.answers[name][1:],
    )
    broken = replace(one, answers={**one.answers, name: rows})
    values = {name: replace(one.metrics[0].values[name], value=1 / 3)}
    broken = replace(broken, metrics=(replace(one.metrics[0], values=values),))
    scores = metric_scores("exact_match", {"lora": broken}, (1,))
    assert scores is not None and scores.rows("lora", 1) == {2, 3, 4}


def test_one_seed_of_right_and_wrong_is_mcnemars() -> None:
    a = {row: float(row <= 12) for row in range(1, 21)}
    b = {row: float(row <= 3) for row in range(1, 21)}
    found = compared_rows(MeanScores({"a": {5: a}, "b": {5: b}}), "a", "b", (5,))
    assert found is not None and found.test == "McNemar"
    assert found.p_value == pytest.approx(stats.binomtest(9, 9, 0.5).pvalue)
