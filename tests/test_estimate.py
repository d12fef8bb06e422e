"""Counts against real models, and arithmetic against figures worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from estimate_models import (
    FAMILIES,
    LLAMA_8B,
    MIXTURES,
    QWEN3_06B,
    QWEN3_8B,
    QWEN3_17B,
    STORIES,
    meta_model,
    real_model,
    tiny,
)
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.utils import logging as transformers_logging

from tanren.errors import ModelError
from tanren.estimate import (
    Speed,
    adapter_size,
    estimated_speed,
    hardware_flops_per_token,
    idle_parameters,
    max_tokens_per_second,
    mfu,
    model_flops_per_token,
    packed_length,
    shape_of,
    training_energy,
    training_time,
)

DOWN = "mlp.experts.down_proj"
STACKS = ("experts.gate_up_proj", "experts.down_proj")

# PEFT asks transformers by a name that transformers has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def trainable(model: PeftModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    "config", [*FAMILIES.values(), *MIXTURES.values()], ids=[*FAMILIES, *MIXTURES]
)
def test_the_total_is_the_count_of_the_real_model(config: dict[str, Any]) -> None:
    shape = shape_of(tiny(config))
    model = meta_model(tiny(config))
    assert shape.total == count(model)
    assert shape.embedding == model.get_input_embeddings().weight.numel()
    norms = {name: p.numel() for name, p in model.named_parameters() if "norm" in name}
    assert shape.norm == sum(norms.values())


@pytest.mark.parametrize(
    "config", [*FAMILIES.values(), *MIXTURES.values()], ids=[*FAMILIES, *MIXTURES]
)
def test_a_config_written_out_in_full_counts_the_same(config: dict[str, Any]) -> None:
    """What transformers saves has more keys, other names for some, and lists of layer types."""
    model = meta_model(tiny(config))
    assert shape_of(model.config.to_dict()).total == count(model)


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (QWEN3_06B, 596_049_920),
        (QWEN3_17B, 1_720_574_976),
        (QWEN3_8B, 8_190_735_360),
        (LLAMA_8B, 8_030_261_248),
        (STORIES, None),
    ],
    ids=["Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-8B", "Llama-3.1-8B", "stories260k"],
)
def test_the_total_of_public_models(config: dict[str, Any], published: int | None) -> None:
    total = shape_of(config).total
    assert total == count(meta_model(config))
    if published is not None:
        assert total == published


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_trainable_count_is_the_closed_form_and_what_peft_makes(
    config: dict[str, Any], dora: bool
) -> None:
    """T19: r * (in + out) over every matrix but the head, and one magnitude per output for DoRA."""
    shape = shape_of(tiny(config))
    size = adapter_size(shape, 4, dora=dora)
    model = meta_model(tiny(config))
    matrices = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    closed = sum(4 * (m.in_features + m.out_features) for m in matrices)
    magnitudes = sum(m.out_features for m in matrices) if dora else 0
    assert (size.modules, size.lora, size.magnitudes) == (len(matrices), closed, magnitudes)

    # DoRA reads the weights when it is made, so its model is a real one.
    base = real_model(tiny(config)) if dora else model
    with torch.device("cpu" if dora else "meta"):
        adapted = get_peft_model(
            base,
            LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=dora),
        )
    assert size.total == trainable(adapted)


@pytest.mark.parametrize(
    "targets",
    [
        ("q_proj", "v_proj"),
        ("mlp.down_proj",),
        ("model.layers.1.self_attn.o_proj",),
        r".*\.[02]\.self_attn\.[kq]_proj",
    ],
)
def test_named_targets_match_as_peft_matches_them(targets: str | tuple[str, ...]) -> None:
    model = meta_model(tiny(FAMILIES["qwen3"]))
    names = targets if isinstance(targets, str) else list(targets)
    with torch.device("meta"):
        adapted = get_peft_model(model, LoraConfig(r=3, target_modules=names))
    assert adapter_size(shape_of(tiny(FAMILIES["qwen3"])), 3, targets).total == trainable(adapted)


def test_modules_trained_whole_are_counted() -> None:
    config = tiny(FAMILIES["llama"])
    model = meta_model(config)
    saved = ["lm_head", "embed_tokens"]
    with torch.device("meta"):
        adapted = get_peft_model(
            model, LoraConfig(r=2, target_modules="all-linear", modules_to_save=saved)
        )
    assert adapter_size(shape_of(config), 2, saved_modules=saved).total == trainable(adapted)


def test_bogus_targets_are_named_all_at_once() -> None:
    """T19: each target that names nothing is a fault with the candidates."""
    shape = shape_of(tiny(FAMILIES["llama"]))
    with pytest.raises(ModelError) as raised:
        adapter_size(shape, 4, ["q_porj", "q_proj", "wte", "lm_head"], saved_modules=["norm"])
    where = [fault.where for fault in raised.value.faults]
    assert where == ["method.modules_to_save", *["method.target_modules"] * 3]
    assert "did you mean 'q_proj'?" in str(raised.value)
    assert "modules_to_save to train it whole" in str(raised.value)
    with pytest.raises(ModelError, match="one of q_proj"):
        adapter_size(shape, 4, r".*\.wq")


def test_mixtures_count_active_weights() -> None:
    shape = shape_of(tiny(MIXTURES["qwen3_moe"]))
    router, expert = 4 * 48, 3 * 48 * 24
    attention = 48 * (64 + 2 * 32) + 64 * 48
    assert shape.lin == 3 * (attention + 4 * expert + router)
    assert shape.active_lin == 3 * (attention + 2 * expert + router)
    assert shape.standing_lin == 3 * attention
    assert shape_of(tiny(FAMILIES["llama"])).standing_lin == shape_of(tiny(FAMILIES["llama"])).lin


@pytest.mark.parametrize("parameters", [(), STACKS, STACKS[1:], ("model.layers.1." + DOWN,)])
@pytest.mark.parametrize("config", MIXTURES.values(), ids=MIXTURES)
def test_adapters_on_experts_count_what_peft_makes(
    config: dict[str, Any], parameters: tuple[str, ...]
) -> None:
    """T19: 'all-linear' is the attention; a named stack has an A and a B for each expert."""
    shape, r = shape_of(tiny(config)), 4
    size = adapter_size(shape, r, parameters=parameters)
    width = 24 if config["model_type"] == "qwen3_moe" else 80
    attention = (48 + 64) + 2 * (48 + 32) + (64 + 48)
    up, down = (48 + 2 * width), (width + 48)
    each = {0: 0, 1: 3 * down if parameters[:1] == (STACKS[1],) else down, 2: 3 * (up + down)}
    assert size.lora == r * (3 * attention + 4 * each[len(parameters)])
    assert idle_parameters(shape, r, parameters) == r * 2 * each[len(parameters)]
    with torch.device("meta"):
        adapted = get_peft_model(
            meta_model(tiny(config)),
            LoraConfig(
                r=r,
                target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                target_parameters=list(parameters) or None,
            ),
        )
    assert size.total == trainable(adapted)


def test_stacks_that_are_not_there_are_named_all_at_once() -> None:
    """T19: on a mixture the candidates are named, elsewhere that there are none."""
    with pytest.raises(ModelError) as raised:
        adapter_size(shape_of(tiny(MIXTURES["mixtral"])), 4, ["w1"], parameters=["w2", "gate"])
    where = [fault.where for fault in raised.value.faults]
    assert where == ["method.target_modules", *["method.target_parameters"] * 2]
    assert "experts.down_proj, experts.gate_up_proj" in str(raised.value)
    with pytest.raises(ModelError, match="there are no stacks"):
        adapter_size(shape_of(tiny(FAMILIES["llama"])), 4, parameters=["down_proj"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": "mamba2"}, "not known here"),
        ({}, "found None"),
        ({"model_type": "gemma3", "text_config": {}}, "text-only checkpoint"),
        (tiny({"model_type": "llama", "layer_types": ["chunked_attention"] * 3}), "chunked"),
        (tiny({"model_type": "llama", "num_key_value_heads": 3}), "a divisor of 4"),
        (tiny({**MIXTURES["qwen3_moe"], "mlp_only_layers": [0]}), "layers of two kinds"),
    ],
)
def test_what_cannot_be_counted_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        shape_of(config)


def test_every_wrong_number_is_named_at_once() -> None:
    config = {"model_type": "qwen3", "hidden_size": "48", "num_hidden_layers": 0}
    with pytest.raises(ModelError) as raised:
        shape_of(config, source="models/x/config.json")
    keys = {fault.where.removeprefix("models/x/config.json ") for fault in raised.value.faults}
    assert keys == {
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "intermediate_size",
    }


def test_windows_follow_the_family() -> None:
    def windows(config: dict[str, Any]) -> tuple[int | None, ...]:
        return shape_of(tiny({"num_hidden_layers": 6, "sliding_window": 9, **config})).windows

    assert windows({"model_type": "mistral"}) == (9,) * 6
    assert windows({"model_type": "gemma2"}) == (9, None) * 3
    assert windows({"model_type": "gemma3_text"}) == (9,) * 5 + (None,)
    assert windows({"model_type": "qwen3"}) == (None,) * 6
    late = {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 4}
    assert windows(late) == (None,) * 4 + (9,) * 2
    for name in ("gemma2", "gemma3_text", "mistral"):
        model = meta_model(tiny({"model_type": name, "num_hidden_layers": 6, "sliding_window": 9}))
        assert shape_of(model.config.to_dict()).windows == windows({"model_type": name})


def test_attention_work_counts_the_keys_that_are_seen() -> None:
    """The mean number of visible keys, doubled, is the S of the formulas; checked by counting."""
    full = shape_of(tiny({"model_type": "mistral"}))
    windowed = replace(full, windows=(8,) * 3)
    length = 40
    seen = sum(min(token + 0.5, 8) for token in range(length)) / length
    assert full.attention_work(length) == full.q * 3 * length
    assert windowed.attention_work(length) == pytest.approx(full.q * 3 * 2 * seen, rel=0.01)


# Published configs, rank 16 on all matrices, every token trained: GFLOP per token, then the most
# tokens per second at 790 TFLOP/s without and with checkpointing, at rows of 2048 and of 4096
# tokens. Worked out apart from this code.
LIMITS = [
    (QWEN3_06B, (3.15, 3.85), (241_800, 193_200), (179_400, 144_700)),
    (QWEN3_17B, (7.69, 8.40), (101_200, 91_500), (72_500, 66_100)),
    (QWEN3_8B, (32.4, 34.2), (24_200, 22_700), (16_700, 15_800)),
    (LLAMA_8B, (31.9, 33.5), (24_600, 23_200), (16_900, 16_100)),
]


@pytest.mark.parametrize(
    ("config", "gflop", "plain", "checkpointed"), LIMITS, ids=["0.6B", "1.7B", "8B", "Llama-8B"]
)
def test_flops_and_speed_limits_of_public_models(
    config: dict[str, Any],
    gflop: tuple[float, float],
    plain: tuple[int, int],
    checkpointed: tuple[int, int],
) -> None:
    shape = shape_of(config)
    lora = adapter_size(shape, 16).lora
    for column, length in enumerate((2048, 4096)):
        model = model_flops_per_token(shape, adapter_parameters=lora, length=length)
        assert model / 1e9 == pytest.approx(gflop[column], rel=0.01)
        for layers, limits in ((0, plain), (shape.layers, checkpointed)):
            hardware = hardware_flops_per_token(
                shape, adapter_parameters=lora, length=length, checkpointed_layers=layers
            )
            limit = max_tokens_per_second(790e12, hardware)
            assert limit == pytest.approx(limits[column], rel=0.01)


def test_flops_of_each_choice() -> None:
    """Term by term, on a shape small enough to add up by hand."""
    shape = shape_of(tiny(FAMILIES["llama"]))
    lora = adapter_size(shape, 4).lora
    work = 3 * 64 * 10  # layers * q * S
    assert shape.attention_work(10) == work

    def model(**changes: Any) -> float:
        given: dict[str, Any] = {"adapter_parameters": lora, "length": 10, **changes}
        return model_flops_per_token(shape, **given)

    def hardware(**changes: Any) -> float:
        given: dict[str, Any] = {"adapter_parameters": lora, "length": 10, **changes}
        return hardware_flops_per_token(shape, **given)

    assert model() == 4 * shape.lin + 4 * shape.head + 6 * lora + 6 * work
    assert model() - model(supervised_fraction=0.25) == pytest.approx(3 * shape.head)
    assert model(adapter_parameters=None) == 6 * (shape.lin + shape.head + work)
    assert hardware() - model() == work
    assert hardware(head_recomputed=True) - hardware() == 2 * shape.head
    again = 2 * (shape.lin + lora + work)
    assert hardware(checkpointed_layers=3) - hardware() == pytest.approx(again)
    assert hardware(checkpointed_layers=1) - hardware() == pytest.approx(again / 3)
    assert mfu(max_tokens_per_second(1e12, model()), model(), 1e12) == pytest.approx(1)


def test_packed_length_weighs_rows_by_their_tokens() -> None:
    assert packed_length([5, 5, 5]) == 5
    assert packed_length([1, 3]) == 2.5
    assert packed_length([]) == 0


def test_time_and_energy_say_whether_they_were_measured() -> None:
    measured = training_time(1000, 3, Speed(150.0, "measured"))
    assert (measured.seconds, measured.tokens, measured.source) == (20, 3000, "measured")
    guessed = training_time(1000, 3, estimated_speed(1e9, 1e6, limit_share=0.5))
    assert (guessed.seconds, guessed.source) == (6, "estimated")
    energy = training_energy(measured, 360, "measured")
    assert (energy.watt_hours, energy.source) == (2, "measured")
    assert training_energy(measured, 360, "estimated").source == "estimated"
    assert training_energy(guessed, 360, "measured").source == "estimated"
    with pytest.raises(ValueError, match="above 0"):
        training_time(1000, 3, Speed(0.0, "measured"))


def test_estimating_imports_no_torch() -> None:
    code = (
        "import sys, tanren.estimate, tanren.devices\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Tiny vocabularies make transformers comment on special tokens that are not used here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    yield
    transformers_logging.set_verbosity(before)
