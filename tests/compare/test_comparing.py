from __future__ import annotations

from dataclasses import replace

import pytest
from compare.hand_made import DORA, LORA, LORA_PLUS, arm, compared, evaluation, run
from scipy import stats

from tanren.compare.analyse import ArmInput
from tanren.compare.comparing import SAME_EVERY_SEED
from tanren.compare.data import ArmComparison, Comparison
from tanren.evaluate.statistics import holm

RIGHT = {"lora": range(1, 101), "dora": range(1, 141)}


def of(found: Comparison, measure: str, arm: str) -> ArmComparison:
    comparison = found.comparison(measure, arm)
    assert comparison is not None
    return comparison


def test_a_loss_is_compared_by_seed_as_scipy_does() -> None:
    found = of(compared(arm("lora"), arm("dora", DORA, by=0.2)), "validation_loss", "dora")
    known = stats.ttest_rel((1.21, 1.32, 1.18), (1.0, 1.1, 0.95))
    assert found.p_value == pytest.approx(known.pvalue) == found.p_adjusted
    assert found.difference == pytest.approx(0.22)
    assert found.rows is None and found.seeds == 3 and found.shown
    assert found.sentence.startswith("worse by 0.22 nats, 95% ")
    assert "3 seeds, p = " in found.sentence and "corrected" not in found.sentence


def test_holm_corrects_the_main_measure_over_arms_and_the_rest_apart() -> None:
    found = compared(
        arm("lora"), arm("plus", LORA_PLUS, by=-0.01), arm("dora", DORA, by=0.2),
        arm("noise", {**LORA, "method.alpha": 1.0}, by=0.1),
    )  # fmt: skip
    main = [c for c in found.comparisons if c.measure == found.main]
    assert [c.p_adjusted for c in main] == holm([c.p_value for c in main])
    quality = [c for c in found.comparisons if c.measure == "validation_loss_equal_tokens"]
    assert [c.p_adjusted for c in quality] == holm([c.p_value for c in quality])
    costs = [c for c in found.comparisons if c.measure not in (found.main, quality[0].measure)]
    moved = [c for c in costs if c.difference]
    assert [c.p_adjusted for c in moved] == holm([c.p_value for c in moved])
    assert any(c.p_adjusted != c.p_value for c in main)
    assert all("corrected" in c.sentence for c in main if c.p_value is not None)


def test_the_interval_of_a_gain_is_turned_round_with_it() -> None:
    found = of(compared(arm("lora"), arm("plus", LORA_PLUS, by=-0.2)), "validation_loss", "plus")
    assert (found.low, found.high) == pytest.approx((-0.2448, -0.1952), abs=1e-3)
    assert found.sentence.startswith("better by 0.22 nats, 95% 0.195 to 0.245, 3 seeds, p = 0.0007")


def test_what_cannot_be_tested_costs_the_others_nothing() -> None:
    right = {s: range(1, 100 + s) for s in (1, 2, 3)}
    metrics = ("exact_match", "normalised_match", "empty", "stop_rate")
    evaluations = {
        "lora": evaluation("lora", right, 150, metrics),
        "dora": evaluation("dora", {s: range(1, 101 + 2 * s) for s in (1, 2, 3)}, 150, metrics),
    }
    found = compared(arm("lora"), arm("dora", DORA, by=0.2), evaluations=evaluations)
    empty, match = of(found, "empty", "dora"), of(found, "normalised_match", "dora")
    assert (empty.p_value, empty.p_adjusted, empty.shown) == (1.0, None, False)
    family = ("normalised_match", "validation_loss", "validation_loss_equal_tokens")
    ps = [of(found, name, "dora").p_value for name in family]
    assert match.p_adjusted == holm(ps)[0]


def test_what_is_shown_is_decided_after_the_correction() -> None:
    def maybe(name: str, rank: int) -> ArmInput:
        lasts = ((1, 1.1 + rank / 1e4), (2, 1.23), (3, 1.01))
        runs = tuple(run(name, s, (2.0, 1.5, 1.2, last), DORA) for s, last in lasts)
        return replace(arm(name, {**DORA, "method.rank": rank}), runs=runs)

    alone = of(compared(arm("lora"), maybe("a", 1)), "validation_loss", "a")
    assert alone.shown and alone.p_value is not None and 0.02 < alone.p_value < 0.05
    many = compared(arm("lora"), maybe("a", 1), maybe("b", 2), maybe("c", 3))
    found = of(many, "validation_loss", "a")
    assert found.p_value == alone.p_value and not found.shown


def test_costs_are_ratios() -> None:
    slow = replace(
        arm("dora", DORA, by=0.1),
        runs=tuple(
            run("dora", s, (1.0, 0.9), DORA, seconds=40.0 * (1.3 + 0.1 * s)) for s in (1, 2, 3)
        ),
    )
    found = of(compared(arm("lora"), slow), "train_seconds", "dora")
    assert found.ratio == pytest.approx(stats.gmean([1.4, 1.5, 1.6]))
    assert found.ratio_low is not None and found.ratio_high is not None
    assert found.ratio_low < 1.4 and found.ratio_high > 1.6
    assert found.shown and found.sentence.startswith("1.50 times, 95% ")


def test_what_follows_from_the_settings_needs_no_test() -> None:
    big = arm("dora", DORA, by=0.1, adapter_bytes=9000)
    found = compared(arm("lora"), big)
    size = of(found, "adapter_bytes", "dora")
    assert (size.shown, size.p_value, size.ratio) == (True, None, 1.125)
    assert size.test == SAME_EVERY_SEED and "the same in every seed" in size.sentence
    memory = of(found, "peak_memory_bytes", "dora")
    assert (memory.shown, memory.difference) == (False, 0)
    single = compared(arm("lora", seeds=(1,)), arm("dora", DORA, by=0.1, seeds=(1,),
                      adapter_bytes=9000), seeds=(1,))  # fmt: skip
    assert of(single, "adapter_bytes", "dora").shown


def test_one_seed_has_a_difference_and_says_that_there_is_no_interval() -> None:
    found = compared(arm("lora", seeds=(1,)), arm("dora", DORA, by=0.2, seeds=(1,)), seeds=(1,))
    loss = of(found, "validation_loss", "dora")
    assert loss.difference == pytest.approx(0.21)
    assert (loss.low, loss.p_value, loss.shown, loss.detectable) == (None, None, False, None)
    assert "1 seed: no interval" in loss.sentence


def test_one_seed_with_rows_speaks_of_rows_and_says_so() -> None:
    evaluations = {name: evaluation(name, {1: right}, 200) for name, right in RIGHT.items()}
    found = compared(arm("lora", seeds=(1,)), arm("dora", DORA, by=0.2, seeds=(1,)), seeds=(1,),
                     evaluations=evaluations)  # fmt: skip
    score = of(found, "exact_match", "dora")
    assert score.test == "McNemar" and score.shown and score.rows == 200
    assert score.difference == pytest.approx(0.2)
    assert score.sentence.startswith("better by 20.0 points, 95% ")
    assert "1 seed x 200 rows" in score.sentence
    assert "other seeds would give is not covered" in score.sentence


def test_seeds_and_rows_at_once() -> None:
    evaluations = {
        "lora": evaluation("lora", {s: range(1, 95 + 5 * s) for s in (1, 2, 3)}, 200),
        "dora": evaluation("dora", {s: range(1, 136 + 4 * s) for s in (1, 2, 3)}, 200),
    }
    found = compared(arm("lora"), arm("dora", DORA, by=0.2), evaluations=evaluations)
    score = of(found, "exact_match", "dora")
    assert (score.seeds, score.rows) == (3, 200)
    assert score.difference == pytest.approx((144 - 105 + 0.0) / 200, abs=0.01)
    assert score.low is not None and score.detectable is not None and score.shown
    assert "3 seeds x 200 rows" in score.sentence and "covered" not in score.sentence


def test_no_difference_says_what_would_have_been_shown() -> None:
    found = compared(arm("lora"), replace(arm("dora", DORA), runs=tuple(
        run("dora", s, (2.0, 1.5, 1.2, last), DORA)
        for s, last in ((1, 1.02), (2, 1.08), (3, 0.97))
    )))  # fmt: skip
    loss = of(found, "validation_loss", "dora")
    assert not loss.shown and loss.detectable is not None
    start = f"no difference that 3 seeds could show (they would show {loss.detectable:.3g} nats); "
    assert loss.sentence.startswith(start + "measured +0.00667 nats, 95% −")


def test_every_other_arm_is_compared_and_the_reference_is_not() -> None:
    found = compared(arm("lora"), arm("dora", DORA, by=0.2), arm("plus", LORA_PLUS, by=0.1))
    assert {c.arm for c in found.comparisons} == {"dora", "plus"}
    assert {c.reference for c in found.comparisons} == {"lora"}
    assert all(c.sentence for c in found.comparisons)
