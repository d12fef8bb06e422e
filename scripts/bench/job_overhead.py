"""What a small job costs beside its steps: imports, loading, proving, saving."""

from __future__ import annotations

import json
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import report
from bench.children import measured

OVERHEAD_TARGET = 8.0
"""Seconds of `tanren train` on 50 short rows, without its steps."""


def overhead(*, rows: int, threads: int) -> tuple[dict[str, Any], str]:
    """`tanren train` on 50 rows with the embedded model: everything but the steps, as a user waits
    for it.
    """
    with tempfile.TemporaryDirectory(prefix="bench-job-") as folder:
        data = small_job(Path(folder) / "rows.jsonl", rows)
        command = ["-m", "tanren", "train", str(data), "--model"]
        command += [str(report.REPOSITORY / "data/tiny-chat"), "--out", f"{folder}/run", "--json"]
        done = measured([*command, "training.num_epochs=1"], threads=threads)
        wall = done.wall
        steps = seconds_of_steps(Path(folder) / "run" / "events.jsonl")
        stages = json.loads((Path(folder) / "run" / "result.json").read_text("utf-8"))["seconds"]
    result = {
        "rows": rows,
        "wall": wall,
        "steps": steps,
        "overhead": wall - steps,
        "cpu": done.cpu,
        "peak_rss_bytes": done.peak_rss_bytes,
        "stages": stages,
        "before_and_after_stages": wall - stages["all"],
        "reached": wall - steps <= OVERHEAD_TARGET,
    }
    text = [[rows, wall, steps, wall - steps, result["reached"], done.cpu, stages_text(stages)]]
    header = ["rows", "all s", "steps s", "overhead s", f"≤ {OVERHEAD_TARGET:g}", "CPU s of all"]
    header += ["stages s"]
    return result, "## Overhead of a small job\n\n" + report.table(header, text)


def stages_text(stages: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items())


def small_job(path: Path, rows: int) -> Path:
    """Short Japanese chats that differ from each other."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            question, answer = (
                f"{i}たす{i + 1}はいくつですか。",
                f"{i}たす{i + 1}は{2 * i + 1}です。",
            )
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path


def seconds_of_steps(events: Path) -> float:
    """From the start of training to the last step's log."""
    lines = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
    steps = [datetime.fromisoformat(e["time"]) for e in lines if e["event"] == "step"]
    begin = next(
        datetime.fromisoformat(e["time"])
        for e in lines
        if e["event"] == "stage" and e["name"] == "train"
    )
    return (steps[-1] - begin).total_seconds()
