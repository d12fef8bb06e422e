"""The files of configs/: strict, for a known card, and small enough for it."""

from __future__ import annotations

import re
from importlib import util
from itertools import product
from pathlib import Path
from types import ModuleType

import estimate_models
import pytest
import yaml

from tanren.config import RunConfig, load, validate
from tanren.devices import find_card
from tanren.estimate import shape_of

ROOT = Path(__file__).resolve().parent.parent
OF_THE_SERVICE = "serve.yaml"  # other settings: tests/jobs/test_settings.py
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.yaml") if p.name != OF_THE_SERVICE)
FOR_CARDS = [path for path in CONFIGS if path.name not in ("demo.yaml", "dpo.yaml")]
NAME = re.compile(r"(?P<model>.+)-(?P<method>[a-z_]+)-(?P<card>\d+)gb")
MODELS = {
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
}


@pytest.fixture(scope="module")
def planner() -> ModuleType:
    """`scripts/plan_configs.py`."""
    spec = util.spec_from_file_location("plan_configs", ROOT / "scripts" / "plan_configs.py")
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts(path: Path) -> tuple[str, str, int]:
    """Model, method and GB that a file is named after."""
    found = NAME.fullmatch(path.stem)
    assert found is not None, f"{path.name} is not <model>-<method>-<card>gb.yaml"
    return found["model"], found["method"], int(found["card"])


def comment(path: Path, label: str) -> str:
    """What stands behind `# Label:` in a file's head."""
    found = re.search(rf"^# {label}: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{path.name} does not say `# {label}:`"
    return found[1]


def ids(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_a_config_loads_strictly_and_survives_a_round_trip(path: Path) -> None:
    """T24: no unknown key, and what a run keeps of it means the same."""
    config = load(path)
    assert isinstance(config, RunConfig)
    again = validate(yaml.safe_load(config.to_yaml()), source=path.name)
    assert again == config


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_a_config_says_for_whom_it_is_and_what_to_change(path: Path) -> None:
    assert comment(path, "For") and comment(path, "Card") and comment(path, "Change first")


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_settings_that_are_recommended_to_change_exist(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\nmodel:")[0]
    known = {
        f"{part}.{name}"
        for part, values in load(path).model_dump().items()
        if isinstance(values, dict)
        for name in values
    }
    words = set(re.findall(r"\b(?:model|data|method|training|evaluation)\.[a-z_]+", head))
    assert words and words <= known


@pytest.mark.parametrize("path", FOR_CARDS, ids=ids)
def test_name_settings_and_card_agree(path: Path) -> None:
    model, method, memory = parts(path)
    config = load(path)
    assert config.model.name == MODELS[model]
    assert config.method.name == method
    assert find_card(comment(path, "Card")).memory_gib == memory
    title = path.read_text(encoding="utf-8").split("\n")[0]
    assert f"{memory} GB" in title and config.method.title in title


def test_every_method_has_a_config_for_every_model_and_every_card_size_is_met() -> None:
    found = {parts(path)[:2] for path in FOR_CARDS}
    assert found >= set(product(MODELS, ("lora", "qlora", "dora", "lora_plus")))
    assert {parts(path)[2] for path in FOR_CARDS} == {8, 12, 24, 80}


@pytest.mark.parametrize("path", FOR_CARDS, ids=ids)
def test_a_config_fits_its_card(path: Path, planner: ModuleType) -> None:
    """Rows of the full `data.max_length` fit, with 5% of the card left alone."""
    config = load(path)
    memory = planner.card_bytes(path)
    assert memory == int(0.95 * parts(path)[2] * 2**30)
    plan = planner.plan_of(config, memory)
    assert plan.fits, plan.advice
    assert plan.total_bytes <= memory
    if config.model.name.endswith(("8B", "8B-Instruct")):
        assert not planner.plan_of(config, memory // 4).fits


@pytest.mark.parametrize("path", FOR_CARDS, ids=ids)
def test_the_figures_in_the_comments_are_the_estimates(path: Path, planner: ModuleType) -> None:
    assert planner.planned(path) == path.read_text(encoding="utf-8"), "run `make docs`"


def test_the_longest_row_is_the_longest(planner: ModuleType) -> None:
    path = ROOT / "configs" / "qwen3-8b-qlora-12gb.yaml"
    config, memory = load(path), planner.card_bytes(path)
    longest = planner.longest_row(config, memory)
    assert planner.plan_of(config, memory, longest_row=longest).fits
    assert not planner.plan_of(config, memory, longest_row=longest + 100).fits


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("Qwen/Qwen3-0.6B", estimate_models.QWEN3_06B),
        ("Qwen/Qwen3-1.7B", estimate_models.QWEN3_17B),
        ("Qwen/Qwen3-8B", estimate_models.QWEN3_8B),
        ("meta-llama/Llama-3.1-8B-Instruct", estimate_models.LLAMA_8B),
    ],
)
def test_the_planned_models_have_the_public_shapes(
    name: str, numbers: dict[str, object], planner: ModuleType
) -> None:
    """Written down twice, independently; the parameter counts decide."""
    assert planner.shape_of_model(name).total == shape_of(numbers).total
    assert {key: planner.MODELS[name][key] for key in numbers} == numbers


def test_the_settings_every_version_understands_stay_valid(tmp_path: Path) -> None:
    """The backbone that users' files are made of; a rename here would break all of them."""
    backbone = """\
model: {name: data/tiny-chat, dtype: auto}
data: {train: data/taro.jsonl, validation: null, max_length: auto}
method: {name: lora, rank: 16, alpha: 32, target_modules: all-linear}
training: {learning_rate: auto, num_epochs: 3, max_steps: null, batch_size: 8, \
warmup_fraction: 0.03, save_every: null}
evaluation: {every: null, early_stopping_patience: null}
seed: 42
"""
    path = tmp_path / "backbone.yaml"
    path.write_text(backbone, encoding="utf-8")
    config = load(path)
    assert (config.method.name, config.training.batch_size, config.seed) == ("lora", 8, 42)
    for key in ("every", "early_stopping_patience"):
        assert key in config.evaluation.model_dump()
