"""T8: an adapter that is not what was trained cannot pass, whatever was done to its file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import assembled
import pytest
import tiny
import torch
from assembled import assemble_model
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tanren.adapter import load_adapter, save_adapter, saved_keys
from tanren.errors import ProofError, WorkError
from tanren.proof import Proof, Reference, prove, reference, require, saved_tensors

ROWS = [assembled.PROBE, assembled.PROBE[::-1], [4, 9, 16]]
FILE = "adapter_model.safetensors"

# PEFT warns of keys that it misses; that nobody reads warnings is why there is a proof.
pytestmark = pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")


@dataclass
class Trained:
    gate: Any
    expected: Reference
    folder: Path

    def proof_of(self, folder: Path) -> Proof:
        fresh = load_adapter(assembled.load(self.gate), folder)
        return prove(self.expected, fresh, folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def trained(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A DoRA adapter (three kinds of tensors) whose weights were all moved."""
    folder = tmp_path_factory.mktemp("proof")
    rows = tiny.write_rows(folder / "train.jsonl")
    parts = assemble_model(tiny.settings(tiny_model("qwen3"), rows, method="dora"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parts.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    save_adapter(parts.model, folder / "adapter")
    expected = reference(parts.model, ROWS, saved_keys(parts.model))
    return Trained(parts.gate, expected, folder / "adapter")


def damaged(trained: Trained, to: Path, change: Callable[[dict[str, Tensor]], None]) -> Proof:
    shutil.copytree(trained.folder, to)
    tensors = load_file(to / FILE)
    change(tensors)
    save_file(tensors, to / FILE, metadata={"format": "pt"})
    return trained.proof_of(to)


def first(tensors: dict[str, Tensor], kind: str) -> str:
    return next(key for key in sorted(tensors) if kind in key)


def test_a_sound_adapter_passes_with_its_numbers(trained: Trained) -> None:
    proof = trained.proof_of(trained.folder)
    assert proof.passed and proof.failures == ()
    assert proof.logit_difference <= 1e-4 and proof.top1_agreement == 1.0
    assert proof.kl_to_trained == pytest.approx(0.0, abs=1e-6)
    assert proof.moved_from_base is not None and proof.moved_from_base > 0.01
    assert proof.tensors == len(saved_tensors(trained.folder)) == 14 * 3
    assert (proof.probes, proof.probe_tokens) == (3, sum(map(len, ROWS)))
    require(proof, trained.folder)


@pytest.mark.parametrize("kind", ["lora_A", "lora_B", "lora_magnitude_vector"])
def test_a_dropped_tensor_is_missed_by_name(trained: Trained, tmp_path: Path, kind: str) -> None:
    dropped: list[str] = []

    def drop(tensors: dict[str, Tensor]) -> None:
        dropped.append(first(tensors, kind))
        del tensors[dropped[0]]

    proof = damaged(trained, tmp_path / "a", drop)
    assert not proof.passed
    assert proof.missing == tuple(dropped) and proof.unexpected == ()
    assert any("1 tensors are missing" in f and dropped[0] in f for f in proof.failures)
    assert proof.logit_difference > proof.tolerance


def test_a_renamed_tensor_is_missing_and_unexpected(trained: Trained, tmp_path: Path) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        key = first(tensors, "lora_B")
        tensors[key.replace("layers.0", "layer.0")] = tensors.pop(key)

    proof = damaged(trained, tmp_path / "a", rename)
    assert not proof.passed and len(proof.missing) == 1 and len(proof.unexpected) == 1
    assert proof.unexpected[0] == proof.missing[0].replace("layers.0", "layer.0")


def test_every_tensor_renamed_is_a_no_op_and_said_so(trained: Trained, tmp_path: Path) -> None:
    """The commonest of all: a prefix too much, PEFT loads nothing and only warns."""

    def rename(tensors: dict[str, Tensor]) -> None:
        for key in list(tensors):
            tensors[f"module.{key}"] = tensors.pop(key)

    proof = damaged(trained, tmp_path / "a", rename)
    assert len(proof.missing) == len(proof.unexpected) == 42
    assert proof.logit_difference > proof.tolerance


def test_zeroed_b_matrices_are_counted(trained: Trained, tmp_path: Path) -> None:
    def zero(tensors: dict[str, Tensor]) -> None:
        tensors[first(tensors, "lora_B")].zero_()

    proof = damaged(trained, tmp_path / "a", zero)
    assert not proof.passed and len(proof.zero) == 1 and "lora_B" in proof.zero[0]
    assert any(f.startswith("1 of 14 B matrices are zero") for f in proof.failures)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_number_that_is_not_finite_fails(
    trained: Trained, tmp_path: Path, value: float
) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[first(tensors, "lora_A")][0, 0] = value

    proof = damaged(trained, tmp_path / "a", spoil)
    assert not proof.passed and len(proof.not_finite) == 1
    assert any("not finite" in f for f in proof.failures)
    assert any("logits differ" in f for f in proof.failures), "NaN must not compare as equal"


@pytest.mark.parametrize("dropped", ["lora_alpha", "use_dora", "target_modules"])
def test_changed_settings_beside_sound_tensors_fail(
    trained: Trained, tmp_path: Path, dropped: str
) -> None:
    other = {"lora_alpha": 8, "use_dora": False, "target_modules": ["q_proj"]}
    shutil.copytree(trained.folder, tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    assert settings[dropped] != other[dropped]
    file.write_text(json.dumps({**settings, dropped: other[dropped]}), encoding="utf-8")
    proof = trained.proof_of(tmp_path / "a")
    assert not proof.passed
    assert any("logits differ" in f for f in proof.failures)


def test_another_base_fails(trained: Trained, tiny_model: Callable[..., Path]) -> None:
    """One weight of the base is another than the one that was tuned."""
    base = assembled.load(trained.gate)
    with torch.no_grad():
        base.model.layers[0].mlp.up_proj.weight *= 1.05
    proof = prove(
        trained.expected, load_adapter(base, trained.folder), trained.folder, dtype=torch.float32
    )
    assert not proof.passed and proof.missing == ()


def test_an_adapter_that_does_nothing_fails(make_config: Any, tmp_path: Path) -> None:
    """Reloaded and in memory agree to the bit, and yet nothing was learned."""
    parts = assemble_model(make_config())
    save_adapter(parts.model, tmp_path / "a")
    expected = reference(parts.model, ROWS, saved_keys(parts.model))
    fresh = load_adapter(assembled.load(parts.gate), tmp_path / "a")
    proof = prove(expected, fresh, tmp_path / "a", dtype=torch.float32)
    assert proof.logit_difference == 0.0 and proof.moved_from_base == 0.0
    assert not proof.passed
    assert any("the adapter does nothing" in f for f in proof.failures)
    assert any("14 of 14 B matrices are zero" in f for f in proof.failures)


def test_a_base_instead_of_the_adapter_fails(trained: Trained) -> None:
    proof = prove(
        trained.expected, assembled.load(trained.gate), trained.folder, dtype=torch.float32
    )
    assert not proof.passed
    assert any("the adapter does nothing" in f for f in proof.failures)


def test_all_reasons_come_at_once_and_no_false_one(trained: Trained, tmp_path: Path) -> None:
    def ruin(tensors: dict[str, Tensor]) -> None:
        tensors["surplus"] = torch.ones(2)
        del tensors[first(tensors, "lora_A")]
        tensors[first(tensors, "lora_B")].zero_()
        tensors[first(tensors, "magnitude")][0] = float("nan")

    proof = damaged(trained, tmp_path / "a", ruin)
    with pytest.raises(ProofError) as caught:
        require(proof, tmp_path / "a")
    assert len(caught.value.faults) == len(proof.failures) == 5
    assert all(fault.where == str(tmp_path / "a") for fault in caught.value.faults)
    assert isinstance(caught.value, WorkError) and isinstance(caught.value, AssertionError)
    assert caught.value.exit_code == 1
    json.dumps(proof.as_dict(), allow_nan=True)


def test_a_failed_proof_can_be_written_down(trained: Trained, tmp_path: Path) -> None:
    """proof.json is written before the command fails, NaN or not."""
    from tanren.rundir import read_json, write_json

    def spoil(tensors: dict[str, Tensor]) -> None:
        for key in tensors:
            tensors[key].fill_(float("nan"))

    proof = damaged(trained, tmp_path / "a", spoil)
    write_json(tmp_path / "proof.json", proof.as_dict())
    assert read_json(tmp_path / "proof.json")["passed"] is False


def test_not_a_number_in_the_last_probe_alone_fails(trained: Trained) -> None:
    """Python's max forgets a NaN that does not come first."""
    *some, last = trained.expected.logits
    expected = replace(trained.expected, logits=(*some, torch.full_like(last, float("nan"))))
    fresh = load_adapter(assembled.load(trained.gate), trained.folder)
    assert not prove(expected, fresh, trained.folder, dtype=torch.float32).passed


def test_taking_the_reference_leaves_the_model_as_it_was(make_config: Any) -> None:
    """Training goes on after a proof: mode, casts and the adapter are as before."""
    parts = assemble_model(make_config())
    model = parts.model
    assert isinstance(model, PeftModel)
    model.train()
    flags = [m.cast_input_dtype_enabled for m in model.modules() if hasattr(m, "lora_A")]
    assert flags == [False] * 14
    found = reference(model, ROWS, saved_keys(model))
    assert model.training
    assert [m.cast_input_dtype_enabled for m in model.modules() if hasattr(m, "lora_A")] == flags
    assert not any(m.disable_adapters for m in model.modules() if hasattr(m, "lora_A"))
    assert [tuple(t.shape) for t in found.logits] == [
        (len(row), model.config.vocab_size) for row in ROWS
    ]
    assert found.base_logits is not None


def test_long_probes_are_cut_and_counted(trained: Trained) -> None:
    parts_model = load_adapter(assembled.load(trained.gate), trained.folder)
    found = reference(parts_model, [list(range(3, 250)) * 2], frozenset())
    assert len(found.probes[0]) == 256 == len(found.logits[0])


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("qwen3", "qlora"),
        ("gemma3", "pissa"),
        ("llama-tied", "lora_plus"),
        ("mistral", "dora"),
        ("gemma2", "lora"),
    ],
)
def test_real_runs_of_every_family_end_with_a_passed_proof(
    make_run: Callable[..., Any], family: str, method: str
) -> None:
    """The model in memory attends by rows; the reloaded one as plain transformers does."""
    from tanren.pipeline import execute

    result = execute(make_run("training.max_steps=2", family=family, method=method))
    assert result["proof"]["passed"] and result["proof"]["moved_from_base"] > 0
