"""Laws of merging: what is written is the base and its adapter together, whatever the method."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from export.adapted import PROBE, Adapted, adapt, logits, nudge
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tanren.errors import ModelError
from tanren.export.merge import merge, plan_merge
from tanren.export.merge.adapter_file import AdapterFile
from tanren.export.merge.checkpoint import Checkpoint
from tanren.export.merge.nf4 import through_nf4
from tanren.export.merge.pieces import PIECE_ELEMENTS
from tanren.export.merge.plan import MergePlan
from tanren.export.settings import model_settings

METHODS = ("lora", "qlora", "dora", "lora_plus", "rslora", "pissa", "olora", "eva")
FAMILIES = ("qwen3", "llama-tied", "gemma3", "mistral", "phi3", "qwen3_moe", "mixtral")


def plan(
    base: Path, adapter: Path, *, nf4: bool = False, dtype: torch.dtype = torch.float32
) -> MergePlan:
    config = AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config)
    return plan_merge(
        Checkpoint(base), AdapterFile.read(adapter), outline, nf4=nf4, compute_dtype=dtype
    )


def merged(made: MergePlan, folder: Path, dtype: torch.dtype | None = None) -> Any:
    """The merged model, read back by plain transformers."""
    folder.mkdir(parents=True)
    merge(made, folder, dtype=dtype)
    settings = model_settings(
        json.loads((made.checkpoint.folder / "config.json").read_text(encoding="utf-8")),
        dtype=dtype or torch.float32,
        untied=made.untied,
        vocabulary=made.vocabulary,
        generation={},
    )
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def assert_same_model(found: Any, expected: torch.Tensor) -> None:
    got = logits(found)
    assert float((got - expected).abs().max()) < 1e-4
    assert torch.equal(got.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_merged_model_is_base_and_adapter_together(
    method: str, family: str, tied: bool, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model(family, tie_word_embeddings=tied)
    adapted = adapt(base, tmp_path, method)
    expected = adapted.logits()
    assert float((expected - adapted.base_logits()).abs().max()) > 0.1, "the adapter does nothing"
    made = plan(base, adapted.folder, nf4=method == "qlora")
    assert_same_model(merged(made, tmp_path / "merged"), expected)


@pytest.mark.parametrize("method", ["qlora", "rslora", "lora"])
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_adapters_on_stacked_experts_reach_each_expert_of_the_checkpoint(
    method: str, family: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model(family)
    targets = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    adapted = adapt(base, tmp_path, method, target_parameters=targets)
    made = plan(base, adapted.folder, nf4=method == "qlora")
    touched = [name for name, change in made.changes.items() if change.low_rank]
    assert sum(".experts." in name for name in touched) == 2 * 4 * 3  # layers, experts, projections
    assert_same_model(merged(made, tmp_path / "merged"), adapted.logits())


def foreign(base: Path, folder: Path, **settings: Any) -> Adapted:
    """An adapter that plain PEFT made and saved, with settings that no method of ours has."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    values = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **settings}
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **values))
    nudge(adapted)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return Adapted(base, folder, PeftModel.from_pretrained(fresh, folder))


EMBEDDINGS: dict[str, dict[str, Any]] = {
    "trained tokens": {"trainable_token_indices": [3, 7, 11]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embedding saved": {"modules_to_save": ["embed_tokens"]},
    "both saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "norm saved": {"modules_to_save": ["norm"]},
    "low rank on the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "low rank on the head": {"target_modules": ["lm_head", "q_proj"]},
}


@pytest.mark.filterwarnings("ignore:.*tie.*")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("case", EMBEDDINGS)
def test_what_tuning_did_to_one_end_of_the_model_does_not_reach_the_other_t11(
    case: str, tied: bool, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Tied embeddings part exactly when PEFT itself kept them apart."""
    base = tiny_model("llama-tied", tie_word_embeddings=tied)
    adapted = foreign(base, tmp_path / "adapter", **EMBEDDINGS[case])
    made = plan(base, adapted.folder)
    model = merged(made, tmp_path / "merged")
    assert_same_model(model, adapted.logits())
    apart = model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    assert apart == (not tied or made.untied)


@pytest.mark.filterwarnings("ignore:.*tie.*")
def test_tied_embeddings_that_were_trained_as_one_stay_one_t11(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model("llama-tied")
    adapted = adapt(base, tmp_path, "lora", modules_to_save=["lm_head"])
    made = plan(base, adapted.folder)
    assert not made.untied
    assert_same_model(merged(made, tmp_path / "merged"), adapted.logits())


@pytest.mark.filterwarnings("ignore:.*tie.*")
def test_tokens_that_were_added_make_the_vocabulary_grow_t11(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model("llama-tied")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows + 2, mean_resizing=False)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])
    adapted = get_peft_model(model, config)
    nudge(adapted)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    made = plan(base, tmp_path / "adapter")
    found = merged(made, tmp_path / "merged")
    assert found.config.vocab_size == rows + 2 == made.vocabulary
    assert_same_model(found, logits(adapted))


def test_each_layer_has_its_own_rank_and_alpha(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model("qwen3")
    adapted = foreign(
        base,
        tmp_path / "adapter",
        target_modules="all-linear",
        rank_pattern={"q_proj": 5, "layers.1.mlp.up_proj": 2},
        alpha_pattern={"k_proj": 3, "layers.0.mlp.down_proj": 40},
    )
    assert_same_model(merged(plan(base, adapted.folder), tmp_path / "merged"), adapted.logits())


# --- what is not changed --------------------------------------------------------------------------


def test_what_has_no_adapter_is_copied_bit_for_bit_and_files_stay_as_they_were(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    whole = AutoModelForCausalLM.from_pretrained(tiny_model("qwen3"), dtype=torch.bfloat16)
    base = tmp_path / "base"
    whole.save_pretrained(base, max_shard_size="60KB")
    files = sorted(file.name for file in base.glob("*.safetensors"))
    assert len(files) > 2
    adapted = foreign(base, tmp_path / "adapter")
    model = merged(plan(base, adapted.folder), tmp_path / "merged")
    assert sorted(file.name for file in (tmp_path / "merged").glob("*.safetensors")) == files
    for name in files:
        before, after = load_file(base / name), load_file(tmp_path / "merged" / name)
        assert list(before) == list(after)
        for key, tensor in before.items():
            changed = key.endswith(("q_proj.weight", "down_proj.weight"))
            assert after[key].dtype == tensor.dtype == torch.bfloat16
            assert torch.equal(after[key], tensor) != changed, key
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text("utf-8"))
    assert set(index["weight_map"]) == set(whole.state_dict())
    del model


def test_sums_are_made_in_float32_and_rounded_once(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    whole = AutoModelForCausalLM.from_pretrained(tiny_model("qwen3"), dtype=torch.bfloat16)
    whole.save_pretrained(tmp_path / "base")
    adapted = foreign(tmp_path / "base", tmp_path / "adapter")
    merged(plan(tmp_path / "base", adapted.folder), tmp_path / "merged")
    key = "model.layers.0.self_attn.q_proj"
    parts = load_file(adapted.folder / "adapter_model.safetensors")
    a = parts[f"base_model.model.{key}.lora_A.weight"].double()
    b = parts[f"base_model.model.{key}.lora_B.weight"].double()
    exact = whole.state_dict()[f"{key}.weight"].double() + 6 / 4 * b @ a
    found = load_file(tmp_path / "merged" / "model.safetensors")[f"{key}.weight"]
    wrong = (found != exact.to(torch.bfloat16)).double().mean()
    assert float(wrong) < 1e-3  # the double's own rounding meets a tie now and then


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_that_was_asked_for_is_written(
    dtype: torch.dtype, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted = foreign(tiny_model("qwen3"), tmp_path / "adapter")
    merged(plan(adapted.base, adapted.folder), tmp_path / "merged", dtype)
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {dtype}


def test_a_tensor_larger_than_one_piece_is_merged_like_a_small_one(tmp_path: Path) -> None:
    """Pieces are rows; the last one is shorter. DoRA's norms must not notice."""
    settings = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": PIECE_ELEMENTS["cpu"] // 64 + 999,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings))
    model.save_pretrained(tmp_path / "base")
    adapted = foreign(
        tmp_path / "base", tmp_path / "adapter", use_dora=True, target_modules=["up_proj"]
    )
    made = plan(tmp_path / "base", adapted.folder)
    assert_same_model(merged(made, tmp_path / "merged"), adapted.logits())


def test_one_file_under_a_numbered_name_keeps_its_index(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model("qwen3"), base)
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(
        load_file(base / "model-00001-of-00001.safetensors"), "model-00001-of-00001.safetensors"
    )
    index = {"metadata": {}, "weight_map": names}
    (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    adapted = foreign(base, tmp_path / "adapter")
    assert_same_model(merged(plan(base, adapted.folder), tmp_path / "merged"), adapted.logits())


def test_a_base_that_was_saved_without_its_head_s_prefix_is_merged(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """As GPT-2 lies on the Hub: `h.0...` where the whole model says `transformer.h.0...`."""
    base = tmp_path / "base"
    shutil.copytree(tiny_model("llama-tied"), base)
    file = base / "model.safetensors"
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    adapted = adapt(base, tmp_path, "qlora")
    made = plan(base, adapted.folder, nf4=True)
    assert sum(change.through_nf4 for change in made.changes.values()) == 14
    assert_same_model(merged(made, tmp_path / "merged"), adapted.logits())


@pytest.mark.filterwarnings("ignore:.*tie.*")
def test_a_tied_head_that_is_stored_all_the_same_follows_its_embedding_t11(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model("llama-tied"), base)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapted = foreign(base, tmp_path / "adapter", trainable_token_indices=[3, 7, 11])
    assert_same_model(merged(plan(base, adapted.folder), tmp_path / "merged"), adapted.logits())


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("method", METHODS)
def test_the_embedded_model_and_one_of_a_llama_s_shape_are_merged(
    method: str, tied: bool, tmp_path: Path
) -> None:
    """The tiny chat model, pretrained, and 260,000 parameters in a shape that 4 bits do not fit."""
    whole = AutoModelForCausalLM.from_pretrained(tiny.TINY_CHAT, dtype=torch.float32)
    if not tied:
        whole.config.tie_word_embeddings = False
        whole.lm_head.weight = torch.nn.Parameter(whole.lm_head.weight.detach() * 1.5)
    whole.save_pretrained(tmp_path / "chat")
    shape = {"intermediate_size": 172, "num_hidden_layers": 5, "num_attention_heads": 8}
    small = {**shape, "num_key_value_heads": 4, "head_dim": 8, "tie_word_embeddings": tied}
    tiny.build_model(tmp_path / "small", "llama-tied", **small)
    for name in ("chat", "small"):
        if (name, method) == ("small", "qlora"):
            continue  # its widths cannot be trusted to 4 bits on every CPU: refused in training
        adapted = adapt(tmp_path / name, tmp_path / f"{name}-adapter", method)
        made = plan(tmp_path / name, adapted.folder, nf4=method == "qlora")
        assert_same_model(merged(made, tmp_path / f"{name}-merged"), adapted.logits())


# --- 4 bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3", "qwen3_moe"])
def test_the_base_that_is_merged_onto_is_the_one_the_adapter_saw_t5(
    family: str, dtype: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Bit for bit: every layer that 4-bit loading stores, and no other."""
    adapted = adapt(tiny_model(family), tmp_path, "qlora", dtype)
    kept = getattr(torch, dtype)
    made = plan(adapted.base, adapted.folder, nf4=True, dtype=kept)
    stored = {
        name: module.base_layer if hasattr(module, "base_layer") else module
        for name, module in adapted.model.get_base_model().named_modules()
        if type(getattr(module, "base_layer", module)).__name__ == "Linear4bit"
        and not name.endswith("base_layer")
    }
    assert {n.removesuffix(".weight") for n, c in made.changes.items() if c.through_nf4} == set(
        stored
    )
    for name, module in stored.items():
        import bitsandbytes.functional as four_bit

        seen = four_bit.dequantize_4bit(module.weight.data, module.weight.quant_state)
        ours = through_nf4(Checkpoint(adapted.base).read(f"{name}.weight").to(kept))
        assert torch.equal(ours, seen.view_as(ours)), name


def test_merging_a_4_bit_run_onto_the_original_base_is_measurably_wrong_t5(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted = adapt(tiny_model("qwen3"), tmp_path, "qlora")
    expected = adapted.logits().log_softmax(-1)

    def kl(nf4: bool, folder: str) -> float:
        model = merged(plan(adapted.base, adapted.folder, nf4=nf4), tmp_path / folder)
        found = logits(model).log_softmax(-1)
        return float((expected.exp() * (expected - found)).sum(-1).mean())

    right, wrong = kl(True, "right"), kl(False, "wrong")
    assert right < 1e-6
    assert wrong > 1e-3


# --- what cannot be merged ------------------------------------------------------------------------


def test_every_part_without_a_place_is_told_at_once(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted = foreign(tiny_model("qwen3"), tmp_path / "adapter")
    other = tiny_model("qwen3", hidden_size=32)
    with pytest.raises(ModelError) as caught:
        plan(other, adapted.folder)
    assert len(caught.value.faults) == 4  # two layers, two targets
    assert all("base that it was trained on" in fault.remedy for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("peft_type", "LOHA", "LOHA"),
        ("lora_bias", True, "lora_bias"),
        ("init_lora_weights", "pissa", "init_lora_weights"),
        ("r", 8, "rank 4"),
    ],
)
def test_an_adapter_that_is_another_sum_is_refused(
    key: str, value: Any, told: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted = foreign(tiny_model("qwen3"), tmp_path / "adapter")
    file = adapted.folder / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) | {key: value}
    file.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ModelError, match=told):
        plan(adapted.base, adapted.folder)


def test_missing_and_damaged_files_of_weights_are_all_named(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    whole = AutoModelForCausalLM.from_pretrained(tiny_model("qwen3"))
    whole.save_pretrained(base, max_shard_size="60KB")
    first, second, third, *_ = sorted(base.glob("*.safetensors"))
    first.unlink()
    second.unlink()
    with pytest.raises(ModelError) as caught:
        Checkpoint(base)
    assert [fault.where for fault in caught.value.faults] == [str(first), str(second)]
    whole.save_pretrained(base, max_shard_size="60KB")
    third.write_bytes(third.read_bytes()[:-7])
    with pytest.raises(ModelError, match=third.name):
        Checkpoint(base)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_model("qwen3"), tmp_path / "base")
    checkpoint = Checkpoint(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ModelError, match="early end"):
        checkpoint.read(list(checkpoint.places)[-1])


def test_probe_ids_are_in_every_vocabulary(tiny_model: Callable[..., Path]) -> None:
    config = AutoConfig.from_pretrained(tiny_model("qwen3"))
    assert int(PROBE.max()) < config.vocab_size
