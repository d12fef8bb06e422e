"""configs/compare/: settings that hold, the published ones kept, their prompt and their rows."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from conversations import answer, example, system, user
from pyarrow import parquet
from templates import families
from transformers import PreTrainedTokenizerFast

from tanren.chat import Example
from tanren.compare.arms import Variant, shared_settings, variants
from tanren.compare.settings import CompareConfig, load_comparison
from tanren.config import RunConfig, read_yaml
from tanren.data.read import read_chat
from tanren.devices import find_card
from tanren.encode import EncodeSettings, encode
from tanren.evaluate.metrics.final_number import final_number
from tanren.methods import LoraPlus, QLora, RsLora
from tanren.template import ChatRenderer

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "configs" / "compare"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
TEMPLATE = (FOLDER / "question_answer.jinja").read_text(encoding="utf-8")


def loaded(path: Path) -> tuple[CompareConfig, dict[str, Variant]]:
    config = load_comparison(read_yaml(path), source=str(path))
    arms = variants(config, shared_settings(config, {}))
    return config, {arm.name: arm for arm in arms}


@pytest.fixture(scope="module")
def anchor() -> tuple[CompareConfig, dict[str, Variant]]:
    return loaded(FOLDER / "metamath_3b.yaml")


# --- every file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_comparison_loads_strictly_and_every_arm_is_a_whole_run(path: Path) -> None:
    config, arms = loaded(path)
    assert len(arms) >= 4
    assert config.reference in arms
    for arm in arms.values():
        again = yaml.safe_load(arm.config.to_yaml())
        assert RunConfig.model_validate(again) == arm.config
        assert arm.config.data.validation, "arms without a validation file cannot be ranked"
    again = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert CompareConfig.model_validate(again) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_comparison_says_for_whom_it_is_and_what_to_change(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\nbase:")[0]
    for label in ("For", "Card", "Change first"):
        assert re.search(rf"^# {label}: \S", head, re.MULTILINE), label
    card = re.search(r"^# Card: (.+)$", head, re.MULTILINE)
    assert card is not None
    if not card[1].startswith("none"):
        assert find_card(card[1]).name == card[1]


@pytest.mark.parametrize("name", ["demo", "qwen3-0.6b-methods"])
def test_four_methods_differ_in_the_method_alone_and_each_is_searched(name: str) -> None:
    config, arms = loaded(FOLDER / f"{name}.yaml")
    assert [arm.config.method.name for arm in arms.values()] == list(arms)
    assert list(arms) == ["lora", "qlora", "dora", "lora_plus"]
    assert config.search.trials == 5 and len(config.seeds) == 3
    assert not any(arm.gives_rate for arm in arms.values())
    rest = [arm.config.model_dump(exclude={"method"}) for arm in arms.values()]
    assert all(values == rest[0] for values in rest)
    assert len({(arm.config.method.rank, arm.config.method.alpha) for arm in arms.values()}) == 1


def test_the_demo_finds_its_model_and_rows() -> None:
    """Held-out questions are others than the trained ones."""
    _, arms = loaded(FOLDER / "demo.yaml")
    config = arms["lora"].config
    assert (ROOT / config.model.name / "config.json").is_file()
    assert config.data.validation is not None
    rows = {
        name: [row.messages[0]["content"] for row in read_chat(ROOT / name)]  # type: ignore[union-attr]
        for name in (config.data.train, config.data.validation)
    }
    train, validation = (set(found) for found in rows.values())
    assert (len(train), len(validation)) == (100, 30)
    assert not train & validation


# --- the published settings -----------------------------------------------------------------------


def test_the_anchor_has_the_published_settings(
    anchor: tuple[CompareConfig, dict[str, Variant]],
) -> None:
    """huggingface/peft, method_comparison/MetaMathQA: default_training_params.json, run.py."""
    _, arms = anchor
    config = arms["lora"].config
    assert config.model.name == "meta-llama/Llama-3.2-3B"
    assert config.model.dtype == "bfloat16"
    assert config.data.max_length == 768
    training = config.training
    assert (training.max_steps, training.batch_size, training.num_epochs) == (5000, 4, 1)
    assert (training.schedule, training.warmup_fraction) == ("cosine", 0.1)
    assert (training.weight_decay, training.max_grad_norm) == (0.1, 1.0)
    assert (training.optimizer, config.evaluation.every) == ("adamw", 250)
    assert not config.evaluation.keep_best
    method = config.method
    assert (method.rank, method.alpha, method.dropout) == (32, 64, 0)
    assert method.target_modules == ("q_proj", "v_proj")
    assert config.model.chat_template is not None
    assert (ROOT / config.model.chat_template).read_text(encoding="utf-8") == TEMPLATE


def test_the_anchors_arms_are_the_published_three_and_the_two_that_lack(
    anchor: tuple[CompareConfig, dict[str, Variant]],
) -> None:
    _, arms = anchor
    assert list(arms) == ["lora", "rslora_r64", "dora", "lora_plus", "qlora"]
    assert all(arm.gives_rate for arm in arms.values()), "the published rows were not searched"
    rates = {name: arm.config.training.learning_rate for name, arm in arms.items()}
    plus = arms["lora_plus"].config.method
    assert isinstance(plus, LoraPlus) and plus.lr_ratio == 16
    rate = rates.pop("lora_plus")
    assert isinstance(rate, float)
    assert rate * rate * plus.lr_ratio == pytest.approx(1e-4**2), "rate of A times rate of B"
    assert set(rates.values()) == {1e-4}
    rslora = arms["rslora_r64"].config.method
    assert isinstance(rslora, RsLora) and (rslora.rank, rslora.alpha) == (64, 64)
    assert rslora.scaling == 8
    assert isinstance(arms["qlora"].config.method, QLora)
    for name in ("lora", "dora", "lora_plus", "qlora"):
        method = arms[name].config.method
        assert (method.rank, method.alpha) == (32, 64), name
    for arm in arms.values():
        assert arm.config.method.target_modules == ("q_proj", "v_proj"), arm.name
    rest = [
        arm.config.model_dump(exclude={"method": True, "training": {"learning_rate"}})
        for arm in arms.values()
    ]
    assert all(values == rest[0] for values in rest)


def test_the_anchor_asks_the_gsm8k_questions_for_a_number(
    anchor: tuple[CompareConfig, dict[str, Variant]],
) -> None:
    config, _ = anchor
    assert config.test is not None
    assert (config.test.metrics, config.test.max_new_tokens) == (("number",), 300)
    assert config.test.limit is None
    assert 0 in config.seeds, "the published one"
    text = (FOLDER / "metamath_3b.yaml").read_text(encoding="utf-8")
    for published in ("47.8%", "51.3%", "46.9%", "1.26 times"):
        assert text.count(published) == 2


# --- the prompt -----------------------------------------------------------------------------------

QUESTION, ANSWER = "What is 2 + 2?", "Two and two is 4.\n#### 4\nThe answer is: 4"
PROMPT = "Question: What is 2 + 2? Think step by step.\nAnswer:"


def tokenizers(plain: PreTrainedTokenizerFast) -> dict[str, PreTrainedTokenizerFast]:
    """One that writes a BOS, one that has none. Base models have no template."""
    found = {"llama3": families()["llama3"].tokenizer(), "tiny": plain}
    for one in found.values():
        one.chat_template = None
    return found


@pytest.fixture(params=["llama3", "tiny"])
def base_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    import tiny

    return tokenizers(tiny.build_tokenizer())[request.param]


def test_the_prompt_is_the_published_one(base_tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = ChatRenderer(base_tokenizer, template=TEMPLATE)
    bos, eos = base_tokenizer.bos_token or "", base_tokenizer.eos_token
    assert renderer.prompt([user(QUESTION)]) == bos + PROMPT
    whole = renderer.conversation([user(QUESTION), answer(ANSWER)])
    assert whole == f"{bos}{PROMPT}{ANSWER}{eos}"
    assert renderer.artefact_template() == TEMPLATE, "other programs render the same"


@pytest.mark.parametrize(
    "talk",
    [
        example(user(QUESTION), answer(ANSWER)),
        example(user(QUESTION), answer(ANSWER), user("And 3 + 3?"), answer("6")),
        example(system("Be brief."), user(QUESTION), answer("東京 4")),
    ],
    ids=["one", "two", "system"],
)
def test_what_is_trained_is_the_answer_and_its_end(
    base_tokenizer: PreTrainedTokenizerFast, talk: Example
) -> None:
    """T2, T4, T17: the answer's tokens and the end token have labels, nothing else has; one BOS."""
    renderer = ChatRenderer(base_tokenizer, template=TEMPLATE)
    encoded, ledger = encode([talk], renderer, EncodeSettings(512))
    assert ledger.refused_rows == 0 and len(encoded) == 1
    ids, trained = encoded.row(0)[0].tolist(), encoded.trained.tolist()
    replies = [m["content"] for m in talk.messages if m["role"] == "assistant"]
    learned = base_tokenizer.decode(
        [token for token, kept in zip(ids, trained, strict=True) if kept]
    )
    assert learned == "".join(f"{reply}{base_tokenizer.eos_token}" for reply in replies)
    first = renderer.prompt_ids(
        talk.messages[: [m["role"] for m in talk.messages].index("assistant")]
    )
    assert ids[: len(first)] == first and not any(trained[: len(first)])
    begin = base_tokenizer.bos_token_id
    assert begin is None or ids.count(begin) == 1


# --- the rows -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """`scripts/prepare_metamath.py`."""
    sys.path.append(str(ROOT / "scripts"))
    return importlib.import_module("prepare_metamath")


def metamath_rows(count: int) -> list[dict[str, Any]]:
    """Every fifth is longer than 1,300 characters, or exactly as long."""
    rows = []
    for i in range(count):
        query, response = (
            f"What is {i} + 1?",
            f"It is {i + 1}.\n#### {i + 1}\nThe answer is: {i + 1}",
        )
        if i % 5 == 4:
            wanted = 1300 if i % 10 == 4 else 1301
            response += "." * (wanted - len(f"{query} {response}"))
        rows.append(
            {"query": query, "response": response, "type": "GSM", "original_question": query}
        )
    return rows


def gsm8k_rows(count: int, word: str) -> list[dict[str, Any]]:
    return [
        {
            "question": f"{word} {i}: 48 and 1,{i:03}?",
            "answer": f"48+1={i} is <<48/2=24>>24.\nSo りんご.\n#### 1,{i:03}",
        }
        for i in range(count)
    ]


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, str]:
    """MetaMathQA as its JSON file, GSM8K as its folder of Parquet files."""
    metamath, gsm8k = tmp_path / "MetaMathQA-395K.json", tmp_path / "gsm8k" / "main"
    metamath.write_text(json.dumps(metamath_rows(100), ensure_ascii=False), encoding="utf-8")
    gsm8k.mkdir(parents=True)
    for split, rows in (("train", gsm8k_rows(200, "Train")), ("test", gsm8k_rows(30, "Test"))):
        parquet.write_table(pa.Table.from_pylist(rows), gsm8k / f"{split}-00000-of-00001.parquet")
    return str(metamath), str(gsm8k.parent)


def chats(path: Path) -> list[tuple[str, str]]:
    rows = list(read_chat(path))
    assert all(isinstance(row, Example) for row in rows), "every row can be trained"
    return [tuple(m["content"] for m in row.messages) for row in rows]  # type: ignore[union-attr]


def test_the_rows_are_those_of_the_published_runs(
    script: ModuleType, sources: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "metamath"
    script.prepare(*sources, 60, out)
    short = [row for row in metamath_rows(100) if len(f"{row['query']} {row['response']}") <= 1300]
    expected = [(row["query"], row["response"]) for row in short[:60]]
    assert any(len(f"{query} {response}") == 1300 for query, response in expected)
    assert chats(out / "train.jsonl") == expected
    np.random.seed(0)  # as their data.py draws them
    order = np.arange(200)
    np.random.shuffle(order)
    questions = gsm8k_rows(200, "Train")
    drawn = [question for question, _ in chats(out / "validation.jsonl")]
    assert drawn == [questions[i]["question"] for i in order[:50]]
    assert [q for q, _ in chats(out / "test.jsonl")] == [
        row["question"] for row in gsm8k_rows(30, "Test")
    ]


def test_answers_of_gsm8k_end_as_those_of_metamath_with_the_same_number(
    script: ModuleType, sources: tuple[str, str], tmp_path: Path
) -> None:
    script.prepare(*sources, 10, tmp_path / "out")
    answers = [text for _, text in chats(tmp_path / "out" / "test.jsonl")]
    assert answers[7] == "48+1=7 is 24.\nSo りんご.\n#### 1,007\nThe answer is: 1,007"
    for given, row in zip(answers, gsm8k_rows(30, "Test"), strict=True):
        assert final_number(given) == final_number(row["answer"])


def test_a_parquet_of_metamath_gives_the_same(
    script: ModuleType, sources: tuple[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "as-parquet"
    folder.mkdir()
    parquet.write_table(pa.Table.from_pylist(metamath_rows(100)), folder / "data.parquet")
    script.prepare(*sources, 20, tmp_path / "one")
    script.prepare(str(folder), sources[1], 20, tmp_path / "two")
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_too_few_rows_and_other_columns_are_said(
    script: ModuleType,
    sources: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    metamath, gsm8k = sources
    command = ["--metamath", metamath, "--gsm8k", gsm8k, "--out", str(tmp_path / "out")]
    assert script.main([*command, "--rows", "91"]) == 2
    assert "found 90 rows of at most 1300 characters, expected 91" in capsys.readouterr().err
    assert (
        script.main(["--metamath", f"{gsm8k}/main/test-00000-of-00001.parquet", *command[2:]]) == 2
    )
    assert "found columns question, answer, expected query and response" in capsys.readouterr().err
    assert script.main(["--metamath", str(tmp_path / "none"), *command[2:]]) == 2
    assert "no Parquet or JSON file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert script.main([*command, "--rows", "90"]) == 0
    assert "90 rows; 9 longer ones left out" in capsys.readouterr().out
