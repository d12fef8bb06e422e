"""What targets mean on a mixture of experts, and what is said where they mean nothing (T19)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from assembled import assemble_model
from peft.tuners.tuners_utils import BaseTunerLayer

from tanren.adapter import sketch
from tanren.config import load
from tanren.errors import ConfigError, ModelError
from tanren.gate import examine
from tanren.targets import plain_name, stacked_weights

FAMILIES = ("qwen3_moe", "mixtral")
ATTENTION = {"k_proj", "o_proj", "q_proj", "v_proj"}
STACKS = ["experts.gate_up_proj", "experts.down_proj"]


def adapted(model: Any) -> set[str]:
    """Full names of everything that carries an adapter."""
    return {plain_name(n) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}


def faults_of(config: Any) -> list[Any]:
    with pytest.raises(ModelError) as caught:
        examine(config)
    return list(caught.value.faults)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["all-linear", r".*_proj", r".*\.(w[123]|[qkvo]_proj)"])
def test_t19_no_target_reaches_experts_or_router_unasked(
    make_config: Any, family: str, targets: str
) -> None:
    """PEFT alone reads these as the router and every expert too, some at twice the rank."""
    parts = assemble_model(
        make_config(family=family, method={"name": "lora", "target_modules": targets})
    )
    names = adapted(parts.model)
    assert {name.rsplit(".", 1)[-1] for name in names} == ATTENTION
    assert len(names) == 2 * len(ATTENTION)
    outline = sketch(parts.gate.source, parts.gate.config.method)
    assert adapted(outline) == names, "the gate shows what training makes"


def test_other_models_have_no_stacks_and_keep_the_word(make_config: Any) -> None:
    parts = assemble_model(make_config())
    assert not stacked_weights(parts.base)
    assert len(adapted(parts.model)) == 14 and not parts.gate.coverage.stacks
    assert not any("the experts" in warning for warning in parts.gate.warnings)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gate_shows_experts_without_an_adapter_and_how_to_give_them_one(
    make_config: Any, family: str
) -> None:
    gate = examine(make_config(family=family))
    assert {kind: gate.coverage.kinds[kind] for kind in STACKS} == dict.fromkeys(STACKS, (0, 2))
    (warning,) = (said for said in gate.warnings if "have no adapter" in said)
    setting = warning.split()[-1]
    assert setting.startswith("method.target_parameters=")
    again = examine(make_config(setting, family=family))
    assert {kind: again.coverage.kinds[kind] for kind in STACKS} == dict.fromkeys(STACKS, (2, 2))
    assert not any("have no adapter" in said for said in again.warnings)


def test_the_gate_says_when_a_method_cannot_adapt_experts(make_config: Any) -> None:
    gate = examine(make_config(family="mixtral", method="dora"))
    assert any("DoRA cannot give them one" in said for said in gate.warnings)
    gate = examine(make_config(family="mixtral", method="full"))
    assert not any("have no adapter" in said for said in gate.warnings)


@pytest.mark.parametrize("family", FAMILIES)
def test_t19_names_that_match_no_stack_are_all_refused_with_the_candidates(
    make_config: Any, family: str
) -> None:
    method = {
        "name": "lora",
        "target_modules": ["q_proj", "down_proj", "gate"],
        "target_parameters": ["experts.dwon_proj", "q_proj.weight", "proj", *STACKS],
        "modules_to_save": ["score"],
    }
    faults = faults_of(make_config(family=family, method=method))
    assert [fault.where for fault in faults] == [
        *["method.target_modules"] * 2,
        *["method.target_parameters"] * 3,
        "method.modules_to_save",
    ]
    assert "a stack of experts" in faults[0].found and "target_parameters" in faults[0].remedy
    assert "TopKRouter" in faults[1].found
    assert "matches no weight" in faults[2].found and "no stack" in faults[3].found
    assert all("experts.down_proj, experts.gate_up_proj" in f.remedy for f in faults[2:5])


def test_t19_a_model_without_stacks_says_so(make_config: Any) -> None:
    method = {"name": "lora", "target_parameters": ["experts.down_proj"]}
    (fault,) = faults_of(make_config(method=method))
    assert fault.where == "method.target_parameters" and "no stacked weights" in fault.remedy


def test_a_dense_layer_in_a_mixture_is_left_or_refused(tmp_path: Path) -> None:
    """Its matrices bear the experts' old names: PEFT would adapt the experts of other layers."""
    model = tiny.build_model(tmp_path / "model", "qwen3_moe", mlp_only_layers=[0])
    rows = tiny.write_rows(tmp_path / "rows.jsonl")
    parts = assemble_model(tiny.settings(model, rows))
    assert {name.rsplit(".", 1)[-1] for name in adapted(parts.model)} == ATTENTION
    assert parts.gate.coverage.kinds["gate_proj"] == (0, 1), "left out, and shown"
    for targets in (["q_proj", "gate_proj", "up_proj"], r".*\.(q_proj|down_proj)"):
        method = {"name": "lora", "target_modules": targets}
        faults = faults_of(tiny.settings(model, rows, method=method))
        assert all("PEFT takes for the experts" in fault.found for fault in faults)


# --- settings that contradict each other ----------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "lora", "dropout": 0.1}, ["method.dropout above 0"]),
        ({"name": "dora"}, ["with DoRA"]),
        ({"name": "pissa"}, ["with PiSSA"]),
        ({"name": "olora"}, ["with OLoRA"]),
        ({"name": "eva", "dropout": 0.1}, ["method.dropout above 0", "with EVA"]),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_stacks_are_refused_where_peft_cannot_adapt_them(
    method: dict[str, Any], words: list[str]
) -> None:
    parts = {"model": {"name": "m"}, "data": {"train": "chat.jsonl"}}
    load(None, base={**parts, "method": method})
    with pytest.raises(ConfigError) as caught:
        load(None, base={**parts, "method": {**method, "target_parameters": STACKS}})
    (fault,) = caught.value.faults
    assert fault.where == "method.target_parameters"
    assert all(word in fault.expected for word in words)


def test_qdora_and_stacks_contradict_each_other() -> None:
    parts = {"model": {"name": "m"}, "data": {"train": "chat.jsonl"}}
    method = {"name": "qlora", "target_parameters": STACKS}
    assert load(None, base={**parts, "method": method}).method.target_parameters == (*STACKS,)
    with pytest.raises(ConfigError) as caught:
        load(None, base={**parts, "method": {**method, "dora": True}})
    (fault,) = caught.value.faults
    assert fault.where == "method.dora" and "target_parameters" in fault.expected
