"""Laws of the proof for models too large to answer: it holds for every method and notices one
wrong number in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export.adapted import adapt
from export.exporting import Heard, as_if_trained, exported
from export.test_merge import foreign, plan
from safetensors.torch import load_file, save_file

from tanren.errors import ModelError, ProofError
from tanren.export import numbers_proof
from tanren.export.merge import merge
from tanren.export.numbers_proof import ROUNDINGS, prove_numbers


def proven(made: Any, folder: Path, dtype: torch.dtype) -> Any:
    folder.mkdir()
    merge(made, folder, dtype=dtype)
    return prove_numbers(made, folder, dtype=str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama-tied", "qwen3_moe"])
@pytest.mark.parametrize("method", ["lora", "qlora", "dora", "rslora"])
def test_what_is_merged_is_the_sum_to_within_its_rounding(
    method: str, family: str, dtype: torch.dtype, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {}
    if family == "qwen3_moe" and method != "dora":
        settings["target_parameters"] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapted = adapt(tiny_model(family), tmp_path, method, **settings)
    made = plan(adapted.base, adapted.folder, nf4=method == "qlora")
    proof = proven(made, tmp_path / "merged", dtype)
    assert proof.passed, proof.failures
    assert proof.changed_tensors == len(made.changes)
    assert proof.copied_tensors == len(made.checkpoint.places) - len(made.changes)
    if dtype != torch.float32:  # below half a unit it would not be rounding; exactly none, no work
        assert 0.3 < proof.largest_rounding <= ROUNDINGS


@pytest.mark.filterwarnings("ignore:.*tie.*")
def test_trained_tokens_and_new_tensors_are_worked_out_again(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model("llama-tied")
    made = plan(base, foreign(base, tmp_path / "a", trainable_token_indices=[0, 7, 399]).folder)
    assert proven(made, tmp_path / "tokens", torch.float32).passed
    made = plan(base, foreign(base, tmp_path / "b", modules_to_save=["lm_head"]).folder)
    assert made.added
    assert proven(made, tmp_path / "head", torch.float32).passed


@pytest.mark.parametrize("where", ["merged", "copied", "gone"])
def test_one_number_is_enough_to_fail(
    where: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted = foreign(tiny_model("qwen3"), tmp_path / "adapter")
    made = plan(adapted.base, adapted.folder)
    assert proven(made, tmp_path / "merged", torch.float32).passed
    file = tmp_path / "merged" / "model.safetensors"
    tensors = load_file(file)
    if where == "gone":
        del tensors["model.norm.weight"]
    else:
        end = "q_proj.weight" if where == "merged" else "k_proj.weight"
        tensors[f"model.layers.1.self_attn.{end}"][0, 5] += 1e-4
    save_file(tensors, file)
    proof = prove_numbers(made, tmp_path / "merged", dtype="float32")
    assert not proof.passed
    told = {"merged": "units of its last place", "copied": "is another", "gone": "missing"}
    assert len(proof.failures) == 1
    assert told[where] in proof.failures[0]


def test_a_model_that_does_not_fit_is_told_before_any_work(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = as_if_trained(make_config(), tmp_path / "mine")
    monkeypatch.setattr(numbers_proof, "free_memory", lambda: 100_000)
    heard = Heard()
    with pytest.raises(ModelError, match="--proof numbers"):
        exported(run, heard)
    assert heard.stages == ["plan"]
    done = exported(run, proof="numbers")
    assert done.proof["passed"]
    assert done.proof["reader"] == "safetensors"


def test_a_failed_proof_of_numbers_keeps_nothing(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    run = as_if_trained(make_config(), tmp_path / "mine")

    def spoil(stage: str) -> None:
        if stage == "prove":
            (file,) = run.path.glob(".merged.*.tmp/model.safetensors")
            tensors = load_file(file)
            tensors["model.layers.0.mlp.up_proj.weight"][0] *= 1.001
            save_file(tensors, file)

    with pytest.raises(ProofError, match="last place"):
        exported(run, Heard(spoil), proof="numbers")
    assert not (run.path / "merged").exists()
