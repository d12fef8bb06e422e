"""Laws of the exports for llama.cpp and Ollama: one file, read back by their own readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from export.exporting import Heard, as_if_trained, exported
from gguf import GGUFReader

from tanren.errors import ModelError, ProofError, UserError
from tanren.export import gguf
from tanren.rundir import RunDirectory, missing_files


@pytest.fixture
def tuned(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., RunDirectory]:
    """`tuned(method="dora")`: a run of the embedded tiny model, as if trained."""

    def make(**options: Any) -> RunDirectory:
        config = make_config(f"model.name={tiny.TINY_CHAT}", **options)
        return as_if_trained(config, tmp_path / "mine", amount=0.02)

    return make


@pytest.mark.parametrize(
    ("method", "dtype", "kl"),
    [("lora", "f32", 1e-8), ("dora", "bf16", 4e-4), ("qlora", "f16", 1e-5), ("full", "q8_0", 1e-2)],
)
def test_the_file_says_what_the_run_says_when_transformers_reads_it(
    method: str, dtype: str, kl: float, tuned: Callable[..., RunDirectory]
) -> None:
    done = exported(tuned(method=method), to="gguf", dtype=dtype)
    assert missing_files(done.folder) == []
    assert [file.suffix for file in done.folder.iterdir()].count(".gguf") == 1
    assert not list(done.folder.glob(".*")), "the merged model that it was made from is gone"
    proof = done.proof
    assert "GGUF" in proof["reader"]
    assert proof["distance"]["kl_mean"] < kl
    assert proof["moved"] is None or proof["moved"]["kl_mean"] > 100 * kl
    assert proof["prompt_ids_equal"] == "10/10"


def test_other_names_of_the_types_mean_the_same(tuned: Callable[..., RunDirectory]) -> None:
    assert exported(tuned(), to="gguf", dtype="bfloat16").dtype == "bf16"


def test_an_unknown_type_is_refused_with_the_known_ones(
    tuned: Callable[..., RunDirectory],
) -> None:
    run = tuned()
    with pytest.raises(UserError, match=r"q8_0.*q4_k_m"):
        exported(run, to="gguf", dtype="q4")
    assert not (run.path / "gguf").exists()


def test_without_llama_cpp_the_command_for_a_smaller_type_is_told(
    tuned: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(gguf.PYTHON_VARIABLE, raising=False)
    if gguf.find_program("llama-quantize") or gguf.find_python():
        pytest.skip("a llama.cpp is installed")
    done = exported(tuned(), to="gguf", dtype="q4_k_m")
    assert done.dtype == "bf16" == done.proof["dtype"]
    (line,) = [c.line for c in done.commands if c.line.startswith("llama-quantize")]
    source, target, kind = line.split()[1:]
    assert Path(source).is_file()
    assert (Path(target).parent, kind) == (done.folder, "Q4_K_M")


@pytest.mark.skipif(gguf.find_python() is None, reason="llama_cpp is not installed")
@pytest.mark.parametrize("kind", ["q4_k_m", "q6_k"])
def test_llama_cpp_makes_it_smaller_and_reads_it(
    kind: str, tuned: Callable[..., RunDirectory]
) -> None:
    done = exported(tuned(), to="gguf", dtype=kind)
    assert done.dtype == kind
    assert done.proof["facts"]["llama.cpp"]["passed"]
    assert [file.name for file in done.folder.glob("*.gguf")] == [f"mine-{kind}.gguf"]


# --- adapters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "rslora", "lora_plus"])
def test_an_adapter_file_on_the_base_says_what_the_run_says(
    method: str, tuned: Callable[..., RunDirectory]
) -> None:
    """Added to a file of the base as llama.cpp does it, and read back from there."""
    done = exported(tuned(method=method), to="gguf-lora")
    assert done.proof["distance"]["kl_mean"] < 1e-8
    assert sorted(file.suffix for file in done.folder.iterdir() if not file.is_dir()) == [
        ".gguf",
        ".json",
        ".json",
        ".md",
    ]
    assert not list(done.folder.glob(".*"))


def test_an_adapter_that_lost_a_tensor_fails_its_proof(tuned: Callable[..., RunDirectory]) -> None:
    run = tuned()

    def spoil(stage: str) -> None:
        if stage == "prove":
            (file,) = run.path.glob(".gguf-lora.*.tmp/*.gguf")
            for tensor in GGUFReader(file, "r+").tensors:
                if tensor.name == "blk.1.ffn_down.weight.lora_b":
                    numbers = tensor.data
                    numbers *= 0

    with pytest.raises(ProofError, match="logits"):
        exported(run, Heard(spoil), to="gguf-lora")
    assert not (run.path / "gguf-lora").exists()


def test_dora_has_no_adapter_file_and_the_reason_is_told(
    tuned: Callable[..., RunDirectory],
) -> None:
    with pytest.raises(ModelError, match="magnitude"):
        exported(tuned(method="dora"), to="gguf-lora")


# --- Ollama ---------------------------------------------------------------------------------------


def test_the_ollama_folder_has_all_that_ollama_create_takes(
    tuned: Callable[..., RunDirectory],
) -> None:
    done = exported(tuned(), to="ollama", system="短く答えて。")
    words = (done.folder / "Modelfile").read_text(encoding="utf-8")
    (file,) = done.folder.glob("*.gguf")
    assert f"FROM ./{file.name}" in words
    assert 'PARAMETER stop "<|im_end|>"' in words
    assert "短く答えて。" in words
    assert "PARAMETER num_ctx 1024" in words
    rows = done.proof["facts"]["template"]["rows"]
    assert [row["outcome"] for row in rows] == ["equal"] * 10
    assert "ollama create mine -f Modelfile" in done.commands[0].line
    assert json.loads((done.folder / "template_proof.json").read_text("utf-8"))["passed"]


def test_t17_the_file_adds_a_bos_only_where_training_wrote_one(
    make_config: Callable[..., Any], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """A tokenizer that begins plain text with a BOS under a template that writes none."""
    base = tmp_path / "base"
    import shutil

    from tokenizers import processors
    from transformers import AutoTokenizer

    shutil.copytree(tiny.TINY_CHAT, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.bos_token = "<|pad|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(base)
    run = as_if_trained(make_config(f"model.name={base}"), tmp_path / "mine", amount=0.02)
    done = exported(run, to="ollama")
    (file,) = done.folder.glob("*.gguf")
    field = GGUFReader(file).get_field("tokenizer.ggml.add_bos_token")
    assert field is not None
    assert not bool(field.contents())
