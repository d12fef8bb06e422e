"""Successive halving: where arms are ranked, and which go on."""

from __future__ import annotations

import math

import pytest

from tanren.compare.halving import rungs, survivors


@pytest.mark.parametrize(
    ("steps", "arms", "eta", "expected"),
    [
        (81, 81, 3, (1, 3, 9, 27, 81)),  # Li et al. 2018, table 1, bracket s = 4
        (81, 27, 3, (3, 9, 27, 81)),  # s = 3
        (81, 9, 3, (9, 27, 81)),  # s = 2
        (100, 4, 3, (33, 100)),
        (100, 4, 2, (25, 50, 100)),
        (100, 2, 3, (100,)),
        (100, 1, 2, (100,)),
        (2, 81, 3, (2,)),
        (5, 81, 3, (1, 5)),
    ],
)
def test_rungs_are_those_of_a_hyperband_bracket(
    steps: int, arms: int, eta: int, expected: tuple[int, ...]
) -> None:
    assert rungs(steps, arms, eta) == expected


@pytest.mark.parametrize("eta", [2, 3, 4])
@pytest.mark.parametrize("arms", [1, 2, 5, 9, 30])
@pytest.mark.parametrize("steps", [1, 10, 1000])
@pytest.mark.parametrize("min_steps", [None, 1, 7, 5000])
def test_rungs_rise_to_the_end_and_leave_an_arm(
    steps: int, arms: int, eta: int, min_steps: int | None
) -> None:
    found = rungs(steps, arms, eta, min_steps)
    assert found[-1] == steps
    assert list(found) == sorted(set(found)) and found[0] >= 1
    left = arms
    for _ in found[:-1]:
        assert left > 1, "a ranking of one arm"
        left = math.ceil(left / eta)
    if min_steps is not None and min_steps < steps and arms > 1:
        assert found[0] == min_steps


@pytest.mark.parametrize(("first", "eta"), [(1, 4), (5, 2), (10, 3)])
def test_rungs_from_a_first_one_are_where_optuna_prunes(first: int, eta: int) -> None:
    """Its pruner asks at min_resource * reduction_factor^rung; the end is the caller's there.

    A trial with the better half of the values is promoted at every rung, so each rung that it
    reaches leaves its mark.
    """
    optuna = pytest.importorskip("optuna")
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=eta)
        study = optuna.create_study(pruner=pruner)
        trial = study.ask()
        steps, marks = first * eta**3, []
        for step in range(1, steps):
            trial.report(1.0, step)
            known = len(study.trials[0].system_attrs)
            assert not trial.should_prune()
            if len(study.trials[0].system_attrs) > known:
                marks.append(step)
    finally:
        optuna.logging.set_verbosity(before)
    assert rungs(steps, eta**4, eta, first) == (*marks, steps)


def test_every_rung_costs_about_as_much() -> None:
    """What successive halving is made of: fewer arms, longer."""
    arms, eta, steps = 27, 3, 2700
    found = rungs(steps, arms, eta)
    costs = [arms // eta**i * step for i, step in enumerate(found)]
    assert costs == [2700] * 4


# --- who goes on ----------------------------------------------------------------------------------

LOSSES = {"lora": 1.5, "dora": 1.4, "qlora": 1.6, "lora_plus": 1.3}


def test_the_best_of_every_eta_go_on_in_the_order_of_the_arms() -> None:
    assert survivors(LOSSES, 2) == ("dora", "lora_plus")
    assert survivors(LOSSES, 3) == ("dora", "lora_plus")
    assert survivors(LOSSES, 4) == ("lora_plus",)
    assert survivors({**LOSSES, "pissa": 1.2}, 2) == ("dora", "lora_plus", "pissa")


def test_the_reference_goes_on_and_takes_nobodys_place() -> None:
    assert survivors(LOSSES, 2, keep=["lora"]) == ("lora", "dora", "lora_plus")
    assert survivors(LOSSES, 2, keep=["dora"]) == ("dora", "lora_plus")


@pytest.mark.parametrize("failed", [None, math.nan])
def test_failed_arms_end(failed: float | None) -> None:
    """Infinity is a loss all the same: behind every other one, before those that have none."""
    assert survivors({"a": failed, "b": 1.0, "c": failed, "d": failed}, 2) == ("b",)
    assert survivors({"a": failed, "b": 1.0, "c": 0.5, "d": 2.0}, 2) == ("b", "c")
    assert survivors({"a": failed, "b": 1.0, "c": 0.5, "d": failed}, 2) == ("b", "c"), "of four"
    assert survivors({"a": failed, "b": 1.0}, 2, keep=["a"]) == ("a", "b")
    assert survivors({"a": failed, "b": math.inf, "c": failed, "d": failed}, 2) == ("b",)


def test_of_equal_losses_the_earlier_arm_goes_on() -> None:
    assert survivors({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, 2) == ("a", "b")
    assert survivors({"d": 1.0, "c": 1.0, "b": 1.0, "a": 1.0}, 2) == ("d", "c")


@pytest.mark.parametrize(
    "wrong", [(0, 4, 3, None), (10, 0, 3, None), (10, 4, 1, None), (9, 4, 3, 0)]
)
def test_what_cannot_be_halved_is_refused(wrong: tuple[int, int, int, int | None]) -> None:
    with pytest.raises(ValueError, match="no rungs"):
        rungs(*wrong)
    with pytest.raises(ValueError, match="no halving"):
        survivors({"a": 1.0}, 1)
