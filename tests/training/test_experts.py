"""Adapters on the stacked experts of a mixture: made, trained and saved is what was asked for.

A stack is one parameter `(experts, outputs, inputs)`; its adapter is kept as A `(experts * rank,
inputs)` with expert after expert, and B `(outputs, rank * experts)` with the experts of each rank
side by side.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import assembled
import pytest
import torch
from assembled import Assembled, assemble_model, logits, relative
from safetensors.torch import save_file
from torch import Tensor
from training.rig import (
    adapter_bytes,
    build_trainer,
    give_weights_to_b,
    gradients,
    largest_difference,
)

from tanren.adapter import load_adapter, load_weights, save_adapter, saved_keys
from tanren.batches import Row
from tanren.estimate import adapter_size, idle_parameters, shape_of
from tanren.model import base_of, recompute_layers
from tanren.pipeline import execute
from tanren.proof import prove, reference, saved_tensors
from tanren.sft import Step

MakeConfig = Callable[..., Any]
FAMILIES = ("qwen3_moe", "mixtral")
EXPERTS, RANK = 4, 4
STACKS = ("experts.gate_up_proj", "experts.down_proj")
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
WHOLE = {"name": "lora", "target_parameters": list(STACKS)}


def with_update(config: Any) -> Assembled:
    """Assembled, with an adapter that does something."""
    parts = assemble_model(config)
    give_weights_to_b(parts.model)
    return parts


def delta(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """`scaling * B_e @ A_e` of every expert e, (experts, outputs, inputs), from the saved tensors.

    Rows `e * rank` to `(e + 1) * rank` of A, and columns `e`, `e + experts`, ... of B.
    """
    rank = a.shape[0] // EXPERTS
    each = [b[:, e::EXPERTS] @ a[e * rank : (e + 1) * rank] for e in range(EXPERTS)]
    return scaling * torch.stack(each)


# --- what is made ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_adapter_on_experts_changes_no_logit(
    make_config: MakeConfig, family: str
) -> None:
    parts = assemble_model(make_config(family=family, method=WHOLE))
    assert torch.equal(parts.logits(), logits(assembled.load(parts.gate)))
    give_weights_to_b(parts.model)
    moved = parts.logits()
    for name, parameter in parts.model.named_parameters():
        if "self_attn" in name and "lora_B" in name:
            parameter.data.zero_()
    assert not torch.equal(parts.logits(), moved)
    assert relative(logits(assembled.load(parts.gate)), parts.logits()) > 1e-3, "experts count"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("targets", "parameters"),
    [
        ("all-linear", STACKS),
        ("all-linear", ()),
        (("q_proj", "v_proj"), ("down_proj",)),
        (r".*layers\.1.*[ko]_proj", ("model.layers.1.mlp.experts.gate_up_proj",)),
    ],
    ids=["all", "attention", "by endings", "one layer"],
)
def test_the_trained_count_is_the_closed_form(
    make_config: MakeConfig, family: str, targets: Any, parameters: tuple[str, ...]
) -> None:
    """T19: `rank * (inputs + outputs)` for each matrix of each expert, and no other tensor."""
    targets = targets if isinstance(targets, str) else list(targets)
    method = {"name": "lora", "target_modules": targets, "target_parameters": list(parameters)}
    parts = assemble_model(make_config(family=family, method=method))
    shape = shape_of(parts.gate.source.config)
    asked = parts.gate.config.method
    size = adapter_size(shape, RANK, asked.target_modules, parameters=asked.target_parameters)
    assert size.total == sum(t.numel() for t in assembled.trained(parts.model).values())
    assert size.total == parts.gate.coverage.trained
    assert parts.gate.memory is not None
    assert parts.gate.memory.trainable_parameters == size.total


@pytest.mark.parametrize("family", FAMILIES)
def test_the_closed_form_written_out(make_config: MakeConfig, family: str) -> None:
    parts = assemble_model(make_config(family=family, method=WHOLE))
    width = 32 if family == "qwen3_moe" else 128
    attention = 2 * (64 + 64) + 2 * (64 + 32)
    expert = (64 + 2 * width) + (width + 64)
    trained = sum(t.numel() for t in assembled.trained(parts.model).values())
    assert trained == 2 * RANK * (attention + EXPERTS * expert)
    # two of the four experts see a token
    shape = shape_of(parts.gate.source.config)
    assert idle_parameters(shape, RANK, STACKS) == 2 * RANK * 2 * expert


@pytest.mark.parametrize("family", FAMILIES)
def test_t20_each_tensor_is_in_one_group(make_run: Callable[..., Any], family: str) -> None:
    method = {"name": "lora_plus", "target_parameters": list(STACKS)}
    trainer = build_trainer(make_run(family=family, method=method))
    trainer.create_optimizer()
    names = [name for group in trainer.groups for name, _ in group.parameters]
    assert len(names) == len(set(names)) == 2 * 2 * (4 + 2)
    assert set(names) == {n for n, p in trainer.network.named_parameters() if p.requires_grad}
    by_name = {group.name: group for group in trainer.groups}
    assert list(by_name) == ["A", "B"]
    for kind in "AB":
        assert all(f"lora_{kind}" in name for name, _ in by_name[kind].parameters)
        assert sum("experts" in name for name, _ in by_name[kind].parameters) == 4
    assert by_name["B"].learning_rate == pytest.approx(16 * by_name["A"].learning_rate)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["lora", "qlora", "rslora"])
def test_a_run_on_experts_is_trained_saved_and_proved(
    make_run: Callable[..., Any], family: str, name: str
) -> None:
    run = make_run(
        "training.max_steps=3", family=family, method={"name": name, **_without_name(WHOLE)}
    )
    result = execute(run)
    assert result["proof"]["passed"]
    layers = {
        kind: (found["adapted"], found["all"])
        for event in run.events()
        if event["event"] == "started"
        for kind, found in event["coverage"]["layers"].items()
    }
    assert layers == {
        **dict.fromkeys([*STACKS, *ATTENTION], (2, 2)),
        "lm_head": (0, 1),
    }
    saved = saved_tensors(run.adapter)
    assert len(saved) == 2 * 2 * (4 + 2)
    assert all(t.dtype == torch.float32 and bool(t.any()) for t in saved.values())
    settings = json.loads((run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["target_modules"] == ATTENTION, "in this order in every process (T23)"
    assert settings["target_parameters"] == sorted(STACKS)
    assert (settings["r"], settings["rank_pattern"]) == (RANK, {})


def _without_name(method: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in method.items() if key != "name"}


@pytest.mark.parametrize("family", FAMILIES)
def test_training_moves_the_adapter_and_leaves_the_experts(
    make_run: Callable[..., Any], family: str
) -> None:
    run = make_run("training.max_steps=3", family=family, method=WHOLE)
    trainer = build_trainer(run)
    before = assembled.trained(trainer.network), assembled.frozen(trainer.network)
    trainer.fit()
    after = assembled.trained(trainer.network), assembled.frozen(trainer.network)
    assert after[1].keys() == before[1].keys()
    assert all(torch.equal(after[1][name], tensor) for name, tensor in before[1].items())
    assert sum("down_proj" in name for name in after[1]) == 2
    assert not any(torch.equal(after[0][name], tensor) for name, tensor in before[0].items())


@pytest.mark.parametrize("family", FAMILIES)
def test_t22_recomputing_layers_changes_no_gradient(
    make_run: Callable[..., Any], family: str
) -> None:
    found = []
    for layers in (0, 1, 2):

        def prepare(model: torch.nn.Module, layers: int = layers) -> None:
            give_weights_to_b(model)
            recompute_layers(base_of(model), layers)

        run = make_run("training.batch_size=6", family=family, method=WHOLE, name=f"run{layers}")
        trainer = build_trainer(run, prepare=prepare)
        found.append(_gradients(trainer, trainer.step))
    assert all(bool(gradient.any()) for gradient in found[0].values())
    assert max(largest_difference(found[0], other) for other in found[1:]) <= 1e-7


@pytest.mark.parametrize("family", FAMILIES)
def test_t12_the_gradient_is_the_same_in_one_pass_and_in_many(
    make_run: Callable[..., Any], family: str
) -> None:
    run = make_run("training.batch_size=6", family=family, method=WHOLE)
    trainer = build_trainer(run, prepare=give_weights_to_b)
    together = _gradients(trainer, Step(10**6, True, trainer.step.pad_id))
    alone = _gradients(trainer, Step(1, False, trainer.step.pad_id))
    scale = max(float(gradient.abs().max()) for gradient in together.values())
    assert largest_difference(together, alone) <= 1e-5 * scale


def _gradients(trainer: Any, step: Step) -> dict[str, Tensor]:
    rows: list[Row] = [row for rows in trainer.step_loader for row in rows]
    trainer.step = step
    trainer.model.zero_grad(set_to_none=True)
    trainer.training_step(trainer.model, rows)
    return gradients(trainer.model)


def test_t6_resuming_is_never_having_stopped(make_run: Callable[..., Any]) -> None:
    settings = ("training.batch_size=2", "training.save_every=2", "training.keep_checkpoints=9")
    whole, rest = (
        make_run(*settings, family="qwen3_moe", method=WHOLE, name=name, rows=10)
        for name in ("whole", "rest")
    )
    execute(whole)
    execute(rest)
    for checkpoint in rest.complete_checkpoints():
        if checkpoint.step > 2:
            _remove(checkpoint.path)
    _remove(rest.adapter)
    rest.result_file.unlink()
    before = adapter_bytes(whole)
    again = execute(rest, resume=True)
    assert again["steps"] == 5
    assert adapter_bytes(rest) == before


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


# --- saved and loaded -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_a_checkpoint_come_back_bit_for_bit(
    make_config: MakeConfig, tmp_path: Path, family: str
) -> None:
    parts = with_update(make_config(family=family, method=WHOLE))
    save_adapter(parts.model, tmp_path / "a")
    before, kept = parts.logits(), assembled.trained(parts.model)
    with torch.no_grad():
        for parameter in parts.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    load_weights(parts.model, tmp_path / "a")
    assert all(torch.equal(t, kept[n]) for n, t in assembled.trained(parts.model).items())
    assert torch.equal(before, parts.logits())


@pytest.mark.parametrize("damage", ["zero", "swapped"])
def test_t8_damaged_experts_fail_the_proof(
    make_config: MakeConfig, tmp_path: Path, damage: str
) -> None:
    """A stack that learned nothing, and two experts that changed places."""
    parts = with_update(make_config(family="qwen3_moe", method=WHOLE))
    save_adapter(parts.model, tmp_path)
    expected = reference(parts.model, [assembled.PROBE], saved_keys(parts.model))
    tensors = saved_tensors(tmp_path)
    key = "base_model.model.model.layers.1.mlp.experts.lora_B.weight"
    if damage == "zero":
        tensors[key] = torch.zeros_like(tensors[key])
    else:
        order = torch.arange(tensors[key].shape[1]).view(RANK, EXPERTS).flip(1).flatten()
        tensors[key] = tensors[key][:, order].contiguous()
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    fresh = load_adapter(assembled.load(parts.gate), tmp_path)
    proof = prove(expected, fresh, tmp_path, dtype=torch.float32)
    assert not proof.passed
    assert any("learned nothing" in text for text in proof.failures) == (damage == "zero")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parameters", [STACKS, STACKS[:1], STACKS[1:]], ids=["both", "up", "down"])
def test_merging_adds_each_experts_own_product(
    make_config: MakeConfig, tmp_path: Path, family: str, parameters: tuple[str, ...]
) -> None:
    """The merged model on disk, expert by expert, is the base plus `scaling * B_e @ A_e`.

    A layer's wrappers lie in the order of its parameters: the outermost, without `base_layer` in
    its name, is `down_proj` when both are adapted.
    """
    method = {"name": "lora", "target_parameters": list(parameters)}
    parts = with_update(make_config(family=family, method=method))
    save_adapter(parts.model, tmp_path / "adapter")
    model = load_adapter(assembled.load(parts.gate), tmp_path / "adapter")
    separate = logits(model)
    merged = model.merge_and_unload()
    assert relative(separate, logits(merged)) < 1e-5
    merged.save_pretrained(tmp_path / "merged")

    base = saved_tensors(parts.gate.source.path)
    found = saved_tensors(tmp_path / "merged")
    assert found.keys() == base.keys()
    adapter = saved_tensors(tmp_path / "adapter")
    block, gate, up, down = (
        ("block_sparse_moe", "w1", "w3", "w2")
        if family == "mixtral"
        else ("mlp", "gate_proj", "up_proj", "down_proj")
    )
    for layer in range(2):
        prefix = f"base_model.model.model.layers.{layer}.mlp.experts"
        for number, stack in enumerate(reversed(parameters)):  # the last one lies outermost
            place = prefix + ".base_layer" * number
            a, b = (adapter[f"{place}.lora_{kind}.weight"] for kind in "AB")
            update = delta(a, b, parts.gate.config.method.scaling)
            names = [gate, up] if stack.endswith("gate_up_proj") else [down]
            for expert in range(EXPERTS):
                pieces = update[expert].chunk(len(names))  # the gate's rows, then those of up
                for name, piece in zip(names, pieces, strict=True):
                    key = f"model.layers.{layer}.{block}.experts.{expert}.{name}.weight"
                    assert relative(base[key] + piece, found[key]) < 1e-5, key
                    assert relative(base[key], found[key]) > 1e-2, "an update to be seen"


# --- four bits ------------------------------------------------------------------------------------


def test_four_bits_are_for_linear_layers_and_the_gate_says_so(make_config: MakeConfig) -> None:
    parts = assemble_model(make_config(family="mixtral", method={"name": "qlora"}))
    attention = parts.base.model.layers[0].self_attn.q_proj
    experts = parts.base.model.layers[0].mlp.experts
    assert attention.base_layer.weight.dtype == torch.uint8
    assert experts.down_proj.dtype == torch.float32
    share = 2 * EXPERTS * 3 * 64 * 128 / parts.gate.coverage.total
    warning = f"the experts, {share:.0%} of the parameters, stay in float32"
    assert any(warning in said for said in parts.gate.warnings)
    shape = shape_of(parts.gate.source.config)
    stored = sum(
        p.numel() for n, p in parts.base.named_parameters() if p.dtype == torch.uint8
    )  # two weights a byte
    assert 2 * stored == shape.standing_lin
