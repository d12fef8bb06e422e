"""What a run leaves for others: whole, self-describing, and prompted as it was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import assembled
import pytest
import tiny
from assembled import assemble_model, logits
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tanren.adapter import load_adapter
from tanren.artefact import CARD, Prompting, save_artefact, save_tokenizer
from tanren.errors import ModelError, RunError
from tanren.gate import examine
from tanren.methods import METHODS
from tanren.rundir import COMPLETE, RunDirectory, missing_files

QUESTION = [{"role": "user", "content": "空はなぜ青いの？"}]


def saved(config: Any, folder: Path) -> tuple[Any, Path]:
    parts = assemble_model(config)
    run = RunDirectory.create(folder, config)
    from tanren.model import set_tokens

    set_tokens(parts.base, parts.gate.tokenizer, parts.gate.renderer.facts.stop_ids)
    return parts, save_artefact(run, parts.model, parts.gate)


def test_an_adapter_folder_has_all_that_others_need(make_config: Any, tmp_path: Path) -> None:
    parts, folder = saved(make_config(), tmp_path / "run")
    assert folder == tmp_path / "run" / "adapter"
    names = {p.name for p in folder.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
                     "tokenizer_config.json", "generation_config.json", CARD, COMPLETE}  # fmt: skip
    assert "README.md" not in names, "a form with nothing filled in"
    assert missing_files(folder) == []
    again = load_adapter(assembled.load(parts.gate), folder)
    assert (logits(again) == parts.logits()).all()


def test_full_tuning_leaves_a_whole_model(make_config: Any, tmp_path: Path) -> None:
    parts, folder = saved(make_config(method="full"), tmp_path / "run")
    assert folder == tmp_path / "run" / "model"
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert assembled.relative(parts.logits(), logits(again)) < 1e-4
    tokens = AutoTokenizer.from_pretrained(folder)
    assert len(tokens) == again.config.vocab_size


def test_t1_the_saved_tokenizer_prompts_as_training_did(make_config: Any, tmp_path: Path) -> None:
    """A fresh AutoTokenizer, without us, gives the ids that were trained."""
    parts, folder = saved(make_config(), tmp_path / "run")
    ids = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False
    )
    assert list(ids) == list(parts.gate.renderer.prompt_ids(QUESTION))


def test_t10_a_base_without_a_template_is_saved_with_the_one_it_was_trained_with(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model(), base)
    (base / "chat_template.jinja").unlink()
    (tmp_path / "own.jinja").write_text(tiny.CHATML, encoding="utf-8")
    train = tiny.write_rows(tmp_path / "train.jsonl")
    config = tiny.settings(base, train, [f"model.chat_template={tmp_path / 'own.jinja'}"])
    parts, folder = saved(config, tmp_path / "run")
    assert AutoTokenizer.from_pretrained(base).chat_template is None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert text == f"{tiny.START}user\n空はなぜ青いの？{tiny.END}\n{tiny.START}assistant\n"
    assert parts.gate.tokenizer.chat_template == tiny.CHATML, "the run's own is as it was"


def test_t4_the_stops_are_saved(make_config: Any, tmp_path: Path) -> None:
    parts, folder = saved(make_config(), tmp_path / "run")
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    assert set(parts.gate.renderer.facts.stop_ids) <= set(stops)
    assert parts.gate.tokenizer.convert_tokens_to_ids(tiny.END) in stops


@pytest.mark.parametrize("method", METHODS)
def test_the_card_comes_back_as_it_was_written(
    make_config: Any, tmp_path: Path, method: str
) -> None:
    config = make_config("data.thinking=false", method=method)
    gate = examine(config)
    parts, folder = saved(config, tmp_path / "run")
    card = Prompting.read(folder)
    assert card == Prompting.of(parts.gate)
    assert card.base == str(gate.source.path) and card.base_fingerprint == gate.source.fingerprint
    assert METHODS[card.method["name"]].model_validate(card.method) == config.method
    assert card.storage == config.method.storage
    assert card.data_sha256 == gate.survey.train.counts.sha256 and len(card.data_sha256) == 64
    assert card.versions["peft"] and card.versions["torch"]
    assert card.dtype == "float32", "resolved, not `auto`"


@pytest.mark.parametrize(
    "change",
    [{"stop_ids": None}, {"surplus": 1}, {"base": ...}],
    ids=["wrong type", "a later version's field", "missing field"],
)
def test_a_card_of_another_version_is_an_error(
    make_config: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    _, folder = saved(make_config(), tmp_path / "run")
    values = json.loads((folder / CARD).read_text(encoding="utf-8")) | change
    kept = {k: v for k, v in values.items() if v is not ...}
    (folder / CARD).write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(ModelError, match="a card of this version"):
        Prompting.read(folder)


def test_a_folder_without_a_card_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        Prompting.read(tmp_path)


def test_a_second_save_replaces_the_first_whole(make_config: Any, tmp_path: Path) -> None:
    parts, folder = saved(make_config(), tmp_path / "run")
    (folder / "stray.txt").write_text("from before", encoding="utf-8")
    run = RunDirectory(tmp_path / "run")
    assert save_artefact(run, parts.model, parts.gate) == folder
    assert not (folder / "stray.txt").exists() and missing_files(folder) == []
    assert not list(run.path.glob(".*.tmp"))


def test_what_fails_while_saving_leaves_no_folder(make_config: Any, tmp_path: Path) -> None:
    """A model that PEFT cannot save: nothing appears under the final name."""
    parts = assemble_model(make_config())
    run = RunDirectory.create(tmp_path / "run", parts.gate.config)
    parts.model.peft_config["default"].r = object()  # cannot be written as JSON
    with pytest.raises(TypeError):
        save_artefact(run, parts.model, parts.gate)
    assert not run.adapter.exists() and not list(run.path.glob(".*.tmp"))


def test_saving_the_tokenizer_leaves_the_runs_own_alone(make_config: Any, tmp_path: Path) -> None:
    gate = examine(make_config())
    before = gate.tokenizer.chat_template
    save_tokenizer(gate, tmp_path)
    assert gate.tokenizer.chat_template == before
