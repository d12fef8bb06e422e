"""How fast rows become chats, on one core, beside a bare loop of `json.loads` over the same file.

    python scripts/bench_convert.py                 1,000,000 rows of each format, printed
    python scripts/bench_convert.py --write         and written to docs/measured/bench_convert.md
    python scripts/bench_convert.py --tiny          checks the script itself in seconds

Rows are questions and answers put together from sentences of the embedded model's own grammars.
Rates are rows per CPU second of a fresh process, start included, so a busy machine changes them
little. The bare loop reads the same rows as prompt/completion JSONL and keeps nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.children import Measured, measured
from bench_data import sentence_pool

TARGET = 50_000.0
"""Rows per second on one core, JSONL in."""
MEMORY_TARGET = 10**9
"""Bytes at the peak."""
BARE = "json.loads alone"
_BARE_CODE = "import json,sys\nfor line in open(sys.argv[1], encoding='utf-8'): json.loads(line)"
_PARQUET_ROWS = 50_000

Pair = tuple[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.inputs is not None:
        write_inputs(options.inputs, options.rows, options.seed)
        return 0
    result: dict[str, Any] = {"options": vars(options).copy(), **report.circumstances()}
    with tempfile.TemporaryDirectory(prefix="bench-convert-") as folder:
        # By a process of its own: one that holds much memory hands its peak on to its children.
        words = ["--inputs", folder, "--rows", str(options.rows), "--seed", str(options.seed)]
        measured([__file__, *words], threads=1)
        files = input_files(Path(folder))
        result["contestants"] = measure(files, Path(folder) / "out.jsonl", options)
    text = page(result)
    if options.write:
        report.write(report.output_folder(options.out), "bench_convert", result, text)
    else:
        print(text)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, default=1_000_000)
    add("--repeats", type=int, default=2, help="the best of so many, in turns")
    add("--seed", type=int, default=0)
    add("--write", action="store_true", help="write the page and its numbers to --out")
    add("--out", type=Path, default=Path("docs/measured"))
    add("--inputs", type=Path, metavar="FOLDER", help="write the inputs there, nothing else")
    add("--tiny", action="store_true", help="tiny sizes, written")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.rows, options.repeats, options.write = 300, 1, True
    return options


# --- inputs ---------------------------------------------------------------------------------------


def pairs(rows: int, seed: int) -> Iterator[Pair]:
    """A question of one sentence and an answer of two, each row different from the others."""
    import numpy as np

    sentences = sentence_pool(seed)
    chosen = np.random.default_rng(seed).integers(0, len(sentences), size=(rows, 3)).tolist()
    for number, (first, second, third) in enumerate(chosen):
        yield f"{number} {sentences[first]}", sentences[second] + sentences[third]


def input_files(folder: Path) -> dict[str, Path]:
    names = {
        "JSONL, prompt/completion": "completion.jsonl",
        "JSONL, Alpaca": "alpaca.jsonl",
        "CSV": "table.csv",
        "JSON array": "array.json",
        "Parquet": "table.parquet",
    }
    return {name: folder / file for name, file in names.items()}


def write_inputs(folder: Path, rows: int, seed: int) -> dict[str, Path]:
    """The same pairs in every format and shape."""
    files = input_files(folder)
    completion, alpaca, table, array, parquet = files.values()
    with (
        completion.open("w", encoding="utf-8") as one,
        alpaca.open("w", encoding="utf-8") as two,
        table.open("w", encoding="utf-8", newline="") as three,
        array.open("w", encoding="utf-8") as four,
    ):
        writer = csv.writer(three)
        writer.writerow(["question", "answer"])
        four.write("[")
        for number, (question, answer) in enumerate(pairs(rows, seed)):
            one.write(_line(prompt=f"{question}\n\n###\n\n", completion=f" {answer} END"))
            more = question if number % 2 else ""
            two.write(_line(instruction=question, input=more, output=answer))
            writer.writerow([question, answer])
            four.write(("," if number else "") + _line(question=question, answer=answer))
        four.write("]")
    _write_parquet(parquet, pairs(rows, seed))
    return files


def _line(**row: str) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write_parquet(path: Path, rows: Iterator[Pair]) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([("question", pyarrow.string()), ("answer", pyarrow.string())])
    with ParquetWriter(path, schema) as writer:
        batch: list[dict[str, str]] = []
        for question, answer in rows:
            batch.append({"question": question, "answer": answer})
            if len(batch) == _PARQUET_ROWS:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pyarrow.Table.from_pylist(batch, schema))


# --- measuring ------------------------------------------------------------------------------------


def measure(
    files: dict[str, Path], out: Path, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """All in turns, the best of the repeats of each."""
    found: dict[str, list[Measured]] = {}
    bare = ["-c", _BARE_CODE, str(next(iter(files.values())))]
    for _ in range(options.repeats):
        found.setdefault(BARE, []).append(measured(bare, threads=1))
        for name, path in files.items():
            print(f"... {name}", file=sys.stderr)
            found.setdefault(name, []).append(_converted(path, out, options.rows))
    sizes = {name: path.stat().st_size for name, path in files.items()}
    sizes[BARE] = next(iter(sizes.values()))
    return {name: _told(turns, sizes[name], options.rows) for name, turns in found.items()}


def _converted(path: Path, out: Path, rows: int) -> Measured:
    words = ["-m", "tanren", "data", "convert", str(path), "--out", str(out), "--overwrite"]
    done = measured([*words, "--json"], threads=1)
    chats = json.loads(done.output)["chats"]
    if chats != rows:
        raise RuntimeError(f"{path}: {chats} chats of {rows} rows")
    return done


def _told(turns: Sequence[Measured], size: int, rows: int) -> dict[str, Any]:
    seconds = min(turn.cpu for turn in turns)
    return {
        "cpu_seconds": seconds,
        "rows_per_second": rows / seconds,
        "megabytes_per_second": size / 1e6 / seconds,
        "file_bytes": size,
        "peak_rss_bytes": max(turn.peak_rss_bytes for turn in turns),
    }


def page(result: dict[str, Any]) -> str:
    told = result["contestants"]
    bare = told[BARE]["cpu_seconds"]
    rows = []
    for name, one in told.items():
        jsonl = name.startswith("JSONL")
        rows.append(
            [
                name,
                one["file_bytes"] / 1e6,
                one["rows_per_second"],
                one["megabytes_per_second"],
                one["cpu_seconds"] / bare,
                one["peak_rss_bytes"] / 1e6,
                one["rows_per_second"] >= TARGET if jsonl else None,
                one["peak_rss_bytes"] <= MEMORY_TARGET if name != BARE else None,
            ]
        )
    header = ["", "MB", "rows/s", "MB/s", "time ÷ json.loads", "peak MB"]
    header += [f"≥ {TARGET:,.0f} rows/s", f"≤ {MEMORY_TARGET / 1e9:g} GB"]
    options = result["options"]
    return (
        f"# Converting\n\n{report.footer(result)}.\n\n"
        f"{options['rows']:,} rows of a question and an answer to chat JSONL, checked and written; "
        f"per CPU second of one core, the best of {options['repeats']}.\n\n"
        f"{report.table(header, rows)}"
    )


if __name__ == "__main__":
    sys.exit(main())
