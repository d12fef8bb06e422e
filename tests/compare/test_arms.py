"""From settings to arms: what differs is what was asked for, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tanren.compare.arms import differences, shared_settings, variants
from tanren.compare.request import Asked, axis, comparison, split_values
from tanren.compare.settings import CompareConfig, load_comparison
from tanren.config import flattened
from tanren.errors import ConfigError

BASE: dict[str, Any] = {
    "model": {"name": "some/model"},
    "data": {"train": "train.jsonl", "validation": "valid.jsonl"},
    "method": {"name": "lora", "rank": 8, "lr_ratio": 1.0},
}


def made(**settings: Any) -> CompareConfig:
    return load_comparison({"base": BASE, **settings})


def found(config: CompareConfig, **overrides: Any) -> dict[str, Any]:
    shared = shared_settings(config, overrides)
    return {variant.name: variant for variant in variants(config, shared)}


def test_a_grid_is_every_combination_in_order() -> None:
    config = made(grid={"method": ["lora", "dora"], "method.rank": [4, 16]})
    assert list(found(config)) == ["lora rank 4", "lora rank 16", "dora rank 4", "dora rank 16"]


def test_arms_are_multiplied_with_the_grid() -> None:
    config = made(arms={"plain": {}, "small": {"method.rank": 2}})
    assert list(found(config)) == ["plain", "small"]
    both = made(arms={"a": {}, "b": {"method": "dora"}}, grid={"method.alpha": [8.0, 16.0]})
    assert list(found(both)) == ["a alpha 8", "a alpha 16", "b alpha 8", "b alpha 16"]


def test_arms_differ_in_what_they_say_and_in_nothing_else() -> None:
    arms = found(made(arms={"lora": {"method": "lora"}, "wide": {"method.rank": 64}}))
    shared, apart = differences({name: arm.config for name, arm in arms.items()})
    assert apart == {"lora": {"method.rank": 8}, "wide": {"method.rank": 64}}
    both = set(flattened(arms["lora"].config.model_dump(mode="json")))
    assert set(shared) == both - {"method.rank"}


def test_a_method_keeps_the_shared_choices_but_not_another_methods_defaults() -> None:
    """A resolved lora has lr_ratio 1 as everything that lora is: LoRA+ with it would be LoRA."""
    arms = found(made(grid={"method": ["lora", "lora_plus", "pissa"]}))
    assert {name: arm.config.method.rank for name, arm in arms.items()} == dict.fromkeys(arms, 8)
    assert arms["lora_plus"].config.method.lr_ratio == 16
    assert arms["pissa"].config.method.alpha == 16, "its own default, not lora's 32"


def test_a_choice_that_a_method_does_not_have_is_left_behind() -> None:
    base = {**BASE, "method": {"name": "qlora", "dora": True, "rank": 4}}
    config = load_comparison({"base": base, "grid": {"method": ["qlora", "lora"]}})
    arms = found(config)
    assert arms["qlora"].config.method.dora and arms["lora"].config.method.rank == 4


def test_overrides_change_all_arms() -> None:
    arms = found(made(grid={"method": ["lora", "dora"]}), **{"training.batch_size": 3})
    assert [arm.config.training.batch_size for arm in arms.values()] == [3, 3]


def test_every_fault_of_every_arm_is_told_at_once() -> None:
    config = made(
        arms={
            "typo": {"method.rnk": 3},
            "seeded": {"seed": 7},
            "unknown": {"method": "lra"},
            "none": {"data.rows": 0},
            "a=b": {},
        }
    )
    with pytest.raises(ConfigError) as caught:
        found(config)
    told = "\n".join(map(str, caught.value.faults))
    assert len(caught.value.faults) == 5
    for words in ("did you mean 'rank'", "the same for all arms", "did you mean 'lora'",
                  "a number of rows", "arm 'a=b'"):  # fmt: skip
        assert words in told


def test_two_names_for_one_run_are_refused() -> None:
    config = made(arms={"one": {"method.rank": 8}, "two": {}})
    with pytest.raises(ConfigError, match="the same settings as 'one'"):
        found(config)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"arms": {"alone": {}}}, "at least two"),
        ({"grid": {"method": ["lora", "dora"]}, "reference": "lra"}, "one of lora, dora"),
    ],
)
def test_what_cannot_be_compared_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        found(made(**settings))


def test_a_comparison_needs_validation_rows() -> None:
    base = {**BASE, "data": {"train": "train.jsonl"}}
    config = load_comparison({"base": base, "grid": {"method": ["lora", "dora"]}})
    with pytest.raises(ConfigError, match="rows that no arm is trained on"):
        found(config)


def test_long_names_are_cut_and_stay_apart() -> None:
    targets = [[f"layer_{i}_{j}" for i in range(9)] for j in range(2)]
    names = list(found(made(grid={"method.target_modules": targets})))
    assert len(set(names)) == 2 and all(len(name) <= 45 for name in names)


# --- settings -------------------------------------------------------------------------------------


def test_seeds_are_a_number_or_a_list() -> None:
    assert made(grid={"method": ["lora", "dora"]}, seeds=3).seeds == (1, 2, 3)
    assert made(grid={"method": ["lora", "dora"]}, seeds=[5, 9]).seeds == (5, 9)
    for wrong in (0, [], [1, 1], -1):
        with pytest.raises(ConfigError):
            made(grid={"method": ["lora", "dora"]}, seeds=wrong)


def test_the_search_has_luck_of_its_own() -> None:
    config = made(grid={"method": ["lora", "dora"]}, seeds=[4, 9])
    assert config.search_seed not in config.seeds
    with pytest.raises(ConfigError, match="not among seeds"):
        made(grid={"method": ["lora", "dora"]}, seeds=[4, 9], search={"seed": 9})


# --- words ----------------------------------------------------------------------------------------


def test_values_are_parted_at_commas_outside_brackets() -> None:
    assert split_values("all-linear,[q_proj,v_proj],{a: 1, b: 2}") == [
        "all-linear", "[q_proj,v_proj]", "{a: 1, b: 2}",
    ]  # fmt: skip
    assert axis("training.learning_rate=1e-4,3e-4") == ("training.learning_rate", (1e-4, 3e-4))
    assert axis("data.rows=10,20")[1] == (10, 20)


@pytest.mark.parametrize("word", ["method.rank", "method.rank=", "=1,2", "method.rank=1,,2"])
def test_an_axis_without_values_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="no values"):
        axis(word)


def test_a_file_may_be_a_comparison_a_run_or_data(tmp_path: Any) -> None:
    run = tmp_path / "run.yaml"
    run.write_text("model: {name: m}\ndata: {train: t.jsonl, validation: v.jsonl}\n", "utf-8")
    whole = tmp_path / "whole.yaml"
    whole.write_text("base: run.yaml\ngrid: {method.rank: [1, 2]}\nseeds: 2\n", "utf-8")
    assert comparison(Asked(run)).base == str(run)
    assert list(comparison(Asked(run)).grid) == ["method"], "the four methods by default"
    assert comparison(Asked(whole)).seeds == (1, 2)
    asked = Asked(whole, settings={"seeds": 5}, trials=0, axes={"method": ("lora",)})
    laid = comparison(asked)
    assert len(laid.seeds) == 5 and laid.search.trials == 0
    assert list(laid.grid) == ["method.rank", "method"]
    assert comparison(Asked(tmp_path / "rows.jsonl")).base == {
        "data": {"train": str(tmp_path / "rows.jsonl")}
    }


def test_an_axis_beside_arms_that_decide_on_it_is_refused(tmp_path: Any) -> None:
    whole = tmp_path / "whole.yaml"
    whole.write_text("base: run.yaml\narms: {a: {}, b: {method: dora}}\n", "utf-8")
    with pytest.raises(ConfigError, match="that set it"):
        comparison(Asked(whole, axes={"method": ("lora", "dora")}))
    assert comparison(Asked(whole, axes={"method.rank": (4, 8)})).grid == {"method.rank": (4, 8)}
