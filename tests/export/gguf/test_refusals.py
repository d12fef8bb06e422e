"""What llama.cpp would run wrongly is refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from export.gguf.gguf_models import (
    changed,
    copied,
    load,
    stored,
)
from safetensors.torch import load_file, save_file

from tanren.errors import ModelError
from tanren.export.gguf import GgufType, write_gguf

FamilyModel = Callable[[str], Path]


# --- what cannot be written -----------------------------------------------------------------------


def refused(folder: Path, tmp_path: Path, words: str, kind: GgufType = GgufType.F32) -> ModelError:
    """The error says `words`, and nothing at all was written."""
    out = tmp_path / "out"
    with pytest.raises(ModelError, match=words) as raised:
        write_gguf(folder, out / "model.gguf", type=kind)
    assert not out.exists() or not list(out.iterdir())
    return raised.value


@pytest.mark.parametrize(
    ("family", "values", "words"),
    [
        ("qwen3", {"model_type": "gpt_neox"}, "the architecture 'gpt_neox'"),
        ("qwen3", {"hidden_act": "relu"}, "'relu'"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("gemma3", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    family_model: FamilyModel, family: str, values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = changed(copied(family_model(family), tmp_path), **values)
    assert "merged folder" in refused(folder, tmp_path, words).faults[0].remedy


@pytest.mark.parametrize(
    ("family", "scaling"),
    [
        ("qwen3", {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("qwen3", {"rope_type": "yarn", "beta_slow": 2.0}),
    ],
)
def test_rotary_scalings_that_the_family_has_not_are_refused(
    family: str, scaling: dict[str, Any], tmp_path: Path
) -> None:
    rest = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    folder = tiny.build_model(tmp_path / "model", family, rope_parameters={**rest, **scaling})
    refused(folder, tmp_path, "rope_parameters")


def test_a_weight_beyond_float16_is_refused_there_only(
    family_model: FamilyModel, tmp_path: Path
) -> None:
    folder = copied(family_model("qwen3"), tmp_path)
    state = load_file(folder / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][3, 3] = 70000.0
    save_file(state, folder / "model.safetensors")
    error = refused(folder, tmp_path, "7e\\+04", GgufType.F16)
    assert "blk.1.ffn_up.weight" in error.faults[0].where
    write_gguf(folder, tmp_path / "m.gguf", type=GgufType.BF16)


def test_folders_that_are_not_whole_are_refused(family_model: FamilyModel, tmp_path: Path) -> None:
    folder = copied(family_model("qwen3"), tmp_path)
    whole = load_file(folder / "model.safetensors")
    weights = folder / "model.safetensors"
    name = "model.layers.1.self_attn.o_proj.weight"
    save_file({n: t for n, t in whole.items() if n != name}, weights)
    refused(folder, tmp_path, "1 tensors missing, the first is blk.1.attn_output.weight")
    save_file({**whole, name: whole[name][:32]}, weights)
    refused(folder, tmp_path, r"blk.1.attn_output.weight of shape \[32, 64\]")
    save_file({**whole, "model.layers.0.mystery.weight": whole[name].clone()}, weights)
    refused(folder, tmp_path, "unknown meaning, the first is model.layers.0.mystery.weight")
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(folder, tmp_path, "a damaged file")
    weights.unlink()
    refused(folder, tmp_path, "no such file")


def test_shards_make_the_same_file_and_a_lost_one_is_named(
    family_model: FamilyModel, tmp_path: Path
) -> None:
    folder = copied(family_model("qwen3"), tmp_path)
    (folder / "model.safetensors").unlink()
    load(family_model("qwen3")).save_pretrained(folder, max_shard_size="100KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 3
    one = write_gguf(family_model("qwen3"), tmp_path / "a.gguf", type=GgufType.F16)
    many = write_gguf(folder, tmp_path / "b.gguf", type=GgufType.F16)
    first, second = stored(one.path), stored(many.path)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    shards[1].unlink()
    assert shards[1].name in str(refused(folder, tmp_path, "no such file"))


def test_a_model_that_never_stops_is_refused(family_model: FamilyModel, tmp_path: Path) -> None:
    folder = copied(family_model("qwen3"), tmp_path)
    (folder / "generation_config.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    refused(folder, tmp_path, "no token that ends an answer")
