"""What can serve an adapter is known before training, and is still true of what was saved (T15)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assembled import assemble_model
from rich.console import Console
from safetensors.numpy import save_file

from tanren import adapter as adapters
from tanren.cli.gate_page import show_gate
from tanren.errors import ModelError
from tanren.gate import examine
from tanren.methods import METHODS, Dora, Eva, Full, Lora, Pissa, QLora, RsLora
from tanren.serving import SERVERS, AdapterFacts, ServingVerdict, verdicts

NAMES = [server.name for server in SERVERS]


def by_server(facts: AdapterFacts) -> dict[str, ServingVerdict]:
    return {verdict.server: verdict for verdict in verdicts(facts)}


def answers(method: Any, **options: Any) -> dict[str, str]:
    facts = AdapterFacts.planned(method, **options)
    return {verdict.server: verdict.unmerged for verdict in verdicts(facts)}


PLAIN = dict.fromkeys(NAMES, "yes")
REFUSED = {**dict.fromkeys(NAMES, "no"), "transformers+PEFT": "yes"}
FOLDED = {**dict.fromkeys(NAMES, "yes, folded"), "vLLM": "yes", "transformers+PEFT": "yes"}
EXPECTED: Mapping[str, Mapping[str, str]] = {
    "lora": PLAIN,
    "lora_plus": PLAIN,
    "qlora": PLAIN,
    "pissa": PLAIN,
    "olora": PLAIN,
    "full": PLAIN,
    "rslora": FOLDED,
    "eva": FOLDED,
    "dora": REFUSED,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_t15_every_method_has_its_verdicts(name: str) -> None:
    assert answers(METHODS[name]()) == EXPECTED[name]


@pytest.mark.parametrize("name", METHODS)
def test_t15_any_method_is_judged_from_its_class_alone(name: str) -> None:
    found = verdicts(AdapterFacts.planned(METHODS[name]()))
    assert [verdict.server for verdict in found] == NAMES
    for verdict in found:
        assert (verdict.unmerged == "no") == bool(verdict.obstacles)
        assert json.loads(json.dumps(verdict.as_dict()))["why"]


def test_t15_a_new_method_needs_nothing_here() -> None:
    """What PEFT is told decides, so a class that this module never saw is judged rightly."""

    class Biased(Lora):
        def peft_config(self) -> Any:
            config: Any = super().peft_config()
            config.lora_bias = True
            return config

    class Tokens(Lora):
        def peft_config(self) -> Any:
            config: Any = super().peft_config()
            config.trainable_token_indices = [1, 2]
            return config

    class Stacks(Lora):
        def peft_config(self) -> Any:
            config: Any = super().peft_config()
            config.target_parameters = ["experts.down_proj"]
            return config

    class Other(Lora):
        def peft_config(self) -> Any:
            from peft import VeraConfig

            return VeraConfig(r=8)

    for method in (Biased(), Tokens(), Stacks(), Other()):
        assert answers(method) == REFUSED, type(method).__name__


def test_t15_no_verdict_sends_to_a_server_without_saying_how() -> None:
    for method in (Lora(), Dora(), QLora(), Full()):
        found = by_server(AdapterFacts.planned(method))
        assert found["Ollama"].instead.endswith("--to ollama")
        assert found["llama.cpp"].instead.endswith("--to gguf")
    assert by_server(AdapterFacts.planned(Lora()))["vLLM"].instead.endswith("--to vllm")
    assert by_server(AdapterFacts.planned(Dora()))["vLLM"].instead.endswith("--to merged")


def test_t5_an_adapter_on_four_bits_is_told_to_meet_another_base() -> None:
    found = by_server(AdapterFacts.planned(QLora()))
    for name in NAMES[:-1]:
        assert "4-bit base" in found[name].why
    assert found["vLLM"].instead.endswith("--to merged")
    assert "4-bit base" not in found["transformers+PEFT"].why
    assert "4-bit base" not in by_server(AdapterFacts.planned(Lora()))["vLLM"].why


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (Lora(rank=512), "yes"),
        (Lora(rank=513), "no"),
        (Pissa(rank=256), "yes"),  # is saved with twice the rank
        (Pissa(rank=257), "no"),
        (Eva(rank=256), "yes"),  # a layer may get twice the rank
        (Eva(rank=257), "no"),
    ],
)
def test_t15_vllm_takes_ranks_to_512_as_they_will_be_saved(method: Any, answer: str) -> None:
    found = by_server(AdapterFacts.planned(method))
    assert found["vLLM"].unmerged == answer
    assert found["SGLang"].unmerged != "no"


@pytest.mark.parametrize(
    ("targets", "answer"),
    [
        (("q_proj", "v_proj"), "yes"),
        (("q_proj", "k_proj", "v_proj", "gate_proj"), "yes"),
        (("q_proj",), "no"),
        (("k_proj", "v_proj"), "no"),
        (("up_proj", "down_proj"), "no"),
    ],
)
def test_t15_sglang_needs_the_parts_it_puts_together(targets: tuple[str, ...], answer: str) -> None:
    found = by_server(AdapterFacts.planned(Lora(target_modules=targets)))
    assert found["SGLang"].unmerged == answer
    assert found["vLLM"].unmerged == "yes"


def test_t15_an_adapter_on_the_embedding_depends_on_the_family_in_vllm() -> None:
    method = Lora(target_modules=("q_proj", "v_proj", "embed_tokens"))
    assert answers(method, model_type="qwen3")["vLLM"] == "yes"
    assert answers(method, model_type="gemma2")["vLLM"] == "no"
    assert answers(method)["vLLM"] == "no"


def test_t15_every_reason_is_told_at_once() -> None:
    facts = AdapterFacts.planned(Dora(rank=1000, modules_to_save=("lm_head",)))
    settings = [obstacle.setting for obstacle in by_server(facts)["vLLM"].obstacles]
    assert settings == ["use_dora", "modules_to_save", "r"]


# --- what was said before is true of what is saved ------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "pissa"])
def test_the_saved_adapter_gets_the_verdicts_that_were_planned(
    make_config: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    parts = assemble_model(make_config(method={"name": name, "rank": 4}))
    initial = None
    if name == "pissa":
        initial = tmp_path / "initial"
        adapters.save_initial(parts.model, parts.gate.config.method, initial)
    adapters.save_adapter(parts.model, tmp_path / "adapter", initial=initial)
    saved = AdapterFacts.read(tmp_path / "adapter", model_type="qwen3")
    assert saved.rank == (8 if name == "pissa" else 4)
    assert verdicts(saved) == parts.gate.serving


def saved(folder: Path, tensors: Mapping[str, tuple[int, ...]], **settings: Any) -> AdapterFacts:
    folder.mkdir()
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    text = json.dumps({**plain, **settings})
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    save_file(arrays, folder / "adapter_model.safetensors")
    return AdapterFacts.read(folder)


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
AB = {f"{LAYER}.lora_A.weight": (4, 8), f"{LAYER}.lora_B.weight": (8, 4)}


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({f"{LAYER}.lora_magnitude_vector": (8,)}, "dora"),
        ({"base_model.model.lm_head.weight": (9, 8)}, "saved_modules"),
        ({f"{LAYER}.lora_B.bias": (8,)}, "other"),
        (
            {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": (2, 8)},
            "trained_tokens",
        ),
        (
            {
                "base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight": (16, 8),
                "base_model.model.model.layers.0.mlp.experts.base_layer.lora_B.weight": (8, 16),
            },
            "experts",
        ),
    ],
)
def test_t15_tensors_are_believed_more_than_settings(
    tmp_path: Path, more: Mapping[str, tuple[int, ...]], found: str
) -> None:
    facts = saved(tmp_path / "adapter", {**AB, **more})
    assert getattr(facts, found), facts
    assert by_server(facts)["vLLM"].unmerged == "no"


def test_one_expert_of_many_is_a_plain_layer(tmp_path: Path) -> None:
    layer = "base_model.model.model.layers.0.mlp.experts.3.gate_proj"
    tensors = {f"{layer}.lora_A.weight": (4, 8), f"{layer}.lora_B.weight": (8, 4)}
    assert not saved(tmp_path / "adapter", tensors).experts


def test_t15_a_start_that_changes_the_base_is_refused_unless_converted(tmp_path: Path) -> None:
    assert saved(tmp_path / "a", AB, init_lora_weights="pissa_niter_4").other
    assert not saved(tmp_path / "b", AB, init_lora_weights="gaussian").other
    assert not saved(tmp_path / "c", AB, init_lora_weights=True).other


def test_a_folder_without_an_adapter_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter_config"):
        AdapterFacts.read(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(ModelError, match="lora_alpha None"):
        AdapterFacts.read(tmp_path)
    text = '{"peft_type": "LORA", "r": 4, "lora_alpha": 8}'
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        AdapterFacts.read(tmp_path)


# --- where it is said -----------------------------------------------------------------------------


def page(gate: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=240, record=True)
    show_gate(console, json.loads(json.dumps(gate.as_dict())))
    return console.export_text().splitlines()


def test_t15_the_gate_says_before_training_what_can_be_served(
    make_config: Callable[..., Any],
) -> None:
    gate = examine(make_config(method={"name": "dora"}))
    lines = page(gate)
    for verdict in gate.serving:
        line = next(line for line in lines if f"{verdict.server} {verdict.version}" in line)
        assert f" {verdict.unmerged} " in line and verdict.instead in line
    (warning,) = [words for words in gate.warnings if "unmerged" in words]
    assert "vLLM" in warning and "DoRA" in warning and "PEFT" not in warning


def test_t15_nothing_is_warned_of_where_all_servers_take_it(
    make_config: Callable[..., Any],
) -> None:
    gate = examine(make_config(method={"name": RsLora().name}))
    assert not [words for words in gate.warnings if "unmerged" in words]
    assert sum("yes, folded" in line for line in page(gate)) == 3
