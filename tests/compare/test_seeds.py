from __future__ import annotations

import math

import pytest
from scipy import stats

from tanren.compare.seeds import constant, mean_over_seeds, paired, ratio


def test_the_interval_over_seeds_is_students() -> None:
    values = (0.62, 0.58, 0.71)
    found = mean_over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert found.mean == pytest.approx(sum(values) / 3)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.values == values


def test_seeds_without_a_value_keep_their_place_and_count_for_nothing() -> None:
    found = mean_over_seeds((1.0, None, 3.0))
    assert found.values == (1.0, None, 3.0)
    assert found.mean == 2.0
    assert found.high == pytest.approx(2 + stats.t.ppf(0.975, 1) * 1.0)


@pytest.mark.parametrize("values", [(1.0,), (1.0, None), (None,), ()])
def test_a_single_seed_has_no_interval(values: tuple[float | None, ...]) -> None:
    found = mean_over_seeds(values)
    assert found.low is None and found.high is None
    assert found.mean == (1.0 if 1.0 in values else None)


def test_pairs_of_seeds_are_tested_as_scipy_does() -> None:
    arm, reference = (1.2, 1.5, 1.1, 1.9), (1.0, 1.4, 1.05, 1.6)
    found, known = paired(arm, reference), stats.ttest_rel(arm, reference)
    ends = known.confidence_interval(0.95)
    assert found.p_value == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert (found.seeds, found.freedom) == (4, 3)


def test_only_seeds_that_both_have_are_paired() -> None:
    found = paired((1.0, None, 4.0), (0.0, 5.0, None))
    assert (found.difference, found.seeds, found.p_value, found.low) == (1.0, 1, None, None)
    assert paired((None,), (1.0,)).difference is None


def test_ratios_are_averaged_on_the_log_scale() -> None:
    found = ratio((2.0, 8.0), (1.0, 1.0))
    assert found is not None and found.mean == pytest.approx(4.0)
    half = stats.t.ppf(0.975, 1) * (math.log(8) - math.log(2)) / 2
    assert found.low is not None and math.log(found.low) == pytest.approx(math.log(4) - half)
    turned = ratio((1.0, 1.0), (2.0, 8.0))
    assert turned is not None and turned.high == pytest.approx(1 / found.low)
    assert ratio((0.0, None), (1.0, 1.0)) is None


def test_where_nothing_varies_only_the_signs_speak() -> None:
    assert constant(0.0, seeds=3).p_value == 1.0
    assert paired((2.0, 3.0, 4.0), (1.0, 2.0, 3.0)).p_value == 0.25
    assert constant(0.5, seeds=2, rows=10).p_value == pytest.approx(2 * 0.5**10)


def test_detectable_is_what_four_of_five_tries_show() -> None:
    """By simulation: a true difference of that size is shown in about 80% of tries."""
    import numpy as np

    random = np.random.default_rng(3)
    true = paired(tuple(random.normal(0, 1, 6)), (0.0,) * 6)
    # the detectable difference at a known standard error of 1 / sqrt(6)
    detectable = true.detectable / true.standard_error / 6**0.5  # type: ignore[operator]
    tries = random.normal(detectable, 1, (4000, 6))
    p = stats.ttest_1samp(tries, 0, axis=1).pvalue
    assert 0.76 < (p < 0.05).mean() < 0.86
