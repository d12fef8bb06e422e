"""Runs as pages: the list, one run, what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from tanren.cli.display import (
    at,
    count,
    duration,
    facts,
    heading,
    local_time,
    number,
    one_line,
    row,
    table,
    text,
)
from tanren.cli.events import describe
from tanren.cli.result_page import result_facts, show_answers

_STYLES = {
    "created": "dim",
    "running": "cyan",
    "succeeded": "green",
    "failed": "bold red",
    "interrupted": "yellow",
    "killed": "bold magenta",
}
_MEANINGS = {
    "created": "made, not begun",
    "running": "at work",
    "succeeded": "done",
    "failed": "ended with an error",
    "interrupted": "stopped by a person or a signal; a checkpoint was saved",
    "killed": "the process vanished without a word: killed (out of memory?) or the machine stopped",
}


def show_list(console: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    made = table("run", "state", "method", "model", "steps", "loss", "when", "took", right=(4, 5))
    for run in runs:
        row(
            made,
            run["id"],
            _state(run["state"]),
            run["method"] or "?",
            run["model"] or "?",
            _steps(run),
            number(run["loss"]),
            local_time(str(run["created"])) if run["created"] else "-",
            duration(run["seconds"]),
        )
    console.print(made)
    for run in runs:
        if run["problem"]:
            problem = one_line(str(run["problem"]))
            console.print(text(f"{run['id']}: settings cannot be read: {problem}", "yellow"))


def _state(state: str) -> Text:
    return text(state, _STYLES.get(state, ""))


def _steps(run: Mapping[str, Any]) -> str:
    if run["steps"] is None:
        return "-"
    total = run["total_steps"]
    done = run["state"] == "succeeded" or total is None
    return count(run["steps"]) if done else f"{count(run['steps'])}/{count(total)}"


def show_run(console: Console, run: Mapping[str, Any]) -> None:
    state = str(run["state"])
    title = text(f"{run['path']}  ", "bold")
    title.append_text(_state(state))
    console.print(title, soft_wrap=True)
    console.print(text(_MEANINGS.get(state, ""), "dim"))
    _settings(console, run)
    _data(console, run["data"])
    if run["result"]:
        heading(console, "Result")
        console.print(facts(result_facts(run["result"])))
        proof = {"event": "proof", **(run["result"].get("proof") or {})}
        console.print(text(describe(proof)), soft_wrap=True)
        show_answers(console, run["result"].get("answers") or [])
    _events(console, run["events"])
    _failure(console, run["failure"])
    _checkpoints(console, run)
    _next(console, run["next"])


def _settings(console: Console, run: Mapping[str, Any]) -> None:
    from tanren.cli.run_facts import chosen

    heading(console, "Settings")
    if run["config"] is None:
        console.print(text(run["problem"], "yellow"))
        return
    settings, others = chosen(run["config"])
    console.print(facts((key, _value(value)) for key, value in settings.items()))
    console.print(text(f" and {others} defaults (config.yaml has them all)", "dim"))


def _data(console: Console, data: Any) -> None:
    if not data:
        return
    heading(console, "Data")
    for name in ("train", "validation"):
        file = at(data, name)
        if file:
            ledger = file.get("ledger") or {}
            trained = (ledger.get("trained_whole") or 0) + (ledger.get("trained_cut") or 0)
            line = (
                f"{name}: {file.get('path')}, {count(trained)} of "
                f"{count(ledger.get('source_rows'))} rows trained "
                f"({count(ledger.get('trained_cut'))} cut), "
                f"{count(ledger.get('trained_tokens'))} of {count(ledger.get('tokens'))} tokens "
                f"trained, sha256 {str(file.get('sha256'))[:12]}"
            )
            console.print(text(line), soft_wrap=True)


def _events(console: Console, events: Sequence[Mapping[str, Any]]) -> None:
    if not events:
        return
    heading(console, "Last events")
    for event in events:
        line = text(local_time(str(event.get("time")), "%H:%M:%S  "), "dim")
        line.append_text(text(describe(event)))
        console.print(line, soft_wrap=True)


def _failure(console: Console, failure: Mapping[str, Any] | None) -> None:
    if failure is None:
        return
    heading(console, "Why it failed")
    console.print(text(failure["cause"] or "no cause was written", "bold red"), soft_wrap=True)
    for fault in failure["faults"]:
        line = "  {where}: found {found}, expected {expected}; {remedy}".format(
            **{key: at(fault, key) for key in ("where", "found", "expected", "remedy")}
        )
        console.print(text(one_line(line)), soft_wrap=True)
    if failure["traceback"]:
        console.print(text(failure["traceback"].rstrip(), "dim"), soft_wrap=True)


def _checkpoints(console: Console, run: Mapping[str, Any]) -> None:
    if run["checkpoints"]:
        steps = ", ".join(count(step) for step in run["checkpoints"])
        console.print()
        console.print(text(f"checkpoints of steps {steps}"))
    for name, problems in run["incomplete_checkpoints"].items():
        console.print(text(f"damaged checkpoint {name}: {'; '.join(problems)}", "yellow"))


def _next(console: Console, step: Mapping[str, Any]) -> None:
    console.print()
    console.print(text(f"next: {step['command']}", "bold"), soft_wrap=True)
    console.print(text(f"      {step['meaning']}", "dim"), soft_wrap=True)


def show_difference(
    console: Console, a: str, b: str, differing: Mapping[str, Mapping[str, Sequence[Any]]]
) -> None:
    if not differing:
        console.print(text(f"{a} and {b} do not differ"))
        return
    made = table("", a, b)
    for place, keys in differing.items():
        made.add_section()
        row(made, place, "", "", style="bold")
        for key, (left, right) in keys.items():
            row(made, f"  {key}", _value(left), _value(right))
    console.print(made)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_value(inner) for inner in value) or "none"
    return one_line(str(value))
