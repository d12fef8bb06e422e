"""An evaluation as a page: scores, comparisons in words, retention, opinions, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from tanren.cli.display import counted, duration, heading, row, shell, show_faults, table, text
from tanren.evaluate.report.wording import shown, shown_range

if TYPE_CHECKING:
    from tanren.evaluate.people import Imported
    from tanren.evaluate.report.data import (
        Agreement,
        Evaluation,
        MeasuredMetric,
        MeasuredValue,
        Opinion,
    )
    from tanren.evaluation import Evaluated

_LOST_SHOWN = 10
_WAYS = ("better", "worse")


def show_evaluation(console: Console, done: Evaluated) -> None:
    found = done.evaluation
    heading(console, found.title)
    rows = f"{counted(found.data.rows, 'row')} of {found.data.file}"
    console.print(text(f"{rows}; task: {found.task} ({found.task_reason})", "dim"), soft_wrap=True)
    _show_scores(console, found)
    _show_comparisons(console, found)
    _show_retention(console, found)
    show_opinions(console, found.opinions, found.agreements)
    for note in found.notes:
        console.print(text(f"note: {note}", "yellow"), soft_wrap=True)
    console.print()
    console.print(text(f"took {duration(found.seconds)}; everything is in {done.folder.path}"))
    console.print(text(f"open in a browser:  {shell(done.folder.report_html)}"), soft_wrap=True)


def _show_scores(console: Console, found: Evaluation) -> None:
    names = [model.name for model in found.models]
    made = table("metric", *names, right=range(1, len(names) + 1))
    for metric in found.metrics:
        cells = [_value(metric, metric.values[name]) for name in names]
        style = "bold" if metric.name == found.main else ""
        row(made, _title(metric), *cells, style=style)
    console.print(made)
    console.print(text("in brackets 95% intervals; ↑ more is better, ↓ less is better", "dim"))


def _title(metric: MeasuredMetric) -> str:
    sign = {True: " ↑", False: " ↓", None: ""}[metric.higher_is_better]
    return f"{metric.title}{sign}"


def _value(metric: MeasuredMetric, value: MeasuredValue) -> str:
    if value.value is None:
        return "-"
    words = shown(value.value, metric.unit)
    if value.low is None or value.high is None:
        return words
    return f"{words} ({shown_range(value.low, value.high, metric.unit)})"


def _show_comparisons(console: Console, found: Evaluation) -> None:
    if not found.comparisons:
        return
    for model in found.candidates:
        heading(console, f"{model.name} against {found.reference}")
        own = [one for one in found.comparisons if one.model == model.name]
        if not own:
            console.print(text("nothing to compare: no row has an answer of both"))
        for one in own:
            metric = found.metric(one.metric)
            if metric is None:
                continue
            words = f"{metric.title}: {one.sentence}"
            up, down = ("higher", "lower") if metric.higher_is_better is None else _WAYS
            counts = f" ({one.wins} {up}, {one.losses} {down}, {one.ties} the same)"
            style = "bold" if one.metric == found.main else ""
            console.print(text(words, style).append(counts, style="dim"), soft_wrap=True)


def _show_retention(console: Console, found: Evaluation) -> None:
    if not found.retention:
        return
    heading(console, "Retention (general questions)")
    for name, result in found.retention.items():
        words = f"{name}: {result.sentence}"
        if result.drift_nats is not None:
            words += f"; drift {result.drift_nats:.3g} nats a token"
        console.print(text(words), soft_wrap=True)


def show_opinions(
    console: Console, opinions: Sequence[Opinion], agreements: Sequence[Agreement]
) -> None:
    if not opinions:
        return
    heading(console, "Opinions")
    made = table("who", "of", "criterion", "mean", "rows", "excluded", right=(3, 4, 5))
    for one in opinions:
        unit = "share" if one.unit == "share" else "points"
        value = shown(one.value, unit)
        if one.low is not None:
            value += f" ({shown_range(one.low, one.high, unit)})"
        row(made, one.name, one.model, one.criterion, value, one.rows, one.excluded)
    console.print(made)
    if agreements:
        _show_agreements(console, agreements)


def _show_agreements(console: Console, agreements: Sequence[Agreement]) -> None:
    made = table("agreement of", "criterion", "statistic", "value", "rows", right=(3, 4))
    for one in agreements:
        value = "-" if one.value is None else f"{one.value:.2f}".replace("-", "−")
        row(made, one.between, one.criterion, one.statistic, value, one.rows)
    console.print(made)
    console.print(text("1 is full agreement, 0 what chance would give", "dim"))


def show_lost(console: Console, done: Evaluated) -> None:
    """Why the gate failed, with the rows that were lost."""
    for name, faults in done.gate.items():
        console.print(text(f"error: {name} did not pass the gate", "bold red"), soft_wrap=True)
        show_faults(console, faults, limit=20)
        lost = done.evaluation.retention[name].lost
        for one in lost[:_LOST_SHOWN]:
            words = f"  lost {one.where}: {one.question!r} was {one.before!r}, is {one.after!r}"
            console.print(text(words), soft_wrap=True)
        if len(lost) > _LOST_SHOWN:
            more = f"  and {len(lost) - _LOST_SHOWN:,} more (evaluation.json has them all)"
            console.print(text(more, "dim"), soft_wrap=True)


def show_ratings(console: Console, done: Imported) -> None:
    people = [one for one in done.evaluation.opinions if one.source == "human"]
    show_opinions(console, people, done.evaluation.agreements)
    for note in done.ratings.notes:
        console.print(text(f"note: {note}", "yellow"), soft_wrap=True)
    for name, count in done.ratings.not_rated.items():
        if count:
            console.print(text(f"note: {name} left {counted(count, 'cell')} empty", "yellow"))
    console.print(text(f"the report is written anew: {shell(done.folder.report_html)}"))
