"""Seeds and rows at once: what the interval covers, and how often it alarms for nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tanren.compare.crossed import ROWS_ONLY, crossed, one_seed_binary
from tanren.compare.seeds import Effect
from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import metric_named
from tanren.evaluate.statistics import compare


def drawn(
    random: np.random.Generator, seeds: int, rows: int, seed_sd: float, true: float = 0.0
) -> np.ndarray:
    """Differences of scores: seeds and rows scatter, and so does what is left."""
    by_seed = random.normal(0, seed_sd, (seeds, 1))
    by_row = random.normal(0, 0.3, (1, rows))
    return true + by_seed + by_row + random.normal(0, 0.45, (seeds, rows))  # type: ignore[no-any-return]


def test_variance_and_freedom_by_hand() -> None:
    """Mean squares of a 3 x 4 table computed in another way: by least squares."""
    d = drawn(np.random.default_rng(5), 3, 4, 1.0)
    seeds, rows = d.shape
    design = [[1.0, *(s == i for i in range(2)), *(r == j for j in range(3))]
              for s in range(seeds) for r in range(rows)]  # fmt: skip
    y = d.ravel()

    def residual(columns: list[int]) -> float:
        x = np.array(design, float)[:, columns]
        return float(((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum())

    full = residual([0, 1, 2, 3, 4, 5])
    ms_seed = (residual([0, 3, 4, 5]) - full) / 2
    ms_row = (residual([0, 1, 2]) - full) / 3
    ms_rest = full / 6
    assert ms_seed > ms_rest and ms_row > ms_rest, "no guard is at work here"
    total = ms_seed + ms_row - ms_rest
    found = crossed(d)
    assert found.standard_error == pytest.approx((total / 12) ** 0.5)
    freedom = total**2 / (ms_seed**2 / 2 + ms_row**2 / 3 + ms_rest**2 / 6)
    assert found.freedom == pytest.approx(max(freedom, 2))
    t = stats.t.ppf(0.975, found.freedom)
    assert found.high == pytest.approx(d.mean() + t * found.standard_error)
    assert found.p_value == pytest.approx(
        2 * stats.t.sf(abs(d.mean()) / found.standard_error, found.freedom)
    )


def test_a_negative_component_counts_as_none() -> None:
    """Seeds that agree better than chance: the variance is that of rows, not less."""
    random = np.random.default_rng(1)
    rest = random.normal(0, 1, (3, 60))
    d = random.normal(0, 0.5, (1, 60)) + rest - rest.mean(axis=1, keepdims=True)  # MS_seed = 0
    ms_row = 3 * d.mean(axis=0).var(ddof=1)
    found = crossed(d)
    assert found.standard_error == pytest.approx((ms_row / 180) ** 0.5)
    flat = d - d.mean(axis=0, keepdims=True) + np.array([[0.0], [1.0], [2.0]])  # MS_row = 0
    assert crossed(flat).standard_error == pytest.approx((60 * 1.0 / 180) ** 0.5)


def test_one_seed_is_a_paired_t_over_rows() -> None:
    d = drawn(np.random.default_rng(2), 1, 40, 0.0)
    known = stats.ttest_1samp(d[0], 0)
    found = crossed(d)
    assert found.p_value == pytest.approx(known.pvalue)
    assert found.low == pytest.approx(known.confidence_interval(0.95).low)
    assert (found.test, found.seeds, found.rows) == (ROWS_ONLY, 1, 40)


def test_one_row_is_a_paired_t_over_seeds() -> None:
    d = np.array([[0.3], [0.5], [0.1]])
    assert crossed(d).p_value == pytest.approx(stats.ttest_1samp(d[:, 0], 0).pvalue)


def test_rows_that_all_say_the_same() -> None:
    assert crossed(np.zeros((3, 20))) == Effect(
        0.0, 0.0, 0.0, 1.0, "sign", 0.0, None, seeds=3, rows=20
    )
    assert crossed(np.ones((3, 20))).p_value == pytest.approx(2 * 0.5**20)
    assert crossed(np.array([[0.5]])).p_value is None


def test_order_of_seeds_and_rows_does_not_matter() -> None:
    random = np.random.default_rng(8)
    d = drawn(random, 4, 30, 0.1)
    mixed = d[random.permutation(4)][:, random.permutation(30)]
    one, other = crossed(d), crossed(mixed)
    assert (one.p_value, one.low) == pytest.approx((other.p_value, other.low))


def test_right_and_wrong_of_one_seed_are_tested_as_tanren_eval_does() -> None:
    random = np.random.default_rng(4)
    before = (random.random(60) < 0.4).astype(float)
    after = np.where(random.random(60) < 0.3, 1.0, before)

    def rows(right: np.ndarray) -> list[Answered]:
        return [Answered(i, (), "x", "x" if one else "y", "stop") for i, one in enumerate(right, 1)]

    known = compare(rows(before), rows(after), metric_named("exact_match"))
    found = one_seed_binary(after, before)
    assert known.test == found.test == "McNemar"
    assert found.p_value == pytest.approx(known.p)
    assert found.difference == pytest.approx(known.difference)
    assert found.low is not None and found.high is not None and known.interval is not None
    assert found.low == pytest.approx(known.interval.low, abs=0.03)  # Newcombe beside a bootstrap
    assert found.high == pytest.approx(known.interval.high, abs=0.03)
    assert found.detectable == pytest.approx(known.detectable, rel=0.15)


# --- what it promises -----------------------------------------------------------------------------

CASES = [(s, r) for s in (1, 2, 3, 5) for r in (50, 300)]


def coverage(seeds: int, rows: int, tries: int, seed_sd: float) -> tuple[float, float]:
    """Shares of tries: the interval holds the true 0.4; rows alone, seeds ignored, hold it. With a
    single seed the seed's own mean is what is asked for.
    """
    random = np.random.default_rng(seeds * 1000 + rows)
    held = naive = 0
    for _ in range(tries):
        d = drawn(random, seeds, rows, 0.0 if seeds == 1 else seed_sd, 0.4)
        found = crossed(d)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.4 <= found.high
        ignoring = crossed(d.mean(axis=0, keepdims=True))
        assert ignoring.low is not None and ignoring.high is not None
        naive += ignoring.low <= 0.4 <= ignoring.high
    return held / tries, naive / tries


def within(share: float, seeds: int, slack: float) -> bool:
    """Two seeds are held to the lower bound alone: see `crossed._of_mean`."""
    return 0.92 - slack <= share <= (1.0 if seeds == 2 else 0.98 + slack)


@pytest.mark.parametrize(("seeds", "rows"), CASES)
def test_the_interval_holds_the_truth_about_as_often_as_it_says(seeds: int, rows: int) -> None:
    held, naive = coverage(seeds, rows, 250, 0.08)
    assert within(held, seeds, slack=0.03), held
    if seeds > 1 and rows == 300:
        assert naive < 0.75, "ignoring seeds would do as well: the method is not needed"


@pytest.mark.slow
@pytest.mark.parametrize("seed_sd", [0.0, 0.03, 0.08, 0.2])
@pytest.mark.parametrize(("seeds", "rows"), CASES)
def test_coverage_whatever_share_seeds_have(seeds: int, rows: int, seed_sd: float) -> None:
    held, naive = coverage(seeds, rows, 3000, seed_sd)
    assert within(held, seeds, slack=0.012), held
    if seeds > 1 and seed_sd >= 0.08:
        assert naive < 0.85


def test_false_alarms_are_one_in_twenty() -> None:
    random = np.random.default_rng(9)
    for seeds in (3, 5):
        ps = [crossed(drawn(random, seeds, 100, 0.05)).p_value for _ in range(600)]
        assert 0.02 < float(np.mean(np.array(ps) < 0.05)) < 0.085
