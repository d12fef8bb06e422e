"""Differences, intervals and tests against published and hand-computed values, and as
laws on simulated data.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tanren.errors import DataError
from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import Metric, RowMetric, metric_named
from tanren.evaluate.pairs import Pairs
from tanren.evaluate.resampling import mcnemar_p, newcombe, wilson
from tanren.evaluate.statistics import (
    adjusted,
    compare,
    holm,
    interval_of,
)


def row(number: int, answer: str, reference: str = "x", **facts: Any) -> Answered:
    facts.setdefault("finish_reason", "stop")
    return Answered(number, (), reference, answer, **facts)


@dataclass(frozen=True)
class Told(RowMetric):
    """The number that the answer says."""

    higher_is_better: bool | None = True
    unit: str = "points"
    name = "told"
    title = "Told"

    def measure(self, row: Answered) -> float | None:
        return float(row.answer) if row.answer else None


@dataclass(frozen=True)
class MedianLength:
    """A metric that is neither a mean nor a formula over sums, and has no base class."""

    name: str = "median"
    title: str = "Median length"
    higher_is_better: bool | None = None
    unit: str = "characters"

    def score(self, row: Answered) -> float | None:
        return float(len(row.answer))

    def value(self, rows: Sequence[Answered]) -> float | None:
        return float(np.median([len(row.answer) for row in rows])) if rows else None

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        return {}


def told(values: Sequence[float | str]) -> list[Answered]:
    return [row(i, str(value)) for i, value in enumerate(values, 1)]


def right(flags: Sequence[int]) -> list[Answered]:
    return [row(i, "x" if flag else "y") for i, flag in enumerate(flags, 1)]


EXACT = metric_named("exact_match")

# Darwin's maize (1876), crossed minus self-fertilised, in eighths of an inch.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


# --- the difference and its tests -----------------------------------------------------------------


def test_fishers_permutation_test_of_darwins_maize() -> None:
    """Fisher 1935, section 21: 1726 of 32768 exchanges give a sum as large as the observed one."""
    found = compare(told([0] * 15), told(DARWIN), Told(), resamples=40_000)
    assert found.p == 1726 / 32768 and found.test == "permutation"
    assert found.difference == pytest.approx(314 / 15)
    assert (found.wins, found.losses, found.ties) == (13, 2, 0)
    random = compare(told([0] * 15), told(DARWIN), Told(), resamples=20_000)
    assert random.p == pytest.approx(1726 / 32768, abs=0.006)


def test_mcnemar_by_hand() -> None:
    """10 gained, 2 lost: two tails of 1 + 12 + 66 of 4096."""
    assert mcnemar_p(10, 2) == pytest.approx(2 * 79 / 4096)
    assert mcnemar_p(0, 0) == 1 and mcnemar_p(3, 3) == 1
    before = right([0] * 10 + [1] * 2 + [1] * 20)
    after = right([1] * 10 + [0] * 2 + [1] * 20)
    found = compare(before, after, EXACT)
    assert found.test == "McNemar" and found.p == pytest.approx(2 * 79 / 4096)
    assert (found.wins, found.losses, found.ties) == (10, 2, 20)
    assert found.difference == pytest.approx(8 / 32)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_the_interval_is_scipys(method: str) -> None:
    found = compare(told([0] * 15), told(DARWIN), Told(), method=method, seed=3)
    theirs = stats.bootstrap(
        (np.array(DARWIN),), np.mean, method="BCa" if method == "bca" else "percentile",
        n_resamples=10_000, rng=np.random.default_rng(3), batch=10_000,
    ).confidence_interval  # fmt: skip
    assert found.interval is not None and found.interval.method == method
    assert found.interval.low == pytest.approx(theirs.low)
    assert found.interval.high == pytest.approx(theirs.high)


def test_the_same_seed_gives_the_same_answer() -> None:
    sides = told(range(30)), told([3, 1, 4, 1, 5, 9, 2, 6, 5, 3] * 3)
    first, again, other = (compare(*sides, Told(), seed=seed) for seed in (1, 1, 2))
    assert first == again and first.interval != other.interval


def test_a_corpus_metric_is_resampled_as_rows() -> None:
    """Drawn rows, put together as texts, must have the value that the sums say they have."""
    draw = np.random.default_rng(0)
    references = [f"the {a} saw a {b}" for a in ("dog", "cat", "man") for b in ("bird", "tree")]
    before = [row(i, "a dog saw the bird", r) for i, r in enumerate(references)]
    after = [row(i, r.replace("saw", "sees"), r) for i, r in enumerate(references)]
    for name in ("bleu", "chrf", "macro_f1"):
        metric = metric_named(name)
        pairs = Pairs.of(metric, before, after, [(0.0, 1.0)] * 6)
        index = draw.integers(0, 6, size=(5, 6))
        expected = [
            (metric.value([after[i] for i in line]) or 0)
            - (metric.value([before[i] for i in line]) or 0)
            for line in index
        ]
        if name != "macro_f1":  # whose labels are those of all rows
            assert pairs._resampled(index) == pytest.approx(expected)
        found = compare(before, after, metric)
        assert found.interval is not None and found.difference is not None
        assert found.interval.low <= found.difference <= found.interval.high
        assert found.test == "permutation"


def test_exchanging_every_row_turns_the_difference_round() -> None:
    before = [row(i, a, "a b c d e") for i, a in enumerate(("a b", "c d e", "x", "a b c d e"))]
    after = [row(i, a, "a b c d e") for i, a in enumerate(("a b c", "c d", "e", "a b c d"))]
    for metric in (metric_named("chrf"), metric_named("rouge_1"), MedianLength()):
        pairs = Pairs.of(metric, before, after, [(0.1, 0.2), (0.5, 0.3), (0, 1), (1, 0.2)])
        rows = pairs._differing()
        swaps = np.array([[False] * len(rows), [True] * len(rows)])
        same, turned = pairs._exchange(rows)(swaps)
        assert turned == pytest.approx(-same)
        assert len(rows) == 4


def test_a_metric_without_base_class_works_too() -> None:
    before = [row(i, "a" * (i % 5 + 1)) for i in range(20)]
    after = [row(i, "a" * (i % 5 + 4)) for i in range(20)]
    found = compare(before, after, MedianLength())
    assert found.difference == 3 and found.shown and found.interval is not None
    assert found.sentence.startswith("higher by 3 characters, 95% ")


# --- rows that are left out -----------------------------------------------------------------------


def test_rows_that_failed_or_say_nothing_are_left_out_of_both_sides_and_counted() -> None:
    before = told([1, 2, "", 4, 5])
    after = told([3, 3, 3, 3])
    before[1] = row(2, "", finish_reason="error", error="timeout")
    found = compare(before, after, Told())
    assert (found.rows, found.errors, found.without_score, found.unmatched) == (2, 1, 1, 1)
    assert found.before == 2.5 and found.after == 3
    assert found.sentence.endswith(
        "left out: 1 without an answer, 1 without a score, 1 on one side only"
    )


def test_rows_are_matched_by_number_and_not_by_place() -> None:
    before = told([1, 2, 3, 9])
    assert compare(before, before[::-1], Told()).difference == 0


def test_two_different_files_are_no_pair() -> None:
    with pytest.raises(DataError, match="row 2"):
        compare([row(1, "1"), row(2, "1")], [row(1, "1"), row(2, "1", "another")], Told())
    with pytest.raises(DataError, match="two answers"):
        compare([row(1, "1"), row(1, "2")], [row(1, "1")], Told())


def test_thousands_of_faults_are_not_all_told() -> None:
    before, after = ([row(i, "1", f"{side}") for i in range(500)] for side in "ab")
    with pytest.raises(DataError, match="500 rows") as caught:
        compare(before, after, Told())
    assert len(caught.value.faults) == 10


def test_nothing_to_compare() -> None:
    found = compare([], [], Told())
    assert found.sentence == "nothing to compare: no row has a score on both sides"
    assert found.p is None and found.interval is None and not found.shown
    one = compare(told([1]), told([2]), Told())
    assert one.interval is None and one.detectable is None and not one.shown
    assert one.sentence.startswith("no difference that 1 row could show; measured +1.0 points")


def test_no_change_is_no_certainty() -> None:
    """Ten rows that all stayed as they were do not prove that the difference is zero."""
    found = compare(right([1, 0] * 5), right([1, 0] * 5), EXACT)
    assert found.p == 1 and found.difference == 0
    assert found.interval is not None and found.interval.method == "newcombe"
    assert found.interval.low < 0 < found.interval.high
    assert found.sentence == (
        "no difference that 10 rows could show (they would show 79.1 points); "
        f"none of them changed, 95% −{-100 * found.interval.low:.1f} to "
        f"{100 * found.interval.high:.1f}, p = 1.00"
    )


@pytest.mark.parametrize("rows", [20, 50, 400])
def test_what_would_show_is_never_less_than_the_exact_test_can(rows: int) -> None:
    """Where nothing changed, the named difference in one direction shows in four of five tries."""
    size = compare(right([1] * rows), right([1] * rows), EXACT).detectable
    assert size is not None
    shown = sum(
        stats.binom.pmf(lost, rows, size) for lost in range(rows + 1) if mcnemar_p(0, lost) < 0.05
    )
    assert 0.8 <= shown <= 0.87


def test_five_rows_can_show_nothing() -> None:
    found = compare(right([0] * 5), right([1] * 5), EXACT)
    assert found.p == 0.0625 and found.detectable is None
    assert compare(right([0] * 6), right([1] * 6), EXACT).shown


def test_the_rows_that_changed_most_come_first() -> None:
    found = compare(told([0, 0, 0, 0]), told([1, -5, 0, 3]), Told(), most_changed=2)
    assert [(c.row, c.after) for c in found.changed] == [(2, -5.0), (4, 3.0)]


# --- in words -------------------------------------------------------------------------------------


def test_better_in_words() -> None:
    found = compare(right([0] * 40 + [1] * 60), right([1] * 20 + [0] * 20 + [1] * 60), EXACT)
    assert found.shown and found.interval is not None
    low, high = 100 * found.interval.low, 100 * found.interval.high
    assert found.sentence == (
        f"better by 20.0 points, 95% {low:.1f} to {high:.1f}, 100 rows, p < 0.0001"
    )


def test_worse_says_the_size_of_the_loss() -> None:
    found = compare(right([1] * 20), right([0] * 12 + [1] * 8), EXACT)
    assert found.sentence.startswith("worse by 60.0 points, 95% ")
    assert "−" not in found.sentence and found.sentence.endswith("20 rows, p = 0.0005")


def test_lower_is_better_where_it_is() -> None:
    down = told([1.0 + i / 100 for i in range(20)]), told([0.5] * 20)
    better = compare(*down, Told(higher_is_better=False, unit="nats"))
    assert better.sentence.startswith("better by 0.595 nats") and better.wins == 20
    lower = compare(*down, Told(higher_is_better=None, unit="characters"))
    assert lower.sentence.startswith("lower by 0.595 characters") and lower.losses == 20


def test_no_difference_shown_says_what_would_have_been() -> None:
    flags = [0, 1] * 100
    found = compare(right(flags), right([1, 0, *flags[2:-1], 0]), EXACT)
    assert not found.shown and found.detectable is not None
    assert found.sentence.startswith(
        "no difference that 200 rows could show "
        f"(they would show {100 * found.detectable:.1f} points); measured −0.5 points, 95% "
    )


def test_it_is_json() -> None:
    found = compare(told([1, 2, 3]), told([2, 2, 5]), Told()).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False))["sentence"] == found["sentence"]


# --- laws on simulated data -----------------------------------------------------------------------


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Skewed differences (exponential, mean 1), 60 rows, 300 experiments."""
    draw = np.random.default_rng(7)
    covered = 0
    for seed in range(300):
        after = told(draw.exponential(1.0, 60).tolist())
        found = compare(told([0] * 60), after, Told(), resamples=600, seed=seed).interval
        assert found is not None
        covered += found.low <= 1.0 <= found.high
    assert 0.90 <= covered / 300 <= 0.98


def test_p_is_uniform_where_nothing_changed() -> None:
    draw = np.random.default_rng(8)
    found = []
    for seed in range(400):
        before, after = draw.normal(size=(2, 20)).tolist()
        found.append(compare(told(before), told(after), Told(), resamples=500, seed=seed).p)
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_the_detectable_difference_shows_in_four_of_five_tries() -> None:
    draw = np.random.default_rng(9)
    zeros, values = told([0] * 50), draw.normal(size=50)
    size = compare(zeros, told(values.tolist()), Told()).detectable
    factor = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert size == pytest.approx(factor * values.std() / math.sqrt(50), rel=0.03)
    truth = factor / math.sqrt(50)
    shown = [
        compare(zeros, told((draw.normal(size=50) + truth).tolist()), Told(), resamples=400).shown
        for _ in range(200)
    ]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.08)


def test_newcombes_interval_as_published() -> None:
    """Fagerland, Lydersen and Laake 2017, "Statistical Analysis of Contingency Tables", chapter 8:
    complete response before and after consolidation, 59, 6, 16, 80.
    """
    found = newcombe(59, 6, 16, 80, 0.95)
    assert (found.low, found.high) == pytest.approx((0.0046, 0.1186), abs=5e-5)


def test_newcombes_interval_covers_paired_shares() -> None:
    """Exactly, over all tables of 12 rows: 95% within what so few rows allow."""
    rows, cells = 12, (0.4, 0.1, 0.3, 0.2)  # both, lost, gained, neither
    covered = 0.0
    for both, lost, gained in itertools.product(range(rows + 1), repeat=3):
        if (neither := rows - both - lost - gained) < 0:
            continue
        found = newcombe(both, lost, gained, neither, 0.95)
        assert found.low - 1e-9 <= (gained - lost) / rows <= found.high + 1e-9
        chance = stats.multinomial.pmf((both, lost, gained, neither), rows, cells)
        covered += chance * (found.low <= cells[2] - cells[1] <= found.high)
    assert 0.93 <= covered <= 0.99


# --- one model alone ------------------------------------------------------------------------------


def test_wilson_of_newcombes_paper() -> None:
    """Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    published = {
        (81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718),
    }  # fmt: skip
    for (count, rows), ends in published.items():
        found = wilson(count, rows, 0.95)
        assert (found.low, found.high) == pytest.approx(ends, abs=5e-5)


def test_one_models_interval() -> None:
    share = interval_of(right([1] * 8 + [0] * 2), EXACT)
    assert share == wilson(8, 10, 0.95)
    mean = interval_of(told(DARWIN), Told())
    assert mean is not None and mean.method == "bca" and mean.low < 314 / 15 < mean.high
    rows = [row(i, a, r) for i, (a, r) in enumerate(zip("abcabcabca", "abcbbcabcc", strict=True))]
    f1 = interval_of(rows, metric_named("macro_f1"))
    assert f1 is not None and 0 < f1.low < 0.8 < f1.high <= 1
    assert interval_of([], EXACT) is None and interval_of(told([1]), Told()) is None
    slow = interval_of([row(i, "a" * i) for i in range(20)], MedianLength())
    assert slow is not None and slow.low < 9.5 < slow.high
    same = interval_of(told([4, 4, 4]), Told())
    assert same is not None and (same.low, same.high, same.method) == (4, 4, "constant")


# --- several comparisons --------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_a_correction_can_take_a_difference_back() -> None:
    barely = compare(right([0] * 7 + [1]), right([1] * 7 + [0]), EXACT)  # p = 0.07
    clear = compare(right([0] * 6), right([1] * 6), EXACT)  # p = 0.031
    assert clear.shown
    corrected = adjusted([clear, barely])
    assert corrected[0].p_adjusted == pytest.approx(0.0625) and not corrected[0].shown
    assert "(corrected for several comparisons)" in corrected[0].sentence


def test_the_metric_shape_is_enough() -> None:
    shape: Metric = MedianLength()
    assert shape.value([row(1, "ab")]) == 2
