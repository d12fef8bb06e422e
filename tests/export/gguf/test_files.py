"""A file appears whole or not at all, and a damaged one is called damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tanren.errors import ModelError, StorageError
from tanren.export.gguf import GgufType, read_back, read_metadata, write_gguf
from tanren.export.gguf.storage import staged_file
from tanren.export.gguf.weights import PIECE_BYTES, Weights
from tanren.export.gguf.write import model_name

FamilyModel = Callable[[str], Path]


def test_a_full_disk_leaves_what_was_there(family_model: FamilyModel, tmp_path: Path) -> None:
    """T14: the kernel's own ENOSPC, by /dev/full under the name that is written first."""
    out = tmp_path / "out"
    out.mkdir()
    target = out / "model.gguf"
    target.write_text("before", "utf-8")
    (out / f".model.gguf.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="full disk") as raised:
        write_gguf(family_model("qwen3"), target, type=GgufType.F32)
    assert raised.value.exit_code == 1
    assert [file.name for file in out.iterdir()] == ["model.gguf"]
    assert target.read_text("utf-8") == "before"


def test_a_disk_without_room_is_asked_before_it_is_written_to(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"room for 1000000\.00 GB"),
        staged_file(tmp_path / "out" / "model.gguf", 10**15),
    ):
        raise AssertionError("nothing may be written")
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupted_file_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        staged_file(tmp_path / "model.gguf", 10) as staged,
    ):
        staged.write_text("half", "utf-8")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", [0.0, 0.001, 0.02, 0.05, 0.5, 0.9999])
def test_a_cut_file_is_called_damaged(
    family_model: FamilyModel, left: float, tmp_path: Path
) -> None:
    """Wherever it was cut: in its head, its keys, its names or its last tensor."""
    path = write_gguf(family_model("qwen3"), tmp_path / "m.gguf", type=GgufType.F32).path
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])
    for read in (read_metadata, read_back):
        with pytest.raises(ModelError, match="cannot be read") as raised:
            read(path)
        assert raised.value.faults[0].where == str(path)


def test_another_file_and_no_file_are_called_so(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGML" + bytes(1000))
    for path in (other, tmp_path / "nothing.gguf"):
        with pytest.raises(ModelError, match="cannot be read"):
            read_back(path)


@pytest.mark.parametrize("family", ["gemma", "mixtral"])
def test_families_that_transformers_cannot_read_are_named(
    family_model: FamilyModel, family: str, tmp_path: Path
) -> None:
    """They are written and say that llama.cpp alone can prove them."""
    file = write_gguf(family_model(family), tmp_path / "m.gguf", type=GgufType.F32)
    assert not file.transformers_reads_it
    with pytest.raises(ModelError, match=r"prove this file with llama\.cpp"):
        read_back(file.path)


def test_the_name_carries_phi3_exactly_when_tokens_strip() -> None:
    """llama.cpp strips behind special tokens when it finds "phi-3" in a file's name."""
    name = model_name(Path("/models/tiny-chat_v2-q8_0.gguf"), GgufType.Q8_0, strips=False)
    assert name == "Tiny Chat V2"
    for file in ("Phi-3-mini.gguf", "my-PHI3-f16.gguf", "mistral-f16.gguf"):
        plain, stripping = (model_name(Path(file), GgufType.F16, strips=s) for s in (False, True))
        assert "phi-3" not in plain.lower() and "phi3" not in plain.lower()
        assert "phi-3" in stripping.lower()


def test_only_a_piece_of_a_tensor_is_read_at_a_time(tmp_path: Path) -> None:
    rows = PIECE_BYTES // (4 * 1024) + 100
    save_file(
        {"w": torch.arange(rows * 1024).reshape(rows, 1024).float()}, tmp_path / "m.safetensors"
    )
    with Weights(tmp_path) as weights:
        pieces = list(weights.rows("w"))
        assert torch.equal(torch.cat(pieces), weights.whole("w"))
    assert [len(piece) for piece in pieces] == [rows - 100, 100]
