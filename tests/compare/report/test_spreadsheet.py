"""`results.csv` and `recommended.yaml`: what other programs read."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from compare import comparisons

from tanren.compare.data import Comparison, Recommendation
from tanren.compare.report.recommended import recommended_file
from tanren.compare.report.spreadsheet import spreadsheet
from tanren.config import load


def read(comparison: Comparison) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(spreadsheet(comparison))))


@pytest.mark.parametrize("build", [comparisons.methods, comparisons.sweep, comparisons.troubled])
def test_the_table_reads_back_every_number_of_every_seed(build) -> None:  # type: ignore[no-untyped-def]
    comparison = build()
    rows = {(row["arm"], int(row["seed"])): row for row in read(comparison)}
    assert len(rows) == len(comparison.arms) * len(comparison.seeds)
    for arm in comparison.arms:
        for place, seed in enumerate(comparison.seeds):
            for name, estimate in arm.measures.items():
                cell = rows[arm.name, seed][name]
                assert (float(cell) if cell else None) == estimate.values[place]


def test_outcomes_reasons_rates_and_settings_are_there() -> None:
    rows = {(row["arm"], row["seed"]): row for row in read(comparisons.troubled())}
    lost = rows["qlora", "3"]
    assert lost["outcome"] == "out_of_memory" and "11.6 GiB" in lost["why"]
    assert lost["folder"].endswith("qlora-seed-3") and lost["exact_match"] == ""
    stopped = rows["dora", "1"]
    assert stopped["outcome"] == "not run" and stopped["why"].startswith("every rate")
    plus = rows["lora_plus", "2"]
    assert plus["settings.method.lr_ratio"] == "16.0" and plus["learning_rate"] == "0.001"
    assert rows["lora", "1"]["settings.method.lr_ratio"] == ""
    assert rows["wild", "1"]["rate_source"] == "given"


def test_settings_that_are_no_words_are_json() -> None:
    one = comparisons.single()
    settings = {"a.list": ["q_proj", "v_proj"], "a.null": None, "a.flag": True, "a.word": "x"}
    (row,) = read(replace(one, arms=(replace(one.arms[0], settings=settings),)))
    for path in ("a.list", "a.null", "a.flag"):
        assert json.loads(row[f"settings.{path}"]) == settings[path]
    assert row["settings.a.word"] == "x"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\tx", "＝1", "'plain"])
def test_no_text_is_a_formula_and_an_apostrophe_is_all_that_is_added(name: str) -> None:
    one = comparisons.single()
    (row,) = read(replace(one, arms=(replace(one.arms[0], name=name),)))
    assert row["arm"] == f"'{name}"
    numbers = replace(one.arms[0].measures["validation_loss"], values=(-0.25,))
    arm = replace(one.arms[0], measures={"validation_loss": numbers})
    assert read(replace(one, arms=(arm,)))[0]["validation_loss"] == "-0.25"  # a number stays one


def test_texts_with_commas_quotes_and_line_breaks_stay_in_their_cells() -> None:
    one = comparisons.single()
    name = 'a, "b"\nc 日本語'
    rows = read(replace(one, arms=(replace(one.arms[0], name=name), one.arms[0])))
    assert [row["arm"] for row in rows] == [name, "lora"]
    assert not spreadsheet(one).startswith("\ufeff")


# --- the recommended settings ---------------------------------------------------------------------


def test_the_recommended_settings_load_and_are_the_arms(tmp_path: Path) -> None:
    reasons = ("best: of all\nmodel: evil", "日本語 " * 60, "a\u2028b\x85c\x00d\x1b[0m: {", "")
    found = Recommendation("lora\nplus: 1", comparisons.CONFIG, reasons)
    path = tmp_path / "recommended.yaml"
    path.write_text(recommended_file(found), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == yaml.safe_load(comparisons.CONFIG)
    (tmp_path / "plain.yaml").write_text(comparisons.CONFIG, encoding="utf-8")
    assert load(path) == load(tmp_path / "plain.yaml")


def test_reasons_and_the_command_stand_above_the_settings() -> None:
    found = comparisons.methods().recommendation
    assert found is not None
    head = recommended_file(found).split(found.config)[0]
    assert all(line.startswith("#") for line in head.strip().splitlines())
    assert all(f"# {reason}" in head for reason in found.reasons)
    assert "# tanren train FOLDER/recommended.yaml" in head and found.arm in head
    assert recommended_file(found).endswith(found.config)
