"""How a run ended well, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from tanren.cli.display import (
    at,
    count,
    counted,
    duration,
    facts,
    heading,
    number,
    row,
    shell,
    size,
    table,
    text,
)
from tanren.cli.events import describe, metric_words


def show_result(console: Console, result: Mapping[str, Any], run: str) -> None:
    """`result` is what result.json holds."""
    show_answers(console, result.get("answers") or [])
    heading(console, "Done")
    console.print(facts(result_facts(result)))
    proof = result.get("proof") or {}
    style = "bold green" if proof.get("passed") is True else "bold red"
    console.print(text(describe({"event": "proof", **proof}), style), soft_wrap=True)
    console.print()
    console.print(text(f"talk to it:  tanren chat {shell(run)} --base"), soft_wrap=True)
    console.print(text(f"look at it:  tanren runs show {shell(run)}"), soft_wrap=True)


def result_facts(result: Mapping[str, Any]) -> list[tuple[str, object]]:
    loss = result.get("loss") or {}
    pairs: list[tuple[str, object]] = [
        ("saved in", result.get("artefact")),
        ("loss", f"{number(loss.get('first'))} at first, {number(loss.get('last'))} at last"),
        ("steps", f"{count(result.get('steps'))} ({number(result.get('epochs'), '.4g')} epochs)"),
        ("tokens", count(result.get("tokens"))),
        ("took", duration(at(result.get("seconds"), "all"))),
        ("speed", f"{number(result.get('tokens_per_second'), ',.0f')} tokens/s"),
        ("peak memory", size(result.get("peak_memory_bytes"))),
    ]
    best = result.get("best")
    if best:
        metric = next((name for name in best if name not in ("step", "kept")), "loss")
        kept = "" if best.get("kept") else ", not kept"
        words = f"{metric} {number(best.get(metric))} at step {best.get('step')}{kept}"
        pairs[2:2] = [("best validation", words), *_evaluations(result.get("evaluations") or {})]
    if result.get("stopped_early"):
        pairs.append(("stopped early", "yes"))
    if (result.get("world_size") or 1) > 1:
        pairs.append(("processes", count(result.get("world_size"))))
    return pairs


def _evaluations(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Metrics of answers at the first, best and last evaluation; nothing where none were asked."""
    lines: dict[object, tuple[str, object]] = {}  # by step: the best is often the last
    for place in ("best", "first", "last"):
        known = ("step", "loss", "token_accuracy")
        values = {name: v for name, v in (found.get(place) or {}).items() if name not in known}
        step = at(found, place, "step")
        if values and step not in lines:
            lines[step] = (f"{place} metrics", f"{', '.join(metric_words(values))} at step {step}")
    pairs = list(lines.values())
    if pairs:
        times = counted(found.get("count") or 0, "time")
        pairs.append(("evaluated", f"{times}, {duration(found.get('seconds'))} in all"))
    return pairs


def show_answers(console: Console, answers: Sequence[Mapping[str, Any]]) -> None:
    """The same questions before and after tuning, side by side."""
    if not answers:
        return
    made = table("question", "before", "after", "as in the data", title="Answers")
    made.show_lines = True
    for answer in answers:
        after = text(answer.get("after", ""), "bold")
        if answer.get("stopped") is False:
            after.append(" (did not end by itself)", style="dim")
        row(
            made,
            answer.get("prompt", ""),
            answer.get("before", ""),
            after,
            answer.get("reference", ""),
        )
    console.print()
    console.print(made)
