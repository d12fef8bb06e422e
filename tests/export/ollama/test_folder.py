"""Laws of the folder: complete, one command away from a model, and never with a prompt unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from export.ollama.stock import stock_families
from export.ollama.test_modelfile import read

from tanren.errors import ConfigError, ModelError, ProofError
from tanren.export.ollama import OllamaFolder, write_ollama
from tanren.template import ChatRenderer


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """`weights(adds_bos, name="model.gguf", template=None)`: a GGUF file with nothing but what a
    server reads of prompts."""

    def make(adds_bos: bool | None, name: str = "model.gguf", template: str | None = None) -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(str(path), "llama")
        if template is not None:
            writer.add_chat_template(template)
        if adds_bos is not None:
            writer.add_add_bos_token(adds_bos)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def written(folder: Path, file: Path, family: str = "llama3", **settings: Any) -> OllamaFolder:
    folder.mkdir()
    renderer = ChatRenderer(stock_families()[family].tokenizer(), date="2026-01-31")
    return write_ollama(folder, file, renderer, name="taro", **settings)


def test_the_folder_holds_all_that_the_command_needs(
    tmp_path: Path, weights: Callable[..., Path]
) -> None:
    file = weights(True)
    folder = tmp_path / "ollama"
    result = written(
        folder,
        file,
        system="Be kind.",
        context_length=2048,
        stops=["<|extra|>"],
        generation_config={"temperature": 0.6},
    )
    assert result.command == ("ollama", "create", "taro", "-f", "Modelfile")
    assert sorted(path.name for path in folder.iterdir()) == [
        "Modelfile", "model.gguf", "template_proof.json",
    ]  # fmt: skip
    assert (folder / "model.gguf").read_bytes() == file.read_bytes()
    commands = read((folder / "Modelfile").read_text(encoding="utf-8"))
    values = dict(commands)
    assert (folder / values["from"]).is_file()
    assert values["template"] == result.template.text
    assert values["system"] == "Be kind."
    assert (values["num_ctx"], values["temperature"]) == ("2048", "0.6")
    assert [value for name, value in commands if name == "stop"] == ["<|eot_id|>", "<|extra|>"]
    proof = json.loads((folder / "template_proof.json").read_text(encoding="utf-8"))
    assert proof["passed"] and len(proof["rows"]) == 10
    assert proof["notes"] == list(result.notes)


def test_a_file_that_lies_there_already_is_left_alone(
    tmp_path: Path, weights: Callable[..., Path]
) -> None:
    file = weights(True)
    renderer = ChatRenderer(stock_families()["llama3"].tokenizer())
    result = write_ollama(tmp_path, file, renderer, name="taro")
    assert dict(read(result.modelfile.read_text(encoding="utf-8")))["from"] == "./model.gguf"


def test_an_adapter_stands_on_its_base(tmp_path: Path, weights: Callable[..., Path]) -> None:
    base, adapter = weights(True, "base.gguf"), weights(None, "lora.gguf")
    written(tmp_path / "ollama", base, adapter=adapter)
    values = dict(read((tmp_path / "ollama" / "Modelfile").read_text(encoding="utf-8")))
    assert (values["from"], values["adapter"]) == ("./base.gguf", "./lora.gguf")
    assert (tmp_path / "ollama" / "lora.gguf").is_file()


def test_the_template_writes_the_bos_where_the_file_says_that_the_server_does_not(
    tmp_path: Path, weights: Callable[..., Path]
) -> None:
    """T17."""
    for index, adds_bos in enumerate((True, False)):
        result = written(tmp_path / str(index), weights(adds_bos, f"{index}.gguf"))
        assert ("<|begin_of_text|>" in result.template.text) is not adds_bos
        assert result.proof.passed


def test_no_chat_template_in_the_file_competes_with_the_proven_one(
    tmp_path: Path, weights: Callable[..., Path]
) -> None:
    """T1: newer versions of Ollama choose between the two. The file given stays as it was."""
    file = weights(True, template="{% if tools %}<think>{% endif %}")
    before = file.read_bytes()
    folder = tmp_path / "ollama"
    result = written(folder, file)
    assert file.read_bytes() == before
    placed = gguf.GGUFReader(str(folder / "model.gguf"))
    assert placed.get_field("tokenizer.chat_template") is None
    hidden = placed.get_field("tokenizer.jinja_trained")
    assert hidden is not None and hidden.contents() == "{% if tools %}<think>{% endif %}"
    adds_bos = placed.get_field("tokenizer.ggml.add_bos_token")
    assert adds_bos is not None and adds_bos.contents()
    assert len((folder / "model.gguf").read_bytes()) == len(before)
    assert any("jinja_trained" in note for note in result.notes)


def test_a_linked_file_is_copied_before_it_is_changed(
    tmp_path: Path, weights: Callable[..., Path]
) -> None:
    file = weights(True, template="{{ x }}")
    folder = tmp_path / "ollama"
    folder.mkdir()
    (folder / "model.gguf").hardlink_to(file)
    before = file.read_bytes()
    renderer = ChatRenderer(stock_families()["llama3"].tokenizer())
    write_ollama(folder, folder / "model.gguf", renderer, name="taro")
    assert file.read_bytes() == before
    assert (folder / "model.gguf").read_bytes() != before
    assert sorted(path.name for path in folder.iterdir()) == [
        "Modelfile", "model.gguf", "template_proof.json",
    ]  # fmt: skip


@pytest.mark.parametrize("adds_bos", [True, None])
def test_a_file_that_would_add_a_bos_unseen_in_training_is_refused(
    tmp_path: Path, weights: Callable[..., Path], adds_bos: bool | None
) -> None:
    """T17. The chat template of ChatML writes none."""
    with pytest.raises(ModelError, match="add_bos_token"):
        written(tmp_path / "ollama", weights(adds_bos), "chatml-llama2")
    assert list((tmp_path / "ollama").iterdir()) == []


def test_a_system_message_that_the_model_cannot_see_is_refused(
    tmp_path: Path, weights: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match="system message"):
        written(tmp_path / "ollama", weights(True), "gemma", system="Be kind.")


def test_a_failed_proof_writes_no_modelfile(tmp_path: Path, weights: Callable[..., Path]) -> None:
    """A chat template that changes words inside a message fits no Go template."""
    family = stock_families()["chatml"]
    tokenizer = family.tokenizer()
    tokenizer.chat_template = str(family.template).replace(
        "+ message['content'] +", "+ (message['content'] | replace('bridge', 'ferry')) +"
    )
    folder = tmp_path / "ollama"
    folder.mkdir()
    with pytest.raises(ProofError, match="long text"):
        write_ollama(folder, weights(False), ChatRenderer(tokenizer), name="taro")
    assert list(folder.iterdir()) == []
