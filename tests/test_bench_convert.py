"""The script that measures converting: a tiny run of it, whole, and what its numbers mean."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
bench_convert = importlib.import_module("bench_convert")


def test_every_format_holds_the_same_pairs(tmp_path: Path) -> None:
    from tanren.data.convert import convert

    files = bench_convert.write_inputs(tmp_path, 20, seed=0)
    written = {}
    for name, path in files.items():
        out = tmp_path / f"{path.name}.chats"
        assert convert([str(path)], out).chats == 20
        written[name] = out.read_bytes()
    alpaca = written.pop("JSONL, Alpaca")
    assert len(set(written.values())) == 1 and alpaca not in written.values()
    assert len(set(alpaca.splitlines())) == 20


def test_the_ratio_is_time_over_the_bare_loop_and_misses_are_said() -> None:
    told = {
        "file_bytes": 10**6, "rows_per_second": 10.0, "megabytes_per_second": 1.0,
        "cpu_seconds": 3.0, "peak_rss_bytes": 2 * 10**9,
    }  # fmt: skip
    bare = {**told, "cpu_seconds": 2.0}
    result = {
        "contestants": {bench_convert.BARE: bare, "JSONL, x": told},
        "options": {"rows": 10, "repeats": 1},
        **bench_convert.report.circumstances(),
    }
    line = bench_convert.page(result).splitlines()[-1]
    assert line == "| JSONL, x | 1 | 10 | 1 | 1.5 | 2,000 | NO | NO |"


def test_the_whole_script_runs_at_its_tiny_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert bench_convert.main(["--tiny"]) == 0
    found = json.loads((tmp_path / "bench_convert.json").read_text(encoding="utf-8"))
    assert len(found["contestants"]) == 6
    assert all(one["rows_per_second"] > 0 for one in found["contestants"].values())
    assert (tmp_path / "bench_convert.md").read_text(encoding="utf-8").startswith("# Converting")
