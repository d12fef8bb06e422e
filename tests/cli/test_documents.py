"""Laws of `--json`: one document, alone on stdout, for every command and every way to end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.commands import Ended

from tanren.cli.output import encode
from tanren.cli.streams import stdout_for_document
from tanren.rundir import RunDirectory

Tanren = Callable[..., Ended]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--version"], "version"),
        (["config"], "settings"),
        (["methods"], "methods"),
        (["runs"], "runs"),
        (["runs", "show", "done"], "config"),
        (["runs", "diff", "done", "done"], "differences"),
        (["check", "良い[bold].jsonl"], "train"),
    ],
)
@pytest.mark.parametrize("place", ["after", "before"])
def test_every_command_that_succeeds_gives_one_document(
    tanren: Tanren, good: Path, finished: RunDirectory, words: list[str], key: str, place: str
) -> None:
    if place == "before" and words[0] in ("check", "config", "methods", "runs"):
        words = ["--json", *words]
    else:
        words = [*words, "--json"]
    ended = tanren(*words)
    assert ended.code == 0, ended.err
    assert key in ended.document
    assert ended.err == ""


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ([], "tanren"),
        (["trian"], "tanren"),
        (["train"], "tanren train"),
        (["train", "--modle", "x"], "tanren train"),
        (["train", "--model"], "--model"),
        (["train", "a.jsonl", "--out"], "--out"),
        (["chat", "x", "--seed"], "tanren chat --seed"),
        (["train", "a.jsonl"], "--model"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["run", "nowhere"], "nowhere"),
        (["check", "missing.jsonl"], "missing.jsonl"),
        (["check", "a.jsonl", "--preview", "many"], "tanren check --preview"),
        (["runs", "show"], "tanren runs show"),
        (["runs", "show", "nowhere"], "nowhere"),
        (["runs", "diff", "a", "b", "c"], "tanren runs diff"),
        (["chat"], "tanren chat"),
        (["chat", "x", "--temperature", "-1"], "tanren chat --temperature"),
        (["eval"], "--data"),
        (["eval", "nowhere", "--data", "missing.jsonl"], "missing.jsonl"),
        (["eval", "nowhere", "--data"], "--data"),
        (["eval", "nowhere", "--gate", "101"], "tanren eval --gate"),
        (["eval", "import-ratings"], "tanren eval import-ratings"),
        (["eval", "import-ratings", "nowhere"], "SHEET"),
        (["eval", "import-ratings", "nowhere", "sheet.csv"], "nowhere"),
        (["export"], "tanren export"),
        (["export", "nowhere"], "nowhere"),
        (["export", "nowhere", "--to", "tarball"], "tanren export --to"),
        (["export", "nowhere", "--prompts", "0"], "tanren export --prompts"),
        (["export", "nowhere", "--dtype"], "--dtype"),
    ],
)
def test_every_mistake_gives_one_document_with_its_fault(
    tanren: Tanren, words: list[str], where: str
) -> None:
    ended = tanren(*words, "--json")
    assert ended.code == 2
    error = ended.document["error"]
    assert set(error) == {"message", "faults", "exit_code"}
    assert error["exit_code"] == 2
    assert error["faults"][0]["where"] == where
    assert set(error["faults"][0]) == {"where", "found", "expected", "remedy"}
    assert all(error["faults"][0].values()), "every fault has four parts"


def test_all_faults_of_bad_data_are_in_the_document_and_the_first_are_shown(
    tanren: Tanren, bad: Path
) -> None:
    """T7: never one at a time."""
    ended = tanren("check", str(bad), "--json")
    assert ended.code == 2
    assert len(ended.faults) == 30
    assert [fault["where"].split(" ")[0] for fault in ended.faults] == [
        f"{bad}:{line}" for line in range(1, 31)
    ]
    shown = tanren("check", str(bad), "--max-faults", "4")
    assert shown.code == 2
    assert shown.err.count("bad.jsonl:") == 4
    assert "26 more" in shown.err
    assert '"[red]0"' in shown.err, "data is never read as markup"


def test_what_others_write_to_stdout_is_not_in_the_document(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Libraries print, and C code writes to descriptor 1."""
    with stdout_for_document() as stream:
        print("from Python")
        sys.stdout.flush()
        os.write(1, b"from C\n")
        stream.write(encode({"a": 1}))
    print("after")
    out, err = capfd.readouterr()
    assert out == '{\n  "a": 1\n}\nafter\n'
    assert "from Python" in err and "from C" in err


def test_document_holds_any_text_and_no_number_that_json_lacks() -> None:
    """T26: half of an undecodable file name is kept, in ASCII escapes."""
    assert encode({"a": "日本語"}).decode("utf-8").count("日本語") == 1
    assert b"\\udce6" in encode({"path": "\udce6"})
    assert encode({"loss": float("nan"), "best": float("inf")}).count(b"null") == 2
    with pytest.raises(TypeError, match="object is no JSON value"):
        encode({"a": object()})


def test_help_stays_help_beside_json(tanren: Tanren) -> None:
    ended = tanren("check", "--help", "--json")
    assert ended.code == 0
    assert "tanren check" in ended.out and "--max-faults" in ended.out
