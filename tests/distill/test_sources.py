"""Laws of sources: what is read, what is left out and counted, what is refused before any start."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from distill.distilling import Carry, lines, settings, write_texts
from endpoint.chat_server import Answer, ChatServer, completion
from hypothesis import given
from hypothesis import strategies as st

from tanren.distill.rows import Source
from tanren.distill.settings import SourceConfig
from tanren.errors import ConfigError, DataError


def test_jsonl_of_prompts_and_chats(tmp_path: Path, carry_out: Carry, teacher: ChatServer) -> None:
    rows = [
        {"text": "一つ目", "id": 1},
        {"prompt": "二つ目", "id": 2},
        {"messages": [{"role": "user", "content": "三つ目"}], "id": 3},
        {
            "messages": [
                {"role": "system", "content": "own"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "weight": 0},
                {"role": "user", "content": "四つ目"},
                {"role": "assistant", "content": "old answer"},
            ],
            "id": 4,
        },
    ]
    source = tmp_path / "rows.jsonl"
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    source.write_text("\ufeff" + text, encoding="utf-8")
    teacher.behave = lambda body: Answer(body=completion("三" * 100))
    user = "{{ row.id }} {{ text }}{% if reference %} ({{ reference }}){% endif %}"
    done = carry_out(settings(teacher.url, source, user=user, concurrency=1))
    assert [body["messages"][-1]["content"] for body in teacher.bodies] == [
        "1 一つ目", "2 二つ目", "3 三つ目", "4 四つ目 (old answer)",
    ]  # fmt: skip
    last = teacher.bodies[-1]["messages"]
    assert [m["content"] for m in last[:3]] == ["own", "a", "b"] and "weight" not in str(last)
    kept = lines(done.folder.train_file)[-1]["messages"]
    assert kept[2] == {"role": "assistant", "content": "b", "weight": 0}
    assert kept[-1] == {"role": "assistant", "content": "三" * 100}
    assert [row["source"]["line"] for row in lines(done.folder.provenance_file)] == [1, 3, 5, 7]


def test_rows_that_cannot_be_asked_are_counted_with_their_places(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    source = write_texts(tmp_path / "texts", 2)
    (source / "empty.md").write_text(" \n", encoding="utf-8")
    (source / "notes.pdf").write_bytes(b"%PDF")
    (source / ".hidden").write_text("x", encoding="utf-8")
    done = carry_out(settings(teacher.url, source))
    left_out = done.source["left_out"]
    assert left_out["an empty text"] == {"count": 1, "places": [str(source / "empty.md")]}
    assert left_out["no .txt or .md file"]["count"] == 1 and len(left_out) == 2
    assert done.summary.rows == 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": 3}\n{"txt": "x"}\n[1]\n{"text": "x"', "4 faults"),
        ("a.jsonl", b'{"text": "x", "prompt": "y"}', "text and prompt"),
        ("a.jsonl", b'{"messages": [{"role": "usr", "content": "x"}]}', "messages[0].role"),
        ("a.jsonl", '{"text": "これは日本語です"}'.encode("cp932"), "CP932"),
        ("a.txt", "日本語の文章です。これはとても長い。".encode("cp932"), "source.encoding: cp932"),
        ("a.txt", b"", "an empty text"),
        ("gone.txt", None, "no such file"),
        ("gone.jsonl", None, "no such file"),
    ],
)
def test_unusable_rows_are_told_before_anything_is_asked(
    tmp_path: Path,
    carry_out: Carry,
    teacher: ChatServer,
    name: str,
    content: bytes | None,
    says: str,
) -> None:
    source = tmp_path / name
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(DataError) as error:
        carry_out(settings(teacher.url, source))
    assert says in str(error.value)
    assert not teacher.bodies and not (tmp_path / "out").exists()


def test_a_source_that_changes_while_it_is_read_is_told(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    source = write_texts(tmp_path / "texts", 4)

    def behave(body: Any) -> Answer:
        (source / "003.txt").write_text("other words", encoding="utf-8")
        return Answer(body=completion("三" * 100))

    teacher.behave = behave
    with pytest.raises(DataError, match="other rows than at the start"):
        carry_out(settings(teacher.url, source, concurrency=1))
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_rows_with_tools_are_left_out(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    tool = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
    asked = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": asked, "tools": [tool]}, {"messages": asked}, {"messages": asked[1:]}]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    teacher.behave = lambda body: Answer(body=completion("三" * 100))
    done = carry_out(settings(teacher.url, source))
    assert done.summary.rows == 1 and len(teacher.bodies) == 1
    assert [(why, left["places"]) for why, left in done.source["left_out"].items()] == [
        ("tools, which are not sent to teachers", [f"{source}:1"]),
        ("no question before the answer", [f"{source}:3"]),
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "prompt", "messages", "role", "content", "tools", "id"])
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "developer", "bot"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": st.text(max_size=5)}))
ROWS = VALUES | st.fixed_dictionaries({"messages": MESSAGES})
LINES = st.lists(ROWS.map(lambda row: json.dumps(row).encode()) | st.binary(max_size=12))


@given(LINES)
def test_whatever_stands_in_a_file_each_line_is_a_row_a_fault_or_left_out(
    content: list[bytes],
) -> None:
    whole = b"\n".join(content)
    written = [line for line in whole.split(b"\n") if line.removeprefix(b"\xef\xbb\xbf").strip()]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(whole)
        source = Source(SourceConfig(path=str(path)), system=None, user="{{ text }}")
        try:
            facts = source.survey()
        except DataError as error:
            assert error.faults
            return
        rows = list(source.rows(facts))
    left_out = sum(count for count, _ in facts.left_out.values())
    assert facts.rows == len(rows) and facts.rows + left_out == len(written)
    assert all(row.asked[-1] == {"role": "user", "content": row.user} for row in rows)


def test_another_encoding_is_read_when_it_is_named(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    """T26."""
    file = tmp_path / "a.txt"
    file.write_bytes("日本語の文章です。\r\n二行目。".encode("cp932"))
    source = {"path": str(file), "encoding": "cp932"}
    carry_out({**settings(teacher.url), "source": source})
    assert teacher.asked[0] == "日本語の文章です。\n二行目。"


def test_a_template_is_tried_before_anything_is_asked(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    source = write_texts(tmp_path / "texts", 1)
    for user, says in (("{{ txt }}", "did you mean 'text'"), ("{{ text", "user line 1")):
        with pytest.raises(ConfigError, match=says):
            carry_out(settings(teacher.url, source, user=user))
    with pytest.raises(DataError, match="no attribute 'id'"):
        carry_out(settings(teacher.url, source, user="{{ row.id }}"))
    data = write_texts(tmp_path / "more", 1, "{{ 7 * 7 }} ")
    carry_out(settings(teacher.url, data))
    assert teacher.asked[0].startswith("{{ 7 * 7 }}"), "rows are data, never templates"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tries": 2, "teacher": {"temperature": 0.0}}, "temperature 0 and tries: 2"),
        ({"budget": {"money": 1.0}}, "prices"),
        ({"teacher": {"base_url": "https://api.example.com/v1"}}, "remote_host"),
        ({"teacher": {"api_key_env": "NO_SUCH_KEY"}}, "NO_SUCH_KEY"),
        ({"teecher": 3}, "did you mean 'teacher'"),
        ({"repairs": -1}, "repairs"),
    ],
)
def test_wrong_settings_say_where(
    tmp_path: Path,
    carry_out: Carry,
    teacher: ChatServer,
    changes: dict[str, Any],
    says: str,
) -> None:
    source = write_texts(tmp_path / "texts", 1)
    with pytest.raises(ConfigError) as error:
        carry_out(settings(teacher.url, source, **changes))
    assert says in str(error.value)
    assert not (tmp_path / "out").exists()
