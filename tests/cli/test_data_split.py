"""`tanren data split` from words to a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.commands import Ended, chat_line, run

from tanren.cli.data.split import NEAR_THRESHOLD
from tanren.data import near

Tanren = Callable[..., Ended]


@pytest.fixture
def chats(home: Path) -> Path:
    path = home / "質問.jsonl"
    lines = [chat_line(f"質問 {n * 7919} は何ですか", f"答え {n % 3}") for n in range(40)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_three_parts_beside_a_manifest(tanren: Tanren, chats: Path, home: Path) -> None:
    ended = tanren("data", "split", "質問.jsonl", "--counts", "20,10,10", "--no-near")
    assert ended.code == 0, ended.err
    out = home / "質問-split"
    names = {"train.jsonl", "validation.jsonl", "test.jsonl", "split.json", "COMPLETE.json"}
    assert {path.name for path in out.iterdir()} == names
    assert "20" in ended.out and "not looked for (--no-near)" in ended.out
    assert tanren("check", str(out / "train.jsonl"), "--valid", str(out / "test.jsonl")).code == 0


def test_the_document_is_the_manifest(tanren: Tanren, chats: Path, home: Path) -> None:
    ended = tanren("data", "split", str(chats), "--shares", "75,25", "--out", "parts", "--json")
    written = json.loads((home / "parts" / "split.json").read_text(encoding="utf-8"))
    document = ended.document
    assert document.pop("out") == "parts"
    assert document == written
    assert [part["rows"] for part in written["parts"]] == [30, 10]


def test_a_table_is_split_in_one_command(tanren: Tanren, home: Path) -> None:
    rows = "".join(f"どうして{n * 7919}なの？,「{n}」だから、そうだよ。\n" for n in range(130))
    (home / "kids_why.csv").write_text("question,answer\n" + rows, encoding="utf-8")
    ended = tanren("data", "split", "kids_why.csv", "--counts", "70,30,30", "--no-near")
    assert ended.code == 0, ended.err
    assert "kids_why.csv was read as" in ended.out
    manifest = json.loads((home / "kids_why-split" / "split.json").read_text(encoding="utf-8"))
    assert [part["rows"] for part in manifest["parts"]] == [70, 30, 30]
    assert manifest["source"]["table"]["rows"] == 130
    assert len((home / "kids_why-split" / "train.jsonl").read_bytes().splitlines()) == 70


def test_strata_are_shown(tanren: Tanren, chats: Path) -> None:
    words = ["--shares", "50,50", "--stratify", "answer", "--no-near", "--names", "a,b"]
    ended = tanren("data", "split", str(chats), *words)
    assert ended.code == 0, ended.err
    assert "答え 0" in ended.out and "a.jsonl" in ended.out


def test_a_deviation_is_said(tanren: Tanren, home: Path) -> None:
    lines = [chat_line(f"ask {n % 2}", f"{n}") for n in range(20)]
    (home / "two.jsonl").write_text("\n".join(lines), encoding="utf-8")
    ended = tanren("data", "split", "two.jsonl", "--shares", "80,20", "--no-near")
    assert ended.code == 0, ended.err
    assert "10 rows instead of 16" in ended.out
    assert "18 rows stayed with an earlier row because they ask the same" in ended.out


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ([], "tanren data split"),
        (["--counts", "1", "--shares", "50,50"], "tanren data split"),
        (["--counts", "20,30"], "--counts"),
        (["--counts", "20,10"], "--counts"),
        (["--counts", "many"], "--counts"),
        (["--shares", "50,50", "--rest"], "--rest"),
        (["--shares", "50,50", "--names", "a"], "--names"),
        (["--shares", "50,50", "--stratify", "kind"], "--stratify"),
        (["--shares", "50,50", "--faulty", "keep"], "tanren data split --faulty"),
    ],
)
def test_a_wish_that_cannot_be_is_a_mistake(
    tanren: Tanren, chats: Path, home: Path, words: list[str], where: str
) -> None:
    ended = tanren("data", "split", str(chats), *words, "--json")
    assert ended.code == 2
    assert ended.faults[0]["where"] == where
    assert {path.name for path in home.iterdir()} == {chats.name}


def test_only_a_split_is_replaced_and_only_when_asked(
    tanren: Tanren, chats: Path, home: Path
) -> None:
    words = ["data", "split", str(chats), "--shares", "50,50", "--out", "parts", "--no-near"]
    assert tanren(*words).code == 0
    before = (home / "parts" / "train.jsonl").read_bytes()
    assert tanren(*words, "--seed", "7").code == 2
    assert (home / "parts" / "train.jsonl").read_bytes() == before
    assert tanren(*words, "--seed", "7", "--overwrite").code == 0
    assert (home / "parts" / "train.jsonl").read_bytes() != before
    (home / "mine").mkdir()
    (home / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    assert tanren(*words[:-2], "mine", "--no-near", "--overwrite").code == 2
    assert (home / "mine" / "letter.txt").exists()


def test_faulty_rows_are_named_or_left_out(tanren: Tanren, chats: Path, home: Path) -> None:
    with open(chats, "a", encoding="utf-8") as file:
        file.write("{broken\n")
    words = ["data", "split", str(chats), "--shares", "50,50", "--no-near"]
    ended = tanren(*words, "--json")
    assert ended.code == 2 and ended.faults[0]["where"].startswith(f"{chats}:41")
    ended = tanren(*words, "--faulty", "skip")
    assert ended.code == 0 and "1 faulty rows were left out" in ended.out
    assert (home / "質問-split" / "ledger.jsonl").exists()


def test_japanese_under_an_ascii_locale(chats: Path, home: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["data", "split", str(chats), "--shares", "50,50", "--no-near", "--stratify", "answer"]
    ended = run(*words, "--out", str(home / "部分"), **locale)
    assert ended.code == 0, ended.err
    assert "答え 1" in ended.out
    assert (home / "部分" / "train.jsonl").exists()


def test_the_threshold_in_the_help_is_that_of_the_index() -> None:
    assert NEAR_THRESHOLD == near.NEAR_THRESHOLD
