"""Laws of a LoRA adapter's GGUF file: base plus adapter, as llama.cpp adds them, is the merge."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export.gguf.gguf_models import SCALINGS, adapted, save, stored
from safetensors.torch import load_file, save_file

from tanren.errors import ModelError, StorageError
from tanren.export.gguf import GgufType, read_metadata, write_gguf, write_lora_gguf

FamilyModel = Callable[[str], Path]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("family", ["llama", "qwen3-tied", "gemma3", "phi3"])
def test_base_plus_adapter_is_the_merged_model(
    family_model: FamilyModel, family: str, scaling: str, tmp_path: Path
) -> None:
    """W + alpha/rank B A with the file's alpha and the tensor's own rank, for every matrix: the
    scaling, the names and the order of rows are right.
    """
    base = family_model(family)
    model = adapted(base, **SCALINGS[scaling])
    file = write_lora_gguf(
        save(model, tmp_path / "adapter"), base, tmp_path / "lora.gguf", type=GgufType.F32
    )
    whole = tmp_path / "merged"
    model.merge_and_unload().save_pretrained(whole)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (whole / name).write_bytes((base / name).read_bytes())
    before = stored(write_gguf(base, tmp_path / "base.gguf", type=GgufType.F32).path)
    after = stored(write_gguf(whole, tmp_path / "merged.gguf", type=GgufType.F32).path)
    deltas, alpha = stored(file.path), read_metadata(file.path)[0]["adapter.lora.alpha"]
    names = {name.rsplit(".", 1)[0] for name in deltas}
    assert len(deltas) == 2 * len(names) == file.tensors
    for name in names:
        a, b = deltas[f"{name}.lora_a"], deltas[f"{name}.lora_b"]
        delta = (alpha / b.shape[1]) * (b @ a)
        assert np.abs(before[name] + delta - after[name]).max() < 1e-5
        assert np.abs(delta).max() > 0.05
    assert {name for name in after if not np.array_equal(after[name], before[name])} == names
    assert bool(file.notes) == (scaling == "patterns")


def test_the_file_is_an_adapter_of_its_architecture(
    family_model: FamilyModel, tmp_path: Path
) -> None:
    model = adapted(family_model("qwen3"))
    adapter = save(model, tmp_path / "adapter")
    file = write_lora_gguf(adapter, family_model("qwen3"), tmp_path / "l.gguf", type=GgufType.F16)
    metadata, _ = read_metadata(file.path)
    expected = {
        "general.type": "adapter",
        "general.architecture": "qwen3",
        "adapter.type": "lora",
        "adapter.lora.alpha": 12.0,
    }
    assert {key: metadata.get(key) for key in expected} == expected
    assert "tokenizer.ggml.tokens" not in metadata
    source = load_file(adapter / "adapter_model.safetensors")
    a = source["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"]
    assert np.array_equal(stored(file.path)["blk.0.ffn_up.weight.lora_a"], a.half().float().numpy())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, r"whole modules \(lm_head\)"),
        ({"trainable_token_indices": [1, 2]}, "trained tokens"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "2 tensors on the embedding"),
        ({"bias": "lora_only", "target_modules": ["q_proj"]}, "trained biases"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_with_the_way_out(
    family_model: FamilyModel, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """T15: and nothing is written."""
    base = family_model("llama-biases" if "bias" in settings else "llama")
    adapter = save(adapted(base, **settings), tmp_path / "adapter")
    out = tmp_path / "out" / "lora.gguf"
    with pytest.raises(ModelError, match=words) as raised:
        write_lora_gguf(adapter, base, out, type=GgufType.F16)
    assert all("merged" in fault.remedy for fault in raised.value.faults)
    assert not out.parent.exists()


def test_adapters_on_stacked_experts_are_refused(family_model: FamilyModel, tmp_path: Path) -> None:
    base = family_model("qwen3_moe")
    model = adapted(base, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    with pytest.raises(ModelError, match="stacked experts"):
        write_lora_gguf(
            save(model, tmp_path / "adapter"), base, tmp_path / "l.gguf", type=GgufType.F16
        )


def test_another_base_and_no_adapter_are_refused(
    family_model: FamilyModel, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = save(adapted(family_model("qwen3")), tmp_path / "adapter")
    wider = tiny_model("qwen3", intermediate_size=96)
    with pytest.raises(ModelError, match="the base that the adapter was trained on") as raised:
        write_lora_gguf(adapter, wider, tmp_path / "l.gguf", type=GgufType.F16)
    assert len(raised.value.faults) == 6  # three layers of each of two MLPs, all at once
    with pytest.raises(ModelError, match="no whole adapter"):
        write_lora_gguf(wider, wider, tmp_path / "l.gguf", type=GgufType.F16)
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match="no whole adapter"):
        write_lora_gguf(adapter, wider, tmp_path / "l.gguf", type=GgufType.F16)


def test_an_adapter_of_another_kind_is_refused(family_model: FamilyModel, tmp_path: Path) -> None:
    adapter = save(adapted(family_model("qwen3")), tmp_path / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    text = json.dumps({**settings, "peft_type": "IA3"})
    (adapter / "adapter_config.json").write_text(text, "utf-8")
    with pytest.raises(ModelError, match="IA3"):
        write_lora_gguf(adapter, family_model("qwen3"), tmp_path / "l.gguf", type=GgufType.F16)


def test_a_full_disk_leaves_nothing(family_model: FamilyModel, tmp_path: Path) -> None:
    """T14"""
    adapter = save(adapted(family_model("qwen3")), tmp_path / "adapter")
    out = tmp_path / "out"
    out.mkdir()
    (out / f".lora.gguf.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="full disk"):
        write_lora_gguf(adapter, family_model("qwen3"), out / "lora.gguf", type=GgufType.F16)
    assert not list(out.iterdir())


def test_an_adapter_of_a_4bit_run_says_on_which_base_it_is_right(
    family_model: FamilyModel, tmp_path: Path
) -> None:
    """T5: only the merge onto the base that was seen answers as trained."""
    adapter = save(adapted(family_model("qwen3")), tmp_path / "adapter")
    card = {
        "thinking": None,
        "date": None,
        "stop_ids": [2],
        "base": "tiny",
        "base_revision": None,
        "base_fingerprint": "0",
        "dtype": "float32",
        "storage": "nf4",
        "method": {},
        "data_sha256": "0",
        "versions": {},
    }
    (adapter / "tanren.json").write_text(json.dumps(card), "utf-8")
    file = write_lora_gguf(adapter, family_model("qwen3"), tmp_path / "l.gguf", type=GgufType.F16)
    assert "4 bits" in file.notes[0] and "merged" in file.notes[0]


def test_half_a_pair_is_no_adapter(family_model: FamilyModel, tmp_path: Path) -> None:
    adapter = save(adapted(family_model("qwen3")), tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    save_file({n: t for n, t in tensors.items() if n != name}, weights)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj"):
        write_lora_gguf(adapter, family_model("qwen3"), tmp_path / "l.gguf", type=GgufType.F16)
