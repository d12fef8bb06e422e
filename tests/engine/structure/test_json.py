"""Answers that must be JSON: whatever the logits, what is complete fulfils its schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine.structure.schemas import ENFORCED, REFUSED, Plan, closed, strict
from engine.structure.structured import spoken, write
from jsonschema import Draft202012Validator
from transformers import AutoModelForCausalLM, AutoTokenizer

from tanren.engine.structure import (
    UnsupportedSchema,
    Vocabulary,
    matcher_of,
    restrict,
)
from tanren.engine.wire import Constraint
from tanren.errors import WorkError

VOCABULARIES = ("tiny", "tiny-chat", "gemma3", "phi3")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def is_json_of(schema: dict[str, object], text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize("name", ENFORCED)
@pytest.mark.parametrize("words", VOCABULARIES)
def test_every_completed_answer_fulfils_its_schema(words: str, name: str) -> None:
    tokenizer, vocabulary = spoken(words)
    schema = ENFORCED[name]
    ended = 0
    for seed in range(6):
        matcher = matcher_of(Constraint("json", schema), vocabulary)
        answer = write(matcher, vocabulary, seed)
        text = tokenizer.decode(answer.ids, skip_special_tokens=True)
        assert matcher.complete == answer.ended
        assert is_json_of(schema, text) == answer.ended, text
        ended += answer.ended
    assert ended >= 2  # the rest was cut by the limit


@pytest.mark.parametrize("name", ["integer bounds", "enum", "array", "nested", "pydantic"])
def test_an_answer_may_stop_exactly_where_it_is_complete(name: str) -> None:
    tokenizer, vocabulary = spoken("tiny")
    stops = list(vocabulary.stop_ids)
    seen = {True: 0, False: 0}
    for seed in range(8):
        answer = write(matcher_of(Constraint("json", ENFORCED[name]), vocabulary), vocabulary, seed)
        matcher = matcher_of(Constraint("json", ENFORCED[name]), vocabulary)
        for place in range(len(answer.ids) + 1):
            so_far = tokenizer.decode(answer.ids[:place])
            complete = is_json_of(ENFORCED[name], so_far)
            assert matcher.allowed()[stops].all() == matcher.allowed()[stops].any() == complete
            assert matcher.complete == complete
            only_stops = matcher.allowed().sum() == len(stops)
            assert matcher.finished == (complete and only_stops)
            seen[complete] += 1
            if place < len(answer.ids):
                matcher.accept(answer.ids[place])
    assert all(seen.values())


def test_every_stop_token_may_end_an_answer_and_is_the_last() -> None:
    tokenizer, _ = spoken("tiny")
    vocabulary = Vocabulary.of(tokenizer, [2, 0])
    matcher = matcher_of(Constraint("json", {"const": 1}), vocabulary)
    assert not matcher.allowed()[[0, 2]].any()
    matcher.accept(tokenizer.convert_tokens_to_ids("1"))
    assert matcher.finished
    assert matcher.allowed().nonzero()[0].tolist() == [0, 2]
    matcher.accept(0)
    assert matcher.complete


def test_any_json_object_where_there_is_no_schema() -> None:
    tokenizer, vocabulary = spoken("tiny")
    answers = [
        write(matcher_of(Constraint("json"), vocabulary), vocabulary, seed) for seed in range(40)
    ]
    texts = [tokenizer.decode(answer.ids) for answer in answers if answer.ended]
    assert all(isinstance(json.loads(text), dict) for text in texts)
    assert len(set(texts)) > 2


def test_white_space_between_values_is_at_most_one_space() -> None:
    """A model cannot fill its answer with line breaks."""
    tokenizer, vocabulary = spoken("tiny")
    spaces = 0
    for seed in range(30):
        matcher = matcher_of(Constraint("json", ENFORCED["nested"]), vocabulary)
        text = tokenizer.decode(write(matcher, vocabulary, seed).ids)
        bare = STRING.sub('""', text)
        assert re.fullmatch(r"(?:[^\s]|(?<=[,:]) (?=\S))*", bare), text
        spaces += " " in bare
    assert spaces


def test_text_of_any_language_is_written_as_itself() -> None:
    tokenizer, vocabulary = spoken("tiny")
    text = '{"a": "東京 é 🙂\\n"}'
    schema = closed({"a": {"type": "string"}}, "a")
    matcher = matcher_of(Constraint("json", schema), vocabulary)
    for token in tokenizer(text)["input_ids"]:
        assert matcher.allowed()[token]
        matcher.accept(token)
    assert matcher.finished
    escaped = tokenizer('{"a": "\\u6771"}')["input_ids"]
    matcher = matcher_of(Constraint("json", schema), vocabulary)
    with pytest.raises(WorkError):
        for token in escaped:
            matcher.accept(token)


def test_an_answer_may_begin_with_the_space_that_replies_begin_with() -> None:
    tokenizer, vocabulary = spoken("tiny")
    space, brace = tokenizer.convert_tokens_to_ids(["Ġ", "{"])
    for lead, may in ((" ", True), ("", False), ("<think>", False)):
        matcher = matcher_of(Constraint("json"), vocabulary, lead=lead)
        assert matcher.allowed()[space] == may
        assert matcher.allowed()[brace]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused_with_its_path(name: str) -> None:
    path, schema = REFUSED[name]
    with pytest.raises(UnsupportedSchema) as caught:
        matcher_of(Constraint("json", schema), spoken("tiny").vocabulary)
    assert [fault.where for fault in caught.value.faults] == [
        f"response_format.json_schema.schema{path}"
    ]
    assert "x-guidance" not in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_masks_of_many_answers_are_those_of_each_alone(device: str) -> None:
    vocabulary = spoken("tiny").vocabulary
    matchers = {}
    for row, schema in enumerate(ENFORCED.values()):
        if row % 3 == 2:
            continue
        matcher = matcher_of(Constraint("json", schema), vocabulary)
        matchers[row] = matcher
        for _ in range(row % 5):
            if not matcher.finished:
                matcher.accept(int(matcher.allowed().nonzero()[0][0]))
    wider = vocabulary.size + 30
    before = torch.randn(len(ENFORCED), wider)
    logits = before.to(device, copy=True)
    restrict(logits, matchers)
    logits = logits.cpu()
    for row in range(len(ENFORCED)):
        if row not in matchers:
            assert torch.equal(logits[row], before[row])
            continue
        allowed = torch.from_numpy(matchers[row].allowed())
        assert torch.equal(logits[row, : vocabulary.size][allowed], before[row][:-30][allowed])
        assert torch.isneginf(logits[row, : vocabulary.size][~allowed]).all()
        assert torch.isneginf(logits[row, vocabulary.size :]).all()


def test_ids_beyond_the_tokenizer_are_never_allowed() -> None:
    tokenizer, _ = spoken("tiny")
    vocabulary = Vocabulary.of(tokenizer, [2], size=len(tokenizer) + 77)
    matcher = matcher_of(Constraint("json", {"type": "string"}), vocabulary)
    matcher.accept(tokenizer.convert_tokens_to_ids('"'))
    assert matcher.allowed().shape == (len(tokenizer) + 77,)
    assert matcher.allowed()[: len(tokenizer)].sum() > 100
    assert not matcher.allowed()[len(tokenizer) :].any()


def test_a_forbidden_token_is_an_error_of_the_caller() -> None:
    tokenizer, vocabulary = spoken("tiny")
    matcher = matcher_of(Constraint("json", {"type": "integer"}), vocabulary)
    with pytest.raises(WorkError):
        matcher.accept(tokenizer.convert_tokens_to_ids("a"))
    finished = matcher_of(Constraint("json", {"const": 1}), vocabulary)
    finished.accept(tokenizer.convert_tokens_to_ids("1"))
    with pytest.raises(WorkError):
        finished.accept(tokenizer.convert_tokens_to_ids("1"))


def test_answers_of_one_schema_do_not_share_their_state() -> None:
    tokenizer, vocabulary = spoken("tiny")
    first = matcher_of(Constraint("json", {"enum": [10, 25]}), vocabulary)
    second = matcher_of(Constraint("json", {"enum": [10, 25]}), vocabulary)
    one, two = tokenizer.convert_tokens_to_ids(["1", "2"])
    first.accept(one)
    assert second.allowed()[two]
    assert not first.allowed()[two]


def test_a_random_model_writes_what_the_official_client_asks_for(
    tiny_model: Callable[..., Path],
) -> None:
    folder = tiny_model("qwen3")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = Vocabulary.of(tokenizer, [tokenizer.eos_token_id], size=model.config.vocab_size)
    rows = 8
    matchers = {
        row: matcher_of(Constraint("json", strict(Plan)), vocabulary) for row in range(rows)
    }
    ids = torch.tensor([tokenizer("steps")["input_ids"]] * rows)
    start, dice = ids.shape[1], torch.Generator().manual_seed(5)
    for _ in range(150):
        with torch.inference_mode():
            logits = model(ids).logits[:, -1].clone()
            restrict(logits, matchers)
        chosen = torch.multinomial(torch.softmax(logits, -1), 1, generator=dice)
        for row, matcher in matchers.items():
            matcher.accept(int(chosen[row, 0]))
        ids = torch.cat([ids, chosen], 1)
        if all(matcher.finished for matcher in matchers.values()):
            break
    texts = tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)
    complete = [text for row, text in enumerate(texts) if matchers[row].complete]
    assert len(complete) >= rows // 2
    for text in complete:
        Plan.model_validate_json(text)
