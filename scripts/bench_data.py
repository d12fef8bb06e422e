"""How fast rows are read, rendered, tokenised and checked, on one core.

    python scripts/bench_data.py                         20,000 rows encoded, 1,000,000 checked
    python scripts/bench_data.py --check-rows 0          encoding alone
    python scripts/bench_data.py --model DIR             another tokenizer and template
    python scripts/bench_data.py --tiny                  checks the script itself in seconds

Rows are conversations put together from sentences of the embedded model's own grammars, lognormal
in length. Rates are rows per CPU second, so a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bench import report
from bench.children import measured

ENCODE_TARGET = 5000.0
"""Rows per second on one core, read, rendered, tokenised and labelled."""
MEMORY_TARGET = 2 * 10**9
"""Bytes at the peak of checking a million rows."""
STAGES = ("reading", "encoding", "reading and encoding")
SENTENCES = 20_000
MEAN_CHARACTERS = 190
"""Gives about 130 tokens with the embedded model's tokenizer."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    result: dict[str, Any] = {"options": vars(options).copy(), **report.circumstances()}
    parts = [f"# Data measurements\n\n{report.footer(result)}."]
    with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
        path = write_chats(Path(folder) / "rows.jsonl", options.rows, seed=options.seed)
        result["encode"], text = rates(options, path)
        parts.append(text)
        if options.check_rows:
            large = write_chats(Path(folder) / "large.jsonl", options.check_rows, seed=1)
            result["check"], text = checks(options, large)
            parts.append(text)
    report.write(report.output_folder(options.out), "bench_data", result, "\n\n".join(parts))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, default=report.REPOSITORY / "data" / "tiny-chat")
    add("--rows", type=int, default=20_000, help="rows encoded")
    add("--check-rows", type=int, default=1_000_000, help="rows checked; 0: none")
    add("--repeats", type=int, default=3, help="the best of so many")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("docs/measured"))
    add("--tiny", action="store_true", help="tiny sizes")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.rows, options.check_rows, options.repeats = 200, 300, 1
    return options


# --- rows -----------------------------------------------------------------------------------------


def write_chats(path: Path, rows: int, *, seed: int) -> Path:
    """Conversations, one a line, each different from the others."""
    with path.open("w", encoding="utf-8") as file:
        for messages in conversations(rows, seed):
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path


def conversations(rows: int, seed: int) -> Iterator[list[dict[str, str]]]:
    """One to a few turns of question and answer, made of sentences until a lognormal length is
    reached.
    """
    import numpy as np

    sentences = sentence_pool(seed)
    generator = np.random.default_rng(seed)
    spread = 0.7
    wanted = generator.lognormal(np.log(MEAN_CHARACTERS) - spread**2 / 2, spread, size=rows)
    for number, characters in enumerate(np.clip(wanted, 12, 4000).astype(int).tolist()):
        chosen = generator.integers(0, len(sentences), size=characters // 4 + 4).tolist()
        turns = 2 * max(1, min(4, characters // 200))
        share = characters / turns
        place = 0
        messages = []
        for turn in range(turns):
            text = str(number) if turn == 0 else ""
            while len(text) < share:
                text += sentences[chosen[place]]
                place += 1
            messages.append({"role": "assistant" if turn % 2 else "user", "content": text})
        yield messages


def sentence_pool(seed: int) -> list[str]:
    """Distinct sentences of the embedded model's grammars, Japanese and English."""
    from tiny_chat.corpus import dialogues

    found: dict[str, None] = {}
    for dialogue in islice(dialogues(seed), SENTENCES):
        for message in dialogue.messages:
            if len(message["content"]) >= 4:
                found.setdefault(message["content"])
    return list(found)


# --- rates ----------------------------------------------------------------------------------------


def rates(options: argparse.Namespace, path: Path) -> tuple[dict[str, Any], str]:
    """Rows per CPU second of each stage, the best of the repeats, in a process of one thread."""
    command = ["-m", "bench.encode_speed", str(path), str(options.model), str(options.repeats)]
    found = dict(json.loads(measured(command, threads=1).output.splitlines()[-1]))
    rows = [
        [
            name,
            found["rows"] / found["cpu"][name],
            found["tokens"] / found["cpu"][name],
            found["rows"] / found["cpu"][name] >= ENCODE_TARGET if name == STAGES[-1] else None,
        ]
        for name in STAGES
    ]
    title = f"## One core, {found['rows']:,} rows of {found['tokens'] / found['rows']:.0f} tokens"
    header = ["", "rows/s", "tokens/s", f"≥ {ENCODE_TARGET:,.0f} rows/s"]
    return found, f"{title}\n\n{report.table(header, rows)}"


def checks(options: argparse.Namespace, path: Path) -> tuple[dict[str, Any], str]:
    """`tanren check` on many rows, without a model and with one."""
    result: dict[str, Any] = {"rows": options.check_rows, "file_bytes": path.stat().st_size}
    rows = []
    for name, extra in (("data alone", []), ("with a model", ["--model", str(options.model)])):
        began = time.strftime("%H:%M:%S")
        print(f"... {began} checking {options.check_rows:,} rows, {name}", file=sys.stderr)
        done = measured(["-m", "tanren", "check", str(path), "--json", *extra], threads=1)
        result[name] = {
            "wall": done.wall,
            "cpu": done.cpu,
            "peak_rss_bytes": done.peak_rss_bytes,
            "reached": done.peak_rss_bytes <= MEMORY_TARGET,
        }
        rows.append(
            [
                name,
                done.wall,
                done.cpu,
                done.peak_rss_bytes / 1e9,
                done.peak_rss_bytes <= MEMORY_TARGET,
            ]
        )
    title = f"## {options.check_rows:,} rows checked, {path.stat().st_size / 1e6:,.0f} MB"
    header = ["", "wall s", "CPU s", "peak GB", f"≤ {MEMORY_TARGET / 1e9:g} GB"]
    return result, f"{title}\n\n{report.table(header, rows)}"


if __name__ == "__main__":
    sys.exit(main())
