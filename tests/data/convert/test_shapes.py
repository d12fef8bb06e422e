"""Every shape of rows: what conversation comes of it, how that was found out, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.convert.converting import Converted, converted, delimited, jsonl, write

from tanren.chat import Example, parse_object
from tanren.data.convert import SHAPES
from tanren.errors import ConfigError, DataError

Turns = list[tuple[str, str]]


@pytest.fixture
def of(tmp_path: Path) -> Any:
    """`of(rows, **settings)`: the rows as JSONL, converted."""

    def make(rows: list[Any], **settings: Any) -> Converted:
        return converted(write(tmp_path / "t.jsonl", jsonl(rows)), **settings)

    return make


def shape_said(done: Converted) -> str:
    return done.made.parts[0].shape


PAIR: Turns = [("user", "?"), ("assistant", "!")]
LONG: Turns = [("user", "訳せ\n\n空"), ("assistant", "!")]
HUMAN = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]
CHAT = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]


@pytest.mark.parametrize(
    ("row", "turns", "said"),
    [
        ({"instruction": "?", "output": "!"}, PAIR, "Alpaca"),
        ({"instruction": "?", "input": "", "output": "!"}, PAIR, "Alpaca"),
        ({"instruction": "訳せ", "input": "空", "output": "!"}, LONG, "Alpaca"),
        ({"指示": "訳せ", "入力": "空", "出力": "!"}, LONG, "Alpaca"),
        ({"instruction": "訳せ", "context": "空", "response": "!"}, LONG, "Alpaca"),
        (
            {"instruction": "?", "output": "!", "system": "s", "history": [["a", "b"]]},
            [("system", "s"), ("user", "a"), ("assistant", "b"), *PAIR],
            "Alpaca",
        ),
        ({"conversations": HUMAN}, PAIR, 'ShareGPT: "conversations" with from/value'),
        ({"conversation": CHAT, "system": "s"}, [("system", "s"), *PAIR], "ShareGPT"),
        ({"messages": HUMAN}, PAIR, 'ShareGPT: "messages" with from/value'),
        ({"messages": CHAT}, PAIR, "chat"),
        ({"prompt": "?", "completion": "!"}, PAIR, "prompt/completion"),
        ({"prompt": "?", "response": "!"}, PAIR, "prompt/completion"),
        ({"prompt": [CHAT[0]], "completion": [CHAT[1]]}, PAIR, "prompt/completion"),
        ({"question": "?", "answer": "!"}, PAIR, "columns"),
        ({"質問": "?", "回答": "!"}, PAIR, "columns"),
        ({"問題": "?", "答え": "!"}, PAIR, "columns"),
        ({"指示": "?", "応答文": "-", "答": "!"}, PAIR, "columns"),
        ({"input": "?", "output": "!"}, PAIR, "columns"),
        ({"text": "?", "label": "!"}, PAIR, "columns"),
        ({"Ｑｕｅｓｔｉｏｎ": "?", "Answer ": "!"}, PAIR, "columns"),
        ({"system": "s", "question": "?", "answer": "!"}, [("system", "s"), *PAIR], "columns"),
        (
            {"question": "?", "choice0": "a", "choice1": "b", "label": 1},
            [("user", "?\n0. a\n1. b"), ("assistant", "b")],
            "multiple choice",
        ),
        (
            {"question": "?", "choices": ["a", "b"], "answer": "B"},
            [("user", "?\n0. a\n1. b"), ("assistant", "b")],
            "multiple choice",
        ),
        (
            {"question": "?", "option_a": "x", "option_b": "y", "answer": "A"},
            [("user", "?\na. x\nb. y"), ("assistant", "x")],
            "multiple choice",
        ),
    ],
)  # fmt: skip
def test_the_shape_is_found_and_said(of: Any, row: Any, turns: Turns, said: str) -> None:
    done = of([row, row])
    assert done.turns == [turns, turns]
    assert shape_said(done).startswith(said)


@pytest.mark.parametrize(
    ("row", "flags"),
    [
        ({"question": "?", "input": "x", "answer": "!"}, ["--user question", "--user input"]),
        (
            {"prompt": "?", "completion": "!", "question": "?", "answer": "!"},
            ["--from prompt-completion", "--user question"],
        ),
        (
            {"instruction": "?", "output": "!", "question": "?", "answer": "!"},
            ["--from alpaca", "--user question"],
        ),
    ],
)  # fmt: skip
def test_two_ways_to_read_are_never_decided_silently(of: Any, row: Any, flags: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        of([row], command="tanren data convert t")
    remedy = caught.value.faults[0].remedy
    assert all(f"tanren data convert t {flag}" in remedy for flag in flags)


def test_the_flags_that_are_offered_settle_it(of: Any) -> None:
    row = {"instruction": "i", "output": "o", "question": "?", "answer": "!"}
    assert of([row], user="question", assistant="answer").turns == [PAIR]
    assert of([row], shape="alpaca").turns == [[("user", "i"), ("assistant", "o")]]


@pytest.mark.parametrize(
    "row", [{"a b": 1, "c": 2}, {"chosen": "x", "rejected": "y", "prompt": "z"}]
)
def test_unknown_columns_are_named_with_what_to_write(of: Any, row: Any) -> None:
    with pytest.raises(DataError, match="--user"):
        of([row])


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "columns"])
def test_a_shape_that_is_asked_for_and_does_not_fit_is_refused(of: Any, shape: str) -> None:
    with pytest.raises(DataError, match=f"--from {shape}"):
        of([{"question": "?", "answer": "!"}], shape=shape)


# --- prompt and completion ---


def test_marks_of_the_old_api_are_removed_and_said(of: Any) -> None:
    rows = [{"prompt": f"q{n}？\n\n###\n\n", "completion": f" a{n}です。 END"} for n in range(120)]
    rows[110] = {"prompt": "bare", "completion": "bare"}
    done = of(rows)
    assert done.turns[7] == [("user", "q7？"), ("assistant", "a7です。")]
    assert done.turns[110] == [("user", "bare"), ("assistant", "bare")]
    said = shape_said(done)
    assert r"\n\n###\n\n" in said and '" END"' in said and "leading space" in said
    assert done.made.tally["prompts without the separator"] == 1
    assert done.made.tally["completions without the stop sign"] == 1


@pytest.mark.parametrize("end", ["ですか？", "!", "END", " I SPEND", "。", " a-", "END。", "-"])
def test_a_common_ending_that_is_text_stays(of: Any, end: str) -> None:
    rows = [{"prompt": f"q{n}{end}", "completion": f"a{n}{end}"} for n in range(5)]
    assert of(rows).turns[2] == [("user", f"q2{end}"), ("assistant", f"a2{end}")]


@pytest.mark.parametrize("end", [" ->", "\n\n###\n\n", "\n", "\n\n---\n\n", " =>"])
def test_separators_are_known_by_their_marks(of: Any, end: str) -> None:
    rows = [{"prompt": f"q{n}{end}", "completion": f"a{n}"} for n in range(5)]
    assert of(rows).turns[2][0] == ("user", "q2")


# --- ShareGPT and chats ---


def test_calls_of_sharegpt_become_tool_calls_with_their_answers(of: Any) -> None:
    turns = [
        {"from": "human", "value": "天気は？"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "東京"}}'},
        {"from": "observation", "value": '{"sky": "晴れ"}'},
        {"from": "gpt", "value": "晴れです。"},
    ]
    tools = json.dumps([{"name": "weather", "description": "d", "parameters": {"type": "object"}}])
    done = of([{"conversations": turns, "tools": tools, "system": "s"}])
    call, answer = done.chats[0]["messages"][2:4]
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"city": "東京"}
    assert answer["tool_call_id"] == call["tool_calls"][0]["id"]
    assert done.chats[0]["tools"][0]["function"]["name"] == "weather"


def test_an_unknown_speaker_is_a_fault_that_names_the_flag(of: Any) -> None:
    row = {"conversations": [{"from": "店員", "value": "!"}, {"from": "客", "value": "?"}]}
    with pytest.raises(DataError, match="--roles 店員=user"):
        of([row])
    done = of([row], roles={"店員": "assistant", "客": "user"})
    assert done.turns == [[("assistant", "!"), ("user", "?")]]
    assert done.made.warnings == 1, "the chat format warns of a question at the end"


def test_turns_that_are_not_trained_stay_so(of: Any) -> None:
    """T27."""
    turns = [*HUMAN, {"from": "gpt", "value": "no", "loss": False}]
    assert of([{"conversations": turns}]).chats[0]["messages"][2]["weight"] == 0


def test_a_sound_chat_passes_byte_for_byte(tmp_path: Path) -> None:
    lines = [
        '{"messages":[{"content":"\\u3042","role":"user"},   {"role":"assistant","content":"b"}]}',
        json.dumps({"messages": CHAT, "metadata": {"n": 1}, "id": "x"}),
    ]
    assert converted(write(tmp_path / "t.jsonl", "\r\n".join(lines))).lines == lines


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_turns_kept_as_json_text_in_a_table_are_decoded(tmp_path: Path, key: str) -> None:
    cell = json.dumps(CHAT if key == "messages" else HUMAN)
    rows = [{"id": 1, key: cell}, {"id": 2, key: cell}]
    assert converted(write(tmp_path / "t.csv", delimited(rows))).turns == [PAIR, PAIR]
    with pytest.raises(DataError, match=key):
        converted(write(tmp_path / "t.csv", delimited([*rows, {"id": 3, key: "[{"}])))


def test_unknown_keys_of_a_chat_are_left_out_and_counted(of: Any) -> None:
    done = of([{"messages": CHAT, "score": 1, "metadata": {"k": 1}}])
    assert done.chats == [{"messages": CHAT, "metadata": {"k": 1}}]
    assert done.made.parts[0].unused == {"score": 1}


def test_legacy_functions_become_tools(of: Any) -> None:
    row = {
        "messages": [
            CHAT[0],
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
            CHAT[1],
        ],
        "functions": [{"name": "f", "parameters": {"type": "object", "properties": {}}}],
    }  # fmt: skip
    done = of([row], shape="legacy")
    assert set(done.chats[0]) == {"messages", "tools"}
    text = done.lines[0]
    assert "function_call" not in text and '"functions"' not in text
    before, after = (parse_object(r, source="", line=1) for r in (row, done.chats[0]))
    assert isinstance(before, Example) and isinstance(after, Example)
    assert before.sha256 == after.sha256, "the same conversation"
    assert done.made.tally["rows whose legacy functions became tools"] == 1


def test_chats_that_the_format_refuses_are_faults_with_their_path(of: Any) -> None:
    rows = [{"messages": CHAT}, {"messages": [CHAT[0]]}, {"messages": "x"}]
    with pytest.raises(DataError) as caught:
        of(rows)
    assert [f.where.rpartition(":")[2] for f in caught.value.faults] == ["2 messages", "3 messages"]


# --- the system message ---


def test_a_system_message_is_added_where_there_is_none(of: Any) -> None:
    own = [{"role": "system", "content": "own"}, *CHAT]
    done = of([{"messages": CHAT}, {"messages": own}], system="新しい")
    assert [turn[0][1] for turn in done.turns] == ["新しい", "own"]
    assert done.made.tally["rows that kept a system message of their own"] == 1
    done = of([{"q": "?", "a": "!", "s": "x"}, {"q": "?", "a": "!", "s": ""}], system="@s")
    assert [len(turn) for turn in done.turns] == [3, 2]
    with pytest.raises(ConfigError, match="--system"):
        of([{"q": "?", "a": "!"}], system="@s")


# --- templates ---


def test_templates_see_columns_and_the_whole_row(of: Any) -> None:
    rows = [{"q": "?", "a b": "!", "tags": ["x", "y"]}]
    done = of(
        rows,
        user='{{ q }}{% if tags %} ({{ tags | join("・") }}){% endif %}',
        assistant='{{ row["a b"] }}',
    )
    assert done.turns == [[("user", "? (x・y)"), ("assistant", "!")]]


def test_a_template_file_makes_every_message(of: Any, tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.yaml",
        """messages:
  - {role: system, content: "{{ s }}"}
  - {role: user, content: "{{ q }}"}
  - {role: assistant, content: "{{ a | tojson }}"}
""",
    )
    rows = [{"s": "S", "q": "?", "a": {"あ": 1}, "n": 1}, {"s": "", "q": "?", "a": "!", "n": 1}]
    done = of(rows, template=path)
    assert done.turns[0] == [("system", "S"), ("user", "?"), ("assistant", '{"あ": 1}')]
    assert done.turns[1][0] == ("user", "?")
    assert done.made.tally["blank system messages left out"] == 1
    assert done.made.parts[0].unused == {"n": 2}


@pytest.mark.parametrize(
    "text",
    ["", "messages: []", "messages: [{role: boss, content: x}]", "a: [", "messages: [{role: user}]",
     "messages: [{role: user, content: 3}]", "messages: [{role: user, content: '{{'}]", "- x"],
)  # fmt: skip
def test_a_wrong_template_file_is_told(of: Any, tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"t\.yaml"):
        of([{"q": "?", "a": "!"}], template=write(tmp_path / "t.yaml", text))


def test_a_name_that_is_no_column_is_a_fault_with_the_columns(of: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "question,answer\n1,2\n")
    with pytest.raises(ConfigError) as caught:
        converted(path, user="{{ quesion }}", assistant="anwser")
    (fault,) = caught.value.faults
    assert '"question", "answer"' in fault.expected and '"question"?' in fault.remedy
    with pytest.raises(DataError) as refused:
        of([{"q": "?", "a": "!"}, {"a": "!"}], user="{{ q }}", assistant="a")
    assert refused.value.faults[0].where.endswith(":2") and "'q' is undefined" in str(refused.value)


@pytest.mark.parametrize(
    "attack", ['{{ "".__class__.__mro__ }}', "{{ q.__init__.__globals__ }}", "{{ range(10**9) }}"]
)
def test_templates_run_in_a_sandbox(of: Any, attack: str) -> None:
    with pytest.raises(DataError):
        of([{"q": "?", "a": "!"}], user=attack, assistant="a")


# --- rows as messages ---

LOG = [
    {"conversation_id": c, "role": r, "content": t, "turn": n, "x": "-"}
    for c, r, t, n in [
        ("1", "user", "q1", 1), ("1", "assistant", "a1", 2),
        ("2", "Human", "q2", 1), ("2", "AI", "a2", 2),
        ("2", "human", "q3", 3), ("2", "ai", "a3", 4),
    ]
]  # fmt: skip
WANTED = [
    [("user", "q1"), ("assistant", "a1")],
    [("user", "q2"), ("assistant", "a2"), ("user", "q3"), ("assistant", "a3")],
]


def test_rows_of_a_conversation_come_together(tmp_path: Path) -> None:
    done = converted(write(tmp_path / "t.csv", delimited(LOG)))
    assert done.turns == WANTED and "each stands together" in shape_said(done)
    assert (done.made.ledger.rows_used, done.made.chats) == (6, 2)
    assert done.made.parts[0].unused == {"turn": 6, "x": 6}
    scattered = [LOG[0], LOG[2], LOG[1], *LOG[3:]]
    done = converted(write(tmp_path / "t.csv", delimited(scattered)))
    assert done.turns == WANTED and "scattered" in shape_said(done)
    done = converted(write(tmp_path / "t.csv", delimited(LOG[::-1])), order="turn")
    assert done.turns == WANTED[::-1]


def test_scattered_rows_have_a_stated_bound(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tanren.data.convert.turns.HELD_ROWS", 5)
    assert converted(write(tmp_path / "t.csv", delimited(LOG))).turns == WANTED
    with pytest.raises(DataError, match="sort the file by conversation_id"):
        converted(write(tmp_path / "t.csv", delimited([LOG[0], LOG[2], *LOG])))


def test_a_conversation_that_loses_a_row_is_left_out_whole(tmp_path: Path) -> None:
    rows = [dict(row) for row in LOG]
    rows[3]["content"] = " "
    for order in (rows, [rows[0], rows[2], rows[1], *rows[3:]]):
        done = converted(write(tmp_path / "t.csv", delimited(order)))
        assert done.turns == WANTED[:1]
        counts = {e["reason"]: e["rows"] for e in done.ledger}
        assert counts == {"empty turn": 1, "the rest of a conversation that lost a row": 3}


def test_columns_of_rows_as_messages_can_be_named(of: Any) -> None:
    rows = [{"k": 1, "who": "客", "t": "?"}, {"k": 1, "who": "店員", "t": "!"}]
    names = {"conversation": "k", "role": "who", "content": "t"}
    roles = {"客": "user", "店員": "assistant"}
    assert of(rows, **names, roles=roles).turns == [PAIR]
    with pytest.raises(ConfigError, match="--content"):
        of(rows, conversation="k", role="who")
    with pytest.raises(ConfigError) as caught:
        of(rows, conversation="k", role="wo", content="tt", roles=roles)
    assert [fault.where for fault in caught.value.faults] == ["--role", "--content"]
    with pytest.raises(DataError, match="--roles 客=user"):
        of(rows, **names)


# --- cells ---


def test_what_is_no_text_is_converted_as_said_or_a_fault(of: Any) -> None:
    values = [3, 0.5, True, "x"]
    done = of([{"q": "?", "a": value} for value in values])
    assert [turn[1][1] for turn in done.turns] == ["3", "0.5", "true", "x"]
    assert done.made.tally["numbers written as text"] == 2
    assert done.made.tally["booleans written as text (true, false)"] == 1
    with pytest.raises(DataError) as caught:
        of([{"q": "?", "a": ["x"]}, {"q": {"k": 1}, "a": "!"}])
    assert [f.where.rpartition(" ")[2] for f in caught.value.faults] == ["a", "q"]
    assert "tojson" in caught.value.faults[0].remedy


def test_empty_cells_are_left_out_with_their_place(of: Any) -> None:
    rows = [{"q": "?", "a": v} for v in ("", None, "  ", "!")] + [{"q": "", "a": "!"}, {"q": "?"}]
    done = of(rows)
    assert done.left_out == {"empty answer": [1, 2, 3, 6], "empty question": [5]}
    assert done.turns == [PAIR] and all("faults" not in entry for entry in done.ledger)
    reason = done.made.ledger.reasons["empty answer"]
    assert reason.rows == 4 and reason.places[0].endswith("t.jsonl:1")
    kept = of(rows, keep_empty=True)
    assert kept.left_out == {"empty answer": [1, 2, 3, 6]}
    assert kept.turns[1] == [("user", ""), ("assistant", "!")]


def test_outer_spaces_go_and_are_counted_unless_kept(of: Any) -> None:
    rows = [{"q": " ?\n", "a": "\u3000!"}, {"q": "?", "a": "!"}]
    done = of(rows)
    assert done.turns == [PAIR, PAIR]
    assert done.made.tally["texts whose outer spaces were removed"] == 2
    kept = of(rows, keep_whitespace=True)
    assert kept.turns[0] == [("user", " ?\n"), ("assistant", "\u3000!")]
    assert not any("spaces" in words for words in kept.made.tally)


def test_unused_columns_are_named_and_counted(of: Any) -> None:
    done = of(
        [{"q": "?", "a": "!", "k": 1}, {"q": "?", "a": "!", "m": 1}, {"a": "!", "q": "?", "k": 2}]
    )
    assert done.made.parts[0].unused == {"k": 2, "m": 1}


def test_repeated_rows_stay(of: Any) -> None:
    assert len(of([{"q": "?", "a": "!"}] * 5).chats) == 5


@pytest.mark.parametrize("label", [5, "z", -3, [1], 1.5])
def test_a_label_that_names_no_choice_is_a_fault(of: Any, label: Any) -> None:
    row = {"question": "?", "choice0": "a", "choice1": "b", "label": label}
    with pytest.raises(DataError, match="label: found"):
        of([row])


def test_rows_of_a_test_set_without_labels_are_left_out(of: Any) -> None:
    row = {"question": "?", "choices": ["a", "b"], "label": -1}
    done = of([row, {**row, "label": 0}])
    assert list(done.left_out.values()) == [[1]] and len(done.chats) == 1
