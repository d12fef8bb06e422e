"""The parts of a report that say how it came about: audit, failures, settings, machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tanren.compare.data import Arm, Comparison
from tanren.compare.report.spreadsheet import FILE as SPREADSHEET
from tanren.compare.report.wording import MEANINGS, NOTHING, duration, listed, rate, setting
from tanren.evaluate.report.document import Block, Folded, Table, Text
from tanren.evaluate.report.wording import counted


def audit(comparison: Comparison) -> Iterator[Block]:
    if not comparison.audit:
        yield Text("Nothing was checked: whether the comparison is fair is not known.")
        return
    failed = sum(not check.passed for check in comparison.audit)
    checks = counted(len(comparison.audit), "check")
    yield Text(f"{failed} of {checks} failed." if failed else f"{checks}, all passed.")
    rows = tuple(
        (check.name, "pass" if check.passed else "FAIL", check.text, ", ".join(check.arms))
        for check in comparison.audit
    )
    wrong = {at for at, check in enumerate(comparison.audit) if not check.passed}
    marks = frozenset((at, 1) for at in wrong)
    yield Table(("check", "result", "what was found", "arms"), rows, words=4, alarming=marks)


def failures(comparison: Comparison) -> Iterator[Block]:
    """Runs of the seeds, rates of the search, and arms that were stopped."""
    rows = [
        (arm.name, f"seed {run.seed}", MEANINGS[run.outcome], run.why or NOTHING, run.path)
        for arm in comparison.arms
        for run in arm.runs
        if not run.succeeded
    ]
    rows += [
        (arm.name, f"search at {rate(tried.learning_rate)}", MEANINGS[tried.outcome], NOTHING,
         tried.path or NOTHING)
        for arm in comparison.arms
        for tried in arm.tried
        if tried.outcome != "succeeded"
    ]  # fmt: skip
    rows += [
        (arm.name, "all seeds", "stopped", arm.stopped, NOTHING)
        for arm in comparison.arms
        if arm.stopped
    ]
    if rows:
        yield Table(("arm", "run", "outcome", "why", "folder"), tuple(rows), words=5)
    else:
        yield Text("Every run finished.")


# --- settings -------------------------------------------------------------------------------------


RATE = "training.learning_rate"


def changes(comparison: Comparison) -> Iterator[Block]:
    """A line an arm, a column a setting that any of them changes, and the rate that each got."""
    paths = list(dict.fromkeys(path for arm in comparison.arms for path in arm.settings))
    if RATE not in paths:
        paths.append(RATE)
    yield Text("Exactly this differs between the arms; everything else they share.")
    rows, keys = [], []
    for arm in comparison.arms:
        given = {path: setting(value) for path, value in arm.settings.items()}
        if arm.learning_rate is not None:
            given[RATE] = f"{rate(arm.learning_rate)} ({arm.rate_source})"
        rows.append((arm.name, *(given.get(path, NOTHING) for path in paths)))
        keys.append((None, *(_number(arm, path) for path in paths)))
    head = ("arm", *paths)
    yield Table(head, tuple(rows), words=len(head), keys=tuple(keys))
    if comparison.shared:
        shared = tuple((path, setting(value)) for path, value in comparison.shared.items())
        title = f"What all arms share: {counted(len(shared), 'setting')}"
        yield Folded(title, (Table(("setting", "value"), shared, words=2),))
    else:
        yield Text("The settings that all arms share are not known.")


def _number(arm: Arm, path: str) -> float | None:
    value = arm.learning_rate if path == RATE else arm.settings.get(path)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def servers(comparison: Comparison) -> Iterator[Block]:
    """T15: some servers take an adapter only after merging."""
    names = list(dict.fromkeys(s.server for arm in comparison.arms for s in arm.served))
    if not names:
        yield Text("Which servers take these adapters was not looked up.")
        return
    rows, reasons = [], []
    for arm in comparison.arms:
        found = {served.server: served for served in arm.served}
        rows.append((arm.name, *(_served(found, name) for name in names)))
        reasons += [(arm.name, s.server, s.why) for s in arm.served if s.why and not s.unmerged]
    caption = "Served as it is, or only after merging into the base model (tanren export)."
    yield Table(("arm", *names), tuple(rows), caption, words=1 + len(names))
    if reasons:
        why = Table(("arm", "server", "why not as it is"), tuple(reasons), words=3)
        yield Folded("Why not as it is", (why,))


def _served(found: Mapping[str, Any], server: str) -> str:
    if server not in found:
        return NOTHING
    return "as it is" if found[server].unmerged else "merged"


# --- circumstances --------------------------------------------------------------------------------


def measured(comparison: Comparison) -> Iterator[Block]:
    if comparison.machine:
        rows = tuple((name, _value(value)) for name, value in comparison.machine.items())
        yield Table(("fact", "value"), rows, words=2)
    else:
        yield Text("The machine was not recorded.")
    if comparison.seconds is not None:
        yield Text(f"The whole comparison took {duration(comparison.seconds)}.")
    runs = sum(len(arm.runs) + len(arm.tried) for arm in comparison.arms)
    yield Text(
        f"{counted(runs, 'run')}, searches included. Every number of every seed stands in "
        f"{SPREADSHEET} (UTF-8 without a mark; in Excel: Data, From Text/CSV), and everything "
        "that this report is made of in results.json."
    )
    for note in comparison.notes:
        yield Text(note)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return listed(map(_value, value)) if value else NOTHING
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
