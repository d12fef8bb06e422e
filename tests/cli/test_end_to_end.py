"""The way through on the tiny chat model: check, train, chat, runs; stop and go on."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli.commands import ROOT, Ended, chat_line, start

Tanren = Callable[..., Ended]

MODEL = str(ROOT / "data" / "tiny-chat")
SHORT = ["training.batch_size=2", "evaluation.samples=1", "evaluation.sample_tokens=4"]


@pytest.fixture
def rows(home: Path) -> Path:
    """Four rows, in a file whose name is neither ASCII nor free of markup."""
    lines = [chat_line(f"{n}は[red]何ですか", f"[/red]{n}です") for n in "一二三四"]
    path = home / "太郎 [bold].jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_check_accounts_for_rows_and_marks_what_is_trained(tanren: Tanren, rows: Path) -> None:
    ended = tanren("check", str(rows), "--model", MODEL, "--preview", "2", *SHORT)
    assert ended.code == 0, ended.err
    page = ended.out
    for words in ("trained whole", "headroom", "Chat template", "learning rate", str(rows)):
        assert words in page
    assert "⟦[/red]一です<|im_end|>⟧" in page, "the reply and its end of turn, nothing else"
    assert "[red]何ですか<|im_end|>" in page and "四です" not in page
    document = tanren("check", str(rows), "--model", MODEL, "--json").document
    assert document["data"]["train"]["ledger"]["trained_whole"] == 4
    assert (
        sum(part["bytes"] for part in document["memory"]["parts"])
        == (document["memory"]["total_bytes"])
    )
    trained = [piece["text"] for piece in document["preview"][0] if piece["trained"]]
    assert trained == ["[/red]一です<|im_end|>"]


def test_check_measures_when_asked(tanren: Tanren, rows: Path, home: Path) -> None:
    ended = tanren("check", str(rows), "--model", MODEL, "--measure", "--json", *SHORT)
    assert ended.code == 0, ended.err
    document = ended.document
    assert document["measured"]["tokens_per_second"] > 0
    tokens = document["plan"]["tokens_per_epoch"] * 3
    expected = tokens / document["measured"]["tokens_per_second"]
    assert document["measured"]["seconds"] == pytest.approx(expected)
    assert not (home / "runs").exists(), "nothing is left behind"


def test_dry_run_shows_settings_that_make_the_same_run(
    tanren: Tanren, rows: Path, home: Path
) -> None:
    words = ["train", str(rows), "--model", MODEL, "--dry-run", "method.rank=2"]
    ended = tanren(*words)
    assert ended.code == 0, ended.err
    shown = yaml.safe_load(ended.out.split("\nSettings\n")[1].split("\n\n")[0])
    document = tanren(*words, "--json").document
    assert document["config"] == shown
    assert shown["method"]["rank"] == 2 and shown["training"]["learning_rate"] != "auto"
    assert not (home / "runs").exists()
    (home / "again.yaml").write_text(yaml.safe_dump(shown, allow_unicode=True), encoding="utf-8")
    again = tanren("train", "again.yaml", "--dry-run", "--json").document
    assert again["config"] == shown


def test_train_then_chat_then_look_at_it(tanren: Tanren, rows: Path, home: Path) -> None:
    words = ["--model", MODEL, "--out", "my run", "training.max_steps=3", *SHORT]
    ended = tanren("train", str(rows), *words)
    assert ended.code == 0, ended.err
    steps = [line for line in ended.out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/3", "2/3", "3/3"]
    before, after = ended.out.split("\nDone\n")
    assert "Answers" in before
    for said in ("saved in", "at first", "proof passed", "tanren chat 'my run' --base"):
        assert said in after

    answers = tanren("chat", "my run", "--base", "-m", "一は[red]", "-m", "二", "--json")
    assert answers.code == 0, answers.err
    found = answers.document["answers"]
    assert [answer["message"] for answer in found] == ["一は[red]", "二"]
    assert all(set(answer) == {"message", "tuned", "base"} for answer in found)

    run = tanren("runs", "show", "my run", "--json").document
    assert run["state"] == "succeeded" and run["steps"] == 3
    assert run["result"]["proof"]["passed"] is True
    other = tanren("train", str(rows), *words[:2], "--out", "my run", "--json")
    assert other.code == 2, "a run is never overwritten"
    assert other.faults[0]["where"] == "my run"


def test_bad_data_stops_training_with_every_fault(tanren: Tanren, bad: Path) -> None:
    ended = tanren("train", str(bad), "--model", MODEL, "--json")
    assert ended.code == 2
    assert len(ended.faults) == 30


def test_chat_takes_turns_from_a_pipe(
    tanren: Tanren, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, one turn; the model knows the turns before."""
    piped = home / "turns.txt"
    piped.write_bytes("\ufeffこんにちは\n\n元気？\n".encode())
    with open(piped, encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        ended = tanren("chat", MODEL, "--max-new-tokens", "4", "--json")
    assert ended.code == 0, ended.err
    assert [a["message"] for a in ended.document["answers"]] == ["こんにちは", "元気？"]
    piped.write_bytes("日本".encode("cp932"))
    with open(piped, encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        ended = tanren("chat", MODEL, "--json")
    assert ended.code == 2 and ended.faults[0]["where"] == "stdin:1"


def test_base_needs_something_tuned(tanren: Tanren, home: Path) -> None:
    ended = tanren("chat", MODEL, "--base", "-m", "x", "--json")
    assert ended.code == 2
    assert "no base" in ended.faults[0]["found"]


def test_a_terminal_streams_until_ctrl_d(home: Path) -> None:
    """A real terminal: the prompt, an answer in it, Ctrl-D ends with 0."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["PYTHONPATH"] = str(ROOT / "train")
        words = ["-P", "-m", "tanren", "chat", MODEL, "--max-new-tokens", "8"]
        os.execv(sys.executable, [sys.executable, *words])
    seen = read_until(terminal, b"> ")
    os.write(terminal, "こんにちは\n".encode())
    seen += read_until(terminal, b"> ")
    os.write(terminal, b"\x04")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "Ctrl-D leaves" in seen.decode()
    assert len(seen.decode().split("こんにちは", 1)[1].strip("> \r\n")) > 0


def read_until(terminal: int, end: bytes) -> bytes:
    seen = b""
    while not seen.endswith(end):
        seen += os.read(terminal, 1024)
    return seen


def test_ctrl_c_saves_and_the_printed_command_goes_on(
    tanren: Tanren, rows: Path, home: Path
) -> None:
    """Exit code 130 and a command; a changed setting is accepted by name and recorded (T6)."""
    words = [str(rows), "--model", MODEL, "--out", "r", "training.num_epochs=20", *SHORT]
    process = start("train", *words)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"step "):
            process.send_signal(signal.SIGINT)
            break
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert b"Done" not in rest
    assert "tanren train --resume r" in err.decode() and "Traceback" not in err.decode()
    stopped: dict[str, Any] = tanren("runs", "show", "r", "--json").document
    assert stopped["state"] == "interrupted" and stopped["checkpoints"]
    assert stopped["next"]["command"] == "tanren train --resume r"
    changed = tanren("train", "--resume", "r", "evaluation.samples=0", "--accept-changes", "--json")
    assert changed.code == 0, changed.err
    assert changed.document["steps"] == 40 and changed.document["answers"] == []
    events = (home / "r" / "events.jsonl").read_text(encoding="utf-8")
    assert "settings changed on resuming: evaluation.samples=0" in events
