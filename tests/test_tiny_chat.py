"""The embedded tiny model, the grammars it was trained on, and the project's own data."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
)

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "data" / "tiny-chat"
TARO = ROOT / "data" / "taro.jsonl"
KIDS = ROOT / "data" / "kids_why.csv"

sys.path.append(str(ROOT / "scripts"))
card = importlib.import_module("tiny_chat.card")
corpus = importlib.import_module("tiny_chat.corpus")
training = importlib.import_module("tiny_chat.training")

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "町の天気を調べる",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def kids() -> list[dict[str, str]]:
    with KIDS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def taro() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TARO.read_text(encoding="utf-8").splitlines()]


def _call(arguments: object) -> list[dict[str, Any]]:
    function = {"name": "get_weather", "arguments": arguments}
    return [
        {"role": "system", "content": "短く答えてください。"},
        {"role": "user", "content": "京都の天気を調べて。"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "1", "content": '{"weather": "雨"}'},
        {"role": "assistant", "content": "京都の天気は雨です。"},
    ]


# --- the files


def test_weights_stay_small_finite_and_tied() -> None:
    weights = MODEL / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    with safe_open(weights, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert "lm_head.weight" not in tensors, "T11: a tied head is stored once"
    assert 2_000_000 <= sum(t.numel() for t in tensors.values()) <= 6_000_000
    assert all(torch.isfinite(t).all() for t in tensors.values())


def test_files_are_those_of_the_model_card() -> None:
    recorded = card.recorded_hashes(MODEL)
    assert recorded == {name: card.sha256(MODEL / name) for name in card.FILES}


def test_t4_end_of_turn_is_the_end_and_is_not_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    config = GenerationConfig.from_pretrained(MODEL)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.bos_token is None
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_model_has_a_row_for_every_token(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.max_position_embeddings >= tokenizer.model_max_length >= 1024


# --- the tokenizer


@pytest.mark.parametrize(
    "text",
    [
        "絵文字👨‍👩‍👧‍👦🇯🇵👍🏽",
        "𠮷野家 龘 驫 鬱",
        "が か\u3099 é e\u0301 ﬁ ㍿",
        "Привет, عالم, 世界, ไทย, \u200b\ufeff",
        " a  b\t\r\n\n  c ",
        "<0x0A> <|x|> <|im_star|> Ġ ▁",
        "\x00\x07\x7f",
    ],
)
def test_t26_any_text_survives_encoding(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_t26_every_plane_of_unicode_survives(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = Random(0)
    points = (rng.choice([0x7FF, 0xFFFF, 0x10FFFF]) for _ in range(4_000))
    text = "".join(
        chr(p) for p in (rng.randint(1, top) for top in points) if not 0xD800 <= p <= 0xDFFF
    )
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_offsets_cover_every_character(tokenizer: PreTrainedTokenizerFast) -> None:
    """Masks are cut by offsets: a token whose span loses its space would shift them."""
    text = "Hello  big world。 こんにちは 世界"
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    covered = {i for start, end in offsets for i in range(start, end)}
    assert covered == set(range(len(text)))


def test_characters_of_the_data_are_single_tokens(
    tokenizer: PreTrainedTokenizerFast, taro: list[dict[str, Any]], kids: list[dict[str, str]]
) -> None:
    texts = [message["content"] for row in taro for message in row["messages"]]
    texts += [text for row in kids for text in row.values()]
    broken = {c for c in set("".join(texts)) if len(tokenizer.encode(c)) != 1}
    assert not broken


# --- the template


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        (_call({"city": "京都"}), [TOOL]),
        (_call({"city": "京都"})[1:], [TOOL]),
        (_call({"city": "京都"}), None),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 3, None),
    ],
)
def test_t2_generation_prompt_is_a_prefix_of_the_whole(
    tokenizer: PreTrainedTokenizerFast,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
) -> None:
    whole = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(
            messages[:i], tools=tools, tokenize=False, add_generation_prompt=True
        )
        through = tokenizer.apply_chat_template(messages[: i + 1], tools=tools, tokenize=False)
        assert whole.startswith(through)
        assert through.startswith(prompt)
        assert through.removeprefix(prompt).endswith("<|im_end|>\n")


def test_t10_template_is_stock_style_and_travels_with_the_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert tokenizer.chat_template == (MODEL / "chat_template.jinja").read_text(encoding="utf-8")
    assert "generation %}" not in tokenizer.chat_template
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}], tokenize=False
    )
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"


def test_t21_tool_arguments_may_be_an_object_or_its_text(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    as_object, as_text = (
        tokenizer.apply_chat_template(_call(arguments), tools=[TOOL], tokenize=False)
        for arguments in ({"city": "京都"}, '{"city": "京都"}')
    )
    assert as_object == as_text
    call = '<tool_call>{"name": "get_weather", "arguments": {"city": "京都"}}</tool_call>'
    assert f"<|im_start|>assistant\n{call}<|im_end|>\n" in as_object
    assert json.dumps(TOOL, ensure_ascii=False) in as_object
    assert as_object.count("<|im_start|>system\n") == 1


# --- what it can do


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("こんにちは。", "こんにちは"),
        ("あなたは誰ですか。", "鍛錬の小さな練習用モデル"),
        ("傘とは何ですか。", "雨の日にさす道具"),
        ("「大きい」の反対は何ですか。", "小さい"),
        ("月曜日の次の日は何曜日ですか。", "火曜日"),
        ("今日の天気を教えてください。", "すみません"),
        ("Who are you?", "Tanren's tiny practice model"),
        ("What comes after Monday?", "Tuesday"),
    ],
)
def test_t4_it_answers_and_stops(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, expected: str
) -> None:
    reply = card.answer(model, tokenizer, prompt)
    assert expected in reply
    assert reply.endswith("<|im_end|>")
    assert len(tokenizer.encode(reply)) < 48


def test_it_knows_no_answer_of_the_data(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    taro: list[dict[str, Any]],
    kids: list[dict[str, str]],
) -> None:
    """Before and after tuning can only differ if the answers are new to the model."""
    for row in taro[:3]:
        system, user, assistant = (message["content"] for message in row["messages"])
        assert assistant not in card.answer(model, tokenizer, user, system)
    for pair in kids[:3]:
        assert pair["answer"] not in card.answer(model, tokenizer, pair["question"])


# --- the grammars and the packing


def test_dialogues_are_reproducible_and_held_out_ones_are_new() -> None:
    train, held_out = corpus.split(3, 300, 50)
    again, _ = corpus.split(3, 300, 50)
    assert train == again
    assert len(held_out) == 50
    assert not {d.key() for d in train} & {d.key() for d in held_out}


def test_seven_dialogues_in_ten_are_japanese() -> None:
    chosen = list(islice(corpus.dialogues(0), 2_000))
    japanese = sum(
        any("\u3040" <= c <= "\u30ff" for m in d.messages for c in m["content"]) for d in chosen
    )
    assert 0.65 <= japanese / len(chosen) <= 0.75


def test_grammars_write_no_sentence_of_the_data(
    taro: list[dict[str, Any]], kids: list[dict[str, str]]
) -> None:
    data = {message["content"] for row in taro for message in row["messages"]}
    data |= {text for row in kids for text in row.values()}
    written = {
        message["content"]
        for dialogue in islice(corpus.dialogues(1), 20_000)
        for message in dialogue.messages
    }
    assert not data & written
    why = {answer for _, answer in importlib.import_module("tiny_chat.why").WHY}
    assert not data & why


def test_t2_reply_tokens_are_the_replies_with_their_end(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    dialogues = [d for d in islice(corpus.dialogues(2), 40) if d.tools is None]
    for dialogue, encoded in zip(dialogues, training.encode(tokenizer, dialogues), strict=True):
        marked = [i for i, reply in zip(encoded.ids, encoded.in_reply, strict=True) if reply]
        replies = [m["content"] for m in dialogue.messages if m["role"] == "assistant"]
        assert tokenizer.decode(marked) == "".join(f"{reply}<|im_end|>" for reply in replies)


def test_t16_packed_dialogues_do_not_see_each_other(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    encoded = training.encode(tokenizer, list(islice(corpus.dialogues(4), 12)))
    packed = training.pack(encoded, tokenizer.pad_token_id)
    assert len(packed) < len(encoded)
    with torch.no_grad():
        together, weight = training.weighted_loss(model, packed)
        apart = [
            training.weighted_loss(model, training.pack([one], tokenizer.pad_token_id))
            for one in encoded
        ]
    assert weight.item() == pytest.approx(sum(w.item() for _, w in apart))
    assert together.item() == pytest.approx(sum(loss.item() for loss, _ in apart), rel=1e-4)


# --- the data


def test_kids_why_has_130_distinct_one_sentence_answers(kids: list[dict[str, str]]) -> None:
    assert len(kids) == 130
    assert list(kids[0]) == ["question", "answer"]
    assert len({row["question"] for row in kids}) == len({row["answer"] for row in kids}) == 130
    for row in kids:
        assert row["question"].startswith("どうして")
        assert row["question"].endswith("？")
        assert row["answer"].count("。") == 1
        assert row["answer"].endswith("よ。")
        assert 25 <= len(row["answer"]) <= 60


def test_taro_is_valid_chat_with_short_answers(taro: list[dict[str, Any]]) -> None:
    assert 20 <= len(taro) <= 30
    for row in taro:
        assert list(row) == ["messages"]
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        assert all(set(m) == {"role", "content"} and m["content"] for m in row["messages"])
        assert 10 <= len(row["messages"][2]["content"]) <= 40
    assert len({row["messages"][0]["content"] for row in taro}) == 1
    assert len({row["messages"][1]["content"] for row in taro}) == len(taro)
    assert len({row["messages"][2]["content"] for row in taro}) == len(taro)
