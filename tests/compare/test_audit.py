"""Planted unfairness: each is seen by the right check, which names the arm, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from compare.hand_made import (
    DORA,
    FACTS,
    LORA,
    LORA_PLUS,
    RATE,
    SHARED,
    arm,
    compared,
    evaluation,
    failed,
    run,
    shifted,
)

from tanren.compare import audit as names
from tanren.compare.analyse import ArmInput
from tanren.compare.data import Check, Comparison, Group


def failing(found: Comparison) -> dict[str, tuple[str, ...]]:
    return {check.name: check.arms for check in found.audit if not check.passed}


def check(found: Comparison, name: str) -> Check:
    return next(check for check in found.audit if check.name == name)


def fair(*more: ArmInput, **changes: Any) -> Comparison:
    plus = arm("plus", LORA_PLUS, by=-0.1)
    return compared(arm("lora"), plus, arm("dora", DORA, by=0.05), *more, **changes)


def test_a_fair_comparison_passes_and_says_what_was_looked_at() -> None:
    found = fair()
    assert found.fair and failing(found) == {}
    assert len(found.audit) == 16 and len({check.name for check in found.audit}) == 16
    assert not any("not fair" in told for told in found.sentences)
    assert all(check.text for check in found.audit)


PLANTED: dict[str, tuple[ArmInput, str]] = {
    "ratio of 1 given as 16": (arm("bad", LORA_PLUS, by=0.2, ratio=1.0), names.RATES),
    "ratio of 16 given as 1": (arm("bad", LORA, by=0.2, ratio=16.0), names.RATES),
    "another peak rate": (arm("bad", DORA, by=0.2, rate=RATE / 2), names.RATES),
    "other rows, as many": (
        arm("bad", DORA, by=0.2, facts={"train_sha256": "f" * 64}),
        names.ROWS,
    ),
    "other rows, and so other tokens": (
        arm("bad", DORA, by=0.2, facts={"train_sha256": "f" * 64, "tokens_seen": 39_000}),
        names.ROWS,
    ),
    "other rows, and so another order": (
        arm("bad", DORA, by=0.2, facts={"train_sha256": "f" * 64, "order_sha256": "0" * 64}),
        names.ROWS,
    ),
    "another order": (
        arm("bad", DORA, by=0.2, facts={"order_sha256": "0" * 64}),
        names.ORDER,
    ),
    "more steps": (
        arm("bad", DORA, by=0.2, facts={"steps": 50, "tokens_seen": 50_000}),
        names.BUDGET,
    ),
    "more tokens": (arm("bad", DORA, by=0.2, facts={"tokens_seen": 50_000}), names.BUDGET),
    "a setting nobody named": (
        arm("bad", DORA, by=0.2, more_settings={"training.weight_decay": 0.1}),
        names.SETTINGS,
    ),
    "a named setting that is another": (
        arm("bad", DORA, by=0.2, more_settings={"method.lr_ratio": 4.0}, ratio=1.0),
        names.SETTINGS,
    ),
    "another template": (arm("bad", DORA, by=0.2, facts={"template": "9" * 64}), names.TEMPLATE),
    "another base": (arm("bad", DORA, by=0.2, facts={"base": "9" * 64}), names.BASE),
    "other versions": (arm("bad", DORA, by=0.2, facts={"versions": "torch 1"}), names.ENVIRONMENT),
    "another device": (arm("bad", DORA, by=0.2, facts={"device": "H200"}), names.ENVIRONMENT),
    "other validation rows": (
        arm("bad", DORA, by=0.2, facts={"validation_sha256": "9" * 64}),
        names.VALIDATION,
    ),
    "a missing seed": (arm("bad", DORA, by=0.2, seeds=(1, 3)), names.SEEDS),
    "no effect": (
        replace(
            arm("bad", DORA, by=0.2),
            runs=tuple(run("bad", seed, shifted(0.0, seed), DORA) for seed in (1, 2, 3)),
        ),
        names.EFFECT,
    ),
    "a rate at the edge": (
        arm("bad", DORA, by=0.2, arm_changes={"rate_edge": "high"}),
        names.EDGE,
    ),
    "a rate that was not searched": (
        arm("bad", DORA, by=0.2, arm_changes={"rate_source": "given"}),
        names.CHANCES,
    ),
    "a failed seed": (
        replace(
            arm("bad", DORA, by=0.2),
            runs=(*arm("bad", DORA, by=0.2, seeds=(1, 2)).runs, failed("bad", 3)),
        ),
        names.FAILED,
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_exactly_the_right_check_fails_and_names_the_arm(planted: str) -> None:
    bad, name = PLANTED[planted]
    found = fair(bad)
    assert failing(found) == {name: ("bad",)}
    assert not found.fair
    assert "bad" in check(found, name).text
    first = found.sentences[0]
    assert "not fair" in first and name in first and "bad" in first


@pytest.mark.parametrize("planted", PLANTED)
def test_between_two_arms_the_other_one_is_named_and_not_the_reference(planted: str) -> None:
    bad, name = PLANTED[planted]
    assert failing(compared(arm("lora"), bad)) == {name: ("bad",)}


def test_two_planted_at_once_are_both_seen() -> None:
    both = arm("bad", LORA_PLUS, by=0.2, ratio=1.0, facts={"train_sha256": "f" * 64})
    assert failing(fair(both)) == {names.RATES: ("bad",), names.ROWS: ("bad",)}


def test_a_setting_that_the_reference_alone_has_otherwise_is_seen() -> None:
    """The shared settings say how it should be, even where arms are as many on both sides."""
    odd = arm("lora", LORA, more_settings={"training.batch_size": 4})
    found = compared(odd, arm("dora", DORA, by=0.1))
    assert failing(found) == {names.SETTINGS: ("lora",)}


def test_what_an_arm_sets_is_expected_to_differ() -> None:
    rows = {"data.rows": 50, "data.train": "rows/50.jsonl"}
    fewer = arm(
        "half", {**LORA, **rows}, by=0.3,
        facts={"train_sha256": "5" * 64, "train_rows": 50, "order_sha256": "6" * 64,
               "train_tokens": 2500, "tokens_seen": 41_000},
        more_settings={"training.num_epochs": 9.0, "data.max_length": 72},
    )  # fmt: skip
    longer = arm(
        "longer", {**DORA, "training.max_steps": 80}, by=-0.3,
        facts={"steps": 80, "tokens_seen": 80_000},
    )  # fmt: skip
    other = arm(
        "other", {**DORA, "model.name": "other"}, by=-0.4,
        facts={"base": "7" * 64, "template": "8" * 64, "train_tokens": 1, "tokens_seen": 2},
    )  # fmt: skip
    assert failing(fair(fewer, longer, other)) == {}


def test_arms_with_equally_many_rows_must_have_the_same_ones() -> None:
    def half(name: str, settings: Any, by: float, sha: str) -> ArmInput:
        facts = {"train_sha256": sha * 64, "train_rows": 50}
        return arm(name, {**settings, "data.rows": 50}, by=by, facts=facts)

    found = fair(
        half("a", LORA, 0.3, "5"), half("b", LORA_PLUS, 0.2, "5"), half("c", DORA, 0.1, "6")
    )
    assert failing(found) == {names.ROWS: ("c",)}


def test_auto_may_mean_something_else_for_every_method() -> None:
    small = arm("qlora", {**DORA, "method.name": "qlora"}, by=0.1,
                more_settings={"training.optimizer": "adamw_8bit"})  # fmt: skip
    assert failing(fair(small)) == {}
    told = {**SHARED, "training.optimizer": "adamw"}
    assert failing(fair(small, shared=told)) == {names.SETTINGS: ("qlora",)}


def test_all_groups_have_the_rate_of_a_but_b_and_the_embeddings() -> None:
    def with_groups(*groups: Group, settings: Any = DORA) -> ArmInput:
        made = arm("bad", settings, by=0.2)
        return replace(made, runs=tuple(replace(run, groups=groups) for run in made.runs))

    a, b = Group("A", RATE, 0.0, 1, 1), Group("B", RATE, 0.0, 1, 1)
    vectors = Group("magnitude", RATE, 0.0, 1, 1)
    assert failing(fair(with_groups(a, b, vectors))) == {}
    wrong = replace(vectors, learning_rate=RATE / 2)
    assert failing(fair(with_groups(a, b, wrong))) == {names.RATES: ("bad",)}
    own = {**DORA, "method.embedding_learning_rate": 1e-6}
    words = Group("embedding", 1e-6, 0.0, 1, 1)
    assert failing(fair(with_groups(a, b, words, settings=own))) == {}
    assert failing(fair(with_groups(a, b, words))) == {names.RATES: ("bad",)}


def test_an_arm_that_failed_everywhere_is_told_and_spoils_no_comparison() -> None:
    gone = ArmInput(
        "full", {"method.name": "full"}, runs=tuple(failed("full", s) for s in (1, 2, 3))
    )
    halved = ArmInput("slow", DORA, stopped="halving ended it after 10 of 40 steps")
    found = fair(gone, halved)
    assert failing(found) == {}
    assert "full" in check(found, names.FAILED).text
    assert "full has no finished run (3 seeds): out of memory." in found.sentences
    assert any(told.startswith("slow was not run: halving") for told in found.sentences)


def test_what_was_not_recorded_is_not_taken_for_equal_or_unequal() -> None:
    old = replace(
        arm("old", DORA, by=0.2),
        runs=tuple(
            replace(one, facts={k: v for k, v in one.facts.items() if k != "order_sha256"})
            for one in arm("old", DORA, by=0.2).runs
        ),
    )
    assert failing(fair(old)) == {}
    none = [
        replace(one, runs=tuple(replace(run, facts={}) for run in one.runs))
        for one in (arm("lora"), arm("dora", DORA, by=0.1))
    ]
    assert "not recorded" in check(compared(*none), names.ORDER).text


def test_evaluations_must_ask_the_same_rows_in_the_same_way() -> None:
    right = dict.fromkeys((1, 2, 3), range(1, 20))
    good = {name: evaluation(name, right, 30) for name in ("lora", "plus", "dora")}
    assert failing(fair(evaluations=good)) == {}
    warm = {**good, "dora": replace(good["dora"], decoding={"temperature": 1.0})}
    assert failing(fair(evaluations=warm)) == {names.EVALUATION: ("dora",)}
    data = replace(good["dora"].data, sha256="1" * 64)
    other = {**good, "dora": replace(good["dora"], data=data)}
    assert failing(fair(evaluations=other)) == {names.EVALUATION: ("dora",)}
    lacking = {name: one for name, one in good.items() if name != "plus"}
    assert failing(fair(evaluations=lacking)) == {names.EVALUATION: ("plus",)}


def test_runs_side_by_side_are_told_and_no_fault() -> None:
    found = fair(parallel=2)
    assert found.fair
    assert "2 runs at a time" in check(found, names.PARALLEL).text
    assert "one run at a time" in check(fair(), names.PARALLEL).text


def test_facts_of_the_builder_are_all_looked_at_by_some_check() -> None:
    """A fact that no check reads could be anything."""
    unread = set()
    for fact in FACTS:
        if fact in ("validation_tokens",):  # decides whether losses can be compared at all
            continue
        value = 77 if isinstance(FACTS[fact], int) else "7" * 64
        found = fair(arm("bad", {**DORA}, by=0.2, facts={fact: value}))
        if not failing(found):
            unread.add(fact)
    assert not unread
