"""The scripts that load and disturb the service: their judgement, and a tiny run of each."""

from __future__ import annotations

import contextlib
import importlib
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
bench_serve = importlib.import_module("bench_serve")
chat_load = importlib.import_module("bench.chat_load")
kill_service = importlib.import_module("kill_service")


def test_what_a_stream_says_is_its_text_or_its_error() -> None:
    def line(**event: Any) -> str:
        return f"data: {json.dumps(event)}"

    assert chat_load._read(line(choices=[{"delta": {"content": "雪"}}])) == ("雪", "")
    assert chat_load._read(line(choices=[{"delta": {"role": "assistant"}}])) == ("", "")
    assert chat_load._read(line(choices=[], usage={"total_tokens": 3})) == ("", "")
    assert chat_load._read("data: [DONE]") == ("", "")
    assert chat_load._read(": keep-alive") == ("", "")
    assert chat_load._read(line(error={"message": "gone"}))[1]


def test_what_is_left_of_a_killed_service_is_found(tmp_path: Path) -> None:
    outcome = kill_service.Outcome([], [], 1.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "service.db")) as database:
        database.execute("CREATE TABLE jobs (id TEXT)")
        database.commit()
    kill_service._look_at_folder(tmp_path, outcome)
    assert outcome.problems == []
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".adapter.123.tmp").mkdir()
    kill_service._look_at_folder(tmp_path, outcome)
    assert len(outcome.problems) == 1 and ".adapter.123.tmp" in outcome.problems[0]


@pytest.mark.slow
def test_two_kills_lose_nothing(tmp_path: Path) -> None:
    assert kill_service.main(["--tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "kill_service.json").read_text(encoding="utf-8"))
    assert len(found["kills"]) == 2
    assert found["disturbed"]["losses"] == found["undisturbed"]["losses"]
    assert "Nothing was lost." in (tmp_path / "kill_service.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_load_is_measured_at_its_tiny_size(tmp_path: Path) -> None:
    assert bench_serve.main(["--tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bench_serve.json").read_text(encoding="utf-8"))
    assert found["beside_training"]["errors"] == 0
    assert found["beside_training"]["job"] == "succeeded"
    assert found["lists"]["events_seen"] == 500
    sides = found["side_by_side"]
    assert set(sides) == {bench_serve.OWN, bench_serve.PLAIN, bench_serve.CONTINUOUS}
    assert all(side["errors"] == 0 and all(side["texts"]) for side in sides.values())
