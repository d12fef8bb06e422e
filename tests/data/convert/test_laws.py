"""Laws over anything: no traceback, no lost row, no line that the chat format refuses; texts come
back as they were; the quick way writes what the slow way writes.

`converting.Converted` checks the account and every line of each conversion.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.convert.converting import Converted, converted, jsonl, parquet, write, xlsx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tanren.chat import Example, parse_line
from tanren.data.convert.writing import checked_line, quick_line
from tanren.errors import TanrenError

TRIES = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))

FRAGMENTS = [
    b'{"question": "a", "answer": "b"}', b'{"messages": [', b'{"conversations": []}', b'"', b"'",
    b"question,answer\n", b"a,b\n", b":", b'"x\ny",', b"\r\n", b"\r", b"\n", b"\t",
    b"[", b"]", b"{", b"}",
    b",", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\x1b$B", b"\x1b(B", "日本語".encode(),
    "日本語".encode("cp932"), "日本語".encode("euc_jp"), b"\\ud83d", b"NaN", b"1e999", b"null",
    b'{"prompt": "p", "completion": "c"}\n', b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"PAR1",
    b"1" * 5000, b"[" * 2000, '{"role": "user", "content": "？"}'.encode(),
    b'{"a": NaN,', b'{"id": 1, "role": "user", "content": ""}',
]  # fmt: skip
anything = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=3)), max_size=12).map(
        b"".join
    ),
)


@contextmanager
def folder() -> Iterator[Path]:
    in_memory = Path("/dev/shm")  # every file is flushed to the disk, which takes its time
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as made:
        yield Path(made)


def attempt(path: Path, **options: Any) -> Converted | None:
    """The conversion with its laws checked; None when it was refused in words, no file touched."""
    before = {file: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    try:
        return converted(path, **options)
    except TanrenError as error:
        assert error.exit_code == 2
        assert error.faults and all(all(fault.as_dict().values()) for fault in error.faults), error
        str(error).encode("utf-8")
        after = {file: file.stat().st_mtime_ns for file in path.parent.iterdir()}
        assert after == before, "something half-written"
        return None


@TRIES
@given(anything, st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".parquet", ""]))
def test_any_bytes_are_converted_or_refused_in_words(content: bytes, suffix: str) -> None:
    with folder() as made:
        path = write(made / f"t{suffix}", content)
        for options in ({}, {"skip_faulty": True}, {"encoding": "cp932", "skip_faulty": True}):
            attempt(path, **options)


columns = {"user": "column 1", "assistant": "column 2", "header": False, "format": "csv"}


@TRIES
@given(anything)
@example(b'a,"b')
def test_any_bytes_as_a_table_are_accounted_for(content: bytes) -> None:
    with folder() as made:
        for options in ({}, {"skip_faulty": True}, {"delimiter": "\t", "keep_empty": True}):
            attempt(write(made / "t", content), **columns, **options)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = [
    "question", "answer", "prompt", "completion", "instruction", "input", "output", "messages",
    "conversations", "system", "history", "tools", "label", "choice0", "choice1", "choices", "text",
    "conversation_id", "role", "content", "functions",
]  # fmt: skip
turns = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "loss", "weight", "tool_calls"]),
        values
        | st.sampled_from(["user", "assistant", "human", "gpt", "function_call", "tool", "x"]),
        max_size=4,
    ),
    max_size=4,
)
rows = st.lists(
    st.dictionaries(st.sampled_from(NAMES), values | turns | st.text(), max_size=6)
    | st.fixed_dictionaries({"question": st.text(), "answer": values})
    | st.fixed_dictionaries({"conversations": turns})
    | st.fixed_dictionaries({"messages": turns})
    | values,
    max_size=6,
)


@TRIES
@given(rows, st.booleans())
def test_any_json_rows_are_accounted_for(found: list[Any], as_array: bool) -> None:
    text = json.dumps(found) if as_array else "".join(json.dumps(row) + "\n" for row in found)
    with folder() as made:
        path = write(made / "t.json", text)
        for options in ({}, {"skip_faulty": True}, {"skip_faulty": True, "keep_whitespace": True}):
            done = attempt(path, **options)
            if done is not None:
                assert done.made.ledger.rows_in == len(found)
                assert all("faults" in e or "empty" in e["reason"] or "label" in e["reason"]
                           or "rest of" in e["reason"] for e in done.ledger)  # fmt: skip


@TRIES
@given(rows)
def test_templates_over_any_rows_are_accounted_for(found: list[Any]) -> None:
    user = "{{ question | upper }}{{ answer[0].x + 1 }}{{ row }}"
    with folder() as made:
        path = write(made / "t.jsonl", "".join(json.dumps(row) + "\n" for row in found))
        attempt(path, user=user, assistant="{{ answer | tojson }}", skip_faulty=True)


# --- round trips ----------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t.strip())
cells = texts | st.text("\n\r\",;\t'|🗾é \u2028日本", min_size=1).filter(lambda t: t.strip())


@TRIES
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6), st.sampled_from(",;\t|"))
def test_what_csv_writes_is_read_back_exactly(pairs: list[tuple[str, str]], mark: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=mark, quoting=csv.QUOTE_ALL)
    writer.writerows([("question", "answer"), *pairs])
    with folder() as made:
        path = write(made / "t.csv", file.getvalue())
        done = converted(path, keep_whitespace=True, delimiter=mark, encoding="utf-8")
    assert [(turn[0][1], turn[1][1]) for turn in done.turns] == pairs


plain = st.text("abcあ漢🗾é,;\t'\"|\n<&>{}[]\\ ", min_size=1).filter(lambda t: t == t.strip() != "")


@settings(TRIES, max_examples=25)
@given(st.lists(st.tuples(plain, plain), min_size=1, max_size=5))
def test_all_formats_give_equal_bytes_for_any_text(pairs: list[tuple[str, str]]) -> None:
    found = [{"question": q, "answer": a} for q, a in pairs]
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("question", "answer"), *pairs])
    tabs = io.StringIO(newline="")
    csv.writer(tabs, delimiter="\t").writerows([("question", "answer"), *pairs])
    with folder() as made:
        paths = [
            write(made / "t.csv", table.getvalue()),
            write(made / "t.tsv", tabs.getvalue()),
            write(made / "t.jsonl", jsonl(found)),
            write(made / "t.json", json.dumps(found, indent=1)),
            parquet(made / "t.parquet", found),
            xlsx(made / "t.xlsx", found),
        ]
        results = {converted(path).bytes for path in paths}
    assert len(results) == 1


# --- the quick way --------------------------------------------------------------------------------

roles = st.sampled_from(["system", "developer", "user", "assistant", "tool", "x", ""])
messages = st.lists(
    st.fixed_dictionaries({"role": roles | values, "content": st.text() | values})
    | st.fixed_dictionaries({"role": roles, "content": st.text(), "weight": st.integers(0, 1)})
    | st.fixed_dictionaries({"role": roles, "text": st.text()}),
    min_size=1,
    max_size=4,
)


@settings(TRIES, max_examples=500)
@given(messages)
@example([{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "x"}])
@example([{"role": "user", "content": "\ufffd"}, {"role": "assistant", "content": "\0"}])
@example([{"role": "assistant", "content": "\x85"}])
@example([{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}])
@example([{"role": "user", "content": 'y\x7f\u2028\\"'}, {"role": "assistant", "content": "\t/"}])
def test_the_quick_line_is_the_checked_line(found: list[dict[str, Any]]) -> None:
    row = {"messages": found}
    quick = quick_line(row)
    if quick is None:
        return
    assert checked_line(row, source="s", line=1) == (quick, 0)
    assert isinstance(parse_line(quick.decode(), source="s", line=1), Example)
    assert json.loads(quick) == row


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2))
def test_plain_rows_take_the_quick_way(pair: list[str]) -> None:
    question, answer = (text.replace("\0", "").replace("\ufffd", "") + "x" for text in pair)
    row = {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }
    assert quick_line(row) is not None
