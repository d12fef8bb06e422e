from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from compare.hand_made import DORA, LORA_PLUS, arm, compared, evaluation, failed, run

from tanren.compare.analyse import ArmInput
from tanren.compare.measures import Table, columns
from tanren.evaluate.report.data import Evaluation, MeasuredMetric, MeasuredValue
from tanren.evaluate.retention import ChangedRow, RetentionGroup, RetentionResult

SEEDS = (1, 2, 3)


def retained(lost: Sequence[int], right: int = 40, drift: float = 0.1) -> RetentionResult:
    kept = right - len(lost)
    drop = 100 * len(lost) / right
    group = RetentionGroup("all", "all", 60, right, kept, len(lost), 0, 60 - right, drop, 0, 100)
    rows = tuple(ChangedRow(n, f"general:{n}", "c", "en", "q", "r", "a", "b") for n in lost)
    return RetentionResult(60, 0, group, (), rows, (), -1.0, None, None, None, {}, drift)


def evaluated(name: str, right: int, lost: Sequence[Sequence[int]] = ((), (), ())) -> Evaluation:
    rows = {seed: range(1, right + seed) for seed in SEEDS}
    results = {f"{name} seed {s}": retained(one) for s, one in zip(SEEDS, lost, strict=True)}
    metrics = ("exact_match", "macro_f1", "characters")
    return evaluation(name, rows, 30, metrics, retention=results, base_right=range(1, 4))


def table(*arms: ArmInput, **evaluations: Evaluation) -> Table:
    return Table(tuple(one.as_arm() for one in arms), arms[0].name, SEEDS, evaluations)


def test_every_measure_is_the_runs_own_number() -> None:
    found = {
        c.name: c for c in columns(table(arm("lora"), arm("dora", DORA, by=0.2, seconds=80.0)))
    }
    assert list(found) == [
        "validation_loss", "validation_loss_equal_tokens", "train_seconds", "seconds_per_step",
        "tokens_per_second", "peak_memory_bytes", "peak_host_bytes", "adapter_bytes",
        "trained_parameters", "seconds_to_target", "steps_to_target",
    ]  # fmt: skip
    assert found["validation_loss"].values["lora"] == (1.0, 1.1, 0.95)
    assert found["validation_loss"].values["dora"] == pytest.approx((1.21, 1.32, 1.18))
    assert found["train_seconds"].values["dora"] == (80.0,) * 3
    assert found["seconds_per_step"].values["dora"] == (2.0,) * 3
    assert found["tokens_per_second"].values["lora"] == (1001.0, 1002.0, 1003.0)
    # 90% of the drop: half way between the last two evaluations, a little later in seed 3
    assert found["steps_to_target"].values["lora"] == pytest.approx((35.0, 35.0, 35.25))
    assert found["steps_to_target"].values["dora"] == (None,) * 3
    assert found["peak_host_bytes"].values["lora"] == (2_000_001, 2_000_002, 2_000_003)


def test_best_loss_and_loss_at_equal_tokens_are_two_things() -> None:
    """A run that got worse at its end, and one that is shorter."""
    up = replace(arm("up"), runs=(run("up", 1, (2.0, 1.0, 1.5, 1.7)),))
    short = replace(arm("short", DORA), runs=(run("short", 1, (1.8, 1.4, 1.3), DORA),))
    found = {column.name: column for column in columns(table(up, short))}
    assert found["validation_loss"].values["up"] == (1.0, None, None)
    assert found["validation_loss_equal_tokens"].values["up"] == (1.5, None, None)
    assert found["validation_loss_equal_tokens"].values["short"] == (1.3, None, None)


def test_failed_seeds_have_no_value_and_keep_their_place() -> None:
    broken = replace(
        arm("dora", DORA), runs=(*arm("dora", DORA, seeds=(1, 3)).runs, failed("dora", 2))
    )
    found = compared(arm("lora"), broken, arm("plus", LORA_PLUS, by=-0.1))
    values = found.arm("dora").measures["validation_loss"].values
    assert values == (1.0, None, 0.95)
    comparison = found.comparison("validation_loss", "dora")
    assert comparison is not None and comparison.seeds == 2


def test_metrics_of_evaluations_come_with_their_own_facts_and_the_base() -> None:
    found = compared(
        arm("lora"), arm("dora", DORA, by=0.1),
        evaluations={"lora": evaluated("lora", 10), "dora": evaluated("dora", 20)},
    )  # fmt: skip
    names = [measure.name for measure in found.measures]
    assert names[:6] == [
        "exact_match", "validation_loss", "validation_loss_equal_tokens", "macro_f1", "characters",
        "retention",
    ]  # fmt: skip
    assert found.main == "exact_match", "the evaluations' own main metric"
    measure = found.measure("exact_match")
    assert measure is not None
    assert (measure.unit, measure.higher_is_better, measure.kind) == ("share", True, "quality")
    characters = found.measure("characters")
    assert characters is not None and characters.kind == "fact"
    assert found.arm("lora").measures["exact_match"].values == pytest.approx(
        (10 / 30, 11 / 30, 12 / 30)
    )
    assert found.base["exact_match"] == pytest.approx(3 / 30)


def test_retention_is_points_kept_and_paired_by_row() -> None:
    lora = evaluated("lora", 10, [(1,), (1, 2), ()])
    dora = evaluated("dora", 10, [range(1, 21), range(2, 24), range(1, 19)])
    found = compared(
        arm("lora"), arm("dora", DORA, by=0.1), evaluations={"lora": lora, "dora": dora}
    )
    assert found.arm("lora").measures["retention"].values == (97.5, 95.0, 100.0)
    comparison = found.comparison("retention", "dora")
    assert comparison is not None and comparison.rows == 40 and comparison.seeds == 3
    lost = (19 / 40 + 20 / 40 + 18 / 40) / 3
    assert comparison.difference == pytest.approx(-100 * lost)
    assert comparison.shown
    assert any(told.startswith("dora keeps 47.5 points fewer") for told in found.sentences)
    measure = found.measure("retention")
    assert measure is not None and measure.higher_is_better is True


def test_retention_of_other_sets_is_paired_by_seeds_alone() -> None:
    lora = evaluated("lora", 10, [(1,), (1, 2), ()])
    dora = evaluated("dora", 10, [(1,), (1, 2, 3), (4,)])
    other = {name: retained((7,), right=39) for name in dora.retention}
    found = compared(
        arm("lora"), arm("dora", DORA, by=0.1),
        evaluations={"lora": lora, "dora": replace(dora, retention=other)},
    )  # fmt: skip
    comparison = found.comparison("retention", "dora")
    assert comparison is not None and comparison.rows is None and comparison.seeds == 3


def with_losses(one: Evaluation, by: float, tokens: int = 5) -> Evaluation:
    answers = {
        name: tuple(
            replace(row, loss=1 + by + row.row / 10, reference_tokens=tokens) for row in rows
        )
        for name, rows in one.answers.items()
    }
    return replace(one, answers=answers)


def test_loss_of_the_references_where_no_metric_says_it() -> None:
    evaluations = {
        "lora": with_losses(evaluated("lora", 10), 0.0),
        "dora": with_losses(evaluated("dora", 10), 0.5),
    }
    found = compared(arm("lora"), arm("dora", DORA, by=0.1), evaluations=evaluations)
    comparison = found.comparison("reference_loss", "dora")
    assert comparison is not None and comparison.difference == pytest.approx(0.5)
    assert found.base["reference_loss"] == pytest.approx(1 + 15.5 / 10 + 0.5, abs=0.51)
    other = {**evaluations, "dora": with_losses(evaluations["dora"], 0.5, tokens=9)}
    told = compared(arm("lora"), arm("dora", DORA, by=0.1), evaluations=other)
    apart = told.comparison("reference_loss", "dora")
    assert apart is not None and apart.difference is None and "tokenizers" in apart.sentence


def test_validation_losses_of_other_tokenizers_are_not_compared() -> None:
    other = arm("dora", {**DORA, "model.name": "other"}, by=0.1, facts={"validation_tokens": 77})
    found = compared(arm("lora"), other)
    comparison = found.comparison("validation_loss", "dora")
    assert comparison is not None and comparison.difference is None and not comparison.shown


def test_speed_of_answering_is_no_quality_and_keeps_its_own_name() -> None:
    def with_speed(name: str) -> Evaluation:
        one = evaluated(name, 10)
        values = {f"{name} seed {s}": MeasuredValue(50.0 + s) for s in SEEDS}
        speed = MeasuredMetric("tokens_per_second", "Speed", "tokens/s", True, values)
        return replace(one, metrics=(*one.metrics, speed))

    found = compared(
        arm("lora"), arm("dora", DORA, by=0.1),
        evaluations={"lora": with_speed("lora"), "dora": with_speed("dora")},
    )  # fmt: skip
    assert found.arm("lora").measures["answer_tokens_per_second"].values == (51.0, 52.0, 53.0)
    assert found.arm("lora").measures["tokens_per_second"].values == (1001.0, 1002.0, 1003.0)
    assert found.comparison("answer_tokens_per_second", "dora") is None


def test_intervals_are_cut_to_what_can_be() -> None:
    # two seeds of a share near 0 and 1: Student's interval lies far outside
    evaluations = {"lora": evaluation("lora", {1: [1], 2: [1, 2, 3]}, 30)}
    found = compared(arm("lora", seeds=(1, 2)), seeds=(1, 2), evaluations=evaluations)
    share = found.arm("lora").measures["exact_match"]
    assert share.low == 0.0 and share.high is not None and 0.3 < share.high < 1
    high = {"lora": evaluation("lora", {1: range(1, 31), 2: range(1, 28)}, 30)}
    found = compared(arm("lora", seeds=(1, 2)), seeds=(1, 2), evaluations=high)
    assert found.arm("lora").measures["exact_match"].high == 1.0
    assert found.arm("lora").measures["validation_loss"].high > 1.5  # type: ignore[operator]


def test_the_main_measure_comes_first_and_an_unknown_one_is_replaced_aloud() -> None:
    arms = arm("lora"), arm("dora", DORA, by=0.1)
    found = compared(*arms, main="peak_memory_bytes")
    assert found.measures[0].name == found.main == "peak_memory_bytes"
    unknown = compared(*arms, main="bleu")
    assert unknown.main == "validation_loss"
    assert unknown.notes == ("bleu was not measured: validation_loss decides instead",)
