"""Laws of `tanren runs`: every end has its own state (T25), and `diff` shows only what differs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.commands import ROOT, Ended, make_run, settings

from tanren.cli.run_facts import difference, worked_seconds
from tanren.config import flattened
from tanren.errors import Fault
from tanren.rundir import RunDirectory, seal

Tanren = Callable[..., Ended]

WORKER = """
import sys, time
from tanren.rundir import RunDirectory
run = RunDirectory.open(sys.argv[1])
with run.claim():
    run.event("started", device="cpu", world_size=1)
    print("working", flush=True)
    time.sleep(60)
"""


def worker(run: RunDirectory) -> subprocess.Popen[str]:
    """A process that holds the run and has begun to work."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", WORKER, str(run.path)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={"PYTHONPATH": str(ROOT / "train")},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def add_checkpoint(run: RunDirectory, step: int) -> None:
    folder = run.checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w")
    seal(folder, step=step)


def shown(tanren: Tanren, name: str) -> tuple[dict[str, Any], str]:
    """A run as document and as page."""
    document = tanren("runs", "show", name, "--json")
    page = tanren("runs", "show", name)
    assert document.code == page.code == 0, document.err + page.err
    return document.document, page.out


def test_running_and_killed_are_told_apart(tanren: Tanren, home: Path) -> None:
    """T25: a process that SIGKILL took left no word, and is not taken for one at work."""
    run = RunDirectory.create(home / "runs" / "r", settings())
    process = worker(run)
    try:
        running, page = shown(tanren, "r")
        assert (running["state"], running["owner"]) == ("running", process.pid)
        assert f"process {process.pid}" in page and "tail -f" in page
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    killed, page = shown(tanren, "r")
    assert killed["state"] == "killed" and killed["owner"] is None
    assert killed["next"]["command"] == f"tanren train {run.config_file}"
    assert "vanished without a word" in page and "no checkpoint" in page
    add_checkpoint(run, 4)
    killed, page = shown(tanren, "r")
    assert killed["next"]["command"] == f"tanren train --resume {run.path}"
    assert f"next: tanren train --resume {run.path}" in page and "after step 4" in page


def test_a_failed_run_says_cause_faults_and_traceback(tanren: Tanren, home: Path) -> None:
    """T25."""
    run = RunDirectory.create(home / "runs" / "r", settings())
    run.event("started", device="cpu")
    fault = Fault("data/[red]日本語:3", "x", "y", "z")
    run.event(
        "failed",
        error="the loss is not finite",
        kind="DivergenceError",
        faults=[fault.as_dict()],
        traceback='Traceback\n  File "a.py", line 1\nZeroDivisionError',
    )
    document, page = shown(tanren, "r")
    assert document["state"] == "failed"
    assert document["failure"]["cause"] == "the loss is not finite"
    assert document["failure"]["faults"] == [fault.as_dict()]
    for words in (
        "the loss is not finite",
        str(fault),
        'File "a.py", line 1',
        "next: tanren train",
    ):
        assert words in page


def test_a_stopped_run_says_how_to_go_on(tanren: Tanren, home: Path) -> None:
    """T25: the user's own stop is no failure."""
    run = RunDirectory.create(home / "runs" / "with space", settings())
    run.event("started", device="cpu")
    run.event("interrupted", message="stopped by SIGINT after step 3", resume="...")
    add_checkpoint(run, 3)
    document, page = shown(tanren, "with space")
    assert document["state"] == "interrupted" and document["failure"] is None
    assert f"next: tanren train --resume '{run.path}'" in page, "quoted for a shell"
    assert "Why it failed" not in page


def test_a_succeeded_run_shows_result_answers_and_data_as_written(
    tanren: Tanren, finished: RunDirectory
) -> None:
    document, page = shown(tanren, "done")
    assert document["result"]["loss"] == {"first": 3.5, "last": 2.25}
    assert (document["steps"], document["loss"]) == (2, 2.25)
    for words in ("3.5000 at first, 2.2500 at last", "[red]日本語", "proof passed", "tanren chat"):
        assert words in page


def test_the_list_has_every_run_newest_first_and_survives_damage(
    tanren: Tanren, home: Path
) -> None:
    old = make_run(home / "runs" / "old")
    broken = RunDirectory.create(home / "runs" / "broken", settings())
    broken.config_file.write_text("model: [", encoding="utf-8")
    broken.events_file.write_bytes(b'{"event": "created"}\n{"event": "sta')
    bare = home / "runs" / "no-run"
    bare.mkdir()
    for run, moment in ((old, 1_000), (broken, 2_000)):
        subprocess.run(["touch", "-d", f"@{moment}", run.config_file], check=True)
    listed = tanren("runs", "--json").document["runs"]
    assert [(run["id"], run["state"]) for run in listed] == [
        ("broken", "created"),
        ("old", "succeeded"),
    ]
    assert listed[0]["method"] is None and "broken" in listed[0]["problem"]
    page = tanren("runs").out
    assert "settings cannot be read" in page
    (line,) = [line for line in page.splitlines() if line.strip().startswith("old ")]
    assert line.split()[:7] == ["old", "succeeded", "lora", "tiny", "2", "2.2500", line.split()[6]]


def test_no_runs_is_no_failure(tanren: Tanren, home: Path) -> None:
    ended = tanren("runs")
    assert ended.code == 0 and "no runs under" in ended.out
    assert tanren("runs", "--json").document["runs"] == []


def test_diff_shows_what_differs_and_nothing_else(tanren: Tanren, home: Path) -> None:
    a = make_run(home / "runs" / "a", settings(method={"name": "lora", "rank": 8}))
    b = make_run(home / "runs" / "b", settings(method={"name": "dora", "rank": 8}), steps=5)
    record = {"train": {"path": "a.jsonl", "sha256": "bb"}, "validation": None}
    b.data_file.write_text(json.dumps(record), encoding="utf-8")
    assert difference(a, b) == {
        "config": {"method.name": ["lora", "dora"]},
        "data": {"train.sha256": ["aa", "bb"]},
        "result": {"steps": [2, 5]},
    }
    document = tanren("runs", "diff", "a", "b", "--json").document
    assert document["differences"] == difference(a, b)
    page = tanren("runs", "diff", "a", "b").out
    assert "method.name" in page and "dora" in page
    assert "rank" not in page and "seed" not in page and "versions" not in page


def test_diff_tells_versions_and_states_apart(home: Path) -> None:
    a, b = make_run(home / "runs" / "a"), make_run(home / "runs" / "b")
    assert difference(a, b) == {}
    b.environment_file.write_text('{"versions": {"torch": "3"}}', encoding="utf-8")
    b.event("failed", error="later")
    assert difference(a, b) == {
        "environment": {"versions.torch": ["2", "3"]},
        "result": {"state": ["succeeded", "failed"]},
    }


def test_a_run_does_not_differ_from_itself(tanren: Tanren, finished: RunDirectory) -> None:
    assert "do not differ" in tanren("runs", "diff", "done", "done").out


def test_flatten_keeps_every_leaf() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None, "f": {}}
    assert flattened(nested) == {"a.b.c": 1, "a.d": [1, 2], "e": None, "f": {}}


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], None),
        ([("created", 0)], 0),
        ([("created", 0), ("data", 500), ("started", 505), ("succeeded", 510)], 10),
        ([("created", 0), ("data", 1), ("step", 9)], 8),
        ([("data", 0), ("interrupted", 10), ("data", 1000), ("succeeded", 1005)], 15),
        ([("data", 0), ("step", 10), ("data", 1000), ("data", 1001), ("failed", 1005)], 15),
    ],
    ids=["no event", "not begun", "queued", "at work", "interrupted", "killed"],
)
def test_waiting_is_not_work(events: list[tuple[str, int]], seconds: float | None) -> None:
    """A wait in the queue, after an interruption, or after the last sign of life before a kill."""
    told = [
        {
            "event": "stage" if kind == "data" else kind,
            "name": kind,
            "time": f"2026-01-01T00:{at // 60:02d}:{at % 60:02d}+00:00",
        }
        for kind, at in events
    ]
    assert worked_seconds(told) == seconds
