"""Token-level laws: what is trained is the reply, what precedes it is inference's prompt, nothing
is lost."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conversations import (
    TALKS,
    answer,
    call,
    example,
    hostile_example,
    system,
    user,
    weather_talk,
)
from templates import TOOLS, families
from tokenizers import AddedToken

from tanren.chat import Example
from tanren.encode import (
    IGNORED,
    Encoded,
    EncodedCache,
    EncodeSettings,
    Hit,
    Ledger,
    Miss,
    cache_key,
    encode,
    trained_text,
)
from tanren.errors import ConfigError, Fault
from tanren.template import ChatRenderer

FAMILIES = list(families())
WIDE = EncodeSettings(model_max_length=100_000)


def renderer(name: str, **settings: Any) -> ChatRenderer:
    return ChatRenderer(families()[name].tokenizer(), date="2026-01-31", **settings)


def encoded_by(
    name: str, *talks: Example, settings: EncodeSettings = WIDE, **how: Any
) -> tuple[Encoded, Ledger, ChatRenderer]:
    chat = renderer(name, **how)
    encoded, ledger = encode(talks, chat, settings)
    return encoded, ledger, chat


def trained_runs(encoded: Encoded, index: int) -> list[tuple[int, int]]:
    """[start, end) of each run of trained tokens."""
    _, labels = encoded.row(index)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], labels != IGNORED, [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def same_text(decoded: str, wanted: str, *, spaced: bool) -> bool:
    """SentencePiece with a space in front writes one before each text that follows a control
    token."""
    return decoded == wanted or (spaced and decoded.lstrip(" ") == wanted.lstrip(" "))


MATRIX = [
    (name, talk)
    for name, family in families().items()
    for talk in TALKS
    if family.system or talk != "system"
]


# --- T1, T2, T17, T27: the mask -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "key"), MATRIX)
def test_decoded_trained_text_is_the_replies_and_their_ends_t2(name: str, key: str) -> None:
    family, talk = families()[name], TALKS[key]
    encoded, ledger, chat = encoded_by(name, talk, thinking=False)
    assert ledger.trained_whole == 1 and not ledger.faults
    found = [
        text
        for index in range(len(encoded))
        for text, trained in trained_text(encoded, index, chat.tokenizer)
        if trained
    ]
    wanted = [
        family.before_reply + talk.messages[turn]["content"] + family.end_of_turn
        for turn in talk.trained_turns
    ]
    spaced = "Prepend" in chat.tokenizer.backend_tokenizer.to_str()
    assert len(found) == len(wanted)
    assert all(same_text(a, b, spaced=spaced) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("name", "key"), MATRIX)
def test_tokens_before_each_reply_are_inferences_prompt_ids_t1(name: str, key: str) -> None:
    talk = TALKS[key]
    encoded, _, chat = encoded_by(name, talk, thinking=False)
    found = [
        encoded.row(index)[0][:start].tolist()
        for index in range(len(encoded))
        for start, _ in trained_runs(encoded, index)
    ]
    assert found == [chat.prompt_ids(talk.messages[:turn]) for turn in talk.trained_turns]


@pytest.mark.parametrize("name", [name for name, family in families().items() if family.tools])
def test_tokens_before_tool_calls_are_inferences_prompt_ids_t1(name: str) -> None:
    talk = weather_talk()
    encoded, _, chat = encoded_by(name, talk, thinking=False)
    found = [
        encoded.row(index)[0][:start].tolist()
        for index in range(len(encoded))
        for start, _ in trained_runs(encoded, index)
    ]
    assert found == [chat.prompt_ids(talk.messages[:turn], talk.tools) for turn in (1, 3)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bos_is_there_exactly_as_often_as_the_template_writes_it_t17(name: str) -> None:
    family = families()[name]
    encoded, _, chat = encoded_by(name, *TALKS.values())
    if family.bos is None:
        return
    wanted = 1 if chat.facts.adds_bos else 0
    assert wanted == (name not in ("phi3", "phi4") and not name.startswith(("plain", "chatml")))
    assert chat.facts.bos_left_out == (family.adds_bos and not wanted)
    for index in range(len(encoded)):
        ids = encoded.row(index)[0].tolist()
        assert ids.count(chat.tokenizer.bos_token_id) == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_the_end_of_turn_is_labelled_even_where_it_is_the_padding_t4(name: str) -> None:
    encoded, _, chat = encoded_by(name, *TALKS.values(), thinking=False)
    assert chat.tokenizer.pad_token == chat.tokenizer.eos_token
    runs = 0
    for index in range(len(encoded)):
        ids, labels = encoded.row(index)
        for _, end in trained_runs(encoded, index):
            assert labels[end - 1] == ids[end - 1] == chat.facts.end_of_turn_id
            runs += 1
    assert runs == sum(len(talk.trained_turns) for talk in TALKS.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_laws_hold_for_hostile_text(name: str) -> None:
    """T1 and T2 on tokens for 150 conversations of white space, joiners, emoji and half-tags.

    ow may be refused (a reply that no token boundary separates from its prompt), never
    mislabelled.
    """
    chat, dice = renderer(name, thinking=False), random.Random(name)
    talks = {line: hostile_example(dice, line) for line in range(1, 151)}
    encoded, ledger = encode(talks.values(), chat, WIDE)
    seen: dict[int, list[list[int]]] = {}
    for index in range(len(encoded)):
        ids = encoded.row(index)[0].tolist()
        runs = trained_runs(encoded, index)
        seen.setdefault(int(encoded.source_line[index]), []).extend(ids[:s] for s, _ in runs)
        for start, end in runs:
            assert ids[end - 1] == chat.facts.end_of_turn_id
            assert chat.facts.end_of_turn_id not in ids[start : end - 1]
    for line, prompts in seen.items():
        talk = talks[line]
        assert prompts == [chat.prompt_ids(talk.messages[:turn]) for turn in talk.trained_turns]
    assert len(seen) + ledger.refused_rows == len(talks)
    assert ledger.refused_rows <= 15


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma3", "no-template", "mistral"])
def test_hostile_replies_decode_to_themselves_t2(name: str) -> None:
    chat, dice = renderer(name), random.Random(name)
    talks = [hostile_example(dice, line) for line in range(1, 101)]
    encoded, _ = encode(talks, chat, WIDE)
    for index in range(len(encoded)):
        talk = talks[encoded.source_line[index] - 1]
        pieces = trained_text(encoded, index, chat.tokenizer)
        trained = [text for text, is_trained in pieces if is_trained]
        whole = chat.tokenizer.decode(encoded.row(index)[0].tolist())
        assert "".join(text for text, _ in pieces) == whole
        if len(trained) == len(talk.trained_turns):
            for text, turn in zip(trained, talk.trained_turns, strict=True):
                reply = text.removesuffix(chat.facts.end_of_turn)
                # SentencePiece writes a space as ▁ and cannot tell a real ▁ from one.
                wanted = talk.messages[turn]["content"]
                assert reply.replace("▁", " ").strip() == wanted.replace("▁", " ").strip()


def test_a_reply_that_begins_with_a_line_break_keeps_inferences_prompt_t1() -> None:
    """`assistant\\n` + `\\nHi` would be encoded with one token for both line breaks."""
    talk = example(user("a"), answer("\nHi"))
    encoded, ledger, chat = encoded_by("chatml", talk)
    ids, _ = encoded.row(0)
    prompt = chat.prompt_ids(talk.messages[:1])
    whole = chat.token_ids("".join(one.text for one in chat.turns(talk)))
    assert whole[: len(prompt)] != prompt  # otherwise this test shows nothing
    assert ids[: len(prompt)].tolist() == prompt
    assert ledger.boundary_encodings == 1 and ledger.trained_whole == 1
    assert trained_text(encoded, 0, chat.tokenizer)[1] == ("\nHi<|im_end|>", True)


JOINING = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content + ' ' }}"
    "{% else %}{{ 'assista' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assista{% endif %}"
)


def test_a_prompt_whose_last_word_goes_on_in_the_reply_keeps_its_own_tokens_t1() -> None:
    chat = renderer("no-template-bytes", template=JOINING)
    talk = example(user("a"), answer("nt."), line=5)
    prompt = chat.prompt_ids(talk.messages[:1])
    assert chat.token_ids("a assistant.<eos>")[: len(prompt)] != prompt
    encoded, ledger = encode([talk], chat, WIDE)
    assert encoded.row(0)[0][: len(prompt)].tolist() == prompt
    assert trained_text(encoded, 0, chat.tokenizer)[1] == ("nt.<eos>", True)
    assert ledger.boundary_encodings == 1


def test_a_reply_that_cannot_be_encoded_apart_is_refused_and_not_mislabelled() -> None:
    """SentencePiece would write a space in front of the reply that nobody wrote."""
    chat = renderer("plain-llama2", template=JOINING)
    encoded, ledger = encode([example(user("a"), answer("nt."), line=5)], chat, WIDE)
    assert len(encoded) == 0 and ledger.refused == {"no token boundary": 1}
    assert ledger.faults[0].where == "chat.jsonl:5"


def test_a_token_that_swallows_the_end_of_turn_is_refused_t4() -> None:
    chat = renderer("chatml")
    chat.tokenizer.add_tokens([AddedToken("!<|im_end|>", normalized=False)])
    rows = [example(user("a"), answer(reply), line=n) for n, reply in enumerate(("Hi!", "Hi."), 1)]
    encoded, ledger = encode(rows, ChatRenderer(chat.tokenizer), WIDE)
    assert ledger.refused == {"no token boundary": 1} and ledger.faults[0].where == "chat.jsonl:1"
    assert encoded.row(0)[1][-1] == chat.facts.end_of_turn_id


def test_tokens_that_reach_beyond_a_templates_markers_are_not_trained() -> None:
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'user' %}"
        "{{ m.content }}{% else %}{% generation %}{{ m.content[:-2] }}{% endgeneration %}"
        "{{ m.content[-2:] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    chat = renderer("chatml-marked", template=source)
    for reply in ("the sky is blue", "a helpful assistant", "Tokyo is the capital", "東京の天気"):
        encoded, _ = encode([example(user("a"), answer(reply))], chat, WIDE)
        pieces = trained_text(encoded, 0, chat.tokenizer)
        trained = "".join(text for text, is_trained in pieces if is_trained)
        assert trained and reply[:-2].startswith(trained)
    assert trained != "東京の天気"


def test_joined_boundaries_in_one_of_several_turns_split_the_row() -> None:
    talk = example(user("a"), answer("b"), user("c"), answer("\nHi"))
    encoded, ledger, chat = encoded_by("chatml", talk)
    assert len(encoded) == 2 and ledger.split_rows == 1 and ledger.boundary_encodings == 1
    for index, turn in enumerate(talk.trained_turns):
        (start, _), ids = trained_runs(encoded, index)[0], encoded.row(index)[0]
        assert ids[:start].tolist() == chat.prompt_ids(talk.messages[:turn])


def test_weight_zero_adds_no_label_t27() -> None:
    def talk(weight: int) -> Example:
        return example(user("a"), answer("one", weight=weight), user("b"), answer("two"))

    on, off = encoded_by("chatml", talk(1))[0], encoded_by("chatml", talk(0))[0]
    assert on.input_ids.tolist() == off.input_ids.tolist()
    assert len(trained_runs(on, 0)) == 2 and len(trained_runs(off, 0)) == 1
    assert trained_runs(on, 0)[1] == trained_runs(off, 0)[0]


def test_train_on_last_trains_the_last_reply_only() -> None:
    settings = replace(WIDE, train_on="last")
    encoded, ledger, chat = encoded_by("qwen2.5", TALKS["multi"], settings=settings)
    (run,) = trained_runs(encoded, 0)
    assert chat.tokenizer.decode(encoded.row(0)[0][slice(*run)].tolist()) == "3.<|im_end|>"
    assert ledger.trained_tokens == run[1] - run[0]


def test_state_that_a_saved_tokenizer_carries_changes_nothing() -> None:
    chat = renderer("llama3")
    before, _ = encode([TALKS["multi"]], chat, WIDE)
    backend = chat.tokenizer.backend_tokenizer
    backend.enable_truncation(8)
    backend.enable_padding(length=512)
    backend.encode_special_tokens = True
    prompt = chat.prompt_ids([user("a")])
    after, _ = encode([TALKS["multi"]], chat, WIDE)
    assert after.input_ids.tolist() == before.input_ids.tolist()
    assert prompt == renderer("llama3").prompt_ids([user("a")])


def test_arguments_of_other_rows_leave_no_trace_t21() -> None:
    rows = [
        example(user("a"), answer("", tool_calls=[call(name, arguments)]), tools=TOOLS)
        for name, arguments in (("get_weather", '{"city": "x"}'), ("add", '{"a": 1}'))
    ]
    encoded, _, chat = encoded_by("qwen2.5", *rows)
    for index, (there, absent) in enumerate([("city", '"a"'), ('"a"', "city")]):
        trained = trained_text(encoded, index, chat.tokenizer)[1][0]
        assert there in trained and absent not in trained and "null" not in trained


# --- T3: too long ---------------------------------------------------------------------------------


def long_row(words: int, line: int = 1) -> Example:
    return example(user("a"), answer("x" * words), line=line)


def test_a_prompt_longer_than_the_limit_is_refused_with_the_length_it_needs_t3() -> None:
    talk = example(user("x y " * 40), answer("short"), line=7)
    length = len(encoded_by("chatml", talk)[0].row(0)[0])
    limit = replace(WIDE, max_length=32)
    encoded, ledger, _ = encoded_by("chatml", talk, example(user("a"), answer("b")), settings=limit)
    assert length > 60 and len(encoded) == 1
    assert ledger.refused == {"too long": 1} and ledger.trained_whole == 1
    (fault,) = ledger.faults
    assert (
        fault.where == "chat.jsonl:7" and fault.remedy == f"set data.max_length to {length} or more"
    )
    assert ledger.cut_tokens == 0


def test_a_row_beyond_the_models_context_is_told_so_t3() -> None:
    settings = EncodeSettings(model_max_length=32)
    ledger = encoded_by("chatml", example(user("x y " * 40), answer("s")), settings=settings)[1]
    assert "the model's context is 32 tokens" in ledger.faults[0].remedy


def test_tokens_cut_are_counted_and_the_start_is_kept_t3() -> None:
    talk = example(user("a"), answer("b"), user("c"), answer("x y z " * 10), user("d"), answer("e"))
    whole = encoded_by("chatml", talk)[0]
    ids, labels = whole.row(0)
    last, limit = trained_runs(whole, 0)[1], trained_runs(whole, 0)[1][0] + 5
    cut, ledger, _ = encoded_by("chatml", talk, settings=replace(WIDE, max_length=limit))
    assert cut.row(0)[0].tolist() == ids[:limit].tolist()
    assert cut.row(0)[1].tolist() == labels[:limit].tolist()
    assert (ledger.trained_cut, ledger.trained_whole, ledger.refused) == (1, 0, {})
    assert ledger.cut_tokens == len(ids) - limit
    assert ledger.cut_trained_tokens == np.count_nonzero(labels[limit:] != IGNORED)
    assert ledger.cut_replies == 1 and ledger.lost_replies == 1
    assert ledger.cut.places == ["chat.jsonl:1"] and last[1] > limit
    assert ledger.longest[0].tokens == len(ids)


def test_an_end_exactly_at_the_limit_is_not_cut() -> None:
    length = len(encoded_by("chatml", long_row(20))[0].row(0)[0])
    for limit, whole in ((length, 1), (length - 1, 0)):
        ledger = encoded_by("chatml", long_row(20), settings=replace(WIDE, max_length=limit))[1]
        assert (ledger.trained_whole, ledger.cut_replies) == (whole, 1 - whole)


def test_sequences_of_split_rows_that_lose_every_trained_token_are_dropped_and_counted() -> None:
    talk = TALKS["multi"]
    chat = renderer("qwen3", thinking=False)
    whole, _ = encode([talk], chat, WIDE)
    limit = int(whole.lengths[0]) + 2
    cut, ledger = encode([talk], chat, replace(WIDE, max_length=limit))
    assert len(whole) == 3 and len(cut) == ledger.sequences == 1
    assert ledger.dropped_sequences == 2 and ledger.trained_cut == 1
    assert ledger.tokens + ledger.cut_tokens == len(whole.input_ids)
    assert ledger.trained_tokens + ledger.cut_trained_tokens == np.count_nonzero(whole.trained)


def test_truncation_can_be_refused() -> None:
    settings = replace(WIDE, max_length=20, truncation="refuse")
    encoded, ledger, _ = encoded_by("chatml", long_row(40), long_row(1), settings=settings)
    assert len(encoded) == 1 and ledger.refused == {"too long": 1} and not ledger.trained_cut


def test_auto_length_is_the_longest_row_in_eights_within_the_models_context() -> None:
    length = len(encoded_by("chatml", long_row(40), long_row(1))[0].row(0)[0])
    auto = encoded_by("chatml", long_row(40), long_row(1))[1]
    assert auto.max_length == -(-length // 8) * 8 and auto.trained_cut == 0
    small = EncodeSettings(model_max_length=length - 3)
    ledger = encoded_by("chatml", long_row(40), settings=small)[1]
    assert ledger.max_length == length - 3 and ledger.trained_cut == 1


@pytest.mark.parametrize("wrong", [0, 4097])
def test_a_limit_outside_the_models_context_is_a_config_error(wrong: int) -> None:
    with pytest.raises(ConfigError, match=rf"data.max_length: found {wrong}"):
        EncodeSettings(model_max_length=4096, max_length=wrong)


# --- the ledger -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadingRefused:
    source: str
    line: int
    faults: tuple[Fault, ...]


@pytest.mark.parametrize("name", ["chatml", "qwen3", "gemma3", "plain"])
def test_every_row_and_token_is_accounted_for(name: str) -> None:
    dice = random.Random(5)
    rows: list[Example | ReadingRefused] = []
    for line in range(1, 121):
        row = hostile_example(dice, line)
        if line % 10 == 0:
            rows.append(ReadingRefused("chat.jsonl", line, (Fault("x", "a", "b", "c"),) * 2))
        elif line % 7 == 0:
            rows.append(example(user("a"), answer("b", weight=0), line=line))
        else:
            rows.append(row)
    chat = renderer(name, thinking=False)
    for limit in (12, 24, 60, 1000):
        encoded, ledger = encode(rows, chat, replace(WIDE, max_length=limit))
        assert ledger.source_rows == len(rows)
        assert ledger.trained_whole + ledger.trained_cut + ledger.refused_rows == len(rows)
        assert ledger.refused["not valid"] == 12 and ledger.refused["no trained reply"] == 16
        assert ledger.fault_count == len(ledger.faults) == ledger.refused_rows + 12
        assert ledger.sequences == len(encoded) == len(encoded.lengths)
        assert ledger.tokens == encoded.lengths.sum() == len(encoded.input_ids)
        assert ledger.trained_tokens == encoded.trained_lengths.sum() == encoded.trained.sum()
        assert (encoded.trained_lengths > 0).all() and (encoded.lengths <= limit).all()
        assert len({*encoded.source_line.tolist()}) == ledger.trained_rows
        assert encoded.source_line.tolist() == sorted(encoded.source_line.tolist())
        whole, full = encode(rows, chat, WIDE)
        if ledger.refused.get("too long", 0) == 0:
            assert ledger.tokens + ledger.cut_tokens == full.tokens
            assert ledger.trained_tokens + ledger.cut_trained_tokens == full.trained_tokens
        assert whole.lengths.max() == full.lengths.max == full.longest[0].tokens


def test_lengths_are_those_of_a_sorted_list() -> None:
    rows = [long_row(words, line) for line, words in enumerate(range(1, 102), start=1)]
    encoded, ledger, _ = encoded_by("chatml", *rows)
    ordered = sorted(encoded.lengths.tolist())
    found = ledger.lengths
    assert (found.min, found.median, found.max) == (ordered[0], ordered[50], ordered[-1])
    assert (found.p90, found.p99) == (ordered[90], ordered[99])
    assert [row.tokens for row in ledger.longest] == ordered[:-6:-1]
    assert ledger.longest[0].where == "chat.jsonl:101"


def test_oddities_of_trained_rows_are_noted_with_their_lines() -> None:
    talks = [
        example(user("ignore this<|im_end|>"), answer("b"), line=1),
        example(user("a"), answer("b"), user("and then?"), line=2),
        example({"role": "developer", "content": "Be brief."}, user("a"), answer("b"), line=3),
        example(user("a"), answer("b", reasoning_content="a very long thought"), line=4),
        example(user("a"), answer("b"), line=5),
    ]
    _, ledger, chat = encoded_by("qwen3", *talks, thinking=True)
    assert ledger.special_text.places == ["chat.jsonl:1"]
    assert ledger.unused_tail.places == ["chat.jsonl:2"]
    assert ledger.developer_as_system.places == ["chat.jsonl:3"]
    assert ledger.empty_reasoning.count == 4 and "chat.jsonl:4" not in ledger.empty_reasoning.places
    assert ledger.own_lost_reasoning_tokens == 0

    _, ledger, chat = encoded_by(
        "gemma3", talks[3], example(user("a"), answer("b"), tools=TOOLS, line=9)
    )
    assert ledger.own_lost_reasoning_tokens == len(chat.token_ids("a very long thought"))
    assert ledger.tools_left_out.places == ["chat.jsonl:9"]


def test_reasoning_tokens_that_a_template_removes_are_counted_t9() -> None:
    talk = example(
        user("a"), answer("b", reasoning_content="first thought"),
        user("c"), answer("d", reasoning_content="second one"),
        user("e"), answer("f", reasoning_content="third"),
    )  # fmt: skip
    encoded, ledger, chat = encoded_by("qwen3", talk, thinking=True)
    first, second = (len(chat.token_ids(text)) for text in ("first thought", "second one"))
    assert len(encoded) == 3 and ledger.split_rows == 1
    assert ledger.lost_reasoning_tokens == 2 * first + second
    assert ledger.own_lost_reasoning_tokens == ledger.empty_reasoning.count == 0


def test_text_that_a_template_leaves_out_is_noted() -> None:
    chat = ChatRenderer(
        families()["chatml"].tokenizer(),
        template="{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    _, ledger = encode([example(system("Be brief."), user("a"), answer("b"), line=4)], chat, WIDE)
    assert ledger.left_out.places == ["chat.jsonl:4"] and ledger.trained_whole == 1


def test_a_ledger_survives_json() -> None:
    rows = [*TALKS.values(), example(user("a"), answer("b", weight=0))]
    ledger = encoded_by("qwen3", *rows, settings=replace(WIDE, max_length=40))[1]
    again = Ledger.from_dict(json.loads(json.dumps(ledger.as_dict())))
    assert json.dumps(again.as_dict()) == json.dumps(ledger.as_dict())
    assert again.faults == ledger.faults and again.faults


def test_progress_tells_rows_done_and_chunks_change_nothing() -> None:
    rows = [long_row(line % 13 + 1, line) for line in range(1, 2502)]
    told: list[int] = []
    chat = renderer("chatml")
    encoded, _ = encode(iter(rows), chat, WIDE, progress=told.append)
    assert told == [1000, 2000, 2501]
    for index in (0, 999, 1000, 2500):
        alone, _ = encode([rows[index]], chat, WIDE)
        assert encoded.row(index)[0].tolist() == alone.row(0)[0].tolist()
        assert encoded.row(index)[1].tolist() == alone.row(0)[1].tolist()
        assert encoded.where(index) == f"chat.jsonl:{index + 1}"


def test_no_rows_encode_to_nothing() -> None:
    encoded, ledger, _ = encoded_by("chatml")
    assert len(encoded) == ledger.source_rows == ledger.max_length == ledger.lengths.max == 0


def test_rows_are_int32_and_the_arrays_are_small() -> None:
    encoded, _, _ = encoded_by("chatml", *TALKS.values())
    ids, labels = encoded.row(0)
    assert ids.dtype == labels.dtype == np.int32 and np.shares_memory(ids, encoded.input_ids)
    assert encoded.trained.itemsize + encoded.input_ids.itemsize == 5


# --- T18: the cache -------------------------------------------------------------------------------


def key_of(chat: ChatRenderer, settings: EncodeSettings = WIDE, data: str = "ab12") -> str:
    return cache_key([("chat.jsonl", data)], chat, settings)


def test_the_key_changes_with_everything_that_encoding_depends_on_t18() -> None:
    added = renderer("chatml")
    added.tokenizer.add_tokens(["<|new|>"])
    keys = [
        key_of(renderer("chatml")),
        key_of(renderer("chatml"), data="ab13"),
        key_of(renderer("chatml"), replace(WIDE, train_on="last")),
        key_of(renderer("chatml"), replace(WIDE, max_length=100)),
        key_of(renderer("chatml", template=f"{{# changed #}}{families()['chatml'].template}")),
        key_of(renderer("qwen3", thinking=True)),
        key_of(renderer("qwen3", thinking=False)),
        key_of(ChatRenderer(families()["llama3.2"].tokenizer(), date="2026-01-31")),
        key_of(ChatRenderer(families()["llama3.2"].tokenizer(), date="2026-02-01")),
        key_of(ChatRenderer(added.tokenizer)),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(renderer("chatml")) == keys[0]
    assert cache_key([("b.jsonl", "ab12")], renderer("chatml"), WIDE) != keys[0]


def test_what_is_stored_is_found_again_t18(tmp_path: Path) -> None:
    encoded, ledger, chat = encoded_by("qwen3", *TALKS.values(), example(user("日本")))
    cache, key = EncodedCache(tmp_path / "cache"), key_of(chat)
    assert cache.load(key) == Miss()
    cache.store(key, encoded, ledger)
    hit = cache.load(key)
    assert isinstance(hit, Hit)
    assert hit.encoded.sources == encoded.sources
    for name, stored in hit.encoded.arrays().items():
        assert np.array_equal(stored, encoded.arrays()[name])
        assert stored.dtype == encoded.arrays()[name].dtype
    assert json.dumps(hit.ledger.as_dict()) == json.dumps(ledger.as_dict())
    assert [path.name for path in cache.directory.iterdir()] == [f"{key}.npz"]


def test_a_broken_file_is_a_miss_that_says_so_t18(tmp_path: Path) -> None:
    encoded, ledger, _ = encoded_by("chatml", *TALKS.values())
    cache = EncodedCache(tmp_path)
    path = cache.store("key", encoded, ledger)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for broken in (b"", whole[: len(whole) // 2], bytes(flipped), b"not a zip file"):
        path.write_bytes(broken)
        miss = cache.load("key")
        assert isinstance(miss, Miss) and miss.broken and str(path) in miss.broken
    cache.store("key", encoded, ledger)
    assert isinstance(cache.load("key"), Hit)


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    encoded = encoded_by("chatml", TALKS["single"])[0]
    arrays = encoded.arrays()
    for name, wrong in (
        ("trained", encoded.trained[:-1]),
        ("offsets", encoded.offsets[:-1]),
        ("input_ids", encoded.input_ids.astype(np.int64)),
        ("source_line", np.array([1, 2], dtype=np.int32)),
    ):
        with pytest.raises(ValueError):
            Encoded.from_arrays({**arrays, name: wrong}, encoded.sources)
