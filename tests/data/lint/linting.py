"""Rows to lint: sixty that nothing is wrong with, and one more."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tanren.data.lint import LintReport, lint_files

Row = dict[str, Any]

_WORDS = (
    "garden river stone bread cloud lantern wolf harbour violin orchard winter station paper "
    "mountain candle island window kettle letter bridge meadow pocket silver thunder basket"
)
_JAPANESE = [
    "庭",
    "川",
    "石",
    "パン",
    "雲",
    "灯り",
    "港",
    "冬",
    "駅",
    "紙",
    "山",
    "島",
    "窓",
    "手紙",
]


def chat(question: str, answer: str, system: str | None = None, **beside: Any) -> Row:
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": question})
    messages.append({"role": "assistant", "content": answer, **beside})
    return {"messages": messages}


def clean(rows: int = 60, *, system: str | None = None, seed: int = 1) -> list[Row]:
    """English rows of much the same length that have nothing in common but their grammar."""
    draw = random.Random(seed)
    made = []
    for number in range(rows):
        one, two, three, four, five = draw.sample(_WORDS.split(), 5)
        question = f"Why is the {one} of my {two} near the {three} number {number * 97}?"
        answer = f"Because a {four} was there before {number}, and with it came the {five}."
        made.append(chat(question, answer, system))
    return made


def clean_japanese(rows: int = 60, *, seed: int = 1) -> list[Row]:
    draw = random.Random(seed)
    made = []
    for _ in range(rows):
        one, two, three, four = draw.sample(_JAPANESE, 4)
        age = draw.randrange(10, 9999)
        question = f"どうして{one}の近くには{two}があるのですか？それは{age}年前からですか？"
        made.append(
            chat(question, f"それは、{three}ができたあとに、{age}人で{four}を作ったからです。")
        )
    return made


def write(folder: Path, rows: list[Row], name: str = "rows.jsonl") -> Path:
    path = folder / name
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def lint(folder: Path, rows: list[Row], **options: Any) -> LintReport:
    return lint_files([write(folder, rows)], **options)


def found(report: LintReport) -> dict[str, list[int]]:
    """Rule -> lines of its places, in order; [0] where it is of the whole file."""
    return {
        finding.rule: [place.line for place in finding.places] or [0] for finding in report.findings
    }
