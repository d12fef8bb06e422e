"""T26: encodings are named, converted only when told, and damage is never turned into U+FFFD."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.convert.converting import converted, jsonl, write

from tanren.errors import ConfigError, DataError

ROWS = [
    {"question": f"今日の天気は{n}度ですか？", "answer": "はい、よく晴れています。"}
    for n in range(9)
]
CSV = "question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in ROWS)
FOREIGN = ["cp932", "euc_jp", "iso2022_jp", "utf-16", "utf-16-le", "utf-16-be"]


@pytest.mark.parametrize("encoding", FOREIGN)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_another_encoding_is_named_with_the_whole_command(
    tmp_path: Path, encoding: str, suffix: str
) -> None:
    text = CSV if suffix == ".csv" else jsonl(ROWS)
    path = write(tmp_path / f"t{suffix}", text.encode(encoding))
    with pytest.raises(DataError) as caught:
        converted(path, command="tanren data convert t --out o")
    remedy = caught.value.faults[0].remedy
    named = remedy.rpartition("--encoding ")[2]
    assert "tanren data convert t --out o --encoding" in remedy
    assert path.read_bytes().decode(named) == text
    done = converted(path, encoding=named)
    assert [turn[0][1] for turn in done.turns] == [row["question"] for row in ROWS]
    assert encoding.replace("_", "-")[:5] in done.made.parts[0].format.replace("_", "-")


def test_foreign_bytes_far_down_an_english_file_are_named_too(tmp_path: Path) -> None:
    text = "q,a\n" + "plain question,plain answer\n" * 60_000 + "天気はどうですか,晴れですよ\n"
    path = write(tmp_path / "t.csv", text.encode("cp932"))
    assert path.stat().st_size > 1 << 20, "beyond what is looked at before reading"
    with pytest.raises(DataError, match="--encoding cp932"):
        converted(path)


def test_damage_in_utf8_is_a_fault_of_its_row(tmp_path: Path) -> None:
    good, bad = "空は青い？,はい\n".encode(), b"\xe7\xa9\xba\xe3\x81,x\n"
    path = write(tmp_path / "t.csv", b"q,a\n" + good * 5 + bad + good)
    with pytest.raises(DataError) as caught:
        converted(path)
    (fault,) = caught.value.faults
    assert fault.where == f"{path}:7 byte 4" and "e3 81" in fault.found
    done = converted(path, skip_faulty=True)
    assert done.left_out == {"undecodable bytes": [7]} and len(done.chats) == 6
    assert b"\xef\xbf\xbd" not in done.bytes


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_damage_under_a_named_encoding_has_line_and_byte(tmp_path: Path, suffix: str) -> None:
    text = CSV if suffix == ".csv" else jsonl(ROWS)
    lines = text.encode("cp932").splitlines(keepends=True)
    lines[3] = lines[3].replace("天".encode("cp932"), b"\x81\xff")
    path = write(tmp_path / f"t{suffix}", b"".join(lines))
    with pytest.raises(DataError) as caught:
        converted(path, encoding="cp932")
    (fault,) = caught.value.faults
    byte = lines[3].index(b"\x81\xff") + 1
    assert fault.where == f"{path}:4 byte {byte}" and "81" in fault.found
    assert "cp932" in fault.found


def test_a_wrong_name_never_makes_garbage_of_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", CSV)
    with pytest.raises(DataError, match="leave --encoding out"):
        converted(path, encoding="cp932")
    with pytest.raises(ConfigError, match="cp932, euc_jp"):
        converted(path, encoding="klingon")
    for no_text in ("hex", "base64", "rot13"):
        with pytest.raises(ConfigError):
            converted(path, encoding=no_text)


def test_a_cut_wide_file_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", CSV.encode("utf-16")[:-1])
    with pytest.raises(DataError):
        converted(path, encoding="utf-16")
