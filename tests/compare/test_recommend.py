from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from compare.hand_made import DORA, LORA, LORA_PLUS, arm, compared, evaluation, failed, run

from tanren.compare.analyse import ArmInput
from tanren.compare.data import Comparison, Recommendation, Served


def chosen(found: Comparison) -> Recommendation:
    assert found.recommendation is not None
    return found.recommendation


def noisy(name: str, settings: Any, by: float, **changes: Any) -> ArmInput:
    """Its difference from the curves changes sign from seed to seed unless `by` is large."""
    wobble = {1: 0.03, 2: -0.03, 3: 0.01}
    last = {1: 1.0, 2: 1.1, 3: 0.95}
    runs = tuple(
        run(name, s, (2.0, 1.5, last[s] + by + wobble[s]), settings, **changes) for s in (1, 2, 3)
    )
    return replace(arm(name, settings), runs=runs)


def test_the_cheapest_of_those_not_shown_to_be_worse() -> None:
    small = noisy("small", DORA, 0.01, peak_memory_bytes=500_000)
    tiny = noisy("tiny", LORA_PLUS, 2.0, peak_memory_bytes=100_000)
    found = chosen(compared(arm("lora"), small, tiny))
    assert found.arm == "small" and found.config == "# small\n"
    text = " ".join(found.reasons)
    assert "not shown to be worse than lora" in text
    assert "Worse than lora, each test by itself: tiny in Validation loss (p = " in text
    assert "Its memory is 0.50 of lora's" in text


def test_a_cost_that_differs_by_chance_alone_does_not_win() -> None:
    """A tenth less time in the mean, but with runs that scatter by a half."""
    scatter = {1: 60.0, 2: 20.0, 3: 28.0}
    quick = noisy("quick", DORA, 0.02)
    runs = tuple(replace(one, train_seconds=scatter[one.seed]) for one in quick.runs)
    assert sum(scatter.values()) / 3 < 40.0 * 0.95
    assert chosen(compared(arm("lora"), replace(quick, runs=runs))).arm == "lora"


def test_what_is_worse_by_itself_is_set_aside_though_not_shown_after_the_correction() -> None:
    """Cheap, and nearly told apart: among several arms a false all-clear would be the mistake."""
    wobble = {1: 0.20, 2: 0.35, 3: 0.24}
    last = {1: 1.0, 2: 1.1, 3: 0.95}
    runs = tuple(
        run("cheap", s, (2.0, 1.5, last[s] + wobble[s]), DORA, peak_memory_bytes=100_000)
        for s in (1, 2, 3)
    )
    cheap = replace(arm("cheap", DORA), runs=runs)
    others = [noisy(name, LORA_PLUS, 0.01) for name in "abcd"]
    found = compared(arm("lora"), cheap, *others)
    pair = found.comparison("validation_loss", "cheap")
    assert pair is not None and pair.p_value is not None and pair.p_value < 0.05
    assert not pair.shown
    assert chosen(found).arm != "cheap"
    assert any("by itself" in told and "cheap" in told for told in found.sentences)


def test_the_test_is_against_the_best_and_not_against_the_reference() -> None:
    """Nothing tells `cheap` from the reference, but the best arm is clearly better than both."""
    cheap = noisy("cheap", DORA, 0.0, peak_memory_bytes=100_000)
    best = arm("best", LORA_PLUS, by=-0.5)
    found = compared(arm("lora"), cheap, best)
    against_reference = found.comparison("validation_loss", "cheap")
    assert against_reference is not None and not against_reference.shown
    assert chosen(found).arm == "best"


def test_memory_comes_before_time() -> None:
    small = noisy("small", DORA, 0.01, peak_memory_bytes=500_000, seconds=90.0)
    quick = noisy("quick", LORA_PLUS, 0.02, seconds=20.0)
    assert chosen(compared(arm("lora"), small, quick)).arm == "small"


def test_memory_that_is_nearly_equal_leaves_it_to_time() -> None:
    near = noisy("near", DORA, 0.01, peak_memory_bytes=990_000, seconds=90.0)
    fast = noisy("fast", LORA_PLUS, 0.02, peak_memory_bytes=1_010_000, seconds=20.0)
    assert chosen(compared(arm("lora"), near, fast)).arm == "fast"


def test_equal_costs_leave_it_to_the_best_mean() -> None:
    better = noisy("better", DORA, -0.02)
    assert chosen(compared(arm("lora"), better)).arm == "better"


def test_one_seed_without_rows_takes_the_best_and_says_how_weak_that_is() -> None:
    found = chosen(
        compared(
            arm("lora", seeds=(1,)),
            arm("dora", DORA, by=-0.2, seeds=(1,)),
            arm("cheap", LORA_PLUS, by=0.9, seeds=(1,), peak_memory_bytes=10),
            seeds=(1,),
        )
    )
    assert found.arm == "dora"
    assert any("nothing could be tested" in reason for reason in found.reasons)


def test_one_seed_with_rows_says_that_seeds_are_not_covered() -> None:
    evaluations = {
        name: evaluation(name, {1: right}, 60)
        for name, right in {"lora": range(1, 41), "dora": range(1, 42)}.items()
    }
    found = chosen(
        compared(
            arm("lora", seeds=(1,)),
            arm("dora", DORA, seeds=(1,), by=0.1, peak_memory_bytes=2_000_000),
            seeds=(1,),
            evaluations=evaluations,
        )
    )
    assert found.arm == "lora", "a row more right is no difference, and it takes half the memory"
    assert any(reason.startswith("One seed: the tests speak of") for reason in found.reasons)


def test_what_the_main_measure_does_not_tell_apart_is_left_to_the_loss() -> None:
    """Two rows more right of sixty are luck; the loss is the better judge of equal arms."""
    evaluations = {
        name: evaluation(name, dict.fromkeys((1, 2, 3), right), 60)
        for name, right in {"lora": range(1, 31), "dora": range(1, 33)}.items()
    }
    found = chosen(compared(arm("lora"), arm("dora", DORA, by=0.02), evaluations=evaluations))
    assert found.arm == "lora"
    assert any("the validation loss decides" in reason for reason in found.reasons)


def test_failures_audit_and_servers_are_among_the_reasons() -> None:
    gone = ArmInput("full", {"method.name": "full"}, "# full\n", runs=(failed("full", 1),))
    odd = arm("dora", DORA, by=-0.3, arm_changes={
        "rate_edge": "high", "served": (Served("vLLM", False), Served("llama.cpp", True)),
    })  # fmt: skip
    found = chosen(compared(arm("lora"), odd, gone))
    assert found.arm == "dora"
    text = " ".join(found.reasons)
    assert "full has no finished run (1 seed): out of memory" in text
    assert "not fair (every seed and best rate inside the search)" in text
    assert "vLLM can serve it merged only" in text
    assert all(reason.endswith(".") for reason in found.reasons)


@pytest.mark.parametrize("runs", [(), (failed("lora", 1),)])
def test_nothing_finished_recommends_nothing(runs: Any) -> None:
    found = compared(ArmInput("lora", LORA, "# lora\n", runs=runs))
    assert found.recommendation is None
