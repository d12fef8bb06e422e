"""Laws of a whole model's GGUF file: the same numbers and the same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny
import torch
from export.gguf.gguf_models import (
    READABLE,
    TOLERANCE,
    copied,
    difference,
    load,
    logits,
    stored,
)
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from tanren.export.gguf import GgufType, read_metadata, read_model, write_gguf

FamilyModel = Callable[[str], Path]


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", READABLE)
def test_the_file_answers_like_the_folder(
    family_model: FamilyModel, family: str, tmp_path: Path
) -> None:
    """Through transformers' own reader, in float32: names, shapes, order of rows, norms, rotary
    positions, windows and caps are all in it.
    """
    folder = family_model(family)
    file = write_gguf(folder, tmp_path / "model.gguf", type=GgufType.F32)
    model = read_model(file.path)
    assert difference(logits(load(folder)), logits(model)) <= TOLERANCE[GgufType.F32]
    assert file.transformers_reads_it
    assert file.notes == () or family == "qwen2"
    assert file.path.stat().st_size == file.size_bytes


@pytest.mark.parametrize("kind", [GgufType.F16, GgufType.BF16, GgufType.Q8_0])
@pytest.mark.parametrize("family", ["llama", "qwen3-tied", "gemma3", "phi3"])
def test_smaller_types_answer_within_their_rounding(
    family_model: FamilyModel, family: str, kind: GgufType, tmp_path: Path
) -> None:
    folder = family_model(family)
    file = write_gguf(folder, tmp_path / "model.gguf", type=kind)
    model = read_model(file.path)
    found = difference(logits(load(folder)), logits(model))
    assert 0 < found <= TOLERANCE[kind]


@pytest.mark.parametrize("kind", list(GgufType))
def test_every_number_is_the_folders_rounded_once(
    family_model: FamilyModel, kind: GgufType, tmp_path: Path
) -> None:
    source = load_file(family_model("qwen3") / "model.safetensors")
    file = write_gguf(family_model("qwen3"), tmp_path / "model.gguf", type=kind)
    found = stored(file.path)
    weight = source["model.layers.1.mlp.down_proj.weight"]
    rounded = {
        GgufType.F32: weight,
        GgufType.F16: weight.half().float(),
        GgufType.BF16: weight.bfloat16().float(),
    }
    if kind in rounded:
        assert np.array_equal(found["blk.1.ffn_down.weight"], rounded[kind].numpy())
    else:  # a step is the block's largest number over 127; its scale is a float16
        blocks = weight.reshape(-1, 32)
        error = torch.from_numpy(found["blk.1.ffn_down.weight"]).reshape(-1, 32) - blocks
        step = blocks.abs().amax(dim=1) / 127
        assert bool((error.abs().amax(dim=1) <= step * (0.5 + 127 * 2**-11) + 1e-7).all())
    norm = source["model.layers.0.input_layernorm.weight"]
    assert np.array_equal(found["blk.0.attn_norm.weight"], norm.numpy())
    assert len(found) == file.tensors == len(source)


def test_rows_that_are_no_whole_blocks_become_float16(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_model("qwen3", intermediate_size=100)
    file = write_gguf(folder, tmp_path / "model.gguf", type=GgufType.Q8_0)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(file.path).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q_norm.weight"] == kinds["output_norm.weight"] == "F32"


# --- order and offsets ----------------------------------------------------------------------------


def test_llama_pairs_neighbours_where_transformers_pairs_halves(
    family_model: FamilyModel, tmp_path: Path
) -> None:
    """Row 2i of a head is row i of transformers' head, row 2i + 1 is row i + 8 (head_dim 16)."""
    source = load_file(family_model("llama") / "model.safetensors")
    found = stored(write_gguf(family_model("llama"), tmp_path / "m.gguf", type=GgufType.F32).path)
    for letter, heads in (("q", 4), ("k", 2)):
        ours = found[f"blk.1.attn_{letter}.weight"].reshape(heads, 16, 64)
        theirs = source[f"model.layers.1.self_attn.{letter}_proj.weight"].reshape(heads, 16, 64)
        assert np.array_equal(ours[:, 0::2], theirs[:, :8].numpy())
        assert np.array_equal(ours[:, 1::2], theirs[:, 8:].numpy())
    value = source["model.layers.1.self_attn.v_proj.weight"]
    assert np.array_equal(found["blk.1.attn_v.weight"], value.numpy())


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_gemmas_norms_are_written_with_their_one(
    family_model: FamilyModel, family: str, tmp_path: Path
) -> None:
    source = load_file(family_model(family) / "model.safetensors")
    found = stored(write_gguf(family_model(family), tmp_path / "m.gguf", type=GgufType.BF16).path)
    norm = source["model.layers.0.post_attention_layernorm.weight"]
    name = "blk.0.ffn_norm.weight" if family == "gemma" else "blk.0.post_attention_norm.weight"
    assert np.array_equal(found[name], norm.numpy() + 1)
    assert "output.weight" not in found


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_experts_are_stacked(family_model: FamilyModel, family: str, tmp_path: Path) -> None:
    source = load_file(family_model(family) / "model.safetensors")
    file = write_gguf(family_model(family), tmp_path / "m.gguf", type=GgufType.F32)
    found = stored(file.path)
    place, names = (
        ("mlp.experts.{}.{}_proj", {"gate": "gate", "up": "up", "down": "down"})
        if family == "qwen3_moe"
        else ("block_sparse_moe.experts.{}.{}", {"gate": "w1", "up": "w3", "down": "w2"})
    )
    for ours, theirs in names.items():
        experts = [
            source[f"model.layers.0.{place.format(e, theirs)}.weight"].numpy() for e in range(4)
        ]
        assert np.array_equal(found[f"blk.0.ffn_{ours}_exps.weight"], np.stack(experts))
    half = write_gguf(family_model(family), tmp_path / "half.gguf", type=GgufType.F16)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(half.path).tensors}
    assert kinds["blk.0.ffn_gate_exps.weight"] == "F16"
    assert kinds["blk.0.ffn_gate_inp.weight"] == "F32"  # rounded, it would choose other experts
    metadata, _ = read_metadata(file.path)
    arch = metadata["general.architecture"]
    assert (metadata[f"{arch}.expert_count"], metadata[f"{arch}.expert_used_count"]) == (4, 2)
    assert file.transformers_reads_it == (family == "qwen3_moe")


def test_experts_saved_as_one_tensor_give_the_same_file(
    family_model: FamilyModel, tmp_path: Path
) -> None:
    """As the model has them in memory: gate above up, (experts, 2 x width, hidden)."""
    folder = copied(family_model("qwen3_moe"), tmp_path)
    state = load(folder).state_dict()
    assert "model.layers.0.mlp.experts.gate_up_proj" in state
    save_file({name: t.contiguous() for name, t in state.items()}, folder / "model.safetensors")
    first = write_gguf(family_model("qwen3_moe"), tmp_path / "a.gguf", type=GgufType.F16)
    second = write_gguf(folder, tmp_path / "b.gguf", type=GgufType.F16)
    before, after = stored(first.path), stored(second.path)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_tied_head_is_left_out_and_said(family_model: FamilyModel, tmp_path: Path) -> None:
    """T11: also when the folder holds it a second time."""
    folder = copied(family_model("qwen3-tied"), tmp_path)
    state = load_file(folder / "model.safetensors")
    head = state["model.embed_tokens.weight"].clone()
    save_file({**state, "lm_head.weight": head}, folder / "model.safetensors")
    file = write_gguf(folder, tmp_path / "m.gguf", type=GgufType.F32)
    assert file.left_out == ("lm_head.weight",)
    assert "output.weight" not in stored(file.path)
    own = write_gguf(family_model("qwen3"), tmp_path / "own.gguf", type=GgufType.F32)
    assert "output.weight" in stored(own.path)


def test_of_a_model_that_sees_the_text_part_is_written(tmp_path: Path) -> None:
    """And what is left out is listed: llama.cpp keeps eyes in a file of their own."""
    tokenizer = tiny.build_tokenizer()
    text = {**tiny.SHAPE, **tiny.FAMILIES["gemma3"], "vocab_size": len(tokenizer)}
    del text["model_type"]
    eyes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes = {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config={**eyes, **sizes})
    torch.manual_seed(3)
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    file = write_gguf(tmp_path / "model", tmp_path / "m.gguf", type=GgufType.F32)
    assert file.left_out
    assert all(n.startswith(("vision_tower", "multi_modal_projector")) for n in file.left_out)
    model = read_model(file.path)
    assert difference(logits(whole), logits(model)) <= TOLERANCE[GgufType.F32]
