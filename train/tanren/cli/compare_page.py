"""A comparison as a page: what is planned, what each run came to, what was found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tanren.cli.display import (
    clean,
    counted,
    duration,
    heading,
    one_line,
    row,
    shell,
    size,
    table,
    text,
)

if TYPE_CHECKING:
    from tanren.compare.carry_out import Compared
    from tanren.compare.data import Arm, Comparison, Estimate, Measure
    from tanren.compare.prepare import Prepared

FACTS = ("train_seconds", "peak_memory_bytes", "trained_parameters")


def stage_words(event: str, fields: Mapping[str, Any]) -> str:
    return one_line(fields["text"]) if event == "stage" else ""


def run_words(fields: Mapping[str, Any]) -> str:
    """`[3/32] dora, seed 1: loss 0.4012 in 12 s, about 4 min left`."""
    place = f"[{fields['done']}/{fields['total']}] {one_line(fields['name'])}"
    if fields["state"] == "running":
        return f"{place}: running"
    if fields["state"] != "succeeded":
        return f"{place}: {fields['state'].replace('_', ' ')}: {one_line(fields['why'])}"
    loss = "" if fields["loss"] is None else f"loss {fields['loss']:.4f} "
    when = "kept from before" if fields["kept"] else f"in {duration(fields['seconds'])}"
    left = fields.get("seconds_left")
    return f"{place}: {loss}{when}" + (f", about {duration(left)} left" if left else "")


# --- the plan -------------------------------------------------------------------------------------


def plan_document(prepared: Prepared) -> dict[str, Any]:
    plan = prepared.plan
    return {
        "folder": str(prepared.folder.path),
        "reference": plan.reference,
        "most_runs": plan.most_runs,
        "arms": [
            {
                "name": arm.name,
                "changes": {key: _plain(value) for key, value in arm.variant.changes.items()},
                "steps": arm.steps,
                "learning_rate": arm.auto_rate,
                "searched": arm in plan.searched,
            }
            for arm in plan.arms
        ],
        "notes": list(plan.notes),
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def show_plan(console: Console, prepared: Prepared) -> None:
    plan = prepared.plan
    heading(console, f"{counted(len(plan.arms), 'arm')}")
    made = table("arm", "what it changes", "steps", "learning rate", right=(2,))
    for arm in plan.arms:
        searched = f"searched around {arm.auto_rate:g}"
        rate = searched if arm in plan.searched else f"{arm.auto_rate:g}"
        changes = ", ".join(f"{key}={_plain(value)}" for key, value in arm.variant.changes.items())
        row(made, arm.name, changes, arm.steps, rate)
    console.print(made)
    seeds = counted(len(plan.config.seeds), "seed")
    search = " and the search" if plan.searched else ""
    most = "at most " if plan.searched else ""
    console.print(text(f"{most}{counted(plan.most_runs, 'run')}: {seeds} an arm{search}"))
    for note in plan.notes:
        console.print(text(f"note: {note}", "yellow"), soft_wrap=True)
    console.print(text("Nothing was trained (--dry-run)."))


# --- the result -----------------------------------------------------------------------------------


def as_document(comparison: Comparison) -> dict[str, Any]:
    """All of it but the steps of single runs, which results.json holds."""
    document: dict[str, Any] = json.loads(comparison.to_json())
    for arm in document["arms"]:
        for run in arm["runs"]:
            run.pop("steps")
            run.pop("checks")
    return document


def show_comparison(console: Console, done: Compared) -> None:
    found = done.comparison
    heading(console, found.title)
    _show_findings(console, found)
    _show_arms(console, found)
    _show_failures(console, found)
    for note in found.notes:
        console.print(text(f"note: {note}", "yellow"), soft_wrap=True)
    console.print()
    folder = done.folder.path
    console.print(text(f"took {duration(found.seconds)}; everything is in {folder}"))
    page = folder / "report.html"
    console.print(text(f"open in a browser:  {shell(page)}"), soft_wrap=True)
    if found.recommendation is not None:
        name = clean(found.recommendation.arm)
        command = f"tanren train {shell(folder / 'recommended.yaml')}"
        console.print(text(f"train as {name}:  {command}"), soft_wrap=True)


def _show_findings(console: Console, found: Comparison) -> None:
    failed = [check for check in found.audit if not check.passed]
    for check in failed:
        words = f"not fair: {check.name}: {check.text}"
        console.print(text(words, "bold red"), soft_wrap=True)
    for sentence in found.sentences[bool(failed) :]:  # the first one warns of just these
        console.print(text(f"- {sentence}"), soft_wrap=True)
    if found.recommendation is not None:
        console.print(text(f"recommended: {found.recommendation.arm}", "bold green"))
        for reason in found.recommendation.reasons:
            console.print(text(f"  {reason}"), soft_wrap=True)


def _show_arms(console: Console, found: Comparison) -> None:
    main = found.measure(found.main)
    columns = [main, *(found.measure(name) for name in FACTS)]
    shown = [measure for measure in columns if measure is not None]
    heads = [measure.title for measure in shown]
    made = table("arm", "seeds", "learning rate", *heads, right=range(1, 3 + len(heads)))
    for arm in found.arms:
        rate = "-" if arm.learning_rate is None else f"{arm.learning_rate:g}"
        name = f"{arm.name} (reference)" if arm.name == found.reference else arm.name
        seeds = f"{len(arm.finished)}/{len(found.seeds)}"
        cells = [_value(arm, measure) for measure in shown]
        row(made, name, seeds, rate, *cells)
    console.print(made)
    if len(found.seeds) > 1:
        console.print(text("means over seeds; in brackets 95% intervals", "dim"))


def _value(arm: Arm, measure: Measure) -> str:
    estimate = arm.measures.get(measure.name)
    if estimate is None or estimate.mean is None:
        return "-"
    mean = _amount(estimate.mean, measure)
    if measure.kind != "quality" or estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} ({_range(estimate, measure)})"


def _range(estimate: Estimate, measure: Measure) -> str:
    assert estimate.low is not None and estimate.high is not None
    return f"{_amount(estimate.low, measure)} to {_amount(estimate.high, measure)}"


def _amount(value: float, measure: Measure) -> str:
    if measure.unit == "bytes":
        return size(int(value))
    if measure.unit == "seconds":
        return duration(value)
    if measure.unit == "share":
        return f"{100 * value:.1f}%"
    if measure.unit == "parameters":
        return f"{value:,.0f}"
    return f"{value:.{measure.digits}f}"


def _show_failures(console: Console, found: Comparison) -> None:
    for arm in found.arms:
        if arm.stopped:
            console.print(text(f"{arm.name}: {arm.stopped}", "yellow"), soft_wrap=True)
        for run in arm.runs:
            if not run.succeeded:
                words = f"{arm.name}, seed {run.seed}: {run.outcome.replace('_', ' ')}: {run.why}"
                console.print(text(words, "red"), soft_wrap=True)
