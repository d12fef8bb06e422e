"""Laws of what a GGUF file says besides numbers: shape, positions, tokens, template, stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny
import torch
from export.gguf.gguf_models import (
    PROMPTS,
    ROPES,
    TOLERANCE,
    copied,
    difference,
    load,
    logits,
    stored,
)
from transformers import (
    AutoTokenizer,
    GenerationConfig,
)

from tanren.export.gguf import GgufType, read_back, read_metadata, read_model, stop_ids, write_gguf

FamilyModel = Callable[[str], Path]


# --- keys -----------------------------------------------------------------------------------------


def test_gemma3s_two_thetas_come_back(tmp_path: Path) -> None:
    """Scaling is for layers that see everything; the others have a theta of their own."""
    parameters = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    }
    folder = tiny.build_model(tmp_path / "m", "gemma3", rope_parameters=parameters)
    file = write_gguf(folder, tmp_path / "m.gguf", type=GgufType.F32)
    assert read_metadata(file.path)[0]["gemma3.rope.freq_base_swa"] == 500.0
    assert difference(logits(load(folder)), logits(read_model(file.path))) <= 2e-6


@pytest.mark.parametrize("name", ROPES)
def test_rotary_scalings_come_back(name: str, tmp_path: Path) -> None:
    family, scaling = ROPES[name]
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    folder = tiny.build_model(
        tmp_path / "m", family, rope_parameters={**scaling, "rope_theta": 10000.0}
    )
    other = tiny.build_model(tmp_path / "plain", family, rope_parameters=plain)
    file = write_gguf(folder, tmp_path / "m.gguf", type=GgufType.F32)
    model = read_model(file.path)
    expected = logits(load(folder))
    assert difference(expected, logits(model)) <= 5e-6
    assert difference(expected, logits(load(other))) > 0.01


def test_llama3_divides_slow_frequencies_by_its_factor_and_leaves_fast_ones(tmp_path: Path) -> None:
    """Closed form at both ends: wavelengths above 64/1 tokens by 8, below 64/4 by 1."""
    scaling = {**ROPES["llama3"][1], "rope_theta": 10000.0}
    folder = tiny.build_model(tmp_path / "m", "llama-tied", rope_parameters=scaling)
    file = write_gguf(folder, tmp_path / "m.gguf", type=GgufType.F32)
    factors = stored(file.path)["rope_freqs.weight"]
    wavelengths = 2 * np.pi * 10000.0 ** (np.arange(8) / 8)
    assert np.allclose(factors[wavelengths > 64], 8, rtol=1e-5)
    assert np.allclose(factors[wavelengths < 16], 1, rtol=1e-5)
    between = factors[(wavelengths >= 16) & (wavelengths <= 64)]
    assert len(between) and ((between > 1) & (between < 8)).all()


def test_phi3s_long_factors_come_back(tmp_path: Path) -> None:
    """Both sets, the share of a head that is rotated, and the louder attention."""
    scaling = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0 + 0.1 * i for i in range(6)],
        "long_factor": [2.0 + 0.3 * i for i in range(6)],
    }
    folder = tiny.build_model(
        tmp_path / "m",
        "qwen3",
        model_type="phi3",
        original_max_position_embeddings=16,
        rope_parameters=scaling,
    )
    file = write_gguf(folder, tmp_path / "m.gguf", type=GgufType.F32)
    model = read_model(file.path)  # the second prompt is longer than 16 tokens
    assert difference(logits(load(folder)), logits(model)) <= TOLERANCE[GgufType.F32]
    assert stored(file.path)["rope_factors_short.weight"].tolist() == pytest.approx(
        scaling["short_factor"]
    )
    assert read_metadata(file.path)[0]["phi3.rope.dimension_count"] == 12
    assert "-c 16" in file.notes[0]


def test_a_window_that_llama_cpp_has_not_is_said(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Within the window the file is the model, beyond it is not, and the notes say so."""
    folder = tiny_model("mistral")
    file = write_gguf(folder, tmp_path / "m.gguf", type=GgufType.F32)
    model = read_model(file.path)
    expected, found = logits(load(folder)), logits(model)
    assert len(PROMPTS[0]) <= tiny.WINDOW < len(PROMPTS[1])
    assert difference(expected[:1], found[:1]) <= TOLERANCE[GgufType.F32]
    assert difference(expected[1:], found[1:]) > 0.01
    assert f"beyond {tiny.WINDOW} tokens" in file.notes[0]


def test_the_file_says_how_the_model_is_built(family_model: FamilyModel, tmp_path: Path) -> None:
    file = write_gguf(family_model("gemma2"), tmp_path / "m.gguf", type=GgufType.BF16)
    metadata, _ = read_metadata(file.path)
    expected = {
        "general.architecture": "gemma2",
        "general.type": "model",
        "general.name": "M",
        "general.file_type": int(gguf.LlamaFileType.MOSTLY_BF16),
        "gemma2.context_length": 256,
        "gemma2.embedding_length": 64,
        "gemma2.feed_forward_length": 128,
        "gemma2.block_count": 2,
        "gemma2.attention.head_count": 4,
        "gemma2.attention.head_count_kv": 2,
        "gemma2.attention.key_length": 16,
        "gemma2.attention.value_length": 16,
        "gemma2.attention.sliding_window": tiny.WINDOW,
        "gemma2.attn_logit_softcapping": 50.0,
        "gemma2.final_logit_softcapping": 30.0,
        "gemma2.rope.freq_base": 10000.0,
        "gemma2.vocab_size": 400,
    }
    assert {key: metadata.get(key) for key in expected} == expected
    assert metadata["gemma2.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)


# --- tokens, template, stops ----------------------------------------------------------------------


def test_tiny_chat_prompts_come_back_token_for_token(tmp_path: Path) -> None:
    """T1, T10: the project's own model, its real tokenizer and template."""
    file = write_gguf(tiny.TINY_CHAT, tmp_path / "tiny-chat.gguf", type=GgufType.F32)
    assert file.likeness is not None
    assert (file.likeness.model, file.likeness.pre) == ("gpt2", "qwen2")
    assert file.likeness.exact and file.notes == ()
    model, tokenizer = read_back(file.path)
    own = AutoTokenizer.from_pretrained(tiny.TINY_CHAT)
    assert tokenizer.chat_template == own.chat_template
    chat = [{"role": "user", "content": "空はなぜ青いの？ It's 12:30!\n"}]
    text = own.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = own(text, add_special_tokens=False).input_ids
    assert tokenizer(text, add_special_tokens=False).input_ids == ids
    with torch.no_grad():
        expected = load(tiny.TINY_CHAT)(input_ids=torch.tensor([ids])).logits
        found = model(input_ids=torch.tensor([ids])).logits
    assert bool((expected.argmax(-1) == found.argmax(-1)).all())


def test_every_stop_of_the_run_is_in_the_file(family_model: FamilyModel, tmp_path: Path) -> None:
    """T4: of the tokenizer, of generation_config.json and of our card."""
    folder = copied(family_model("qwen3"), tmp_path)
    GenerationConfig(eos_token_id=[2, 300]).save_pretrained(folder)
    (folder / "tanren.json").write_text(json.dumps({"stop_ids": [300, 301, 302]}), "utf-8")
    file = write_gguf(folder, tmp_path / "m.gguf", type=GgufType.F32)
    metadata, _ = read_metadata(file.path)
    assert stop_ids(metadata) == (2, 300, 301)
    model = read_model(file.path)
    assert model.generation_config.eos_token_id == [2, 300, 301]
    own = AutoTokenizer.from_pretrained(folder)
    fourth = own.convert_ids_to_tokens(302)
    assert any("three stop tokens" in note and fourth in note for note in file.notes)


def test_the_kinds_of_tokens(family_model: FamilyModel, tmp_path: Path) -> None:
    """Special tokens are control tokens; rows of the embedding that no token has are unused."""
    file = write_gguf(family_model("qwen2"), tmp_path / "m.gguf", type=GgufType.F32)
    metadata, _ = read_metadata(file.path)
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == 416
    assert [tokens[i] for i in range(3)] == [tiny.PAD, tiny.START, tiny.END]
    assert kinds[:3] == [gguf.TokenType.CONTROL] * 3
    assert (tokens[415], kinds[415]) == ("[PAD415]", gguf.TokenType.UNUSED)
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.ggml.padding_token_id"] == 0
