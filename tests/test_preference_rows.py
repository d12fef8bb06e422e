"""Preference lines: read with every fault at once (T7), encoded with one prompt for both halves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from tanren.chat import Preference, parse_line, parse_preference, parse_preference_object
from tanren.data.read import PreferenceReader, Refused
from tanren.data.survey import survey
from tanren.encode import Encoded, EncodeSettings, Ledger, cache_key, encode_pairs
from tanren.errors import DataError
from tanren.template import ChatRenderer

ASKED = {"messages": [{"role": "user", "content": "空はなぜ青いの？"}]}
GOOD = [{"role": "assistant", "content": "青い光がよくちらばるからだよ。"}]
BAD = [{"role": "assistant", "content": "知らない。"}]
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}


def row(**changes: Any) -> dict[str, Any]:
    return {"input": ASKED, "preferred_output": GOOD, "non_preferred_output": BAD, **changes}


def faults_of(value: Any) -> list[str]:
    found = parse_preference(json.dumps(value, ensure_ascii=False), source="p.jsonl", line=3)
    assert isinstance(found, list), "there should be faults"
    return [f"{fault.where.removeprefix('p.jsonl:3').strip()}: {fault.found}" for fault in found]


def read(value: Any) -> Preference:
    found = parse_preference_object(value, source="p.jsonl", line=1)
    assert isinstance(found, Preference), found
    return found


# --- reading --------------------------------------------------------------------------------------


def test_a_row_is_a_prompt_with_two_answers() -> None:
    found = read(row(metadata={"by": "me"}))
    assert found.preferred.messages == ({**ASKED["messages"][0]}, GOOD[0])
    assert found.rejected.messages == ({**ASKED["messages"][0]}, BAD[0])
    assert found.preferred.trained_turns == (1,) and found.ignored_keys == ("metadata",)
    assert (found.source, found.line, found.warnings) == ("p.jsonl", 1, ())


def test_tools_and_calls_are_read_as_in_chat_lines() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    called = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    asked = {**ASKED, "tools": [TOOL], "parallel_tool_calls": False}
    found = read(row(input=asked, preferred_output=called))
    assert found.preferred.tools == found.rejected.tools and len(found.preferred.tools) == 1
    assert found.preferred.messages[-1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert found.preferred.parallel_tool_calls is False


BROKEN: list[tuple[Any, list[str]]] = [
    ([], [": a list of 0"]),
    ({}, [": an empty object"]),
    ({"messages": []}, [': key "messages"']),
    (row(input=None), ["input: null"]),
    (row(input={"messages": []}), ["input.messages: an empty list"]),
    (row(preferred_output=GOOD[0]), ['preferred_output: an object with keys "role", "content"']),
    (row(non_preferred_output=[]), ["non_preferred_output: 0 messages"]),
    (row(non_preferred_output=[*BAD, *BAD]), ["non_preferred_output: 2 messages"]),
    (row(non_preferred_output=GOOD), [": the same answer twice"]),
    (
        row(preferred_output=[{**GOOD[0], "weight": 0}]),
        ["preferred_output[0].weight: 0"],
    ),
    (
        {
            "input": {"messages": [{"role": "usr", "content": 5}], "tool": []},
            "preferred_output": [{"role": "user", "content": "x"}],
            "non_preferred_output": [{"role": "assistant", "content": ""}],
            "note": 1,
        },
        [
            ': the unknown key "note"',
            'input: the unknown key "tool"',
            'preferred_output[0].role: "user"',
            'input.messages[0].role: "usr"',
            "input.messages[0].content: 5",
            "non_preferred_output[0].content: empty text",
        ],
    ),
]


@pytest.mark.parametrize("index", range(len(BROKEN)))
def test_t7_every_fault_of_a_row_is_told_at_its_place(index: int) -> None:
    broken, expected = BROKEN[index]
    found = faults_of(broken)
    if index in (3, 4):  # the words of the JSON reader are its own
        assert [fault.partition(":")[0] for fault in found] == [
            e.partition(":")[0] for e in expected
        ]
    else:
        assert found == expected


def test_what_is_wrong_in_the_prompt_is_told_once() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
    asked = {"messages": [*ASKED["messages"], {"role": "assistant", "tool_calls": [call]}]}
    places = [fault.partition(" ")[0] for fault in faults_of(row(input=asked))]
    assert len(places) == 1 and places[0].startswith("input.messages[1].tool_calls[0]")


def test_other_formats_are_named_with_the_way_here() -> None:
    trl = parse_preference('{"prompt": "a", "chosen": "b", "rejected": "c"}', source="p", line=1)
    chat = parse_preference(json.dumps(ASKED), source="p", line=1)
    back = parse_line(json.dumps(row()), source="p", line=1)
    assert isinstance(trl, list) and 'rename "prompt"' in trl[0].remedy
    assert isinstance(chat, list) and "objective=sft" in chat[0].remedy
    assert isinstance(back, list) and "objective=dpo" in back[0].remedy


def test_a_weight_in_the_prompt_means_nothing_and_is_told() -> None:
    said = {"role": "assistant", "content": "うん。", "weight": 1}
    again = {"role": "user", "content": "それで？"}
    found = read(row(input={"messages": [*ASKED["messages"], said, again]}))
    assert "weight" not in found.preferred.messages[1] and len(found.warnings) == 1
    assert found.warnings[0].where == "p.jsonl:1 input.messages[1].weight"


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8"
    )
    return path


def test_a_file_is_counted_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [row(), {"input": 1, "preferred_output": GOOD}, row()])
    reader = PreferenceReader(path)
    kinds = [type(found) for found in reader]
    assert kinds == [Preference, Refused, Preference]
    assert (reader.counts.examples, reader.counts.refused, reader.counts.faults) == (2, 1, 2)


def test_a_survey_counts_rows_and_what_repeats(tmp_path: Path) -> None:
    swapped = row(preferred_output=BAD, non_preferred_output=GOOD)
    found = survey(
        write(tmp_path / "p.jsonl", [row(), row(), swapped]),
        against=write(tmp_path / "v.jsonl", [row()]),
        preferences=True,
    )
    assert (found.train.turns, found.train.trained_turns) == (6, 6)
    assert found.duplicates.train.identical.count == 1
    assert found.duplicates.train.contradictions.count == 1, "the preference was turned around"
    assert found.duplicates.leaks.identical.count == 1
    assert any("preferred answer" in text for text in found.warnings)
    with pytest.raises(DataError):
        survey(write(tmp_path / "b.jsonl", [{"messages": []}]), preferences=True).require_sound()


# --- encoding -------------------------------------------------------------------------------------


def encoded(
    tokenizer: Any, tmp_path: Path, rows: list[Any], limit: int | str = "auto"
) -> tuple[Encoded, Ledger]:
    settings = EncodeSettings(model_max_length=256, max_length=limit, pairs=True)  # type: ignore[arg-type]
    renderer = ChatRenderer(tokenizer)
    return encode_pairs(PreferenceReader(write(tmp_path / "e.jsonl", rows)), renderer, settings)


def test_both_halves_have_the_prompt_of_inference_and_train_the_answer_alone(
    tokenizer: Any, tmp_path: Path
) -> None:
    """T1, T2: the decoded trained text is each answer with its end of turn; the tokens before it
    are those that inference sees.
    """
    found, ledger = encoded(tokenizer, tmp_path, [row(), row(non_preferred_output=BAD)])
    prompt = ChatRenderer(tokenizer).prompt_ids(ASKED["messages"])
    assert len(found) == 4 and ledger.trained_rows == 2 and ledger.sequences == 4
    for index in range(4):
        ids, labels = found.row(index)
        answer = (GOOD, BAD)[index % 2][0]["content"]
        trained = labels[labels != -100].tolist()
        assert tokenizer.decode(trained) == answer + tiny.END
        assert ids[: len(prompt)].tolist() == prompt
        assert (labels[: len(prompt)] == -100).all() and len(ids) == len(prompt) + len(trained)


def test_a_row_is_cut_with_either_half_and_refused_with_either(
    tokenizer: Any, tmp_path: Path
) -> None:
    """T3: every row is in exactly one of whole, cut, refused; tokens are kept or cut."""
    long = [{"role": "assistant", "content": 2 * GOOD[0]["content"]}]
    whole, _ = encoded(tokenizer, tmp_path, [row(preferred_output=long)])
    prompt = len(ChatRenderer(tokenizer).prompt_ids(ASKED["messages"]))
    longer, shorter = (int(n) for n in whole.lengths)
    assert longer > shorter + 2
    rows = [
        row(preferred_output=long),
        row(preferred_output=BAD, non_preferred_output=long),
    ]
    cut, ledger = encoded(tokenizer, tmp_path, rows, shorter + 1)
    assert (ledger.trained_cut, ledger.trained_whole, ledger.cut_replies) == (2, 0, 2)
    assert ledger.cut_tokens == 2 * (longer - shorter - 1)
    assert cut.lengths.tolist() == [shorter + 1, shorter, shorter, shorter + 1]
    _, none = encoded(tokenizer, tmp_path, rows, prompt)
    assert none.trained_rows == 0 and none.refused == {"too long": 2}
    assert none.source_rows == 2


def test_pairs_are_never_taken_for_chat_rows_by_the_cache(tokenizer: Any) -> None:
    """T18: the same bytes, encoded as pairs, are something else."""
    renderer = ChatRenderer(tokenizer)
    keys = {
        cache_key([("a", "0")], renderer, EncodeSettings(model_max_length=256, pairs=pairs))
        for pairs in (False, True)
    }
    assert len(keys) == 2


@pytest.mark.parametrize("name", ["train", "validation"])
def test_the_example_files_are_sound(name: str) -> None:
    path = Path(__file__).parent.parent / "data" / f"short_answers.{name}.jsonl"
    rows = list(PreferenceReader(path))
    assert len(rows) == {"train": 24, "validation": 8}[name]
    assert all(isinstance(one, Preference) and not one.warnings for one in rows)
