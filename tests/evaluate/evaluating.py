"""A tuned model, small files to ask it, and evaluations as a few words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tiny

from tanren.evaluate.answered import Answered
from tanren.evaluate.settings import load_evaluation
from tanren.evaluation import Evaluated, evaluate
from tanren.pipeline import execute
from tanren.rundir import RunDirectory


@dataclass(frozen=True)
class Tuned:
    """`losses` are what training measured on `validation`, evaluation by evaluation."""

    base: Path
    run: Path
    validation: Path
    losses: tuple[float, ...]


def tune(base: Path, folder: Path, *, method: str = "lora") -> Tuned:
    validation = tiny.write_rows(folder / "validation.jsonl", 5)
    config = tiny.settings(
        base,
        tiny.write_rows(folder / "train.jsonl", 6),
        [f"data.validation={validation}", "training.num_epochs=4", "training.learning_rate=2e-2"],
        method=method,
    )
    run = RunDirectory.create(folder / "mine", config)
    execute(run)
    losses = [event["loss"] for event in run.events() if event["event"] == "evaluation"]
    return Tuned(base, run.path, validation, tuple(losses))


def chat(*turns: str, **more: Any) -> str:
    """A line: user, assistant, user, ..."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return json.dumps({"messages": messages, **more}, ensure_ascii=False)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def settings(*models: object, data: Path, **more: Any) -> dict[str, Any]:
    """Short answers, few resamples, no general questions unless asked for."""
    return {
        "models": [str(model) for model in models],
        "data": str(data),
        "decoding": {"max_new_tokens": 12},
        "statistics": {"resamples": 200},
        "retention": {"enabled": False},
        **more,
    }


def run(
    *models: object, data: Path, out: Path, resume: bool = False, told: list[Any] | None = None,
    **more: Any,
) -> Evaluated:  # fmt: skip
    def tell(event: str, /, **fields: Any) -> None:
        if told is not None:
            told.append((event, fields))

    config = load_evaluation(None, settings(*models, data=data, **more))
    return evaluate(config, out=out, resume=resume, tell=tell)


def untimed(rows: Sequence[Answered]) -> list[Answered]:
    """Rows without what the machine's load decides."""
    timed = ("latency", "tokens_per_second")
    return [
        replace(row, seconds=None, scores={k: v for k, v in row.scores.items() if k not in timed})
        for row in rows
    ]


def records(journal: Path) -> list[dict[str, Any]]:
    """Whole lines of a journal."""
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return [json.loads(line) for line in lines]


def answers_in(journal: Path) -> list[dict[str, Any]]:
    return [record for record in records(journal) if "answer" in record]
