"""Files as people have them: encodings (T26), endings, and unusable ones (T7)."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tanren
from tanren.chat import Example
from tanren.data.files import FileStamp, ensure_unchanged
from tanren.data.read import ChatReader, Refused, read_chat
from tanren.errors import DataError

QUESTION = "空はなぜ青いのですか？"
ANSWER = "光が空気のつぶにぶつかって、青い光がよくちらばるからです。"
JSONL = "expected a text file with one JSON object per line (JSONL)"


def line(question: str = QUESTION, answer: str = ANSWER) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(data: bytes | str, name: str = "chat.jsonl") -> Path:
    path = Path(name)
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return path


def examples(path: Path) -> list[Example]:
    rows = list(read_chat(path))
    assert all(isinstance(row, Example) for row in rows), rows
    return [row for row in rows if isinstance(row, Example)]


def refused(path: Path) -> list[str]:
    return [
        str(fault) for row in read_chat(path) if isinstance(row, Refused) for fault in row.faults
    ]


def fault_of_file(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_chat(path))
    (fault,) = caught.value.faults
    return str(fault)


# --- what is accepted ---


@pytest.mark.parametrize(
    "data",
    [
        line() + "\n" + line() + "\n",
        line() + "\n" + line(),
        line() + "\r\n" + line() + "\r\n",
        "\ufeff" + line() + "\n" + line() + "\n",
        "\n \n" + line() + "\n\t\r\n" + line() + "\n\n",
        "\ufeff" + line() + "\n\ufeff" + line() + "\n",
        "  " + line() + "  \n" + line() + "\n",
    ],
    ids=["plain", "no last newline", "CRLF", "BOM", "blank lines", "joined files", "spaces"],
)
def test_t26_line_endings_marks_and_blank_lines_change_no_text(data: str) -> None:
    rows = examples(write(data))
    assert [row.messages[0]["content"] for row in rows] == [QUESTION, QUESTION]
    assert [row.messages[1]["content"] for row in rows] == [ANSWER, ANSWER]
    numbered = enumerate(data.split("\n"), 1)
    assert [row.line for row in rows] == [number for number, text in numbered if "{" in text]


def test_only_a_line_feed_ends_a_row() -> None:
    """U+2028 and U+0085 are text; Python's own splitlines would tear the row apart."""
    (row,) = examples(write(line(answer="一\u2028二\u0085三") + "\n"))
    assert row.messages[1]["content"] == "一\u2028二\u0085三"


def test_counts_account_for_every_line_and_byte() -> None:
    wide = json.loads(line())
    data = "\n".join(
        [
            "\ufeff" + line(),
            "",
            "{oops",
            json.dumps({**wide, "metadata": {}, "id": 3}),
            json.dumps({**wide, "id": 4, "messages": [*wide["messages"], wide["messages"][0]]}),
            json.dumps({"messages": [{"role": "bot", "content": 3}]}),
            "  ",
            line(),
        ]
    )
    reader = ChatReader(write(data))
    for seen, _ in enumerate(reader, 1):
        counts = reader.counts
        assert counts.lines == counts.blank_lines + counts.examples + counts.refused
        assert counts.examples + counts.refused == seen
        assert not counts.complete
    counts = reader.counts
    assert (counts.lines, counts.blank_lines, counts.examples, counts.refused) == (8, 2, 4, 2)
    assert (counts.faults, counts.warnings, counts.byte_order_marks) == (3, 1, 1)
    assert counts.ignored_keys == {"metadata": 1, "id": 2}
    assert counts.bytes == counts.total_bytes == len(data.encode())
    assert counts.complete and counts.sha256 == hashlib.sha256(data.encode()).hexdigest()


def test_a_limit_ends_early_and_says_so() -> None:
    path = write((line() + "\n") * 5)
    reader = ChatReader(path, limit=2)
    assert [row.line for row in reader] == [1, 2]
    assert reader.counts.sha256 is None and not reader.counts.complete
    assert reader.counts.bytes == 2 * len((line() + "\n").encode())
    assert len(list(reader)) == 2, "a second iteration starts at the first row"
    assert list(read_chat(path, limit=0)) == []


def test_a_pipe_is_read_once() -> None:
    os.mkfifo("pipe")

    def feed() -> None:
        Path("pipe").write_bytes((line() + "\n").encode() * 3)

    writer = threading.Thread(target=feed)
    writer.start()
    reader = ChatReader(Path("pipe"))
    assert len(list(reader)) == 3
    writer.join()
    assert reader.counts.total_bytes is None and reader.counts.complete


# --- files that are unusable as a whole ---


def test_t7_a_missing_file_names_the_nearest() -> None:
    write(line(), "chat.jsonl")
    write("", "other.txt")
    assert fault_of_file(Path("chta.jsonl")) == (
        f"chta.jsonl: found no such file, {JSONL}; did you mean chat.jsonl?"
    )
    assert fault_of_file(Path("chat.json")) == (
        f"chat.json: found no such file, {JSONL}; did you mean chat.jsonl?"
    )
    assert fault_of_file(Path("zebra")) == (f"zebra: found no such file, {JSONL}; correct the path")


def test_t7_a_missing_folder_is_named() -> None:
    Path("data").mkdir()
    write(line(), "data/chat.jsonl")
    assert fault_of_file(Path("date/x/chat.jsonl")) == (
        f"date/x/chat.jsonl: found no folder date, {JSONL}; did you mean data?"
    )
    assert fault_of_file(Path("data/chat.jsonl/x")) == (
        f"data/chat.jsonl/x: found no such file, {JSONL}; correct the path: one of its folders is "
        "a file"
    )


def test_t26_a_name_in_another_unicode_form_is_found() -> None:
    """macOS writes が as two characters; on disk that is another name."""
    write(line(), unicodedata.normalize("NFD", "データが.jsonl"))
    fault = fault_of_file(Path("データが.jsonl"))
    assert fault.endswith("did you mean " + unicodedata.normalize("NFD", "データが.jsonl") + "?")


def test_t7_a_folder_names_a_file_in_it() -> None:
    Path("data").mkdir()
    assert fault_of_file(Path("data")) == (
        f"data: found a folder, {JSONL}; name a file (it is empty)"
    )
    for name in ("a.csv", "b.jsonl"):
        write(line(), f"data/{name}")
    assert fault_of_file(Path("data")) == (
        f"data: found a folder, {JSONL}; name a file in it, such as data/b.jsonl, data/a.csv"
    )


WRONG_KINDS: list[tuple[str, bytes, str]] = [
    ("a.jsonl", b"", f"a.jsonl: found an empty file, {JSONL}; write the rows or correct the path"),
    (
        "a.jsonl.gz",
        gzip.compress(line().encode()),
        f"a.jsonl.gz: found a gzip file, {JSONL}; unpack it: gunzip -k a.jsonl.gz",
    ),
    (
        "a b.jsonl",
        gzip.compress(line().encode()),
        f"a b.jsonl: found a gzip file, {JSONL}; unpack it: gunzip -k 'a b.jsonl'",
    ),
    (
        "a.parquet",
        b"PAR1\x15\x04",
        f"a.parquet: found a Parquet file, {JSONL}; write its rows as JSONL, for example with "
        "pandas: pd.read_parquet('a.parquet').to_json(..., orient='records', lines=True)",
    ),
    (
        "a.csv",
        "質問,答え\n空,青\n".encode(),
        f'a.csv: found a comma-separated table ("質問,答え"), {JSONL}; write each row as '
        '{"messages": [...]} on a line of its own',
    ),
    (
        "a.xlsx",
        b"PK\x03\x04rest",
        f"a.xlsx: found a zip (or Excel) file, {JSONL}; unpack it, or export the sheet and write "
        "its rows as JSONL",
    ),
    (
        "blank.jsonl",
        b"\xef\xbb\xbf\n \r\n",
        "blank.jsonl: found 2 blank lines, expected at least "
        "one row; write the rows or correct the path",
    ),
    (
        "array.json",
        f"[{line()},\n{line()}]".encode(),
        "array.json:1: found one JSON list, expected one JSON object per line (JSONL); write one "
        "object per line: jq -c '.[]' array.json > array.lines.json",
    ),
    (
        "pretty.json",
        json.dumps([json.loads(line())], indent=2).encode(),
        "pretty.json:1: found one JSON list, expected one JSON object per line (JSONL); write one "
        "object per line: jq -c '.[]' pretty.json > pretty.lines.json",
    ),
    (
        "objects.jsonl",
        b"\n" + json.dumps(json.loads(line()), indent=2).encode(),
        "objects.jsonl:2: found JSON spread over many lines, expected one JSON object per line "
        "(JSONL); write one object per line: jq -c . objects.jsonl > objects.lines.jsonl",
    ),
    (
        "bom16.jsonl",
        line().encode("utf-16"),
        "bom16.jsonl:1: found what looks like UTF-16 (byte order mark ff fe), expected text in "
        "UTF-8; convert the file: iconv -f UTF-16 -t UTF-8 bom16.jsonl > bom16.utf8.jsonl",
    ),
    (
        "le.jsonl",
        line().encode("utf-16-le"),
        "le.jsonl:1: found what looks like UTF-16 (little-endian, without byte order mark), "
        "expected text in UTF-8; convert the file: iconv -f UTF-16LE -t UTF-8 le.jsonl > "
        "le.utf8.jsonl",
    ),
    (
        "be.jsonl",
        line().encode("utf-16-be"),
        "be.jsonl:1: found what looks like UTF-16 (big-endian, without byte order mark), "
        "expected text in UTF-8; convert the file: iconv -f UTF-16BE -t UTF-8 be.jsonl > "
        "be.utf8.jsonl",
    ),
    (
        "sjis.jsonl",
        (line("hello", "world") + "\n" + line()).encode("cp932"),
        "sjis.jsonl:2 byte 44: found what looks like CP932 (Shift_JIS) (8b f3 82 cd), expected "
        "text in UTF-8; convert the file: iconv -f CP932 -t UTF-8 sjis.jsonl > sjis.utf8.jsonl",
    ),
    (
        "日本語 euc.jsonl",
        line().encode("euc_jp"),
        "日本語 euc.jsonl:1 byte 44: found what looks like EUC-JP (b6 f5 a4 cf), expected text in "
        "UTF-8; convert the file: iconv -f EUC-JP -t UTF-8 '日本語 euc.jsonl' > "
        "'日本語 euc.utf8.jsonl'",
    ),
    (
        "latin.jsonl",
        line("Où est le café ?", "À côté de l’hôtel.").encode("cp1252"),
        "latin.jsonl:1 byte 45: found what looks like CP1252 (Western European) (f9 20 65 73), "
        "expected text in UTF-8; convert the file: iconv -f CP1252 -t UTF-8 latin.jsonl > "
        "latin.utf8.jsonl",
    ),
    (
        "unknown.jsonl",
        (line("天空为什么是蓝色的", "因为光的散射") + "\n").encode("gb18030"),
        "unknown.jsonl:1 byte 44: found bytes that are not UTF-8 (cc ec bf d5), expected text in "
        "UTF-8; save it as UTF-8 in the program that wrote it (its encoding is not known)",
    ),
]


@pytest.mark.parametrize(
    ("name", "data", "expected"), WRONG_KINDS, ids=[name for name, _, _ in WRONG_KINDS]
)
def test_t7_t26_unusable_files_say_what_they_are(name: str, data: bytes, expected: str) -> None:
    assert fault_of_file(write(data, name)) == expected


def test_iso_2022_jp_is_named_in_the_row() -> None:
    """It is ASCII to the eye of UTF-8; only its escape sequences give it away."""
    (fault,) = refused(write(line().encode("iso2022_jp")))
    assert fault.endswith("convert the file from ISO-2022-JP to UTF-8")


def test_t26_damage_in_a_utf8_file_is_a_fault_of_its_row() -> None:
    good = line().encode()
    cut = good.replace("青い".encode(), "青い".encode()[:4], 1)
    path = write(b"\n".join([good, cut, line().encode("cp932"), good]))
    rows = list(read_chat(path))
    assert [type(row) for row in rows] == [Example, Refused, Refused, Example]
    assert refused(path) == [
        'chat.jsonl:2 byte 59: found broken UTF-8 (e3 e3 81 ae) after "\\", \\"content\\": '
        '\\"空はなぜ青", expected text in UTF-8; restore the character (text was cut or damaged '
        "there) or delete the row",
        "chat.jsonl:3 byte 44: found what looks like CP932 (Shift_JIS) (8b f3 82 cd), expected "
        "text in UTF-8; convert the row from CP932",
    ]


def test_damage_in_the_first_row_does_not_condemn_the_file() -> None:
    good = line().encode()
    cut = good.replace("青い".encode(), "青い".encode()[:4], 1)
    rows = list(read_chat(write(cut + b"\n" + good)))
    assert [type(row) for row in rows] == [Refused, Example]


@pytest.mark.parametrize("codec", ["cp932", "euc_jp"])
def test_t26_no_text_is_ever_decoded_with_a_guess(codec: str) -> None:
    """Whatever the bytes, no row with U+FFFD or mojibake comes out."""
    path = write((line() + "\n").encode(codec) * 3)
    out = []
    with pytest.raises(DataError):
        out.extend(read_chat(path))
    assert out == []


def test_a_line_without_end_is_refused_before_it_fills_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tanren.data.read.MAX_LINE_BYTES", 1 << 20)
    path = write(b'{"messages": ' + b" " * (1 << 20) + b"\n")
    assert fault_of_file(path) == (
        'chat.jsonl:1: found a line of more than 1 MiB, starting "{\\"messages\\": '
        + " " * 27
        + '", expected one row per line; write one JSON object per line'
    )


def test_every_row_is_reported_not_only_the_first() -> None:
    path = write("\n".join(["{", line(), "[1]", line(), '{"messages": []}']).replace("{\n", "{a\n"))
    assert [fault.split(":")[1].split(" ")[0] for fault in refused(path)] == ["1", "3", "5"]


# --- changed while it was read ---


def rewrite(path: Path) -> None:
    path.write_text(line() + "\n" + line() + "\n", encoding="utf-8")


def replace(path: Path) -> None:
    other = Path("new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [rewrite, replace, touch, Path.unlink])
def test_a_file_that_changes_while_it_is_read_is_refused(change: Callable[[Path], None]) -> None:
    path = write(line() + "\n")
    rows: Iterator[Example | Refused] = read_chat(path)
    next(rows)
    change(path)
    with pytest.raises(DataError, match="the file unchanged while it is read"):
        list(rows)


def test_an_unchanged_file_passes() -> None:
    path = write(line())
    stamp = FileStamp.of(path.stat())
    ensure_unchanged(path, stamp)
    rewrite(path)
    with pytest.raises(DataError) as caught:
        ensure_unchanged(path, stamp)
    size = len((line() + "\n").encode())
    assert str(caught.value.faults[0]) == (
        f"chat.jsonl: found {2 * size} bytes after {size - 1} bytes before, expected the file "
        "unchanged while it is read; wait until nothing writes to it and start again"
    )


# --- locale ---

READ_AND_PRINT = """
import sys
from pathlib import Path
from tanren.data.read import read_chat
row, bad = read_chat(Path(sys.argv[1]))
sys.stdout.buffer.write(f"{row.source}|{row.messages[1]['content']}|{bad.faults[0]}".encode())
"""


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_t26_japanese_paths_and_text_under_an_ascii_locale(locale: str) -> None:
    Path("日本語 データ").mkdir()
    path = write(line() + '\n{"質問": 1}\n', "日本語 データ/会話.jsonl")
    environment = {
        "LC_ALL": locale,
        "PATH": os.environ["PATH"],
        # Off, so that the ASCII locale is really met: Python would quietly choose UTF-8.
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", READ_AND_PRINT, os.fsencode(path)],
        env={**environment, "PYTHONPATH": str(Path(tanren.__file__).parent.parent)},
        capture_output=True,
        check=True,
    )
    source, content, fault = done.stdout.decode("utf-8").split("|")
    assert source == str(path)
    assert content == ANSWER
    assert fault.startswith(f'{path}:2: found key "質問"')
    assert "\ufffd" not in done.stdout.decode("utf-8")
