"""The learning rate's factor over the steps, against closed forms."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from tanren.schedule import Kind, factor

KINDS = get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_is_a_line_that_starts_above_zero_and_ends_at_one(kind: Kind) -> None:
    found = [factor(i, steps=100, warmup_steps=4, kind=kind) for i in range(5)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_no_step_has_a_rate_of_zero_or_above_the_peak(kind: Kind, warmup: int) -> None:
    """A step without a rate reads its rows and learns nothing from them."""
    for steps in (1, 2, 7, 50):
        for i in range(steps):
            assert 0.0 < factor(i, steps=steps, warmup_steps=min(warmup, steps), kind=kind) <= 1.0


def test_cosine_halves_in_the_middle_and_ends_near_zero() -> None:
    def at(step: int) -> float:
        return factor(step, steps=110, warmup_steps=10, kind="cosine")

    assert at(10) == 1.0 and at(60) == pytest.approx(0.5)
    assert at(35) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert at(109) == pytest.approx(0.5 * (1 + math.cos(0.99 * math.pi))) and at(109) < 3e-4
    assert at(110) == pytest.approx(0.0, abs=1e-12)


def test_linear_falls_by_equal_steps_to_zero() -> None:
    found = [factor(i, steps=10, warmup_steps=0, kind="linear") for i in range(11)]
    assert found == pytest.approx([1 - i / 10 for i in range(11)])


def test_constant_stays() -> None:
    assert {factor(i, steps=10, warmup_steps=2, kind="constant") for i in range(2, 15)} == {1.0}


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_past_the_end_it_stays_at_zero(kind: Kind) -> None:
    """A scheduler asks once more after the last step; it must not rise again."""
    for step in (10, 11, 25):
        assert factor(step, steps=10, warmup_steps=2, kind=kind) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_may_be_the_whole_run(kind: Kind) -> None:
    found = [factor(i, steps=3, warmup_steps=3, kind=kind) for i in range(3)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1.0])
