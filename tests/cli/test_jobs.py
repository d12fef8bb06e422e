"""`tanren jobs` without a server: the same queue, words for people and documents for programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tanren.cli import main
from tanren.rundir import write_text

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(autouse=True)
def settings() -> None:
    """serve.yaml lies where it is looked for."""
    models = [{"id": "tiny", "name": str(DATA / "tiny-chat"), "aliases": ["gpt-4o-mini"]}]
    write_text(Path(os.environ["TANREN_HOME"]) / "serve.yaml", json.dumps({"models": models}))


def document(capfd: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capfd.readouterr()
    assert main(["jobs", *words, "--json"]) == code
    return json.loads(capfd.readouterr().out)


def test_submit_list_show_stop_and_move(capfd: pytest.CaptureFixture[str]) -> None:
    taro = str(DATA / "taro.jsonl")
    words = ("submit", taro, "rank=4", "priority=2", "--suffix", "太郎", "--meta", "名=太郎")
    first = document(capfd, *words, "--model", "gpt-4o-mini", "--epochs", "2")
    assert (first["status"], first["model"], first["priority"]) == ("validating_files", "tiny", 2)
    assert first["tanren"] == {"method.rank": 4} and first["metadata"] == {"名": "太郎"}
    second = document(capfd, "submit", taro, "--key", "k")
    assert second["training_file"] == first["training_file"], "the same bytes are taken in once"
    assert document(capfd, "submit", taro, "--key", "k")["id"] == second["id"]
    found = document(capfd)
    assert [job["id"] for job in found["jobs"]] == [second["id"], first["id"]]
    assert found["dispatcher"] is None and found["counts"]["validating_files"] == 2
    assert document(capfd, "move", second["id"], "--first")["priority"] == 2
    assert document(capfd, "cancel", first["id"][-6:])["status"] == "cancelled"
    assert document(capfd, "show", first["id"])["events"][0]["message"] == "The job was cancelled"
    told = document(capfd, "logs", first["id"], "--follow")
    assert told["status"] == "cancelled" and len(told["events"]) == 3
    refused = document(capfd, "pause", first["id"], code=2)
    assert "its status is cancelled" in refused["error"]["message"]


def test_people_read_names_as_they_are_and_who_does_the_work(
    capfd: pytest.CaptureFixture[str],
) -> None:
    main(["jobs", "submit", str(DATA / "taro.jsonl"), "--suffix", "太郎"])
    assert "nobody works on the jobs" in capfd.readouterr().out
    main(["jobs"])
    shown = capfd.readouterr().out
    assert "太郎" in shown and "1 validating_files" in shown


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "nowhere.jsonl"), ("submit", str(DATA / "taro.jsonl"), "rnk=4"),
        ("submit", str(DATA / "taro.jsonl"), "--epochs", "0"), ("show", "ftjob-none"),
        ("submit", str(DATA / "taro.jsonl"), "--model", "nope"), ("import", "nowhere.csv"),
        ("move", "ftjob-none", "--first"), ("submit", "file-none"),
    ],
)  # fmt: skip
def test_mistakes_are_told_without_a_traceback(
    capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["jobs", *words]) == 2
    shown = capfd.readouterr()
    assert "error:" in shown.err and "Traceback" not in shown.err + shown.out


def test_a_past_job_is_taken_in(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    results = tmp_path / "結果.csv"
    results.write_text("step,train_loss,train_accuracy\n1,1.5,0.25\n", encoding="utf-8")
    job = document(capfd, "import", str(results), "--train", str(DATA / "taro.jsonl"))
    assert job["status"] == "succeeded"
    events = document(capfd, "logs", job["id"])["events"]
    assert events[1]["data"]["train_loss"] == 1.5
