"""Laws of the model card: every number stands in the run's files, nothing private, nothing made up,
and its code runs.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from tanren.export.card import model_card
from tanren.export.card_facts import CardFacts, Kind, card_facts
from tanren.export.leaks import leaks
from tanren.export.licence import copy_licence, front_matter, licence_of
from tanren.pipeline import execute
from tanren.rundir import RunDirectory, read_json

APACHE = "\n    Apache License\n  Version 2.0, January 2004\n  http://www.apache.org/licenses/\n"
MIT = "MIT License\n\nCopyright (c) A B\n\nPermission is hereby granted, free of charge, to any\n"


@pytest.fixture(scope="module")
def trained(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """A finished run: LoRA+ on two layers' worth of names, with validation."""
    folder = tmp_path_factory.mktemp("private-place")
    rows = tiny.write_rows(folder / "train.jsonl", 6)
    held_out = tiny.write_rows(folder / "held.jsonl", 2, turns=2)
    overrides = [f"data.validation={held_out}", "training.max_steps=3", "training.data_seed=23"]
    config = tiny.settings(
        tiny_model("qwen3"), rows, overrides, method={"name": "lora_plus", "lr_ratio": 4}
    )
    run = RunDirectory.create(folder / "run", config)
    execute(run)
    return run


def facts_of(run: RunDirectory, kind: Kind = "adapter", **options: Any) -> CardFacts:
    return card_facts(run.adapter, kind=kind, run=run, **options)


def matter(card: str) -> dict[str, Any]:
    values = front_matter(card)
    assert values is not None
    return values


def cells(card: str) -> dict[str, str]:
    """Every table line of a card, by its first cell."""
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", card, flags=re.MULTILINE))


# --- what a run's card tells ----------------------------------------------------------------------


def test_every_number_is_the_run_s_own(trained: RunDirectory) -> None:
    told = cells(model_card(facts_of(trained)))
    data, result = read_json(trained.data_file), read_json(trained.result_file)
    ledger = data["train"]["ledger"]
    assert told["Method"] == "LoRA+"
    assert (told["Rank"], told["Alpha"]) == ("4", "32")
    assert told["Learning rates"] == "0.001 (A), 0.004 (B)"
    assert (told["Steps"], told["Epochs"]) == ("3", "1")
    assert told["Seed"] == "7 (order of the rows: 23)"
    assert told["Rows"] == "6 of 6"
    assert told["Trained tokens"] == f"{ledger['trained_tokens']} of {ledger['tokens']}"
    assert told["Hash of the file (sha256)"] == data["train"]["sha256"]
    assert told["Validation: hash of the file (sha256)"] == data["validation"]["sha256"]
    assert float(told["Last training loss"]) == pytest.approx(result["loss"]["last"], rel=1e-3)
    best = f"loss {result['best']['loss']:.4g} at step {result['best']['step']} (kept)"
    assert told["Best validation"] == best
    assert told["Fingerprint of the base"] == data["base"]
    for name, version in read_json(trained.environment_file)["versions"].items():
        assert f"{name} {version}" in told["Versions"]
    assert told["Trained parameters"] == f"{result['trained_parameters']:,}"


def test_nothing_private_is_told(trained: RunDirectory, tmp_path: Path) -> None:
    """No path, command, platform, row of the data; and what a push looks for is not found."""
    proof = {"prompts": ["secret words"], "folder": str(trained.path), **read_json_proof(trained)}
    card = model_card(facts_of(trained, proof=proof))
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert list(leaks(tmp_path, ["README.md"])) == []
    environment = read_json(trained.environment_file)
    lines = Path(trained.config().data.train).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    words = [message["content"] for row in rows for message in row["messages"]]
    private = ["private-place", "secret words", environment["platform"], *words]
    assert [word for word in private if word in card] == []
    assert cells(card)["prompts"] == "1"


def read_json_proof(run: RunDirectory) -> dict[str, Any]:
    proof = read_json(run.proof_file)
    assert isinstance(proof, dict)
    return proof


def test_the_proof_s_numbers_and_what_was_compared_are_told(trained: RunDirectory) -> None:
    proof = {
        "passed": True,
        "top1_agreement": 0.9975,
        "failures": [],
        "logits": {"largest_difference": 1.25e-5, "prompts": 1200},
    }
    card = model_card(facts_of(trained, "merged", proof=proof, compared="A with B"))
    told = cells(card)
    assert "Compared: A with B." in card
    assert (told["passed"], told["top1 agreement"]) == ("yes", "99.75%")
    assert told["logits: largest difference"] == "1.25e-05"
    assert told["logits: prompts"] == "1,200" and "failures" not in told
    assert "nobody has compared" in model_card(facts_of(trained, "merged"))


# --- front matter ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "whole", "library", "relation"),
    [
        ("merged", None, "transformers", "finetune"),
        ("adapter", None, "peft", "adapter"),
        ("gguf", None, "gguf", "finetune"),
        ("gguf", False, "gguf", "adapter"),
        ("ollama", None, "gguf", "finetune"),
        ("vllm", None, "peft", "adapter"),
        ("vllm", True, "transformers", "finetune"),
    ],
)
def test_the_hub_reads_what_it_is_and_where_it_comes_from(
    trained: RunDirectory, kind: Kind, whole: bool | None, library: str, relation: str
) -> None:
    values = matter(model_card(facts_of(trained, kind, whole=whole, base_name="someone/base")))
    assert values["base_model"] == "someone/base"
    assert (values["library_name"], values["base_model_relation"]) == (library, relation)
    assert values["pipeline_tag"] == "text-generation"
    assert {"tanren", "lora-plus"} <= set(values["tags"])


def test_a_base_from_a_folder_is_not_named(trained: RunDirectory) -> None:
    values = matter(model_card(facts_of(trained)))
    assert "base_model" not in values and "base_model_relation" not in values


# --- licence --------------------------------------------------------------------------------------


def base_with(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("files", "identifier", "source"),
    [
        ({"README.md": "---\nlicense: gemma\n---\n", "LICENSE": MIT}, "gemma", "README.md"),
        ({"config.json": '{"license": "mit"}'}, "mit", "config.json"),
        ({"LICENSE": APACHE}, "apache-2.0", "LICENSE"),
        ({"LICENSE.txt": MIT}, "mit", "LICENSE.txt"),
        ({"LICENSE": "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n"}, "llama3.1", "LICENSE"),
        ({"LICENSE": "Modified MIT License\n" + MIT}, "other", "LICENSE"),
        ({"LICENSE": "Our terms: not as in the Apache License\nVersion 2.0"}, "other", "LICENSE"),
        (
            {"README.md": "Under Apache-2.0, we think.", "config.json": "{}"},
            "unknown",
            "states none",
        ),
        ({"README.md": "---\nlicense: [\n---\n"}, "unknown", "states none"),
        ({}, "unknown", "states none"),
    ],
)
def test_a_licence_is_read_and_never_made_up(
    tmp_path: Path, trained: RunDirectory, files: dict[str, str], identifier: str, source: str
) -> None:
    base = base_with(tmp_path / "base", files)
    found = licence_of(base)
    assert (found.identifier, source in found.source) == (identifier, True)
    card = model_card(facts_of(trained, base=base))
    values = matter(card)
    assert values["license"] == identifier
    # the Hub refuses `other` without a name and a link
    assert ({"license_name", "license_link"} <= values.keys()) == (identifier == "other")
    assert ("Unknown:" in card) == (identifier == "unknown")


def test_a_named_licence_keeps_its_name_and_languages_are_the_base_s(
    tmp_path: Path, trained: RunDirectory
) -> None:
    top = {
        "license": "other",
        "license_name": "ours",
        "license_link": "https://example.org/terms",
        "language": ["ja", "en", False],
    }
    text = f"---\n{yaml.safe_dump(top)}---\nwords\n"
    base = base_with(tmp_path / "base", {"README.md": text})
    values = matter(model_card(facts_of(trained, base=base)))
    kept = ("license", "license_name", "license_link")
    assert [values[key] for key in kept] == [top[key] for key in kept]
    assert values["language"] == ["ja", "en", "no"]
    assert "language" not in matter(model_card(facts_of(trained)))


def test_the_licence_s_texts_are_copied(tmp_path: Path) -> None:
    files = {"LICENSE": APACHE, "NOTICE": "n", "USE_POLICY.md": "u", "config.json": "{}"}
    base, out = base_with(tmp_path / "base", files), tmp_path / "out"
    out.mkdir()
    (base / "LICENSE.link").symlink_to(base / "LICENSE")  # as the Hub's cache has them
    names = copy_licence(base, out)
    assert set(names) == {"LICENSE", "LICENSE.link", "NOTICE", "USE_POLICY.md"}
    assert {p.name for p in out.iterdir()} == set(names)
    assert (out / "LICENSE.link").read_text(encoding="utf-8") == APACHE
    assert not (out / "LICENSE.link").is_symlink()
    found = licence_of(base)
    assert found.files[0] == "LICENSE"


# --- an adapter from elsewhere --------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[..., Path]:
    """`foreign(**settings)`: an adapter with adapter_config.json and nothing else."""

    def make(**settings: Any) -> Path:
        folder = tmp_path / "foreign"
        folder.mkdir()
        values = {
            "peft_type": "LORA",
            "base_model_name_or_path": "someone/base",
            "r": 8,
            "lora_alpha": 16,
            "target_modules": ["model.layers.0.q_proj", "model.layers.1.q_proj", "v_proj"],
            **settings,
        }
        (folder / "adapter_config.json").write_text(json.dumps(values), encoding="utf-8")
        return folder

    return make


def test_what_an_adapter_from_elsewhere_does_not_tell_is_unknown(
    foreign: Callable[..., Path],
) -> None:
    card = model_card(card_facts(foreign(revision="abc"), kind="adapter"))
    told, values = cells(card), matter(card)
    assert (told["Rank"], told["Alpha"], told["Adapted layers"]) == ("8", "16", "q_proj, v_proj")
    unknown = ("Steps", "Learning rates", "Rows", "Trained tokens", "Losses", "Hardware", "Seed")
    assert {told[name] for name in unknown} == {"unknown"}
    assert values["base_model"] == "someone/base" and values["license"] == "unknown"
    assert told["Revision of the base"] == "abc"
    assert 'from_pretrained("someone/base", revision="abc"' in card


def test_the_base_s_path_in_a_foreign_adapter_is_not_told(
    foreign: Callable[..., Path], tmp_path: Path
) -> None:
    card = model_card(
        card_facts(foreign(base_model_name_or_path=str(tmp_path / "x")), kind="adapter")
    )
    assert str(tmp_path) not in card and "base_model" not in matter(card)


def test_a_folder_that_looks_like_a_hub_name_is_no_hub_name(
    foreign: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "someone" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in matter(model_card(card_facts(foreign(), kind="adapter")))


@pytest.mark.parametrize(
    ("settings", "title", "served"),
    [
        ({}, "LoRA", True),
        ({"use_rslora": True}, "rsLoRA", True),
        ({"use_dora": True}, "DoRA", False),
        ({"init_lora_weights": "pissa_niter_4"}, "PiSSA", True),
        ({"modules_to_save": ["lm_head"]}, "LoRA", False),
        ({"peft_type": "LOHA"}, "LOHA", True),
    ],
)
def test_the_method_is_read_from_peft_s_settings(
    foreign: Callable[..., Path], settings: dict[str, Any], title: str, served: bool
) -> None:
    """T15: no command that serves an adapter where servers would leave a part of it out."""
    card = model_card(card_facts(foreign(**settings), kind="adapter"))
    assert cells(card)["Method"] == title
    assert ("--max-lora-rank 8" in card) == served
    assert ("serve the merged model" in card) != served


# --- how to load and prompt it --------------------------------------------------------------------


def code_on(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_code_on_the_card_loads_and_answers(
    trained: RunDirectory, tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, folder in (("adapter", trained.adapter), ("merged", tiny_model("qwen3"))):
        code = code_on(model_card(facts_of(trained, kind)))  # type: ignore[arg-type]
        code = code.replace("OWNER/NAME", str(folder)).replace(
            "max_new_tokens=256", "max_length=40"
        )
        code = code.replace("PATH-OF-THE-BASE", str(tiny_model("qwen3")))
        exec(compile(code, kind, "exec"), {})
        assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("gguf", "llama-cli -m tuned-q8_0.gguf --jinja"),
        ("ollama", "ollama create tuned -f Modelfile"),
        ("merged", "vllm serve me/it"),
        ("vllm", "vllm serve PATH-OF-THE-BASE --enable-lora --lora-modules tuned=me/it"),
    ],
)
def test_each_kind_is_loaded_by_its_own_reader(
    trained: RunDirectory, kind: Kind, command: str
) -> None:
    facts = facts_of(trained, kind, weights=["tuned-q8_0.gguf"], repo="me/it")
    assert command in model_card(facts)
    given = model_card(facts_of(trained, kind, commands=["serve it"]))
    assert "```sh\nserve it\n```" in given and command not in given


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            {"thinking": "switch", "thinking_switch": "enable_thinking", "thinking_on": False},
            "`enable_thinking=False`",
        ),
        (
            {"thinking": "switch", "thinking_switch": "enable_thinking", "thinking_on": None},
            "Leave `enable_thinking`",
        ),
        ({"thinking": "always"}, "opens the reasoning itself"),
        ({"thinking": "none", "uses_date": True, "date": "2026-01-31"}, "2026-01-31"),
    ],
)
def test_the_thinking_switch_the_date_and_the_stops_are_told(
    trained: RunDirectory, tmp_path: Path, template: dict[str, Any], said: str
) -> None:
    """T1, T4: who prompts it otherwise than it was trained gets another model."""
    data = read_json(trained.data_file)
    data["train"]["ledger"]["template"].update(template)
    copy = RunDirectory(tmp_path / "run")
    copy.path.mkdir()
    for file in (trained.config_file, trained.result_file, trained.environment_file):
        (copy.path / file.name).write_bytes(file.read_bytes())
    copy.data_file.write_text(json.dumps(data), encoding="utf-8")
    card = model_card(card_facts(trained.adapter, kind="adapter", run=copy))
    assert said in card
    assert "`<|im_end|>`; token ids 2." in card
    passed = "enable_thinking=False" in ast.unparse(ast.parse(code_on(card)))
    assert passed == ("=False" in said)
