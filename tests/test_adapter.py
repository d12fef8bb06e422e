"""Putting an adapter on, counting it, saving it, loading it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import assembled
import pytest
import torch
from assembled import assemble_model, logits, relative
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tanren.adapter import (
    adapter_switched_off,
    add_adapter,
    coverage,
    load_adapter,
    load_weights,
    save_adapter,
    saved_keys,
)
from tanren.errors import ModelError
from tanren.gate import examine
from tanren.proof import prove, reference, saved_tensors

KINDS = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


def faults_of(config: Any) -> list[Any]:
    """Of the gate, which knows the layers before any weights are loaded, or of putting it on."""
    with pytest.raises(ModelError) as caught:
        gate = examine(config)
        add_adapter(assembled.load(gate), gate.source, config.method, seed=0)
    return list(caught.value.faults)


# --- targets (T19) --------------------------------------------------------------------------------


def test_t19_a_bogus_target_is_refused_with_the_candidates(make_config: Any) -> None:
    (fault,) = faults_of(make_config(method={"name": "lora", "target_modules": ["q_porj"]}))
    assert fault.where == "method.target_modules" and "'q_porj'" in fault.found
    assert KINDS in fault.remedy


def test_t19_one_bogus_among_good_is_refused_and_all_are_named(make_config: Any) -> None:
    wanted = ["q_proj", "w1", "v_proj", "w2"]
    faults = faults_of(make_config(method={"name": "dora", "target_modules": wanted}))
    assert [fault.found.split(",")[0] for fault in faults] == ["'w1'", "'w2'"]


def test_t19_part_of_a_name_is_no_match(make_config: Any) -> None:
    faults = faults_of(make_config(method={"name": "lora", "target_modules": ["proj", "attn"]}))
    assert len(faults) == 2


def test_t19_a_pattern_must_match_something(make_config: Any) -> None:
    (fault,) = faults_of(
        make_config(method={"name": "lora", "target_modules": r".*\.attention\.wq"})
    )
    assert r"'.*\\.attention\\.wq'" in fault.found and KINDS in fault.remedy


def test_a_pattern_adapts_what_it_matches(make_config: Any) -> None:
    pattern = r".*layers\.1\.(self_attn\.q_proj|mlp\.up_proj)"
    parts = assemble_model(make_config(method={"name": "lora", "target_modules": pattern}))
    found = coverage(parts.model)
    assert {k: v for k, v in found.kinds.items() if v[0]} == {"q_proj": (1, 2), "up_proj": (1, 2)}


def test_t19_targets_and_saved_modules_are_faulted_together(make_config: Any) -> None:
    method = {"name": "lora", "target_modules": ["w1"], "modules_to_save": ["score", "lm_head"]}
    faults = faults_of(make_config(method=method))
    assert [fault.where for fault in faults] == ["method.target_modules", "method.modules_to_save"]
    assert "'score'" in faults[1].found


@pytest.mark.parametrize("family", ["qwen3", "llama-tied"])
def test_an_adapter_on_the_head_is_refused_with_the_remedy(make_config: Any, family: str) -> None:
    method = {"name": "lora", "target_modules": ["q_proj", "lm_head"]}
    (fault,) = faults_of(make_config(family=family, method=method))
    assert "lm_head" in fault.found and "modules_to_save=[lm_head]" in fault.remedy


def test_a_pattern_that_reaches_the_head_is_refused_too(make_config: Any) -> None:
    method = {"name": "lora", "target_modules": r"(.*q_proj|lm_head)"}
    faults = faults_of(make_config(method=method))
    assert any("modules_to_save=[lm_head]" in fault.remedy for fault in faults)


def test_a_target_that_cannot_carry_an_adapter_is_refused(make_config: Any) -> None:
    """A norm is a module of that name, but no matrix; a whole block is none either."""
    for target in ("input_layernorm", "self_attn"):
        faults = faults_of(make_config(method={"name": "lora", "target_modules": [target]}))
        assert target in faults[0].found and KINDS in faults[0].remedy


# --- modules trained whole ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "qlora", "dora"])
def test_a_head_trained_whole_is_trained_saved_and_proved(
    make_run: Callable[..., Any], method: str
) -> None:
    from tanren.pipeline import execute

    run = make_run("training.max_steps=3", method={"name": method, "modules_to_save": ["lm_head"]})
    result = execute(run)
    assert result["proof"]["passed"]
    head = "base_model.model.lm_head.weight"
    saved = saved_tensors(run.adapter)
    assert head in saved
    with safe_open(Path(run.config().model.name) / "model.safetensors", framework="pt") as file:
        before = file.get_tensor("lm_head.weight")
    assert saved[head].dtype == torch.float32
    assert float((saved[head] - before).abs().max()) > 1e-4
    groups = {group["name"]: group for group in result["optimizer_groups"]}
    assert groups["saved modules"]["elements"] == before.numel()


def test_a_damaged_head_fails_the_proof(make_config: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    parts = assemble_model(make_config(method={"name": "lora", "modules_to_save": ["lm_head"]}))
    with torch.no_grad():
        for name, parameter in parts.model.named_parameters():
            if parameter.requires_grad and ("lora_B" in name or "lm_head" in name):
                parameter += 0.05
    save_adapter(parts.model, tmp_path / "a")
    expected = reference(parts.model, [assembled.PROBE], saved_keys(parts.model))
    tensors = saved_tensors(tmp_path / "a")
    tensors["base_model.model.lm_head.weight"] *= 1.01
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors", {"format": "pt"})
    fresh = load_adapter(assembled.load(parts.gate), tmp_path / "a")
    assert not prove(expected, fresh, tmp_path / "a", dtype=torch.float32).passed


@pytest.mark.parametrize(
    "layers",
    [
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=["head", "embeddings", "both", "adapter on embeddings"],
)
def test_t11_tied_embeddings_are_right_or_refused(
    make_run: Callable[..., Any], tmp_path: Path, layers: dict[str, list[str]]
) -> None:
    """Either the run ends with a passed proof and a file that merges to the same logits, or it is
    refused before training with a remedy. Never anything between.
    """
    from tanren.pipeline import execute

    run = make_run(
        "training.max_steps=3",
        family="llama-tied",
        method={"name": "lora", **layers},
    )
    try:
        result = execute(run)
    except ModelError as error:
        assert error.faults and error.faults[0].where == f"method.{next(iter(layers))}"
        assert not run.checkpoints.exists()
        return
    assert result["proof"]["passed"]
    gate = examine(run.config())
    model = load_adapter(assembled.load(gate), run.adapter)
    separate = logits(model)
    merged = model.merge_and_unload()
    assert relative(separate, logits(merged)) < 1e-4
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert relative(separate, logits(again)) < 1e-4


# --- counting -------------------------------------------------------------------------------------


def test_coverage_counts_adapted_and_all_layers(make_config: Any) -> None:
    method = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}
    found = coverage(assemble_model(make_config(method=method)).model)
    assert found.kinds["q_proj"] == (2, 2) and found.kinds["v_proj"] == (2, 2)
    assert found.kinds["o_proj"] == (0, 2) and found.kinds["lm_head"] == (0, 1)
    assert found.trained == 2 * 4 * ((64 + 64) + (64 + 32))
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["layers"]["k_proj"] == {"adapted": 0, "all": 2}


def test_four_bit_weights_count_with_their_real_number(make_config: Any) -> None:
    """Two weights share a byte, and yet the model has as many parameters as in 32 bits."""
    small = coverage(assemble_model(make_config(method="qlora")).model)
    large = coverage(assemble_model(make_config(method="lora")).model)
    assert small == large


# --- saving and loading ---------------------------------------------------------------------------


def test_the_folder_is_plain_peft_and_names_its_base(make_config: Any, tmp_path: Path) -> None:
    parts = assemble_model(make_config())
    save_adapter(parts.model, tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == str(parts.gate.source.path)
    assert settings["revision"] is None and settings["peft_type"] == "LORA"
    assert saved_keys(parts.model) == saved_tensors(tmp_path / "a").keys()


def test_an_adapter_on_embeddings_saves_the_adapter_alone(make_config: Any, tmp_path: Path) -> None:
    """Not the base's whole embedding beside it, and without a word on the screen."""
    method = {"name": "lora", "target_modules": ["embed_tokens", "q_proj"]}
    parts = assemble_model(make_config(method=method))
    with torch.no_grad():
        for name, parameter in parts.model.named_parameters():
            if parameter.requires_grad and ("lora_B" in name or "embedding_A" in name):
                parameter += 0.05
    save_adapter(parts.model, tmp_path / "a")
    saved = saved_tensors(tmp_path / "a")
    assert all("lora_" in key for key in saved)
    assert saved_keys(parts.model) == saved.keys()
    fresh = load_adapter(assembled.load(parts.gate), tmp_path / "a")
    assert relative(parts.logits(), logits(fresh)) < 1e-6


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "qlora", "eva", "full"])
def test_weights_of_a_checkpoint_come_back_bit_for_bit(
    make_config: Any, tmp_path: Path, method: str
) -> None:
    parts = assemble_model(make_config(method=method))
    save_adapter(parts.model, tmp_path / "a")
    before, kept = parts.logits(), assembled.trained(parts.model)
    with torch.no_grad():
        for parameter in parts.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    assert relative(before, parts.logits()) > 1e-3
    load_weights(parts.model, tmp_path / "a")
    again = assembled.trained(parts.model)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)
    assert {p.dtype for p in parts.model.parameters() if p.requires_grad} == {torch.float32}
    assert torch.equal(before, parts.logits())


def test_switching_off_is_the_base_and_ends(make_config: Any) -> None:
    parts = assemble_model(make_config())
    base = parts.logits()
    with torch.no_grad():
        for name, parameter in parts.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    tuned = parts.logits()
    with adapter_switched_off(parts.model):
        assert torch.equal(parts.logits(), base)
    assert torch.equal(parts.logits(), tuned) and not torch.equal(tuned, base)
    with adapter_switched_off(parts.base):  # no adapter model: nothing to switch, no error
        assert parts.base.training is False


def test_dropout_acts_in_training_alone(make_config: Any) -> None:
    parts = assemble_model(make_config(method={"name": "lora", "dropout": 0.5}))
    with torch.no_grad():
        for name, parameter in parts.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    assert torch.equal(parts.logits(), parts.logits())
    parts.model.train()
    ids = torch.tensor([assembled.PROBE])
    with torch.no_grad():
        one, two = (parts.model(input_ids=ids, use_cache=False).logits for _ in range(2))
    assert not torch.equal(one, two)
