"""T24: what is misspelled, mistyped or out of bounds is named, all of it, with what was meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tanren.config import RunConfig, documentation, load, read_yaml, validate
from tanren.errors import ConfigError, Fault
from tanren.methods import METHODS, Dora, Lora, QLora

BASE: dict[str, Any] = {"model": {"name": "m"}, "data": {"train": "chat.jsonl"}}


def faults(overrides: Sequence[str] = (), **parts: Any) -> list[Fault]:
    with pytest.raises(ConfigError) as caught:
        load(None, overrides, base={**BASE, **parts})
    return list(caught.value.faults)


def written(tmp_path: Path, text: str, *, whole: bool = False) -> Path:
    path = tmp_path / "run.yaml"
    head = "" if whole else "model: {name: m}\ndata: {train: chat.jsonl}\n"
    path.write_text(head + text, encoding="utf-8")
    return path


def faults_in(path: Path) -> list[Fault]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return list(caught.value.faults)


# --- misspelled keys ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "where", "meant"),
    [
        ({"trainig": {}}, "trainig", "training"),
        ({"sead": 1}, "sead", "seed"),
        ({"model": {"name": "m", "dtpye": "auto"}}, "model.dtpye", "dtype"),
        ({"data": {"train": "d", "max_lenght": 64}}, "data.max_lenght", "max_length"),
        ({"method": {"name": "lora", "lora_rnak": 4}}, "method.lora_rnak", "rank"),
        ({"method": {"rnak": 4}}, "method.rnak", "rank"),
        ({"method": {"name": "qlora", "dorra": True}}, "method.dorra", "dora"),
        ({"training": {"learning_rte": 1}}, "training.learning_rte", "learning_rate"),
        ({"evaluation": {"evry": 1}}, "evaluation.evry", "every"),
        ({"tracking": {"tracker": []}}, "tracking.tracker", "trackers"),
    ],
)
def test_t24_a_misspelled_key_is_refused_at_every_level(
    parts: dict[str, Any], where: str, meant: str
) -> None:
    (fault,) = faults(**parts)
    assert fault.where == where and fault.found == "an unknown key"
    assert fault.remedy == f"did you mean {meant!r}?"
    assert meant in fault.expected.removeprefix("one of ").split(", ")


def test_t24_a_key_of_another_part_says_what_is_known_here() -> None:
    (fault,) = faults(training={"zzz": 1})
    assert fault.remedy == "remove it" and "batch_size" in fault.expected


def test_t24_a_key_of_another_method_is_refused() -> None:
    (fault,) = faults(method={"name": "full", "rank": 4})
    assert fault.where == "method.rank" and fault.expected == "one of name"


@pytest.mark.parametrize(("written_as", "meant"), [("lorra", "lora"), ("LoRA-plus", "lora_plus")])
@pytest.mark.parametrize("as_text", [True, False])
def test_t24_a_misspelled_method_is_named(written_as: str, meant: str, as_text: bool) -> None:
    (fault,) = faults(method=written_as if as_text else {"name": written_as})
    assert fault.where == "method.name" and fault.found == repr(written_as)
    assert fault.remedy == f"did you mean {meant!r}?"
    assert fault.expected == "one of " + ", ".join(METHODS)


def test_the_file_is_part_of_the_place(tmp_path: Path) -> None:
    path = written(tmp_path, "seeed: 3\n")
    assert faults_in(path)[0].where == f"{path} seeed"


# --- wrong values ---------------------------------------------------------------------------------


def test_every_fault_comes_at_once() -> None:
    found = faults(
        model={"nmae": "m"},
        method={"name": "dora", "rank": 0, "dropout": 1.0},
        training={"batch_size": 0, "schedule": "cos", "max_stpes": 3},
        seed=-1,
    )
    assert {fault.where for fault in found} == {
        "model.nmae", "model.name", "method.rank", "method.dropout", "training.batch_size",
        "training.schedule", "training.max_stpes", "seed",
    }  # fmt: skip
    assert len(found) == 8


def test_both_settings_that_need_validation_data_are_named() -> None:
    found = faults(evaluation={"every": 3, "early_stopping_patience": 2})
    text = " ".join(map(str, found))
    assert "evaluation.every" in text and "evaluation.early_stopping_patience" in text
    assert "data.validation" in text


@pytest.mark.parametrize(
    "place",
    [
        "seed", "data.max_length", "training.num_epochs", "training.learning_rate",
        "training.batch_size", "training.max_steps", "training.warmup_fraction",
        "training.weight_decay", "training.max_grad_norm", "training.micro_batch_tokens",
        "training.log_every", "training.save_every", "training.data_seed", "evaluation.samples",
        "evaluation.every", "evaluation.early_stopping_min_delta", "method.rank", "method.alpha",
        "method.dropout", "method.lr_ratio", "method.embedding_learning_rate",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [True, False])
def test_a_yes_or_no_is_not_a_number(place: str, value: bool) -> None:
    found = faults([f"{place}={str(value).lower()}"])
    assert [fault.where for fault in found] == [place]
    assert found[0].found == repr(value)


@pytest.mark.parametrize("place", ["training.packing", "evaluation.keep_best", "data.thinking"])
@pytest.mark.parametrize("value", ["1", "0", "maybe"])
def test_a_number_is_not_a_yes_or_no(place: str, value: str) -> None:
    assert [fault.where for fault in faults([f"{place}={value}"])] == [place]


@pytest.mark.parametrize("place", ["training.batch_size", "method.rank", "seed", "data.max_length"])
@pytest.mark.parametrize("value", ["'8'", "8.5", "eight", "[8]"])
def test_whole_numbers_are_whole_numbers(place: str, value: str) -> None:
    assert [fault.where for fault in faults([f"{place}={value}"])] == [place]


@pytest.mark.parametrize(
    ("place", "bad", "good"),
    [
        ("training.batch_size", "0", "1"),
        ("training.max_steps", "0", "1"),
        ("training.learning_rate", "0", "1e-9"),
        ("training.learning_rate", "11", "10"),
        ("training.learning_rate", ".nan", "1e-4"),
        ("training.num_epochs", "-1", "0.25"),
        ("training.warmup_fraction", "1.01", "1"),
        ("training.micro_batch_tokens", "7", "8"),
        ("data.max_length", "7", "8"),
        ("seed", "4294967296", "4294967295"),
        ("method.rank", "0", "1"),
        ("method.rank", "1025", "1024"),
        ("method.alpha", "0", "0.5"),
        ("method.alpha", ".inf", "1e4"),
        ("method.dropout", "1", "0.99"),
        ("method.lr_ratio", "0", "1024"),
        ("evaluation.samples", "101", "0"),
    ],
)
def test_bounds(place: str, bad: str, good: str) -> None:
    assert [fault.where for fault in faults([f"{place}={bad}"])] == [place]
    load(None, [f"{place}={good}"], base=BASE)


def test_a_wrong_type_is_one_fault_at_its_own_place() -> None:
    """A setting of several types says them all, and nothing of how unions are built."""
    for values, where in (
        ({"method": {"target_modules": 3}}, "method.target_modules"),
        ({"method": {"target_modules": ["q_proj", 3]}}, "method.target_modules"),
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate"),
        ({"training": {"learning_rate": [1]}}, "training.learning_rate"),
        ({"data": {"train": "d", "thinking": "yes please"}}, "data.thinking"),
    ):
        found = faults(**values)
        assert len(found) == 1, [str(f) for f in found]
        assert found[0].where.removesuffix(".1") == where
    assert "'auto' or" in faults(training={"learning_rate": "fast"})[0].expected


@pytest.mark.parametrize("targets", ["[]", "''", "[q_proj, '']"])
def test_no_target_at_all_is_refused(targets: str) -> None:
    """T19: an adapter on nothing."""
    (fault,) = faults([f"method.target_modules={targets}"])
    assert fault.where.removesuffix(".1") == "method.target_modules"


def test_missing_parts_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None)
    assert [f.where for f in caught.value.faults] == ["model", "data"]
    assert [f.remedy for f in caught.value.faults] == ["add model", "add data"]
    assert caught.value.exit_code == 2 and isinstance(caught.value, ValueError)


# --- YAML -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "2.e-4", "+2e-4", "0.0002", "2.0e-4"])
def test_t24_a_rate_without_a_dot_is_a_number(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads 2e-4 as text."""
    path = written(tmp_path, f"training: {{learning_rate: {text}}}\n")
    assert load(path).training.learning_rate == 2e-4
    config = load(None, [f"training.learning_rate={text}"], base=BASE)
    assert config.training.learning_rate == 2e-4


def test_text_that_looks_a_little_like_a_number_stays_text() -> None:
    for text in ("1e", "e-4", "2e-4x", "v1e5", "1e5-base"):
        assert load(None, [f"model.name={text}"], base=BASE).model.name == text


def test_a_date_needs_no_quotes(tmp_path: Path) -> None:
    """YAML makes a date of 2026-01-31; the setting's own documentation writes it so."""
    assert load(None, ["data.date=2026-01-31"], base=BASE).data.date == "2026-01-31"
    path = written(tmp_path, "model: {name: m}\ndata: {train: d, date: 2026-01-31}\n", whole=True)
    assert load(path).data.date == "2026-01-31"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("training: {num_epochs: 3, num_epochs: 4}\n", ":3:27"),
        ("training:\n  seed: 1\n  a: {b: 1, c: 2, b: 3}\n", ":5:19"),
        ("seed: 1\nseed: 1\n", ":4:1"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(
    tmp_path: Path, text: str, where: str
) -> None:
    path = written(tmp_path, text)
    (fault,) = faults_in(path)
    assert fault.where == f"{path}{where}" and "twice" in fault.found


@pytest.mark.parametrize(
    "text", ["seed: [1\n", "a: b: c\n", "\tseed: 1\n", "seed: *unknown\n", "? [a]\n: 1\n"]
)
def test_text_that_is_not_yaml_is_an_error_with_its_line(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    (fault,) = faults_in(path)
    assert fault.where.startswith(f"{path}:")


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    path = written(tmp_path, f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    assert "could not determine a constructor" in faults_in(path)[0].found
    assert not (tmp_path / "made").exists()


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    listing = written(tmp_path, "- a\n- b\n", whole=True)
    assert faults_in(listing)[0].found == "list"
    with pytest.raises(ConfigError, match="did you mean"):
        load(tmp_path / "rum.yaml")
    with pytest.raises(ConfigError, match="check the path"):
        load(tmp_path / "elsewhere" / "x.yaml")
    with pytest.raises(ConfigError, match="IsADirectoryError"):
        load(tmp_path)
    (tmp_path / "sjis.yaml").write_bytes("model: {name: 日本}".encode("cp932"))
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "sjis.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n", encoding="utf-8")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_a_byte_order_mark_and_japanese_are_welcome(tmp_path: Path) -> None:
    path = tmp_path / "設定.yaml"
    path.write_bytes("\ufeffmodel: {name: 模型}\ndata: {train: データ.jsonl}\n".encode())
    config = load(path)
    assert (config.model.name, config.data.train) == ("模型", "データ.jsonl")
    assert "データ.jsonl" in config.to_yaml()


# --- overrides ------------------------------------------------------------------------------------


def test_overrides_lie_over_the_file_and_the_file_over_the_base(tmp_path: Path) -> None:
    path = written(tmp_path, "training: {num_epochs: 2, batch_size: 4}\n")
    base = {"training": {"num_epochs": 1, "batch_size": 2, "log_every": 9}, "seed": 1}
    config = load(path, ["training.num_epochs=5", "training.num_epochs=6"], base=base)
    training = config.training
    assert (training.num_epochs, training.batch_size, training.log_every) == (6, 4, 9)
    assert config.seed == 1


def test_overrides_leave_the_base_untouched() -> None:
    base = {**BASE, "training": {"batch_size": 2}, "method": "dora"}
    load(None, ["training.batch_size=3", "method.rank=2"], base=base)
    assert base == {**BASE, "training": {"batch_size": 2}, "method": "dora"}


def test_overrides_read_values_as_yaml() -> None:
    config = load(
        None,
        [
            "method=dora",
            "method.rank=4",
            "method.target_modules=[q_proj, v_proj]",
            "training.max_steps=null",
            "data.validation=",
            "training.packing=false",
            "tracking.project=a=b",
        ],
        base=BASE,
    )
    assert isinstance(config.method, Dora) and config.method.rank == 4
    assert config.method.target_modules == ("q_proj", "v_proj")
    assert config.training.max_steps is None and config.data.validation is None
    assert config.training.packing is False and config.tracking.project == "a=b"


def test_all_overrides_without_an_equals_sign_are_named() -> None:
    found = faults(["training.batch_size", "=3", "seed=4", "lr"])
    assert [fault.where for fault in found] == ["'training.batch_size'", "'=3'", "'lr'"]


def test_a_misspelled_override_is_named_like_a_misspelled_key() -> None:
    (fault,) = faults(["training.batchsize=4"])
    assert fault.where == "training.batchsize" and fault.remedy == "did you mean 'batch_size'?"


# --- what a run keeps -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_yaml_brings_back_the_same_settings(name: str, tmp_path: Path) -> None:
    """config.yaml alone reproduces the run: for every method, with nothing at its default."""
    config = load(
        None,
        [
            "training.learning_rate=2e-4",
            "training.num_epochs=0.5",
            "data.max_length=128",
            "data.date=null",
            "tracking.trackers=[tensorboard]",
            "evaluation.early_stopping_min_delta=1e-5",
            "training.packing=false",
            "seed=4294967295",
        ],
        base={**BASE, "method": {"name": name}},
    )
    if name != "full":
        changed = config.method.model_copy(
            update={"rank": 3, "alpha": 1.5, "target_modules": ("q_proj",), "lr_ratio": 3.25}
        )
        config = config.model_copy(update={"method": changed})
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    again = load(path)
    assert again == config and type(again.method) is METHODS[name]
    assert again.to_yaml() == config.to_yaml()


def test_every_setting_stands_in_the_kept_file() -> None:
    """Defaults too: a later version's other default must not change an old run."""
    config = load(None, base=BASE)
    kept = yaml.safe_load(config.to_yaml())
    for part in ("model", "data", "training", "evaluation", "tracking"):
        assert kept[part].keys() == type(getattr(config, part)).model_fields.keys()
    assert kept["method"].keys() == Lora.model_fields.keys()


def test_settings_cannot_be_changed_in_place() -> None:
    config = load(None, base=BASE)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


def test_plain_lora_is_the_default_and_a_name_is_enough() -> None:
    assert isinstance(load(None, base=BASE).method, Lora)
    assert isinstance(validate({**BASE, "method": {"rank": 2}}, source="x").method, Lora)
    assert isinstance(validate({**BASE, "method": "qlora"}, source="x").method, QLora)


def test_every_setting_is_documented() -> None:
    rows = {path: text for path, _, _, text in documentation()}
    for part, field in RunConfig.model_fields.items():
        inner = Lora if part == "method" else field.annotation
        for name in getattr(inner, "model_fields", {}):
            if (part, name) != ("method", "name"):
                assert len(rows[f"{part}.{name}"]) > 15, f"{part}.{name}"
    assert all(len(text) < 400 for text in rows.values())
