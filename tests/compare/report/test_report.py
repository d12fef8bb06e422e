"""The tables of a comparison's report: every number is the data's, an unfair comparison says so
first, and what failed is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from compare import comparisons
from compare.comparisons import LOSS, MEMORY, SCORE, TIME

from tanren.compare.data import Comparison, Measure
from tanren.compare.report.arms_table import best
from tanren.compare.report.sections import document
from tanren.compare.report.wording import duration, rate, scale_for, scale_of
from tanren.evaluate.report.document import Folded, Section, Table
from tanren.evaluate.report.markdown import markdown
from tanren.evaluate.report.page import page


@pytest.fixture(scope="module")
def methods() -> Comparison:
    return comparisons.methods()


@pytest.fixture(scope="module")
def troubled() -> Comparison:
    return comparisons.troubled()


def part(comparison: Comparison, id: str, *, drawings: bool = True) -> Section:
    found = document(comparison, drawings=drawings).section(id)
    assert found is not None
    return found


def tables(of: Section) -> list[Table]:
    found: list[Table] = []
    for block in of.blocks:
        inner = block.blocks if isinstance(block, Folded) else (block,)
        found += [each for each in inner if isinstance(each, Table)]
    return found


def shown_number(text: str) -> float:
    return float(text.split("\n")[0].replace(",", "").replace("−", "-").replace("±", ""))


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [comparisons.methods, comparisons.sweep])
def test_every_number_of_the_tables_of_arms_is_the_datas(build: Callable[[], Comparison]) -> None:
    comparison = build()
    seen = 0
    for table in tables(part(comparison, "arms")):
        for measure in comparison.measures:
            scale = scale_of(measure, comparison)
            unit = f" ({scale.unit})" if scale.unit else ""
            heads = [h for h in table.head if h.rstrip("↑↓\xa0") == f"{measure.title}{unit}"]
            if not heads:
                continue
            column = table.head.index(heads[0])
            for row, arm in enumerate(comparison.arms):
                estimate = arm.measures[measure.name]
                assert estimate.mean is not None
                half = 0.5 * 10.0**-scale.decimals + 1e-9
                value = shown_number(table.rows[row][column])
                assert value == pytest.approx(estimate.mean * scale.factor, abs=half)
                assert table.keys[row][column] == estimate.mean
                if "(" in table.rows[row][column]:
                    low, high = re.findall(r"[−\d.,]+", table.rows[row][column])[1:3]
                    ends = (shown_number(low), shown_number(high))
                    wanted = (scale.scaled(estimate.low), scale.scaled(estimate.high))
                    assert ends == pytest.approx(wanted, abs=half)
                seen += 1
    assert seen == len(comparison.measures) * len(comparison.arms)


def test_units_are_those_that_people_read(methods: Comparison) -> None:
    heads = [head for table in tables(part(methods, "arms")) for head in table.head]
    assert {
        "exact match (%)\xa0↑", "validation loss (nats)\xa0↓", "training time (min)\xa0↓",
        "peak memory (GiB)\xa0↓", "adapter on disk (KiB)\xa0↓", "trained parameters",
    } <= set(heads)  # fmt: skip
    memory = tables(part(methods, "arms"))[1]
    qlora = memory.rows[1][memory.head.index("peak memory (GiB)\xa0↓")]
    assert qlora.startswith("4.60\n") and qlora.endswith("\n×0.51")


def test_differences_and_whether_they_are_shown_stand_beside_the_values(
    methods: Comparison,
) -> None:
    table = tables(part(methods, "arms"))[0]
    column = table.head.index("exact match: difference (points)")
    assert table.rows[0][column] == "–"  # the reference itself
    for row, arm in enumerate(methods.arms[1:], 1):
        found = methods.comparison(SCORE.name, arm.name)
        assert found is not None and found.difference is not None
        lines = table.rows[row][column].split("\n")
        assert float(lines[0].replace("−", "-")) == pytest.approx(100 * found.difference, abs=0.051)
        assert lines[2] == ("shown" if found.shown else "not shown")
    assert {row[column].split("\n")[-1] for row in table.rows[1:4]} == {"shown", "not shown"}


def test_the_best_of_each_quality_is_marked_and_only_there(methods: Comparison) -> None:
    quality, costs = tables(part(methods, "arms"))
    marked = {quality.head[column].split(" (")[0]: quality.rows[row][0].split("\n")[0]
              for row, column in quality.best}  # fmt: skip
    assert marked["exact match"] == "lora_plus" == marked["validation loss"]
    assert len(marked) == 3 and not costs.best
    assert "**56.3 (54.7 to 57.8)**" in markdown(document(methods, drawings=False))


def test_equal_arms_are_none_of_them_the_best() -> None:
    alike = [comparisons.estimate([0.5, 0.5, 0.5])] * 3
    assert best(SCORE, alike) == set() == best(SCORE, alike[:1])
    lower, none = comparisons.estimate([0.4]), comparisons.estimate([None])
    assert best(LOSS, [*alike, lower, none, lower]) == {3, 5}
    assert best(SCORE, [*alike, lower]) == {0, 1, 2} and best(TIME, [*alike, lower]) == set()


def test_reference_recommended_and_base_are_marked(methods: Comparison) -> None:
    table = tables(part(methods, "arms"))[0]
    names = [row[0] for row in table.rows]
    assert names[0] == "lora\n(reference)" and "lora_plus\n(recommended)" in names
    assert names[-1] == "base model\n(before tuning)"
    assert table.rows[-1][table.head.index("validation loss (nats)\xa0↓")] == "3.412"
    assert table.marked == {0, 4}


def test_seeds_that_are_missing_are_counted(troubled: Comparison) -> None:
    rows = {row[0].split("\n")[0]: row for row in tables(part(troubled, "arms"))[0].rows}
    assert rows["qlora"][2] == "2/3\n(out of memory)" and "2 of 3 seeds" in rows["qlora"][3]
    assert rows["wild"][2] == "0/3\n(diverged)" and rows["dora"][3] == "–"


def test_the_table_of_differences_has_every_comparison(methods: Comparison) -> None:
    (table,) = tables(part(methods, "differences"))
    assert len(table.rows) == len(methods.comparisons) == len(table.keys)
    for row, keys, found in zip(table.rows, table.keys, methods.comparisons, strict=True):
        assert row[1] == found.arm and row[7] == ("yes" if found.shown else "no")
        assert keys[2] == found.difference and keys[4] == found.ratio
        measure = methods.measure(found.measure)
        assert measure is not None and found.difference is not None
        assert found.low is not None and found.high is not None and found.detectable is not None
        scale = scale_of(measure, methods)
        half = 0.5 * 10.0**-scale.decimals + 1e-9
        texts = [row[2].lstrip("+"), *row[3].split(" to "), row[10]]
        wanted = (found.difference, found.low, found.high, found.detectable)
        assert [shown_number(text) / scale.factor for text in texts] == pytest.approx(
            wanted, abs=half / scale.factor
        )
        assert row[4] == "–" if found.ratio is None else row[4].startswith(f"{found.ratio:.2f}")


def test_how_soon_and_what_was_tried_are_tables_too(troubled: Comparison) -> None:
    rows = {row[0]: row for row in tables(part(troubled, "reach"))[0].rows}
    assert rows["qlora"][2] == "0/3" and rows["qlora"][3] == "–"
    assert rows["lora_plus"][3].startswith("0.85\n(0.77 to 0.95)")
    tried = tables(part(troubled, "rates"))[0]
    assert len(tried.rows) == sum(len(arm.tried) for arm in troubled.arms)
    assert sum(row[1] == "diverged" for row in tried.rows) == 5
    chosen = [(tried.rows[row][0], tried.rows[row][2]) for row, _ in sorted(tried.best)]
    assert chosen == [("lora", "1e-3"), ("qlora", "1e-3"), ("lora_plus", "1e-3")]


# --- what nobody may overlook ---------------------------------------------------------------------


def test_a_failed_audit_stands_before_everything(troubled: Comparison) -> None:
    made = document(troubled, drawings=False)
    text, html = markdown(made), page(made)
    for found, table in ((text, "| arm |"), (html, "<table")):
        warning = found.index("This comparison is not fair: 2 of 5 checks failed")
        assert warning < found.index(table)
        assert warning < found.index("qlora trained on other rows") < found.index(table)
        assert warning < found.index("This comparison is not fair: see the audit.")
    assert "> [!CAUTION]" in text and '<aside class="alarm" role="alert">' in html
    rows = tables(part(troubled, "audit"))[0].rows
    assert [row[1] for row in rows] == ["FAIL", "pass", "pass", "pass", "FAIL"]


def test_a_passed_audit_raises_no_alarm(methods: Comparison) -> None:
    html = page(document(methods, drawings=False))
    assert 'class="alarm"' not in html and "4 checks, all passed." in html


def test_an_arm_that_the_check_does_not_name_is_named(methods: Comparison) -> None:
    failed = replace(methods.audit[0], passed=False, text="other rows", arms=("qlora", "dora"))
    text = markdown(document(replace(methods, audit=(failed,)), drawings=False))
    assert "> - same rows: other rows (qlora and dora)" in text


def test_failures_have_their_reason_and_their_folder(troubled: Comparison) -> None:
    rows = tables(part(troubled, "failures"))[0].rows
    assert rows[0][:3] == ("qlora", "seed 3", "out of memory") and "11.6 GiB" in rows[0][3]
    assert rows[0][4] == "comparisons/demo/runs/qlora-seed-3"
    assert ("dora", "all seeds", "stopped", "every rate of the search failed", "–") in rows
    assert sum(row[1].startswith("search at ") for row in rows) == 5


def test_what_differs_is_told_exactly(methods: Comparison) -> None:
    differing, shared = tables(part(methods, "settings"))
    assert differing.head == ("arm", "method.name", "method.lr_ratio", "training.learning_rate")
    assert differing.rows[3] == ("lora_plus", "lora_plus", "16.0", "1e-3 (searched)")
    assert differing.rows[0][2] == "–"
    assert {row[0] for row in shared.rows} == set(methods.shared)
    assert ("training.max_grad_norm", "null") in shared.rows


def test_measures_in_use_are_those_of_the_builder(methods: Comparison) -> None:
    """What the tests above rely on."""
    assert {LOSS, SCORE, MEMORY, TIME} <= set(methods.measures)
    assert methods.main == SCORE.name and methods.fair


def test_one_seed_has_no_interval_of_its_own() -> None:
    row = tables(part(comparisons.single(), "arms"))[0].rows[0]
    assert row[2] == "1/1" and "\n" not in row[3]


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("seconds", 0.0123, "12.3 ms"), ("seconds", 90.0, "90.0 s"), ("seconds", 150.0, "2.50 min"),
        ("seconds", 9000.0, "2.50 h"), ("bytes", 512.0, "512 bytes"),
        ("bytes", 2.0**31, "2.00 GiB"), ("bytes", 737_912.0, "721 KiB"),
        ("parameters", 180_224.0, "180,224"),
        ("parameters", 2.5e7, "25.0 millions"), ("share", 0.4567, "45.7 %"),
        ("nats", -0.12345, "−0.123 nats"), ("tokens/s", 1715.3, "1,715 tokens/s"),
        ("joules", 45_600.0, "45.6 kJ"), ("points", 95.46, "95.5 points"),
        ("steps", 120.0, "120 steps"),
    ],
)  # fmt: skip
def test_every_kind_of_number_has_the_unit_that_suits_it(
    unit: str, value: float, shown: str
) -> None:
    scale = scale_for(Measure("x", "x", unit, None, "fact"), [value])
    assert f"{scale.number(value)} {scale.unit}".strip() == shown


def test_rates_and_durations_as_people_write_them() -> None:
    assert [rate(r) for r in (1e-4, 2.5e-4, 1e-5, 0.5, 0.01, None)] == [
        "1e-4", "2.5e-4", "1e-5", "0.5", "0.01", "–",
    ]  # fmt: skip
    assert [duration(s) for s in (5.25, 192, 8040, None)] == ["5.2 s", "3.2 min", "2 h 14 min", "–"]
