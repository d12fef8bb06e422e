"""From words to settings: YAML < flags < key=value, and a clear fault for what cannot be meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli.commands import Ended, make_run

from tanren.cli.request import Flags, configuration, is_override, quoted, read_items
from tanren.config import RunConfig, load
from tanren.errors import ConfigError, UserError
from tanren.rundir import RunDirectory

Tanren = Callable[..., Ended]

YAML = """
model: {name: from-yaml}
data: {train: yaml.jsonl}
method: {name: dora, rank: 4}
training: {num_epochs: 7}
"""


def read(*words: str, **flags: str) -> RunConfig:
    return configuration(read_items(words), Flags(**flags), command="train")


def test_key_value_beats_flags_and_flags_beat_yaml(home: Path) -> None:
    (home / "c.yaml").write_text(YAML, encoding="utf-8")
    assert read("c.yaml").model.name == "from-yaml"
    assert read("c.yaml", model="flag").model.name == "flag"
    config = read("model.name=word", "c.yaml", "method.rank=8", model="flag", validation="v.jsonl")
    assert (config.model.name, config.method.name, config.method.rank) == ("word", "dora", 8)
    assert (config.data.train, config.data.validation) == ("yaml.jsonl", "v.jsonl")
    assert config.training.num_epochs == 7
    assert read("c.yaml", method="lora").method.name == "lora"


def test_data_and_flags_are_the_settings_that_yaml_would_be(home: Path) -> None:
    config = read("chats.jsonl", "training.learning_rate=2e-4", model="m", method="lora_plus")
    yaml = "model: {name: m}\ndata: {train: chats.jsonl}\nmethod: lora_plus\n"
    (home / "same.yml").write_text(yaml + "training: {learning_rate: 2e-4}", encoding="utf-8")
    assert config == read("same.yml")


@pytest.mark.parametrize(
    "name",
    ["1e3", "null", "a: b", "[x]", "true", "日本語 model", '"', "\\", "😀", "a\nb"],
)
def test_flags_are_text_whatever_they_look_like(name: str) -> None:
    """A folder may be called 1e3; YAML must not make a number of it."""
    assert load(None, [f"model.name={quoted(name)}", "data.train=x"]).model.name == name


@pytest.mark.parametrize(
    ("word", "is_one"),
    [
        ("training.num_epochs=5", True),
        ("seed=1", True),
        ("training.num-epochs=5", True),
        ("=5", True),
        ("data/a=b.jsonl", False),
        ("here=a.jsonl", False),
        ("chats.jsonl", False),
    ],
)
def test_files_are_told_from_settings(home: Path, word: str, is_one: bool) -> None:
    (home / "here=a.jsonl").touch()
    assert is_override(word) is is_one


@pytest.mark.parametrize(
    ("words", "where", "says"),
    [
        (["train"], "tanren train", "no file"),
        (["train", "seed=3"], "tanren train", "no file"),
        (["train", "c.yaml", "a.jsonl"], "arguments", "c.yaml and a.jsonl"),
        (["train", "a.jsonl"], "--model", "nothing"),
        (["train", "a.jsonl", "--model", "--method", "dora"], "--model", "the option --method"),
        (["train", "a.jsonl", "--model", " "], "--model", "the option  "),
        (["train", "training.num_epochs", "--model", "m"], "training.num_epochs", "no `=`"),
        (["train", "a.jsonl", "--model", "m", "--method", "dorra"], "method.name", "'dorra'"),
        (["train", "a.jsonl", "--accept-changes"], "--accept-changes", "no --resume"),
        (["train", "runs/done"], "runs/done", "a run"),
        (["check"], "tanren check", "no file"),
        (["check", "a.jsonl", "method.rank=3"], "--model", "nothing"),
        (["check", "a.jsonl", "--measure"], "--model", "nothing"),
        (["check", "a.jsonl", "--valid", "--json"], "--valid", "the option --json"),
    ],
)
def test_what_cannot_be_meant_is_said(
    tanren: Tanren, finished: RunDirectory, words: list[str], where: str, says: str
) -> None:
    ended = tanren(*words, "--json")
    assert ended.code == 2
    assert any(f["where"] == where and says in f["found"] for f in ended.faults), ended.faults


def test_all_wrong_settings_are_said_at_once(home: Path) -> None:
    """T24, and the missing model beside them."""
    with pytest.raises(ConfigError) as caught:
        read("a.jsonl", "method.rnak=3", "training.batch_size=0", "trianing.num_epochs=1")
    assert {fault.where for fault in caught.value.faults} == {
        "--model",
        "method.rnak",
        "training.batch_size",
        "trianing",
    }


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["trian"], "did you mean `tanren train`?"),
        (["runs", "shwo"], "did you mean `tanren runs show`?"),
        (["train", "--modle", "x"], "did you mean --model?"),
        (["train", "--rank", "8"], "write method.rank=VALUE (a setting, see `tanren config`)"),
        (["train", "--num-epochs", "8"], "training.num_epochs=VALUE"),
        (["a.jsonl"], "write `tanren check a.jsonl` or `tanren train a.jsonl`"),
    ],
)
def test_a_mistyped_word_gets_a_near_one(
    tanren: Tanren, home: Path, words: list[str], remedy: str
) -> None:
    (home / "a.jsonl").touch()
    assert remedy in tanren(*words, "--json").faults[0]["remedy"]
    assert remedy in tanren(*words).err


def test_resuming_keeps_the_settings_unless_told(tanren: Tanren, home: Path) -> None:
    """T6: a changed setting is refused, and accepted only by name."""
    run = make_run(home / "runs" / "r")
    before = run.config_file.read_bytes()
    refused = tanren(
        "train", "--resume", "r", "training.num_epochs=9", "--method", "dora", "--json"
    )
    assert refused.code == 2
    assert [f["where"] for f in refused.faults] == ['method.name="dora"', "training.num_epochs=9"]
    assert run.config_file.read_bytes() == before


@pytest.mark.parametrize(
    "words", [["--out", "x"], ["--dry-run"], ["a.jsonl"], ["--out", "x", "a.jsonl", "--dry-run"]]
)
def test_resuming_takes_no_other_work(
    tanren: Tanren, finished: RunDirectory, words: list[str]
) -> None:
    ended = tanren("train", "--resume", "done", *words, "--json")
    assert ended.code == 2
    assert len(ended.faults) == sum(word != "x" for word in words)


def test_more_than_one_file_is_an_error(home: Path) -> None:
    with pytest.raises(UserError):
        read_items(["a.jsonl", "b.jsonl"])
