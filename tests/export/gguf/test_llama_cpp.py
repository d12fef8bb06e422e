"""The files in llama.cpp itself: the same logits, the same tokens, the same stops.

Where the Python package llama_cpp is not installed, TANREN_LLAMA_CPP_PYTHON may name an interpreter
that has it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import templates
import tiny
import torch
from export.gguf.gguf_models import (
    FAMILIES,
    PROMPTS,
    ROPES,
    SCALINGS,
    adapted,
    difference,
    load,
    logits,
    save,
)
from transformers import AutoTokenizer, GenerationConfig

from tanren.errors import ModelError, ProofError
from tanren.export.gguf import (
    GgufFile,
    GgufType,
    ask_llama_cpp,
    find_program,
    find_python,
    llama_cpp_logits,
    llama_cpp_token_ids,
    quantise,
    quantise_command,
    write_gguf,
    write_lora_gguf,
)
from tanren.export.gguf.likeness import probe_texts

FamilyModel = Callable[[str], Path]
in_llama_cpp = pytest.mark.skipif(
    find_python() is None,
    reason="needs llama_cpp here or in the interpreter that TANREN_LLAMA_CPP_PYTHON names",
)
# llama.cpp looks GELU up in a table of float16.
TOLERANCE = {"gemma": 1e-3, "gemma2": 1e-3, "gemma3": 1e-3}


def written(folder: Path, out: Path, kind: GgufType = GgufType.F32) -> GgufFile:
    return write_gguf(folder, out / "model.gguf", type=kind)


@in_llama_cpp
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_answers_like_the_folder(
    family_model: FamilyModel, family: str, tmp_path: Path
) -> None:
    file = written(family_model(family), tmp_path)
    found = llama_cpp_logits(file.path, PROMPTS)
    expected = logits(load(family_model(family)))
    assert difference(expected, found) <= TOLERANCE.get(family, 1e-5)


@in_llama_cpp
@pytest.mark.parametrize("name", ROPES)
def test_llama_cpp_scales_positions_like_the_folder(name: str, tmp_path: Path) -> None:
    family, scaling = ROPES[name]
    parameters = {**scaling, "rope_theta": 10000.0}
    folder = tiny.build_model(tmp_path / "m", family, rope_parameters=parameters)
    found = llama_cpp_logits(written(folder, tmp_path).path, PROMPTS)
    assert difference(logits(load(folder)), found) <= 1e-5


@in_llama_cpp
def test_llama_cpp_takes_phi3s_factors_by_its_context(tmp_path: Path) -> None:
    """A context up to the original one means short factors, as the model does for short texts."""
    factors = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0] * 8}
    folder = tiny.build_model(
        tmp_path / "m",
        "qwen3",
        model_type="phi3",
        max_position_embeddings=1024,
        original_max_position_embeddings=256,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 256,
            **factors,
        },
    )
    file = written(folder, tmp_path)
    expected = logits(load(folder))
    short = ask_llama_cpp(file.path, PROMPTS, context=256).logits
    long = ask_llama_cpp(file.path, PROMPTS, context=512).logits
    assert difference(expected, short) <= 1e-5 < 0.01 < difference(expected, long)


@in_llama_cpp
@pytest.mark.parametrize("name", sorted(templates.families()))
def test_the_forecast_of_tokens_is_what_llama_cpp_does(name: str, tmp_path: Path) -> None:
    """T1: on chats and texts of many kinds; ids that differ were forecast too."""
    family = templates.families()[name]
    made = family.tokenizer()
    ends = [made.eos_token_id, made.convert_tokens_to_ids(family.end_of_turn)]
    model = tiny.random_model("llama-tied", len(made) + 8)
    model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(tmp_path / "model")
    made.save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    file = written(tmp_path / "model", tmp_path)
    texts = probe_texts(tokenizer, ())
    answer = ask_llama_cpp(file.path, texts=texts)
    assert file.likeness is not None
    forecast = {d.text: d.found for d in file.likeness.differences}
    for text, ids in zip(texts, answer.ids, strict=True):
        own = tuple(tokenizer.encode(text, add_special_tokens=False))
        assert ids == forecast.get(text, own)
    assert set(ends) <= set(answer.stops)
    framed = llama_cpp_token_ids(file.path, ["a b"], add_special=True)
    assert list(framed[0]) == tokenizer.encode("a b")


@in_llama_cpp
def test_llama_cpp_runs_the_projects_own_model(tmp_path: Path) -> None:
    file = written(tiny.TINY_CHAT, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny.TINY_CHAT)
    texts = probe_texts(tokenizer, ())
    answer = ask_llama_cpp(file.path, PROMPTS, texts)
    assert difference(logits(load(tiny.TINY_CHAT)), answer.logits) <= 1e-5
    assert [list(ids) for ids in answer.ids] == [
        tokenizer.encode(text, add_special_tokens=False) for text in texts
    ]
    assert answer.stops == (tokenizer.eos_token_id,)


@in_llama_cpp
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3"])
def test_llama_cpp_lays_the_adapter_over_the_base(
    family_model: FamilyModel, family: str, scaling: str, tmp_path: Path
) -> None:
    base = family_model(family)
    model = adapted(base, **SCALINGS[scaling])
    adapter = save(model, tmp_path / "adapter")
    lora = write_lora_gguf(adapter, base, tmp_path / "lora.gguf", type=GgufType.F32)
    file = written(base, tmp_path)
    found = llama_cpp_logits(file.path, PROMPTS, lora=lora.path)
    expected = logits(model)
    assert difference(expected, found) <= TOLERANCE.get(family, 1e-5)
    assert difference(expected, llama_cpp_logits(file.path, PROMPTS)) > 0.01


@in_llama_cpp
def test_llama_cpp_makes_smaller_types(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """Rows of 256, the size that its K-types need; the answers stay near."""
    folder = tiny_model("qwen3", hidden_size=256, intermediate_size=512)
    file = written(folder, tmp_path, GgufType.BF16)
    small = tmp_path / "small.gguf"
    assert quantise(file.path, small, "q6_k")
    assert small.stat().st_size < 0.5 * file.size_bytes
    found = difference(logits(load(folder)), llama_cpp_logits(small, PROMPTS))
    assert 0 < found < 0.3
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


@in_llama_cpp
def test_a_file_that_llama_cpp_cannot_read_is_an_error_of_ours(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ProofError, match=r"a file that llama\.cpp reads"):
        llama_cpp_logits(bad, PROMPTS)


# --- without llama.cpp ----------------------------------------------------------------------------


def test_what_to_type_is_said(tmp_path: Path) -> None:
    command = quantise_command(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_k_m")
    assert command == f"llama-quantize {tmp_path}/a.gguf {tmp_path}/b.gguf Q4_K_M"
    with pytest.raises(ModelError, match=r"'q4_9'.*q4_k_m"):
        quantise_command(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_9")


@pytest.fixture
def quantizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `llama-quantize` on the PATH that writes its own arguments."""
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$1 $3" > "$2"\n', "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def test_llama_quantize_on_the_path_is_used(quantizer: Path, tmp_path: Path) -> None:
    assert find_program("llama-quantize") == str(quantizer)
    target = tmp_path / "out" / "b.gguf"
    assert quantise(tmp_path / "a.gguf", target, "q5_k_m")
    assert target.read_text("utf-8") == f"{tmp_path}/a.gguf Q5_K_M\n"
    assert [p.name for p in target.parent.iterdir()] == ["b.gguf"]


def test_a_failing_llama_quantize_is_quoted(quantizer: Path, tmp_path: Path) -> None:
    quantizer.write_text('#!/bin/sh\necho half > "$2"\necho "no such kind" >&2\nexit 3\n', "utf-8")
    with pytest.raises(ProofError, match="no such kind"):
        quantise(tmp_path / "a.gguf", tmp_path / "out" / "b.gguf", "q5_k_m")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(find_python() is not None, reason="llama_cpp is here")
def test_without_llama_cpp_the_error_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="llama-cpp-python"):
        llama_cpp_logits(tmp_path / "a.gguf", PROMPTS)
    if find_program("llama-quantize") is None:
        assert not quantise(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_0")


def test_logits_are_compared_by_their_largest() -> None:
    """What the tolerances above mean."""
    expected = [np.array([[1.0, -4.0]])]
    assert difference(expected, [np.array([[1.2, -4.0]])]) == pytest.approx(0.05)
    assert torch.get_num_threads() == 1
