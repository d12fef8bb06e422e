"""Laws of `tanren data convert` as a person meets it: its words, its ending, what it leaves."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.commands import ROOT, Ended, run

Tanren = Callable[..., Ended]
KIDS = ROOT / "data" / "kids_why.csv"


@pytest.fixture
def table(home: Path) -> Path:
    path = home / "表 [red].csv"
    path.write_text(
        '質問,回答,id\n"空は\n青い？",はい,1\n海は？,,2\n山は？, [b]高い ,3\n', encoding="utf-8"
    )
    return path


def test_without_out_it_shows_how_rows_are_read_and_how_to_write(
    tanren: Tanren, table: Path
) -> None:
    before = set(table.parent.iterdir())
    ended = tanren("data", "convert", str(table), "--limit", "1000")
    assert ended.code == 0 and set(table.parent.iterdir()) == before
    page = ended.out
    assert "CSV, comma-separated, 3 columns" in page
    assert 'read as columns: user "質問", assistant "回答"' in page
    assert "not used: id (3 rows)" in page
    assert "空は 青い？" in page and "[b]高い" in page, "data is never read as markup"
    assert "3 rows: 2 used, 1 left out" in page and "empty answer" in page
    assert f"{table}:4" in page
    command = page.rpartition("to write: ")[2].strip()
    words = shlex.split(command)
    assert words[:3] == ["tanren", "data", "convert"]
    written = tanren(*words[1:])
    assert written.code == 0, written.err
    assert len(Path(words[-1]).read_text(encoding="utf-8").splitlines()) == 2


def test_the_article_in_one_command_passes_check(tanren: Tanren, home: Path) -> None:
    ended = tanren("data", "convert", str(KIDS), "--out", "子.jsonl")
    assert ended.code == 0, ended.err
    assert "130 rows: 130 used, 0 left out" in ended.out and "130 chats in 子.jsonl" in ended.out
    assert not (home / "子.jsonl.ledger.jsonl").exists()
    assert tanren("check", "子.jsonl").code == 0


def test_the_document_accounts_for_every_row(tanren: Tanren, table: Path) -> None:
    ended = tanren("data", "convert", str(table), "--out", "o.jsonl", "--json")
    assert ended.code == 0 and ended.err == ""
    found = ended.document
    assert (found["rows_in"], found["rows_used"], found["rows_left_out"]) == (3, 2, 1)
    assert found["chats"] == 2 and found["out"] == "o.jsonl"
    assert found["reasons"]["empty answer"] == {
        "rows": 1,
        "faulty": False,
        "places": [f"{table}:4"],
    }
    assert found["inputs"][0]["unused_columns"] == {"id": 3}
    ledger = Path(found["ledger"]).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in ledger] == [4]
    clean = table.with_name("clean.csv")
    clean.write_text("q,a\n1,2\n", encoding="utf-8")
    again = tanren("data", "convert", str(clean), "--out", "o.jsonl", "--overwrite", "--json")
    assert again.document["ledger"] is None
    assert not Path(found["ledger"]).exists(), "no ledger of an output that is gone"


def test_faulty_rows_refuse_the_whole_and_are_all_named(tanren: Tanren, home: Path) -> None:
    """T7."""
    Path("t.jsonl").write_text('{"q":"1","a":"2"}\n' + "{\n" * 30, encoding="utf-8")
    for words in ([], ["--out", "o.jsonl"], ["--out", "o.jsonl", "--faulty", "refuse"]):
        ended = tanren("data", "convert", "t.jsonl", *words, "--json")
        assert ended.code == 2 and len(ended.faults) == 30
        assert ended.faults[-1]["where"].startswith("t.jsonl:31")
    assert [path.name for path in home.iterdir()] == ["t.jsonl"]
    assert "--faulty skip" in tanren("data", "convert", "t.jsonl").err
    skipped = tanren("data", "convert", "t.jsonl", "--out", "o.jsonl", "--faulty", "skip")
    assert skipped.code == 0 and "31 rows: 1 used, 30 left out" in skipped.out
    assert "o.jsonl.ledger.jsonl" in skipped.out


def test_the_remedy_for_an_encoding_can_be_pasted(tanren: Tanren, home: Path) -> None:
    """T26."""
    Path("古い 表.csv").write_bytes(KIDS.read_text(encoding="utf-8").encode("cp932"))
    words = ["data", "convert", "古い 表.csv", "--user", "{{ question }}?", "--assistant", "answer"]
    ended = tanren(*words, "--out", "o.jsonl", "--json")
    assert ended.code == 2
    remedy = ended.faults[0]["remedy"]
    again = tanren(*shlex.split(remedy[remedy.index("tanren data") :])[1:])
    assert again.code == 0, again.err
    assert "どうして空は青いの？?" in Path("o.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ([], "tanren data convert"),
        (["missing.csv"], "missing.csv"),
        (["t.csv", "--from", "alpacca"], "--from"),
        (["t.csv", "--format", "xls"], "--format"),
        (["t.csv", "--faulty", "ignore"], "--faulty"),
        (["t.csv", "--user", "q"], "--assistant"),
        (["t.csv", "--user", "x", "--assistant", "a"], "--user"),
        (["t.csv", "--system", "@x"], "--system"),
        (["t.csv", "--template", "missing.yaml"], "missing.yaml"),
        (["t.csv", "--roles", "x"], "--roles"),
        (["t.csv", "--roles", "x=boss"], "--roles"),
        (["t.csv", "--delimiter", "ab"], "--delimiter"),
        (["t.csv", "--encoding", "klingon"], "--encoding"),
        (["t.csv", "--split", "train"], "--split"),
        (["t.csv", "--out", "t.csv"], "t.csv"),
        (["t.csv", "--out", "nowhere/o.jsonl"], "nowhere/o.jsonl"),
        (["t.csv", "--out", "."], "."),
        (["t.csv", "--out", "-"], "--out"),
    ],
)
def test_every_mistake_is_one_document_with_its_fault(
    tanren: Tanren, home: Path, words: list[str], where: str
) -> None:
    Path("t.csv").write_text("q,a\n1,2\n", encoding="utf-8")
    ended = tanren("data", "convert", *words, "--json")
    assert ended.code == 2, ended.err
    assert ended.faults[0]["where"] == where and all(ended.faults[0].values())
    assert [path.name for path in home.iterdir()] == ["t.csv"]


def test_pipes_in_and_out_on_any_locale(home: Path) -> None:
    """T26: rows on stdout, words on stderr."""
    command = [sys.executable, "-P", "-m", "tanren", "data", "convert", "-", "--out", "-"]
    environment = {"PYTHONPATH": str(ROOT / "train"), "LC_ALL": "C", "PYTHONUTF8": "0", "PATH": ""}
    done = subprocess.run(command, input=KIDS.read_bytes(), capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode("utf-8").splitlines()
    assert len(lines) == 130 and json.loads(lines[0])["messages"][0]["role"] == "user"
    assert "130 used" in done.stderr.decode("utf-8")


def test_a_full_disk_leaves_nothing_and_says_so(home: Path) -> None:
    """T14."""
    Path("t.csv").write_text("q,a\n" + "x,y\n" * 50_000, encoding="utf-8")
    limited = "import resource as r, sys; r.setrlimit(r.RLIMIT_FSIZE, (65536, 65536)); "
    limited += "from tanren.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", limited, "data", "convert", "t.csv", "--out", "o.jsonl"],
        env={"PYTHONPATH": str(ROOT / "train"), "PATH": ""},
        capture_output=True,
    )
    assert done.returncode == 1 and b"could not write" in done.stderr, done.stderr
    assert [path.name for path in home.iterdir()] == ["t.csv"]


def test_a_data_set_that_is_not_here_is_told_offline(home: Path) -> None:
    """T29."""
    ended = run("data", "convert", "hf:nobody/nothing", "--json", HF_HUB_OFFLINE="1")
    assert ended.code in (1, 2)
    assert ended.faults[0]["where"] == "nobody/nothing"


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_output(home: Path) -> None:
    """T14."""
    Path("t.csv").write_text("q,a\n" + "x,y\n" * 2_000_000, encoding="utf-8")
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-P", "-m", "tanren", "data", "convert", "t.csv", "--out", "o.jsonl"],
            env={"PYTHONPATH": str(ROOT / "train"), "PATH": ""},
            timeout=2,
            capture_output=True,
        )
    assert not Path("o.jsonl").exists()


def test_help_tells_of_every_option() -> None:
    ended = run("data", "convert", "--help")
    assert ended.code == 0
    for option in ("--from", "--template", "--conversation", "--encoding", "--faulty", "--out"):
        assert option in ended.out
