"""Known hazards of the libraries below: each is handled, and each test would fail without that.

Where it can be done, a test also lets the hazard happen, so that it is seen to be still there; when
such a half fails after an update, the library was mended and our handling can go.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from training.rig import (
    adapter_bytes,
    build_trainer,
    give_weights_to_b,
    gradients,
    largest_difference,
    trained,
)
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from tanren import adapter as adapters
from tanren import model as models
from tanren.checkpoint import trained_weights
from tanren.config import ModelConfig
from tanren.errors import ModelError
from tanren.methods import METHODS, Eva, Lora
from tanren.model import base_of, locate
from tanren.pipeline import execute
from tanren.rundir import RunDirectory
from tanren.sft import Trainer

MakeRun = Callable[..., RunDirectory]


def four_bit_layers(model: nn.Module) -> list[Any]:
    import bitsandbytes as bnb

    return [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]


def cpu_repacks() -> bool:
    from bitsandbytes.functional import has_avx512bf16

    return bool(has_avx512bf16())


def a_step(trainer: Trainer) -> dict[str, Tensor]:
    trainer.network.zero_grad(set_to_none=True)
    trainer.training_step(trainer.network, next(iter(trainer.step_loader)))
    return gradients(trainer.network)


# --- 4-bit weights repacked for inference (T32) ---------------------------------------------------


def test_evaluating_leaves_four_bit_gradients_alone(make_run: MakeRun) -> None:
    """T32: train, evaluate, train: the gradient after evaluating is bit for bit the one before."""
    trainer = build_trainer(make_run(method="qlora", validation=3), prepare=give_weights_to_b)
    assert len(four_bit_layers(trainer.network)) == 14
    before = a_step(trainer)
    trainer.evaluate()
    after = a_step(trainer)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_evaluated_qlora_run_is_one_never_evaluated(make_run: MakeRun) -> None:
    """T32 over whole runs, through the pipeline and its answers before training."""
    found = []
    for every in (1, 1000):
        run = make_run(
            f"evaluation.every={every}",
            "evaluation.keep_best=false",
            f"evaluation.samples={2 if every == 1 else 0}",
            "evaluation.sample_tokens=4",
            method="qlora",
            validation=3,
            name=f"every-{every}",
        )
        execute(run)
        found.append(adapter_bytes(run))
    assert found[0] == found[1]


@pytest.mark.skipif(not cpu_repacks(), reason="this CPU has no AVX512-BF16: nothing is repacked")
def test_without_the_handling_gradients_would_be_wrong(make_run: MakeRun) -> None:
    """T32: switched on again, the hazard spoils gradients without a word, and our check after every
    evaluation ends the run.
    """
    trainer = build_trainer(
        make_run("model.dtype=bfloat16", method="qlora", validation=3), prepare=give_weights_to_b
    )
    before = a_step(trainer)
    for layer in four_bit_layers(trainer.network):
        layer.support_avx512bf16_for_cpu = True
    with pytest.raises(AssertionError, match="repacked"):
        trainer.evaluate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "an autograd kernel was not registered"
        after = a_step(trainer)
    scale = max(float(gradient.abs().max()) for gradient in before.values())
    assert largest_difference(before, after) > 0.1 * scale


# --- adapters rounded to bfloat16 (T33) -----------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "qlora", "dora", {"name": "qlora", "dora": True}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_trained_is_float32(make_run: MakeRun, method: Any, dtype: str) -> None:
    """T33: after the Trainer is made, whatever the base is stored in, and with the values that the
    adapter was given, not rounded on the way.
    """
    given: dict[str, Tensor] = {}

    def prepare(model: nn.Module) -> None:
        give_weights_to_b(model)
        given.update(trained(model))

    run = make_run(f"model.dtype={dtype}", method=method)
    trainer = build_trainer(run, prepare=prepare)
    found = trained(trainer.network)
    assert found and all(value.dtype == torch.float32 for value in found.values())
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_small_rates_move_every_element(make_run: MakeRun) -> None:
    """T33: one step at 2e-5 moves every element of A that has a gradient; in bfloat16, where the
    step is below half a unit in the last place, most would stay.
    """
    run = make_run(
        "training.max_steps=1",
        "training.learning_rate=2e-5",
        "training.optimizer=adamw",
        "model.dtype=bfloat16",
        method="qlora",
    )
    trainer = build_trainer(run, prepare=give_weights_to_b)
    before = trained(trainer.network)
    trainer.fit()
    after = trained(trainer.network)
    names = [name for name in before if "lora_A" in name]
    moved = torch.cat([(before[name] != after[name]).flatten() for name in names])
    rounded = torch.cat(
        [(before[name].bfloat16() != after[name].bfloat16()).flatten() for name in names]
    )
    assert float(moved.float().mean()) > 0.99
    assert float(rounded.float().mean()) < 0.5


def test_the_library_alone_rounds_qlora_adapters(make_run: MakeRun) -> None:
    """T33: TRL's trainer, given the same model, casts A and B to bfloat16."""
    trainer = build_trainer(make_run(method="qlora"), prepare=give_weights_to_b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SFTTrainer(
            model=trainer.network,
            args=copy.copy(trainer.args),
            train_dataset=trainer.train_dataset,
            processing_class=trainer.processing_class,
        )
    kinds = {p.dtype for n, p in trainer.network.named_parameters() if "lora_" in n}
    assert kinds == {torch.bfloat16}


# --- defaults of the trainer ----------------------------------------------------------------------


def test_the_librarys_defaults_do_not_leak_in(make_run: MakeRun, tmp_path: Path) -> None:
    """SFTConfig alone turns bfloat16 autocast and activation checkpointing on, also on CPUs; a
    float32 run of ours computes in float32 and recomputes nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own default is deprecated
        defaults = SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    assert defaults.bf16 is True
    assert checkpoints_activations(defaults) is True

    trainer = build_trainer(make_run())
    assert trainer.args.bf16 is False and trainer.args.fp16 is False
    assert checkpoints_activations(trainer.args) is False
    assert trainer.args.packing is False and trainer.args.max_length is None
    assert trainer.args.gradient_accumulation_steps == 1
    assert trainer.accelerator.mixed_precision == "no"
    kinds: set[torch.dtype] = set()
    head = base_of(trainer.network).get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    a_step(trainer)
    assert kinds == {torch.float32}
    assert not any(m.gradient_checkpointing for m in trainer.network.modules() if has_switch(m))


def has_switch(module: nn.Module) -> bool:
    return hasattr(module, "gradient_checkpointing")


def checkpoints_activations(config: Any) -> bool:
    """Under the name that the installed transformers uses."""
    values = vars(config)
    return bool(values.get("activation_checkpointing", values.get("gradient_checkpointing")))


def test_a_bfloat16_run_multiplies_in_bfloat16(make_run: MakeRun) -> None:
    """The other half: what was asked for is what runs, with the adapter in float32."""
    trainer = build_trainer(make_run("model.dtype=bfloat16"), prepare=give_weights_to_b)
    kinds: set[torch.dtype] = set()
    for name, module in trainer.network.named_modules():
        if name.endswith(("q_proj", "lora_B.default")):
            module.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    found = a_step(trainer)
    assert kinds == {torch.bfloat16}
    assert all(gradient.dtype == torch.float32 for gradient in found.values())


# --- groups (LoRA+) -------------------------------------------------------------------------------


def test_every_trained_tensor_is_in_the_optimizer_once_with_its_decay(make_run: MakeRun) -> None:
    """T20: PEFT's own LoRA+ optimizer ignores `weight_decay` and gives DoRA's magnitudes the rate
    of B and decay; ours does neither, and schedules every group from its own peak.
    """
    run = make_run("training.weight_decay=0.1", method={"name": "dora", "lr_ratio": 16})
    trainer = build_trainer(run)
    optimizer = trainer.create_optimizer()
    names = {id(p): n for n, p in trainer.network.named_parameters() if p.requires_grad}
    placed = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(placed) == sorted(names.values())
    facts = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert facts == {
        "A": (pytest.approx(1e-3), 0.1),
        "B": (pytest.approx(16e-3), 0.1),
        "magnitude": (pytest.approx(1e-3), 0.0),
    }
    for group in optimizer.param_groups:
        kind = {"A": "lora_A", "B": "lora_B", "magnitude": "lora_magnitude_vector"}[group["name"]]
        assert all(kind in names[id(parameter)] for parameter in group["params"])


# --- starts that change the base ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_adapters_that_change_the_base_load_on_the_unchanged_one(
    make_run: MakeRun, method: str, tmp_path: Path
) -> None:
    """PiSSA and OLoRA keep a residual in the base. Whoever reads A and B alone, as servers do, gets
    another model from what is saved as usual. The result is converted: plain PEFT, or anyone, on
    the plain base gives the logits of the model that was trained.
    """
    run = make_run("training.num_epochs=2", method=method)
    result = execute(run)
    assert result["proof"]["passed"] and result["proof"]["logit_difference"] < 1e-4
    settings = json.loads((run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["init_lora_weights"] is True and settings["r"] == 2 * 4

    checkpoint = run.complete_checkpoints()[-1].path
    usual = Path(shutil.copytree(trained_weights(checkpoint), tmp_path / "usual"))
    text = (usual / "adapter_config.json").read_text(encoding="utf-8")
    changed = {**json.loads(text), "init_lora_weights": True}
    (usual / "adapter_config.json").write_text(json.dumps(changed), encoding="utf-8")
    trainer = build_trainer(run)
    adapters.load_weights(trainer.network, trained_weights(checkpoint))
    expected = logits(trainer.network)
    bases = [AutoModelForCausalLM.from_pretrained(run.config().model.name) for _ in range(2)]
    ours = logits(PeftModel.from_pretrained(bases[0], run.adapter))
    others = logits(PeftModel.from_pretrained(bases[1], usual))
    scale = float(expected.abs().max())
    assert float((ours - expected).abs().max()) < 1e-4 * scale
    assert float((others - expected).abs().max()) > 1e-2 * scale


def logits(model: nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.arange(3, 40)[None]).logits
    return found


def test_eva_starts_from_the_data(make_run: MakeRun) -> None:
    """EVA whose vectors were never computed trains as plain LoRA, without a word. Here A starts
    orthonormal and different from LoRA's, while the untrained model still is the base.
    """
    run = make_run("training.max_steps=1", "training.learning_rate=1e-9", method="eva")
    execute(run)
    from safetensors.torch import load_file

    tensors = load_file(run.adapter / "adapter_model.safetensors")
    first = [tensor for name, tensor in tensors.items() if "lora_A" in name]
    assert first
    for a in first:
        product = a @ a.T
        assert torch.allclose(product, torch.eye(len(a)), atol=1e-3), "singular vectors"
    plain = make_run("training.max_steps=1", "training.learning_rate=1e-9", name="plain")
    execute(plain)
    others = load_file(plain.adapter / "adapter_model.safetensors")
    a = next(tensor for name, tensor in others.items() if "lora_A" in name)
    assert not torch.allclose(a @ a.T, torch.eye(len(a)), atol=1e-1)
    assert Eva().initialisation == "eva"


def test_the_head_is_no_target(tiny_model: Callable[..., Path]) -> None:
    """LoRA on `lm_head` breaks the trainer's fused loss; it is refused with the way that works."""
    source = locate(ModelConfig(name=str(tiny_model("qwen3"))))
    method = Lora(target_modules=("lm_head",))
    base = models.load_base(source, method, ModelConfig(name=str(source.path)))
    with pytest.raises(ModelError, match="modules_to_save"):
        adapters.add_adapter(base, source, method, seed=1)


def test_a_head_trained_whole_gets_its_gradient(make_run: MakeRun) -> None:
    """`modules_to_save: [lm_head]` is that way: the chunked loss gives the head its gradient, equal
    to that of the plain model.
    """
    run = make_run("training.batch_size=4", method={"name": "lora", "modules_to_save": ["lm_head"]})
    trainer = build_trainer(run, prepare=give_weights_to_b)
    assert trainer.uses_own_loss
    rows = next(iter(trainer.step_loader))
    trainer.training_step(trainer.network, rows)
    found = gradients(trainer.network)
    trainer.network.zero_grad(set_to_none=True)
    trainer._head_matches = False
    trainer.training_step(trainer.network, rows)
    expected = gradients(trainer.network)
    assert any("lm_head" in name for name in found)
    assert largest_difference(found, expected) < 1e-6


def test_no_method_stores_the_base_in_eight_bits() -> None:
    """8-bit with DoRA crashes at the second forward pass on CPUs: no method offers it."""
    assert {method.storage for method in METHODS.values()} == {"dtype", "nf4"}
