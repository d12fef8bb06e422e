"""`tanren data screen` as people call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.commands import ROOT, Ended, chat_line
from endpoint.chat_server import Answer, running_chat
from moderate.moderation_server import moderate

MAIL, CARD = "taro@example.com", "4111 1111 1111 1111"
Tanren = Callable[..., Ended]


@pytest.fixture
def data(home: Path) -> Path:
    path = home / "a.jsonl"
    rows = [chat_line(f"書いて: {MAIL}", "はい"), chat_line("a", "b"), chat_line("pay", CARD)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_a_report_writes_nothing_and_shows_no_value(tanren: Tanren, data: Path) -> None:
    done = tanren("data", "screen", "a.jsonl")
    assert done.code == 0 and "email" in done.out and "a.jsonl:3 messages[1].content" in done.out
    assert MAIL not in done.out and "ta…om" in done.out and CARD not in done.out
    assert [path.name for path in data.parent.iterdir()] == ["a.jsonl"]


def test_the_document_has_the_counts(tanren: Tanren, data: Path) -> None:
    done = tanren("data", "screen", "a.jsonl", "--json")
    (file,) = done.document["files"]
    assert (file["rows"], file["untouched"]) == (3, 3)
    assert file["findings"] == {"email": 1, "card": 1}
    assert [one["line"] for one in file["first_findings"]] == [1, 3]
    assert MAIL not in done.out


def test_rows_are_redacted_and_dropped_into_a_new_file(tanren: Tanren, data: Path) -> None:
    before = data.read_bytes()
    words = ("--action", "redact", "--drop", "card", "--numbered", "--out", "b.jsonl")
    done = tanren("data", "screen", "a.jsonl", *words)
    assert done.code == 0 and data.read_bytes() == before
    written = (data.parent / "b.jsonl").read_text(encoding="utf-8").splitlines()
    assert written == [chat_line("書いて: [EMAIL_1]", "はい"), chat_line("a", "b")]
    ledger = (data.parent / "b.jsonl.screen.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["action"] for line in ledger.splitlines()] == ["redact", "drop"]
    assert tanren("data", "screen", "b.jsonl", "--json").document["files"][0]["findings"] == {}
    assert tanren("check", "b.jsonl").code == 0
    again = tanren("data", "screen", "a.jsonl", *words)
    assert again.code == 2 and "--overwrite" in again.err
    assert tanren("data", "screen", "a.jsonl", *words, "--overwrite").code == 0


def test_several_files_go_into_a_folder(tanren: Tanren, data: Path) -> None:
    (data.parent / "c.jsonl").write_text(chat_line("x", MAIL), encoding="utf-8")
    done = tanren(
        "data", "screen", "a.jsonl", "c.jsonl", "--redact", "email,card", "--out", "clean"
    )
    assert done.code == 0, done.err
    names = sorted(path.name for path in (data.parent / "clean").iterdir())
    assert names == ["a.jsonl", "a.jsonl.screen.jsonl", "c.jsonl", "c.jsonl.screen.jsonl"]
    assert (data.parent / "clean" / "c.jsonl").read_text(encoding="utf-8") == chat_line(
        "x", "[EMAIL]"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--action", "redact"), "--out"),
        (("--redact", "emial", "--out", "b.jsonl"), "did you mean 'email'"),
        (("--threshold", "0.5"), "--moderator"),
        (("--moderator", "nonsense"), "words:FILE"),
        (("--moderator", "words:none.txt"), "none.txt"),
        (("--action", "redact", "--out", "a.jsonl"), "a file that is read"),
        (
            ("--action", "redact", "--out", "b.jsonl", "--moderator", "http://127.0.0.1:9/v1#m"),
            "--drop unsafe",
        ),
    ],
)
def test_mistakes_say_what_to_do(
    words: tuple[str, ...], says: str, tanren: Tanren, data: Path
) -> None:
    done = tanren("data", "screen", "a.jsonl", *words)
    assert done.code == 2 and says in done.err
    assert [path.name for path in data.parent.iterdir()] == ["a.jsonl"]


def test_faulty_rows_are_all_named(tanren: Tanren, bad: Path) -> None:
    done = tanren("data", "screen", bad.name, "--redact", "email", "--out", "b.jsonl", "--json")
    assert done.code == 2 and len(done.faults) == 30
    assert not (bad.parent / "b.jsonl").exists()
    assert tanren("data", "screen", "none.jsonl").code == 2
    assert tanren("data", "screen").code == 2


def test_packages_that_are_missing_are_named_at_once(home: Path) -> None:
    """Even for a file in which they would not be needed."""
    (home / "a.jsonl").write_text(chat_line("a", "b"), encoding="utf-8")
    code = (
        "import sys\nsys.modules['phonenumbers'] = sys.modules['detect_secrets'] = None\n"
        "sys.argv = ['tanren', 'data', 'screen', 'a.jsonl']\n"
        "from tanren.cli import main\nsys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "train")},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count('pip install "tanren[data]"') == 2
    assert "phonenumbers" in done.stderr and "detect-secrets" in done.stderr


def test_a_word_list_is_the_users_own(tanren: Tanren, data: Path) -> None:
    (data.parent / "w.txt").write_text("ハイ\nはい\n", encoding="utf-8")
    done = tanren("data", "screen", "a.jsonl", "--moderator", "words:w.txt", "--json")
    assert done.document["files"][0]["findings"]["word"] == 1


def test_a_moderation_endpoint_drops_rows_and_goes_on_where_it_was(
    tanren: Tanren, home: Path
) -> None:
    rows = [chat_line(f"question {i}", "bad" if i == 299 else "good") for i in range(300)]
    (home / "a.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with running_chat(moderate) as server:
        address = f"{server.url}#omni"
        words = ("data", "screen", "a.jsonl", "--moderator", address, "--drop", "unsafe")

        def down(body: dict[str, list[str]]) -> Answer:
            late = any(text.startswith("question 29") for text in body["input"])
            return Answer(400, {"error": {"message": "later"}}) if late else moderate(body)

        server.behave = down  # type: ignore[assignment]
        done = tanren(*words, "--out", "b.jsonl")
        assert done.code == 1 and "no verdict" in done.err and "--keep-unjudged" in done.err
        assert not (home / "b.jsonl").exists()
        before = len(server.bodies)
        server.behave = moderate
        done = tanren(*words, "--out", "b.jsonl")
        assert done.code == 0, done.err
        assert 0 < len(server.bodies) - before < before
    assert (home / "b.jsonl").read_text(encoding="utf-8").splitlines() == rows[:299]
    (entry,) = map(json.loads, (home / "b.jsonl.screen.jsonl").read_text().splitlines())
    assert entry["line"] == 300 and entry["rule"] == "omni: violence"
    left = sorted(path.name for path in home.iterdir() if path.is_file())
    assert left == ["a.jsonl", "b.jsonl", "b.jsonl.screen.jsonl"]
