"""The whole way from runs and evaluations to findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from compare.hand_made import DORA, LORA, LORA_PLUS, arm, compared, evaluation, failed, run

from tanren.compare.analyse import ArmInput, analyse
from tanren.compare.data import Comparison, Served, Tried
from tanren.compare.trained import read_run
from tanren.pipeline import execute


def whole() -> Comparison:
    evaluations = {
        "dora": evaluation("dora", {s: range(1, 120 + s) for s in (1, 2, 3)}, 150, ("bleu",)),
        "lora": evaluation("lora", {s: range(1, 100 - s) for s in (1, 2, 3)}, 150, ("bleu",)),
    }
    tried = (Tried(1e-3, 1.2, "succeeded", "runs/a"), Tried(1e-1, None, "diverged", "runs/b"))
    broken = replace(
        arm("plus", LORA_PLUS), runs=(*arm("plus", LORA_PLUS, seeds=(1, 2), by=0.2).runs,
                                      failed("plus", 3)),
    )  # fmt: skip
    dora = arm("dora", DORA, by=-0.1, arm_changes={
        "tried": tried, "served": (Served("vLLM", False, "DoRA"),),
    })  # fmt: skip
    return compared(
        arm("lora"), dora, broken, ArmInput("gone", LORA, stopped="every rate failed"),
        evaluations=evaluations, search="5 rates", seconds=12.5, notes=("a note",), parallel=2,
    )  # fmt: skip


def test_it_reads_back_equal() -> None:
    found = whole()
    assert Comparison.from_json(found.to_json()) == found


def test_the_same_inputs_give_the_same_comparison_whatever_order_evaluations_come_in() -> None:
    one = whole()
    assert whole().to_json() == one.to_json()


def test_everything_given_is_kept() -> None:
    found = whole()
    assert [a.name for a in found.arms] == ["lora", "dora", "plus", "gone"]
    assert found.arm("dora").tried[1].outcome == "diverged"
    assert found.arm("dora").served == (Served("vLLM", False, "DoRA"),)
    assert (found.search, found.seconds, found.notes[0]) == ("5 rates", 12.5, "a note")
    assert found.arm("gone").measures["bleu"].mean is None
    assert found.main == "bleu" and found.measures[0].name == "bleu"
    names = {measure.name for measure in found.measures}
    assert all(set(a.measures) == names for a in found.arms)
    assert not found.fair, "a seed failed, and one arm has no evaluation"
    assert found.seeds == (1, 2, 3)


def test_all_failed_one_arm_and_nothing_at_all() -> None:
    gone = ArmInput("lora", LORA, runs=(failed("lora", 1),))
    assert compared(gone, seeds=(1,)).measures == ()
    assert compared(arm("lora")).comparisons == ()
    alone = compared(arm("lora"))
    assert alone.fair and alone.recommendation is not None
    without_reference = compared(gone, arm("dora", DORA), seeds=(1, 2, 3))
    assert without_reference.comparisons == () and without_reference.reaches == ()
    assert without_reference.recommendation is not None


def test_no_validation_rows_means_no_loss_and_no_reach() -> None:
    arms = [
        replace(one, runs=tuple(replace(run, checks=()) for run in one.runs))
        for one in (arm("lora"), arm("dora", DORA))
    ]
    found = compared(*arms)
    assert found.measure("validation_loss") is None and found.reaches == ()
    assert any("validation_loss was not measured" in note for note in found.notes)


def test_a_known_winner_wins_in_every_place() -> None:
    """LoRA+ better and sooner, DoRA slower and no better: the findings say exactly that."""
    plus = replace(
        arm("plus", LORA_PLUS),
        runs=tuple(
            run("plus", s, (1.5, last - 0.1, last - 0.3, last - 0.4 - 0.01 * s), LORA_PLUS)
            for s, last in ((1, 1.0), (2, 1.1), (3, 0.95))
        ),
    )
    found = compared(arm("lora"), plus, arm("dora", DORA, by=0.001, seconds=60.0))
    assert found.fair
    best = found.comparison("validation_loss", "plus")
    assert best is not None and best.shown and (best.difference or 0) == pytest.approx(-0.42)
    (reach,) = [reach for reach in found.reaches if reach.arm == "plus"]
    assert reach.steps_ratio is not None and reach.steps_ratio < 0.5
    assert found.recommendation is not None and found.recommendation.arm == "plus"
    fronts = {front.cost: front.arms for front in found.fronts}
    assert fronts["train_seconds"] == ("plus",)
    assert found.sentences[0].startswith("plus is better than lora by 0.42 nats in validation loss")


def test_real_runs(make_run: Callable[..., Any]) -> None:
    """Two methods, two seeds, a few steps each: fair, and the same method twice is found out."""
    ways = {"lora": ({"name": "lora"}, {"method.name": "lora", "method.lr_ratio": 1.0}),
            "plus": ({"name": "lora_plus", "lr_ratio": 8.0},
                     {"method.name": "lora_plus", "method.lr_ratio": 8.0,
                      "method.embedding_learning_rate": 1e-6})}  # fmt: skip
    arms = []
    for name, (method, settings) in ways.items():
        runs = []
        for seed in (1, 2):
            made = make_run(
                "training.num_epochs=2", "evaluation.every=2", "training.learning_rate=2e-2",
                f"seed={seed}", f"training.data_seed={seed}",
                name=f"{name} {seed}", method=method, validation=4,
            )  # fmt: skip
            execute(made)
            runs.append(read_run(made, name, seed))
        arms.append(ArmInput(name, settings, "a: 1\n", 2e-2, "given", tuple(runs)))
    shared = {
        key: value for key, value in arms[0].runs[0].settings.items() if key not in arms[1].settings
    }

    def found(*inputs: ArmInput) -> Comparison:
        return analyse(
            inputs, title="real", reference="lora", seeds=(1, 2), shared=shared, evaluations={},
            machine={}, created="2026-01-01T00:00:00+00:00",
        )  # fmt: skip

    real = found(*arms)
    assert real.fair, [check for check in real.audit if not check.passed]
    assert real.recommendation is not None
    loss = real.comparison("validation_loss", "plus")
    assert loss is not None and loss.seeds == 2 and loss.difference
    assert Comparison.from_json(real.to_json()) == real
    twin = replace(
        arms[0], name="twin", runs=tuple(replace(run, arm="twin") for run in arms[0].runs)
    )
    failing = {check.name: check.arms for check in found(*arms, twin).audit if not check.passed}
    assert failing == {"every setting has an effect": ("twin",)}
    as_plus = replace(arms[0], name="planted", settings=arms[1].settings)
    wrong = {check.name: check.arms for check in found(*arms, as_plus).audit if not check.passed}
    assert wrong["learning rates as set"] == ("planted",)
