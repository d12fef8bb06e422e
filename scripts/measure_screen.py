"""How well `tanren data screen` finds what the labelled lines hold, by kind, and how fast it reads.

    python scripts/measure_screen.py                        precision and recall, printed
    python scripts/measure_screen.py --write                and written to docs/measured/screen.md
    python scripts/measure_screen.py --rows 1000000         and rows a second over so many chats
    python scripts/measure_screen.py --clean A.jsonl ...    and findings in texts that hold nothing

The lines are ours: every value in them is invented, reserved or a known test number. In a line
⟦kind|value⟧ marks a value; ¦ is taken out first (it keeps scanners of repositories calm). The part
`develop` was at hand while the rules were written, `held-out` was written when they were done:
its numbers are the honest ones. Right is a finding of the right kind at exactly the right place.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import report

from tanren.data.screen import KINDS, Screener, Target, find, read_plan
from tanren.evaluate.resampling import wilson

LINES = report.REPOSITORY / "tests" / "data" / "screen" / "labelled.jsonl"
PARTS = {"develop": "Lines the rules were written with", "held-out": "Lines written afterwards"}
CONFIDENCE = 0.95
EARLIER = (
    "The lines of both parts and the rules have one author, so expect less of texts from "
    "elsewhere.\nForty lines of the first part were held out before: then 28 of 29 findings were "
    "right (0.97) and 28\nof 34 values found (0.82). Their misses were mended, and the forty lines "
    "of the second part were\nwritten after that; no rule was changed for them."
)
"""Measured with the rules of that time, which no script can do again."""
_MARK = re.compile(r"⟦(\w+)\|(.*?)⟧", re.DOTALL)

Span = tuple[str, int, int]
"""Kind, first code point, the one after the last."""


@dataclass(frozen=True)
class Line:
    number: int
    part: str
    language: str
    text: str
    spans: tuple[Span, ...]


@dataclass
class Score:
    """Counts of one kind. `covered`: labelled values that findings of any kinds hide wholly."""

    labelled: int = 0
    found: int = 0
    right: int = 0
    covered: int = 0

    def add(self, wanted: Sequence[Span], got: Sequence[Span], everything: Sequence[Span]) -> None:
        self.labelled += len(wanted)
        self.found += len(got)
        self.right += len(set(wanted) & set(got))
        hidden = {place for _, start, end in everything for place in range(start, end)}
        self.covered += sum(set(range(start, end)) <= hidden for _, start, end in wanted)


@dataclass
class Measured:
    lines: int = 0
    wrong: list[int] = field(default_factory=list)
    """Numbers of the lines whose findings are not exactly their labels."""
    kinds: dict[str, Score] = field(default_factory=dict)
    total: Score = field(default_factory=Score)


def read_lines(path: Path = LINES) -> list[Line]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [
        Line(number, row["part"], row["language"], *unmarked(row["text"]))
        for number, row in enumerate(rows, start=1)
    ]


def unmarked(marked: str) -> tuple[str, tuple[Span, ...]]:
    """The text without its marks, and where the marked values stand in it."""
    text, spans, end = "", [], 0
    marked = marked.replace("¦", "")
    for match in _MARK.finditer(marked):
        text += marked[end : match.start()]
        spans.append((match[1], len(text), len(text) + len(match[2])))
        text += match[2]
        end = match.end()
    return text + marked[end:], tuple(spans)


def found_in(text: str) -> tuple[Span, ...]:
    return tuple((one.kind, one.start, one.end) for one in find(text))


def measure(lines: Iterable[Line]) -> Measured:
    made = Measured()
    for line in lines:
        got = found_in(line.text)
        made.lines += 1
        if got != line.spans:
            made.wrong.append(line.number)
        made.total.add(line.spans, got, got)
        for kind in {span[0] for span in (*line.spans, *got)}:
            wanted = [span for span in line.spans if span[0] == kind]
            of_kind = [span for span in got if span[0] == kind]
            made.kinds.setdefault(kind, Score()).add(wanted, of_kind, got)
    return made


# --- words ----------------------------------------------------------------------------------------


def table(measured: Measured) -> str:
    rows = [(kind, measured.kinds[kind]) for kind in KINDS if kind in measured.kinds]
    body = "\n".join(_row(name, score) for name, score in [*rows, ("all kinds", measured.total)])
    head = "| kind | labelled | found | right | precision | recall | hidden |"
    return f"{head}\n| --- | --- | --- | --- | --- | --- | --- |\n{body}"


def _row(name: str, score: Score) -> str:
    shares = [
        share(score.right, score.found),
        share(score.right, score.labelled),
        share(score.covered, score.labelled),
    ]
    cells = [name, score.labelled, score.found, score.right, *shares]
    return "| " + " | ".join(map(str, cells)) + " |"


def share(right: int, of: int) -> str:
    """A share with Wilson's interval."""
    if not of:
        return "–"
    interval = wilson(right, of, CONFIDENCE)
    return f"{right / of:.2f} ({interval.low:.2f} to {interval.high:.2f})"


# --- speed and clean texts ------------------------------------------------------------------------


def speed(rows: int) -> dict[str, Any]:
    """Ordinary chats through the whole command, redacting, without moderators."""
    from bench_data import write_chats

    with tempfile.TemporaryDirectory(prefix="measure-screen-") as folder:
        source = write_chats(Path(folder) / "rows.jsonl", rows, seed=3)
        screener = Screener(read_plan("redact"))
        began = time.process_time()
        made = screener.screen(source, Target.of(Path(folder) / "out.jsonl"))
        seconds = time.process_time() - began
        return {
            "rows": rows,
            "bytes": source.stat().st_size,
            "seconds": seconds,
            "findings": sum(made.findings.values()),
        }


def texts_of(path: Path) -> Iterator[str]:
    """Every string of every row; whole lines of files that are no JSONL."""
    is_json = path.suffix == ".jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        stack: list[Any] = [json.loads(line) if is_json else line]
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict | list):
                stack += value.values() if isinstance(value, dict) else value


def clean(paths: Iterable[Path]) -> str:
    lines = []
    for path in paths:
        texts = list(texts_of(path))
        found = sum(len(find(text)) for text in texts)
        size = sum(map(len, texts))
        lines.append(f"| {path.name} | {len(texts):,} | {size:,} | {found} |")
    return "| file | texts | characters | findings |\n| --- | --- | --- | --- |\n" + "\n".join(
        lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    lines = read_lines()
    parts = [f"# Screening measured\n\n{report.footer(report.circumstances())}."]
    parts.append(
        "Right is a finding of the right kind at exactly the right place; hidden is a value that\n"
        f"redaction would leave no character of. Intervals are Wilson's, 95%.\n\n{EARLIER}"
    )
    for part, title in PARTS.items():
        measured = measure(line for line in lines if line.part == part)
        wrong = f"{measured.lines} lines, {len(measured.wrong)} of them not exactly as labelled"
        numbers = ", ".join(map(str, measured.wrong)) or "none"
        parts.append(f"## {title}\n\n{wrong} (line numbers: {numbers}).\n\n{table(measured)}")
    if options.clean:
        parts.append("## Texts that should hold nothing\n\n" + clean(options.clean))
    if options.rows:
        took = speed(options.rows)
        rate, megabytes = took["rows"] / took["seconds"], took["bytes"] / took["seconds"] / 1e6
        parts.append(
            f"## Speed\n\n{took['rows']:,} chats of {took['bytes'] / took['rows']:.0f} bytes, one "
            f"core, no moderator: {rate:,.0f} rows/s, {megabytes:.1f} MB/s of CPU time; "
            f"{took['findings']} findings."
        )
    page = "\n\n".join(parts) + "\n"
    print(page)
    if options.write:
        options.out.write_text(page, encoding="utf-8")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, default=0, help="chats for the measure of speed; 0: none")
    add("--clean", type=Path, nargs="*", default=[], help="files that should hold nothing")
    add("--write", action="store_true", help="write --out as well")
    add("--out", type=Path, default=report.REPOSITORY / "docs" / "measured" / "screen.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
