from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from compare.hand_made import run
from scipy import stats

from tanren.compare.data import Checked, TrainedRun
from tanren.compare.reach import (
    first_reached,
    loss_at_tokens,
    losses_at_equal_tokens,
    reach,
    reached_by_seed,
)

SEEDS = (1, 2, 3)


def checks(*losses: float, every: int = 10, seconds: float | None = None) -> tuple[Checked, ...]:
    return tuple(
        Checked(
            every * i,
            100 * every * i,
            loss,
            seconds=None if seconds is None else seconds * i,
        )
        for i, loss in enumerate(losses, start=1)
    )


def with_checks(arm: str, seed: int, found: Sequence[Checked]) -> TrainedRun:
    return replace(run(arm, seed, (1.0,)), checks=tuple(found))


def test_between_two_evaluations_a_line_is_drawn() -> None:
    found = first_reached(checks(2.0, 1.0, 0.5, seconds=4), 0.75)
    assert found is not None
    assert (found.step, found.seconds) == (25.0, 10.0)


def test_the_first_time_counts_whatever_comes_later() -> None:
    found = first_reached(checks(2.0, 1.0, 3.0, 0.5), 1.5)
    assert found is not None and found.step == 15.0


def test_reached_by_the_first_evaluation_and_never() -> None:
    at_once = first_reached(checks(1.0, 0.5), 1.2)
    assert at_once is not None and at_once.step == 10 and at_once.seconds is None
    assert first_reached(checks(1.0, 0.5), 0.4) is None
    assert first_reached((), 1.0) is None


def test_the_reference_against_itself_is_exactly_1() -> None:
    runs = {"lora": {s: run("lora", s, (2.0, 1.0 + s, 0.9, 1.1)) for s in SEEDS}}
    found = reach("lora", "lora", runs, SEEDS)
    assert (found.steps_ratio, found.steps_low, found.steps_high) == (1.0, 1.0, 1.0)
    assert (found.seconds_ratio, found.reached, found.seeds) == (1.0, 3, 3)
    assert found.target == pytest.approx(2.0 - 0.9 * 1.1)
    # seed s falls from 1 + s at 20 to 0.9 at 30 steps: 1.01 is nearly at the third evaluation
    places = [20 + 10 * (1 + s - 1.01) / (0.1 + s) for s in SEEDS]
    assert found.seconds == pytest.approx(sum(places) / 3)


def test_half_the_steps_by_hand() -> None:
    reference = {s: with_checks("lora", s, checks(4, 3, 2, 1, seconds=10)) for s in SEEDS}
    fast = {s: with_checks("fast", s, checks(2, 1 - 0.1 * s, 0.5, 0.5, seconds=20)) for s in SEEDS}
    found = reach("fast", "lora", {"lora": reference, "fast": fast}, SEEDS)
    # the target is 4 - 0.9 * 3 = 1.3, which the reference has at 37 steps
    steps = [10 + 10 * 0.7 / (1 + 0.1 * s) for s in SEEDS]
    assert found.steps_ratio == pytest.approx(stats.gmean([step / 37 for step in steps]))
    assert found.seconds_ratio == pytest.approx(stats.gmean([2 * step / 37 for step in steps]))
    assert found.steps_low is not None and found.steps_high is not None
    assert found.steps_low < found.steps_ratio < found.steps_high
    assert found.seconds == pytest.approx(sum(2 * step for step in steps) / 3)


@pytest.mark.parametrize("factor", [7, 1000])
def test_the_unit_of_steps_does_not_matter(factor: int) -> None:
    def runs(every: int) -> dict[str, dict[int, TrainedRun]]:
        return {
            "lora": {
                s: with_checks("lora", s, checks(4, 3, 2.2 - s / 9, every=every)) for s in SEEDS
            },
            "plus": {
                s: with_checks("plus", s, checks(3, 1.6, 1 + s / 7, every=every)) for s in SEEDS
            },
        }

    one, other = (reach("plus", "lora", runs(every), SEEDS) for every in (10, 10 * factor))
    assert one.steps_ratio == pytest.approx(other.steps_ratio)
    assert one.steps_high == pytest.approx(other.steps_high)


def test_every_seed_has_its_own_target_and_those_that_never_get_there_are_counted() -> None:
    reference = {s: with_checks("lora", s, checks(4, float(s))) for s in SEEDS}
    slow = {s: with_checks("slow", s, checks(4, 2.0)) for s in SEEDS}  # targets 1.3, 2.2, 3.1
    slow.pop(3)
    places = reached_by_seed(slow, reference, SEEDS)
    assert places[0] is None and places[1] is not None and places[2] is None
    found = reach("slow", "lora", {"lora": reference, "slow": slow}, SEEDS)
    assert (found.reached, found.seeds, found.steps_ratio) == (1, 2, 1.0)
    assert found.steps_low is None, "a single seed has no interval"
    assert found.seconds_ratio is None, "no seconds were recorded"


def test_loss_at_equal_tokens_is_where_the_shortest_run_ends() -> None:
    long = with_checks("long", 1, checks(4, 3, 2, 1))
    short = with_checks("short", 1, (Checked(1, 1500, 3.0), Checked(2, 2500, 2.9)))
    found = losses_at_equal_tokens({"long": {1: long}, "short": {1: short}, "none": {}}, (1, 2))
    assert found["long"] == (pytest.approx(2.5), None)
    assert found["short"] == (2.9, None)
    assert found["none"] == (None, None)
    assert loss_at_tokens(long.checks, 500) is None
    assert loss_at_tokens(long.checks, 4000) == 1.0


def test_equal_arms_are_as_soon_as_each_other_on_average() -> None:
    """A run's own lowest loss is luck: as a target it made every other arm look sooner, by a
    tenth of the steps, and let those that never got there fall out of the mean.
    """
    chance = random.Random(4)

    def noisy(name: str, seed: int) -> TrainedRun:
        offset = chance.gauss(0, 0.01)
        losses = [4 + 1.5 * math.exp(-t / 3) + offset + chance.gauss(0, 0.003) for t in range(12)]
        return with_checks(name, seed, checks(*losses))

    logs = []
    for _ in range(200):
        runs = {name: {s: noisy(name, s) for s in SEEDS} for name in ("a", "b")}
        found = reach("b", "a", runs, SEEDS)
        assert found.reached == 3 and found.steps_ratio is not None
        logs.append(math.log(found.steps_ratio))
    assert abs(sum(logs) / len(logs)) < 0.01
