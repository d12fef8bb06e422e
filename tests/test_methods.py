"""The contract that every method of `METHODS` keeps. A new method is covered by being there.

Each variant is assembled once: untrained logits, 20 AdamW steps through the real trainer, saved,
reloaded by plain PEFT. The tests below read what that showed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import assembled
import pytest
import tiny
import torch
from assembled import Assembled, assemble_model, logits, relative
from torch import Tensor

from tanren import adapter as adapters
from tanren.adapter import load_adapter, save_adapter, save_initial
from tanren.estimate import adapter_size, shape_of
from tanren.methods import METHODS, Eva, Full
from tanren.rundir import RunDirectory
from tanren.targets import linear_names

RATE = 2e-5
DECAY = 0.01
STEPS = 20

# Every method as it comes, and the combinations that are legal and easily broken.
VARIANTS: dict[str, dict[str, Any]] = {name: {"name": name} for name in METHODS} | {
    "dora with lr_ratio": {"name": "dora", "lr_ratio": 4.0},
    "qlora with dora": {"name": "qlora", "dora": True},
    "lora with a saved head": {"name": "lora", "modules_to_save": ["lm_head"]},
    "lora_plus on embeddings": {
        "name": "lora_plus",
        "target_modules": ["embed_tokens", "q_proj", "down_proj"],
    },
}
ADAPTERS = [name for name, values in VARIANTS.items() if values["name"] != "full"]
REBASED = ("pissa", "olora")
"""Methods that move part of the base into the adapter: equal in exact arithmetic alone."""

INITIAL_TOLERANCE = {"pissa": 1e-4, "olora": 1e-4, "dora": 1e-5}
"""Largest move of the logits by an untrained adapter, relative; all others: not a bit."""


@dataclass
class Story:
    """What one variant's way through assembly, training and saving showed."""

    parts: Assembled
    base_logits: Tensor
    untrained_logits: Tensor
    trained_before: dict[str, Tensor]
    frozen_before: dict[str, Tensor]
    trained_after: dict[str, Tensor]
    frozen_after: dict[str, Tensor]
    param_groups: list[dict[str, Any]]
    groups: list[Any]
    types_in_trainer: dict[str, torch.dtype]
    logits: Tensor
    folder: Path
    initial: Path | None


@pytest.fixture(scope="module")
def story(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Story]:
    """Told once per variant."""
    environment = pytest.MonkeyPatch()
    environment.setenv("TANREN_DEVICE", "cpu")

    @cache
    def tell(variant: str) -> Story:
        folder = tmp_path_factory.mktemp("story")
        train = tiny.write_rows(folder / "train.jsonl")
        overrides = (
            f"training.learning_rate={RATE}",
            f"training.max_steps={STEPS}",
            "training.num_epochs=100",
            "training.schedule=constant",
            f"training.weight_decay={DECAY}",
            "training.save_every=1000",
        )
        config = tiny.settings(tiny_model("qwen3"), train, overrides, method=VARIANTS[variant])
        return _tell(config, folder)

    return tell


def _tell(config: Any, folder: Path) -> Story:
    parts = assemble_model(config)
    base_logits = logits(assembled.load(parts.gate))
    run = RunDirectory.create(folder / "run", config)
    initial = folder / "initial" if config.method.name in REBASED else None
    save_initial(parts.model, config.method, folder / "initial")
    untrained_logits = parts.logits()
    before = assembled.trained(parts.model), assembled.frozen(parts.model)
    trainer = parts.trainer(run)
    types = {n: p.dtype for n, p in parts.model.named_parameters() if p.requires_grad}
    trainer.fit()
    groups = [{**group, "params": list(group["params"])} for group in _optimizer_groups(trainer)]
    after = assembled.trained(parts.model), assembled.frozen(parts.model)
    trained_logits = parts.logits()
    save_adapter(parts.model, folder / "adapter", initial=initial)
    return Story(
        parts=parts,
        base_logits=base_logits,
        untrained_logits=untrained_logits,
        trained_before=before[0],
        frozen_before=before[1],
        trained_after=after[0],
        frozen_after=after[1],
        param_groups=groups,
        groups=trainer.groups,
        types_in_trainer=types,
        logits=trained_logits,
        folder=folder / "adapter",
        initial=initial,
    )


def _optimizer_groups(trainer: Any) -> list[dict[str, Any]]:
    """Of torch's optimizer itself, inside what accelerate puts around it."""
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return list(inner.param_groups)


def method_of(variant: str) -> Any:
    values = {"rank": 4, **VARIANTS[variant]} if variant != "full" else VARIANTS[variant]
    return METHODS[values["name"]].model_validate(values)


# --- before training ------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_untrained_adapter_changes_no_logit(story: Any, variant: str) -> None:
    told, method = story(variant), method_of(variant)
    tolerance = INITIAL_TOLERANCE.get("dora" if method.use_dora else method.name, 0.0)
    assert relative(told.base_logits, told.untrained_logits) <= tolerance
    assert float(told.base_logits.std()) > 0.1, "logits too flat to show a difference"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trained_count_is_the_closed_form_and_the_estimate(story: Any, variant: str) -> None:
    """`r * (in + out)` for each adapted matrix, and one magnitude per output for DoRA."""
    told, method = story(variant), method_of(variant)
    base = told.parts.base
    count = sum(tensor.numel() for tensor in told.trained_after.values())
    if isinstance(method, Full):
        assert count == sum(p.numel() for p in base.parameters())
        return
    shapes = _adapted_shapes(told)
    ranks = _ranks(told)
    expected = sum(ranks[name] * (i + o) for name, (i, o) in shapes.items())
    if method.use_dora:
        expected += sum(o for _, o in shapes.values())
    head = base.get_output_embeddings()
    vocabulary, width = base.get_input_embeddings().weight.shape
    expected += vocabulary * width * len(method.modules_to_save)
    assert count == expected
    assert head.out_features == vocabulary
    if "embed_tokens" in method.target_modules or isinstance(method, Eva):
        return  # the estimate speaks of matrices of one rank alone
    size = adapter_size(
        shape_of(told.parts.gate.source.config),
        method.rank,
        method.target_modules,
        dora=method.use_dora,
        saved_modules=method.modules_to_save,
    )
    assert size.total == count


def _adapted_shapes(told: Story) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each adapted matrix of the base, from its config."""
    config, method = told.parts.base.config, told.parts.gate.config.method
    width, inner = config.hidden_size, config.intermediate_size
    heads, few = config.num_attention_heads, config.num_key_value_heads
    kinds = {
        "q_proj": (width, heads * config.head_dim),
        "k_proj": (width, few * config.head_dim),
        "v_proj": (width, few * config.head_dim),
        "o_proj": (heads * config.head_dim, width),
        "gate_proj": (width, inner),
        "up_proj": (width, inner),
        "down_proj": (inner, width),
    }
    wanted = kinds if method.target_modules == "all-linear" else method.target_modules
    shapes = {
        f"{layer}.{kind}": kinds[kind]
        for layer in range(config.num_hidden_layers)
        for kind in wanted
        if kind in kinds
    }
    if "embed_tokens" in wanted:
        shapes["embed_tokens"] = (config.vocab_size, width)
    return shapes


def _ranks(told: Story) -> dict[str, int]:
    """Rank of each adapted matrix: the asked one, but for EVA, which moves ranks between layers."""
    ranks = dict.fromkeys(_adapted_shapes(told), told.parts.gate.config.method.rank)
    if isinstance(told.parts.gate.config.method, Eva):
        for name, tensor in told.trained_after.items():
            if "lora_A" in name:
                pieces = name.split(".")
                layer, kind = pieces[pieces.index("layers") + 1], pieces[pieces.index("lora_A") - 1]
                ranks[f"{layer}.{kind}"] = tensor.shape[0]
        total = told.parts.gate.config.method.rank * len(ranks)
        assert sum(ranks.values()) <= total
    return ranks


@pytest.mark.parametrize("variant", VARIANTS)
def test_t20_every_trained_tensor_is_in_one_group_with_its_rate_and_decay(
    story: Any, variant: str
) -> None:
    told, method = story(variant), method_of(variant)
    names = {id(p): n for n, p in told.parts.model.named_parameters() if p.requires_grad}
    seen: dict[str, tuple[float, float]] = {}
    for group in told.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in seen, f"{name} is in two groups"
            seen[name] = (group["initial_lr"], group["weight_decay"])
    assert set(seen) == set(names.values())
    for name, (rate, decay) in seen.items():
        assert (rate, decay) == pytest.approx(_expected(method, name, told)), name
    printed = {n for group in told.groups for n, _ in group.parameters}
    assert printed == set(seen)
    assert sum(group.elements for group in told.groups) == sum(
        tensor.numel() for tensor in told.trained_after.values()
    )


def _expected(method: Any, name: str, told: Story) -> tuple[float, float]:
    """(peak rate, decay), written down a second time and by other means than the code's."""
    if isinstance(method, Full):
        return RATE, DECAY if told.trained_after[name].ndim >= 2 else 0.0
    if "magnitude" in name:
        return RATE, 0.0
    if "lora_embedding_A" in name or "lora_embedding_B" in name:
        return method.embedding_learning_rate or RATE, DECAY
    if ".lora_B." in name:
        return RATE * method.lr_ratio, DECAY
    return RATE, DECAY


def test_t20_the_papers_numbers_stand_in_the_optimizer(story: Any) -> None:
    """LoRA+: 16 between B and A, 1e-6 for embeddings; a ratio on DoRA leaves magnitudes alone."""
    by_name = {g["name"]: g for g in story("lora_plus on embeddings").param_groups}
    assert by_name["B"]["initial_lr"] / by_name["A"]["initial_lr"] == pytest.approx(16)
    assert by_name["embedding"]["initial_lr"] == pytest.approx(1e-6)
    assert by_name["embedding"]["weight_decay"] == pytest.approx(DECAY)
    by_name = {g["name"]: g for g in story("dora with lr_ratio").param_groups}
    assert by_name["B"]["initial_lr"] == pytest.approx(4 * RATE)
    assert by_name["magnitude"]["initial_lr"] == pytest.approx(RATE)
    assert by_name["magnitude"]["weight_decay"] == 0.0


def test_the_groups_of_a_plain_method_are_named_for_people(story: Any) -> None:
    names = [group.name for group in story("lora with a saved head").groups]
    assert names == ["A", "B", "saved modules"]


@pytest.mark.parametrize("variant", ADAPTERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_t33_adapters_are_float32_on_any_base(
    make_config: Callable[..., Any], variant: str, dtype: str
) -> None:
    config = make_config(f"model.dtype={dtype}", method=VARIANTS[variant])
    parts = assemble_model(config)
    kinds = {p.dtype for p in parts.model.parameters() if p.requires_grad}
    assert kinds == {torch.float32}
    still = {
        p.dtype
        for n, p in parts.base.named_parameters()
        if not p.requires_grad and "proj" in n and "lora" not in n
    }
    packed = config.method.storage == "nf4"
    assert still == {torch.uint8 if packed else getattr(torch, dtype)}


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_leaves_the_base_bitwise_equal(story: Any, variant: str) -> None:
    """For PiSSA and OLoRA the base is the residual that they started from."""
    told = story(variant)
    assert told.frozen_before.keys() == told.frozen_after.keys()
    for name, tensor in told.frozen_before.items():
        assert torch.equal(tensor, told.frozen_after[name]), name
    if variant == "full":
        assert not any("proj" in name for name in told.frozen_before)
    else:
        assert sum("proj" in name for name in told.frozen_before) >= 14
    moved = [n for n, t in told.trained_before.items() if not torch.equal(t, told.trained_after[n])]
    assert len(moved) == len(told.trained_before), "some trained tensors did not move"


@pytest.mark.parametrize("variant", VARIANTS)
def test_t33_the_trainer_keeps_the_adapter_in_float32(story: Any, variant: str) -> None:
    """TRL rounds QLoRA's adapter to bfloat16 in its constructor; ours does not."""
    told = story(variant)
    assert set(told.types_in_trainer.values()) == {torch.float32}
    matrices = [n for n in told.trained_before if "lora_A" in n]
    for name in matrices:
        moved = (told.trained_before[name] != told.trained_after[name]).double().mean()
        assert float(moved) > 0.99, f"{name}: {float(moved):.1%} moved"


def test_t33_the_share_that_moves_can_fail(story: Any) -> None:
    """The same steps on bfloat16 copies of A: most updates are smaller than half a unit there."""
    told = story("qlora")
    shares = []
    for name, before in told.trained_before.items():
        if "lora_A" in name:
            step = (told.trained_after[name] - before) / STEPS
            rounded = before.bfloat16()
            for _ in range(STEPS):
                rounded = (rounded.float() + step).bfloat16()
            shares.append(float((rounded != before.bfloat16()).double().mean()))
    assert max(shares) < 0.35
    rounded_model = {n: t.bfloat16().float() for n, t in told.trained_before.items()}
    assert any(not torch.equal(t, rounded_model[n]) for n, t in told.trained_before.items())


# --- same seed, same file -------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ADAPTERS)
def test_t23_the_seed_decides_the_first_file(
    make_config: Callable[..., Any], tmp_path: Path, variant: str
) -> None:
    config = make_config(method=VARIANTS[variant])

    def first_file(seed: int, name: str, *, disturbed: bool = False) -> bytes:
        torch.manual_seed(999 if disturbed else 0)
        parts = assemble_model(config, seed=seed)
        save_adapter(parts.model, tmp_path / name)
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    one = first_file(7, "one")
    assert first_file(7, "again", disturbed=True) == one
    if config.method.initialisation == "zero":  # the others start from weights or data
        assert first_file(8, "other") != one


# --- what is saved --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_reloaded_equals_what_is_in_memory(story: Any, variant: str) -> None:
    told = story(variant)
    if variant == "full":
        from tanren.model import load_whole

        again = load_whole(told.folder)
    else:
        again = load_adapter(assembled.load(told.parts.gate), told.folder)
    assert relative(told.logits, logits(again)) < 1e-4
    assert relative(told.base_logits, told.logits) > 1e-4, "training moved nothing that can be seen"


@pytest.mark.parametrize("variant", ADAPTERS)
def test_merged_equals_adapter(story: Any, variant: str) -> None:
    """In float32 within 1e-4. A 4-bit base is dequantised first: inside 4 bits it cannot (T5)."""
    told = story(variant)
    base = assembled.load(told.parts.gate)
    if told.parts.gate.config.method.storage == "nf4":
        base = base.dequantize()
    model = load_adapter(base, told.folder)
    separate = logits(model)
    merged = model.merge_and_unload()
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert relative(separate, logits(merged)) < 1e-4
    assert relative(told.logits, separate) < 1e-4


READER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

for line in sys.stdin:
    wanted = json.loads(line)
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ) if wanted["nf4"] else None
    model = AutoModelForCausalLM.from_pretrained(
        wanted["base"], dtype=torch.float32, quantization_config=quantised
    )
    if wanted["adapter"]:
        model = PeftModel.from_pretrained(model, wanted["adapter"])
    model.eval()
    for module in model.modules():  # else bitsandbytes repacks on some CPUs (T32)
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        found = model(input_ids=torch.tensor([wanted["probe"]])).logits[0].float()
    torch.save(found, wanted["out"])
assert not any(name.split(".")[0] == "tanren" for name in sys.modules)
"""


def test_any_reader_gets_the_same_logits_without_tanren(story: Any, tmp_path: Path) -> None:
    """A process that imports torch, transformers and PEFT alone loads every variant."""
    orders = []
    for number, variant in enumerate(VARIANTS):
        told = story(variant)
        whole = variant == "full"
        orders.append(
            {
                "base": str(told.folder if whole else told.parts.gate.source.path),
                "adapter": None if whole else str(told.folder),
                "nf4": told.parts.gate.config.method.storage == "nf4",
                "probe": assembled.PROBE,
                "out": str(tmp_path / f"{number}.pt"),
            }
        )
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input="\n".join(json.dumps(order) for order in orders),
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for variant, order in zip(VARIANTS, orders, strict=True):
        found = torch.load(order["out"])
        assert relative(story(variant).logits, found) < 1e-4, variant


def test_rebased_methods_are_saved_as_plain_lora_of_twice_the_rank(story: Any) -> None:
    for variant in REBASED:
        settings = json.loads((story(variant).folder / "adapter_config.json").read_text("utf-8"))
        assert settings["r"] == 8 and settings["init_lora_weights"] is True


# --- the settings themselves ----------------------------------------------------------------------


def test_peft_is_told_what_the_settings_say() -> None:
    for name, method in METHODS.items():
        if name == "full":
            continue
        chosen = method(rank=6, alpha=9, dropout=0.25, target_modules=("q_proj",))
        told = chosen.peft_config()
        assert (told.r, told.lora_alpha, told.lora_dropout) == (6, 9, 0.25)
        assert told.target_modules == {"q_proj"}
        assert told.use_dora == (name == "dora") and told.use_rslora == (name == "rslora")
        assert told.bias == "none"


def test_the_scale_on_the_product_is_alpha_over_rank_or_its_root(story: Any) -> None:
    for variant in ("lora", "rslora", "dora", "qlora"):
        told, method = story(variant), method_of(variant)
        layer = told.parts.base.model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == pytest.approx(method.scaling)
    assert method_of("rslora").scaling == pytest.approx(8 / 4**0.5)
    assert method_of("lora").scaling == pytest.approx(32 / 4)


def test_the_rate_of_auto() -> None:
    """`5e-5 * 10 * (2000 / hidden)^0.781`, two digits; a tenth of it for full tuning."""
    assert METHODS["lora"]().auto_learning_rate(2000) == pytest.approx(5e-4)
    assert METHODS["full"]().auto_learning_rate(2000) == pytest.approx(5e-5)
    assert METHODS["lora"]().auto_learning_rate(4096) == pytest.approx(2.9e-4, rel=0.02)
    assert METHODS["lora_plus"]().auto_learning_rate(2000) == pytest.approx(5e-4 / 4, rel=0.04)
    assert METHODS["pissa"]().auto_learning_rate(2000) == pytest.approx(1e-4)
    assert METHODS["full"]().auto_learning_rate(1) == pytest.approx(1e-3)


def test_every_method_says_what_it_is_and_where_it_comes_from() -> None:
    for name, method in METHODS.items():
        assert method.title and method.__doc__
        assert method.paper or name == "full"
        assert method().name == name


def test_all_linear_is_every_linear_layer_but_the_head(story: Any) -> None:
    told = story("lora")
    found = adapters.coverage(told.parts.model)
    assert found.kinds["q_proj"] == (2, 2) and found.kinds["down_proj"] == (2, 2)
    assert found.kinds["lm_head"] == (0, 1)
    assert found.trained == sum(t.numel() for t in told.trained_after.values())
    plain = assembled.load(told.parts.gate)
    assert len(linear_names(plain)) == 14 and not any("lm_head" in n for n in linear_names(plain))
