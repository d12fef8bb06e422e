"""Laws of the display of a run at work, and of its words."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tanren.cli.display import clean, duration, one_line, size, sparkline, text
from tanren.cli.events import describe
from tanren.cli.gate_page import marks, show_preview
from tanren.cli.progress import LiveProgress, PlainProgress, watched
from tanren.cli.result_page import show_answers
from tanren.cli.streams import CalmConsole

STEP = {
    "event": "step",
    "step": 3,
    "steps": 12,
    "epoch": 0.75,
    "loss": 2.34567,
    "learning_rate": 2e-4,
    "grad_norm": 1.0,
    "tokens": 4321,
    "tokens_per_second": 1234.5,
    "mfu": 0.412,
    "eta_seconds": 83.0,
    "memory_bytes": 1_234_000_000,
}
EVENTS: list[dict[str, Any]] = [
    {"event": "stage", "name": "data", "text": "reading\nデータ[red].jsonl"},
    {"event": "gate", "summary": {"data": {"train": {"ledger": {"source_rows": 5}}}}},
    {"event": "note", "text": "a default"},
    {"event": "started", "device": "cpu", "world_size": 2, "resumed_from": 7},
    STEP,
    {"event": "evaluation", "step": 3, "loss": 1.5, "token_accuracy": 0.5, "best": True},
    {"event": "early_stopping", "step": 9, "best_step": 3, "best": 1.5, "patience": 2},
    {"event": "checkpoint", "step": 3, "path": "checkpoints/step-00000003"},
    {"event": "out_of_memory", "micro_batch_tokens": 512, "before": 1024, "step": 3},
    {"event": "proof", "passed": False, "failures": ["3 tensors are missing"]},
    {"event": "answers", "answers": [{"stopped": True}, {"stopped": False}]},
    {"event": "succeeded", "result": {"steps": 12, "loss": {"first": 3, "last": 1}}},
    {"event": "failed", "error": "out of disk", "faults": [{}, {}]},
    {"event": "interrupted", "message": "stopped by SIGINT", "resume": "tanren train --resume x"},
    {"event": "of another version", "field": [1, 2]},
    {},
    *({"event": kind} for kind in ("gate", "started", "step", "evaluation", "proof", "succeeded")),
    {"event": "step", "loss": "nan", "epoch": [], "memory_bytes": {}},
]


def console(**options: Any) -> CalmConsole:
    return CalmConsole(
        file=io.StringIO(), markup=False, highlight=False, emoji=False, width=120, **options
    )


def written(made: Console) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


def test_off_a_terminal_every_event_is_exactly_one_line() -> None:
    made = console()
    progress = PlainProgress(made)
    for event in EVENTS:
        progress(event)
    lines = written(made).splitlines()
    assert len(lines) == len(EVENTS)
    assert lines[0] == "data: reading データ[red].jsonl", "no newline, no markup"
    assert all(lines)


def test_a_step_says_where_it_is_and_how_fast() -> None:
    line = describe(STEP)
    for words in (
        "step 3/12",
        "epoch 0.75",
        "loss 2.3457",
        "0.0002",
        "1,234 tokens/s",
        "MFU 41.2%",
    ):
        assert words in line
    assert "1 min 23 s left" in line and "memory 1.2 GB" in line


def test_what_is_not_known_is_not_shown() -> None:
    line = describe({**STEP, "mfu": None})
    assert "MFU" not in line


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (EVENTS[3], ["resumed after step 7", "2 processes"]),
        (EVENTS[5], ["step 3", "loss 1.5000", "50.0%", "best so far"]),
        (EVENTS[6], ["stopped early at step 9", "2 evaluations", "best was step 3"]),
        (EVENTS[8], ["512 tokens instead of 1,024"]),
        (EVENTS[9], ["proof failed", "3 tensors are missing"]),
        (EVENTS[10], ["2 questions", "1 ended by themselves"]),
        (EVENTS[12], ["out of disk", "2 faults"]),
        (EVENTS[13], ["stopped by SIGINT", "tanren train --resume x"]),
        (EVENTS[14], ["of another version", "field=[1, 2]"]),
    ],
)
def test_every_kind_of_event_has_its_words(event: dict[str, Any], words: list[str]) -> None:
    for word in words:
        assert word in describe(event)


def test_on_a_terminal_a_bar_lives_below_the_lines() -> None:
    made = console(force_terminal=True, color_system=None)
    with watched(made) as observer:
        assert isinstance(observer, LiveProgress)
        for loss in (4.0, 3.0, 2.0):
            observer({**STEP, "loss": loss})
        observer({"event": "evaluation", "step": 3, "loss": 1.5, "best": True})
        live = console()
        live.print(observer.render())
    bar = written(live)
    for words in ("step 3/12", "25%", "loss 2.0000", "█▅▁", "1,234 tokens/s", "1 min 23 s left"):
        assert words in bar
    assert "validation at step 3" in written(made)


def test_the_bar_names_the_stage_before_the_first_step() -> None:
    progress = LiveProgress(console(force_terminal=True))
    progress({"event": "stage", "name": "model", "text": "loading [red]m"})
    live = console()
    live.print(progress.render())
    assert "model: loading [red]m" in written(live)


def test_the_spark_line_spans_low_to_high() -> None:
    assert sparkline([3, 2, 1]) == "█▅▁"
    assert sparkline([1, 1]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline(list(range(1000)), width=16)) == 16
    assert sparkline(list(range(1000)))[::15] == "▁█"
    assert sparkline([2, 1], ascii_only=True).isascii()


def preview(**options: Any) -> str:
    made = console(**options)
    show_preview(made, [[("[red]質問\x1b[2J", False), ("答え\n", True)]])
    return written(made)


def test_the_preview_marks_what_is_trained() -> None:
    """In colour on a terminal, between marks elsewhere and where colours are not wanted."""
    begin, end = marks(ascii_only=False)
    for options in ({}, {"force_terminal": True, "no_color": True, "color_system": "standard"}):
        shown = preview(**options)
        assert f"[red]質問\\x1b[2J{begin}答え\n{end}" in shown
    coloured = preview(force_terminal=True, color_system="standard")
    assert begin not in coloured
    assert "\x1b[1;32m答え" in coloured and "\x1b[2m[red]質問" in coloured
    assert all(mark.isascii() for mark in marks(ascii_only=True))


def test_text_of_others_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[31mb\x07\u202ec\x9b\ud800\nd\te") == (
        "a\\x1b[31mb\\x07\\u202ec\\x9b\\ud800\nd\te"
    )
    assert one_line("a\r\nb\u2028c") == "a b c"
    assert text("[bold]x[/bold]").plain == "[bold]x[/bold]"


def test_answers_stand_side_by_side_by_the_width_of_their_characters() -> None:
    made = console()
    answers = [
        {"prompt": "あ", "before": "い" * 30, "after": "[red]う", "reference": "え"},
        {"prompt": "a", "before": "b", "after": "c", "reference": "d", "stopped": False},
    ]
    show_answers(made, answers)
    shown = written(made)
    assert "[red]う" in shown and "did not end by itself" in shown
    first = next(line for line in shown.splitlines() if "あ" in line)
    second = next(line for line in shown.splitlines() if " a " in line)
    width = first[: first.index("い")]
    cells = sum(2 if ord(letter) > 0x2E80 else 1 for letter in width)
    assert second.index("b") == cells, "columns line up although Japanese is twice as wide"


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (65, "1 min 05 s"), (7384, "2 h 03 min"), (None, "-")],
)
def test_durations(value: float | None, words: str) -> None:
    assert duration(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(999, "999 bytes"), (1500, "1.5 kB"), (2_949_000_000, "2.9 GB"), (-2e9, "-2.0 GB")],
)
def test_sizes(value: float, words: str) -> None:
    assert size(value) == words
