"""Laws of `tanren eval`: what a person sees, what a program reads, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from cli.commands import ROOT, Ended
from endpoint.chat_server import Answer, completion, running_chat

from tanren.evaluate.report.data import Evaluation

Tanren = Callable[..., Ended]


@pytest.fixture
def data(home: Path) -> Path:
    return tiny.write_rows(home / "test.jsonl", 6)


@pytest.fixture
def base(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model()


@pytest.fixture
def short(home: Path) -> Path:
    """Settings that keep an evaluation quick."""
    path = home / "short.yaml"
    path.write_text(
        "decoding: {max_new_tokens: 6}\nstatistics: {resamples: 100}\n", encoding="utf-8"
    )
    return path


def general(path: Path, *answers: str) -> Path:
    """General questions; an answer `any` is right whatever is said."""
    with open(path, "w", encoding="utf-8") as file:
        for i, answer in enumerate(answers):
            messages = [
                {"role": "user", "content": f"question {i}"},
                {"role": "assistant", "content": answer},
            ]
            check = {"check": {"max_characters": 9999}} if answer == "any" else {}
            file.write(json.dumps({"messages": messages, "metadata": check}) + "\n")
    return path


def test_a_page_and_a_document_of_one_evaluation(
    tanren: Tanren, data: Path, base: Path, short: Path, home: Path
) -> None:
    words = ("eval", f"one={base}", f"two={base}", "--data", str(data), "--config", str(short))
    ended = tanren(*words, "--no-retention", "--metric", "exact_match", "--metric", "bleu")
    assert ended.code == 0, ended.err
    for shown in ("one", "two", "Exact match", "BLEU", "two against one", "report.html"):
        assert shown in ended.out
    (folder,) = (home / "runs" / "evaluations").iterdir()
    found = tanren(*words, "--no-retention", "--out", "e", "--json").document
    assert found["folder"] == "e" and found["gate"]["passed"] is True
    assert found["reference"] == "one" and found["comparisons"]
    assert {"metrics", "models", "data", "decoding", "notes"} <= found.keys()
    assert Evaluation.read(folder / "evaluation.json").reference == "one"


def test_going_on_needs_no_folder_named(
    tanren: Tanren, data: Path, base: Path, short: Path, home: Path
) -> None:
    words = ("eval", str(base), "--data", str(data), "--config", str(short))
    assert tanren(*words).code == 0
    (folder,) = (home / "runs" / "evaluations").iterdir()
    assert tanren(*words, "--resume").code == 2, "it is finished"
    (folder / "evaluation.json").unlink()
    assert tanren(*words, "--resume").code == 0
    assert (folder / "evaluation.json").is_file()
    assert tanren(*words, "--resume", "--max-new-tokens", "7").code == 2, "another request"


def test_a_gate_that_fails_ends_with_1_and_the_rows(
    tanren: Tanren, data: Path, base: Path, short: Path, home: Path
) -> None:
    """The reference is an endpoint that answers rightly, which the model does not."""
    kept = general(home / "general.jsonl", "any", "exactly this")
    short.write_text(
        short.read_text(encoding="utf-8") + f"retention: {{file: '{kept}'}}\n", encoding="utf-8"
    )
    with running_chat() as server:
        server.behave = lambda body: Answer(body=completion("exactly this"))
        words = (
            "eval", f"good={server.url}#m", f"bad={base}", "--data", str(data),
            "--config", str(short), "--reference", "good",
        )  # fmt: skip
        failed = tanren(*words, "--gate", "40", "--out", "a")
        document = tanren(*words, "--gate", "40", "--out", "b", "--json")
        passed = tanren(*words, "--gate", "50", "--out", "c")
        asked = len(server.bodies)
    assert failed.code == 1 and document.code == 1 and passed.code == 0
    assert "did not pass the gate" in failed.err and "general.jsonl:2" in failed.err
    assert "50.0 points" in failed.err
    assert document.document["gate"]["passed"] is False
    assert document.document["gate"]["faults"]["bad"][0]["where"] == "retention"
    assert asked == 8, "equal requests are kept by content: six rows and two general questions"


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["eval"], "--data"),
        (["eval", "x"], "--data"),
        (["eval", "--data", "test.jsonl"], "MODEL"),
        (["eval", "{base}", "--data", "missing.jsonl"], "missing.jsonl"),
        (["eval", "{base}", "--data", "test.jsonl", "--metric", "blue"], "metric"),
        (["eval", "{base}", "--data", "test.jsonl", "--gate", "5"], "retention"),
        (["eval", "{base}@base", "--data", "test.jsonl"], "{base}@base"),
        (["eval", "{base}", "--data", "test.jsonl", "--judge", "no.yaml"], "no.yaml"),
        (["eval", "http://127.0.0.1:9/v1", "--data", "test.jsonl"], "http://127.0.0.1:9/v1"),
        (["eval", "import-ratings", "nowhere", "a.csv"], "nowhere"),
        (["eval", "import-ratings", "nowhere"], "SHEET"),
    ],
)
def test_mistakes_end_with_2_and_say_where(
    tanren: Tanren, data: Path, base: Path, words: list[str], where: str
) -> None:
    ended = tanren(*(word.format(base=base) for word in words), "--json")
    assert ended.code == 2, ended.err
    assert any(where.format(base=base) in fault["where"] for fault in ended.faults), ended.faults


def test_a_judge_and_people_come_into_the_report(
    tanren: Tanren, data: Path, base: Path, short: Path, home: Path
) -> None:
    with running_chat() as server:
        reply = {"reason": "r", "coherent": True, "correct": False, "wording": True}
        server.behave = lambda body: Answer(body=completion(json.dumps({**reply, "concise": True})))
        judge = home / "judge.yaml"
        judge.write_text(
            f"name: strict\nprompt: rubric.en\nbase_url: {server.url}\nmodel: j\n",
            encoding="utf-8",
        )
        ended = tanren(
            "eval", str(base), "--data", str(data), "--config", str(short),
            "--judge", str(judge), "--human", "--out", "e", "--json",
        )  # fmt: skip
    assert ended.code == 0, ended.err
    said = {o["criterion"]: o for o in ended.document["opinions"]}
    assert said["correct"]["value"] == 0.0 and said["concise"]["value"] == 1.0
    assert said["correct"]["rows"] == 6 and said["correct"]["excluded"] == 0
    sheets = [_filled(home / "e" / "sheet" / "for-raters" / "sheet.csv", who) for who in "ab"]
    back = tanren("eval", "import-ratings", "e", *map(str, sheets), "--json")
    assert back.code == 0, back.err
    found = Evaluation.read(home / "e" / "evaluation.json")
    people = [one for one in found.opinions if one.source == "human"]
    assert people and all(one.value == 1.0 and one.rows == 6 for one in people)
    assert any("strict" in one.between for one in found.agreements)
    again = tanren("eval", "import-ratings", "e", *map(str, sheets))
    assert again.code == 0 and "people" in again.out
    assert Evaluation.read(home / "e" / "evaluation.json").opinions == found.opinions


def _filled(sheet: Path, rater: str) -> Path:
    """The sheet with yes in every cell that is to be filled in."""
    with open(sheet, encoding="utf-8-sig", newline="") as file:
        lines = list(csv.reader(file))
    path = sheet.with_name(f"{rater}.csv")
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(_yes(line, lines, rater) for line in lines)
    return path


def _yes(line: list[str], lines: list[list[str]], rater: str) -> list[str]:
    head = next(each for each in lines if len(each) > 3)
    if line is head or len(line) < len(head):
        return line
    return [
        cell or (rater if "rater" in name.lower() else "" if "comment" in name.lower() else "yes")
        for name, cell in zip(head, line, strict=True)
    ]


def test_ctrl_c_keeps_the_answers_and_says_how_to_go_on(
    tanren: Tanren, data: Path, short: Path
) -> None:
    """A real SIGINT while an endpoint is asked."""
    with running_chat() as server:

        def behave(body: object) -> Answer:
            if len(server.bodies) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return Answer(body=completion("yes"), delay=0.05)

        server.behave = behave
        file = data.with_name("slow.yaml")
        file.write_text(f"base_url: {server.url}\nmodel: m\nconcurrency: 1\n", encoding="utf-8")
        words = ("eval", str(file), "--data", str(data), "--config", str(short), "--out", "e")
        stopped = tanren(*words)
        assert stopped.code == 130 and "--resume" in stopped.err
        assert tanren(*words, "--resume").code == 0
        assert 6 <= len(server.bodies) <= 7, "only what was under way is asked again"


def test_help_loads_no_torch(home: Path) -> None:
    code = (
        "import sys; from tanren.cli import main; main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    for words in (["eval", "--help"], ["eval", "import-ratings", "--help"]):
        subprocess.run(
            [sys.executable, "-P", "-c", code, *words],
            env={"PYTHONPATH": str(ROOT / "train"), "PYTHONUTF8": "1"},
            capture_output=True,
            check=True,
        )
