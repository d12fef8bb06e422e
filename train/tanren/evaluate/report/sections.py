"""From what was measured to what a report shows, section by section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import mean, median

from tanren.evaluate.report import plots
from tanren.evaluate.report.advice import advise
from tanren.evaluate.report.data import Evaluation, MeasuredMetric, PairedComparison
from tanren.evaluate.report.document import (
    Block,
    Document,
    Figure,
    Section,
    Table,
    Text,
    section,
)
from tanren.evaluate.report.shown_examples import examples
from tanren.evaluate.report.shown_retention import retained
from tanren.evaluate.report.wording import (
    NOTHING,
    counted,
    shown,
    shown_difference,
    shown_p,
    shown_range,
    shown_size,
)

MOST_LABELS = 20
"""Of a confusion matrix that is drawn; a larger one stands as a table alone."""


def document(evaluation: Evaluation, *, drawings: bool = True) -> Document:
    """`drawings` False: tables in their place, and matplotlib is not needed."""
    made = (
        _outcome(evaluation),
        _advice(evaluation),
        _scores(evaluation),
        _differences(evaluation),
        _confusion(evaluation),
        _lengths(evaluation),
        section("retention", "What it could do before", [*retained(evaluation)]),
        _opinions(evaluation),
        section("examples", "Answers that changed most", [*examples(evaluation)]),
        _measured(evaluation),
    )
    sections = tuple(part for part in made if part is not None)
    models = ", ".join(model.name for model in evaluation.models)
    subtitle = f"{models} on {evaluation.data.file}, {counted(evaluation.data.rows, 'row')}"
    if not drawings:
        sections = tuple(_without_drawings(part) for part in sections)
    return Document(evaluation.title, subtitle, sections)


def _without_drawings(of: Section) -> Section:
    blocks = (block.table if isinstance(block, Figure) else block for block in of.blocks)
    return Section(of.id, of.title, tuple(block for block in blocks if block is not None))


# --- what came of it ------------------------------------------------------------------------------


def _outcome(evaluation: Evaluation) -> Section | None:
    blocks: list[Block] = []
    for model in evaluation.candidates:
        comparison = evaluation.comparison(evaluation.main, model.name)
        metric = evaluation.metric(evaluation.main)
        if comparison is not None and metric is not None:
            words = comparison.sentence or _sentence(comparison, metric)
            against = f"{model.name} against {comparison.reference}"
            blocks.append(Text(f"{metric.title}, {against}: {words}"))
        elif metric is not None and model.name in metric.values:
            blocks.append(Text(f"{metric.title} of {model.name}: {_value(metric, model.name)}"))
        if (result := evaluation.retention.get(model.name)) is not None:
            blocks.append(Text(f"General questions, {model.name}: {result.sentence}"))
    if not blocks:
        blocks.append(Text("No metric was computed."))
    return section("outcome", "Outcome", blocks)


def _sentence(comparison: PairedComparison, metric: MeasuredMetric) -> str:
    return (
        f"{shown_difference(comparison.difference, metric.unit)}, 95% "
        f"{shown_range(comparison.low, comparison.high, metric.unit)}, "
        f"{counted(comparison.rows, 'row')}, p {shown_p(comparison.p_value)}"
    )


def _advice(evaluation: Evaluation) -> Section | None:
    found = advise(evaluation)
    nothing = Text("Nothing in these numbers calls for a change.")
    return section("advice", "Where it fails and what to try next", found or [nothing])


# --- numbers --------------------------------------------------------------------------------------


def _scores(evaluation: Evaluation) -> Section | None:
    names = [model.name for model in evaluation.models]
    rows = tuple(
        (_with_direction(metric), *(_value(metric, name) for name in names))
        for metric in evaluation.metrics
    )
    blocks: list[Block] = [Text(f"Task: {evaluation.task} ({evaluation.task_reason}).")]
    if rows:
        caption = "Values with 95% intervals; ↑ more is better, ↓ less is better."
        blocks.append(Table(("metric", *names), rows, caption))
    metric = evaluation.metric(evaluation.main)
    if metric is not None and (figure := _intervals(metric, names)) is not None:
        blocks.insert(1, figure)
    return section("scores", "Scores", blocks)


def _with_direction(metric: MeasuredMetric) -> str:
    sign = {True: " ↑", False: " ↓", None: ""}[metric.higher_is_better]
    return f"{metric.title}{sign}"


def _value(metric: MeasuredMetric, model: str) -> str:
    measured = metric.values.get(model)
    if measured is None or measured.value is None:
        return NOTHING
    words = shown(measured.value, metric.unit)
    if measured.low is None or measured.high is None:
        return words
    return f"{words} ({shown_range(measured.low, measured.high, metric.unit)})"


def _intervals(metric: MeasuredMetric, names: Sequence[str]) -> Figure | None:
    scale = 100 if metric.unit == "share" else 1
    rows: list[plots.Measured] = []
    for name in names:
        measured = metric.values.get(name)
        if measured is not None and measured.value is not None:
            ends = (_scaled(measured.low, scale), _scaled(measured.high, scale))
            rows.append((name, scale * measured.value, *ends))
    if not rows:
        return None
    unit = "%" if metric.unit == "share" else metric.unit
    draw = partial(plots.intervals, rows, f"{metric.title} ({unit})")
    return Figure(draw, f"{metric.title}, 95% intervals")


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def _differences(evaluation: Evaluation) -> Section | None:
    if not evaluation.comparisons:
        return None
    rows = tuple(_difference(evaluation, comparison) for comparison in evaluation.comparisons)
    head = (
        "metric", "model", "difference", "95%", "p", "p (Holm)", "better / worse / same", "rows",
        "left out", "would show",
    )  # fmt: skip
    caption = (
        f"Against {evaluation.reference}, row by row. “Would show”: the smallest true difference "
        "that so many rows find in four of five tries."
    )
    blocks: list[Block] = [*_difference_figure(evaluation)]
    blocks.append(Table(head, rows, caption, words=2))
    return section("differences", "Differences, row by row", blocks)


def _difference(evaluation: Evaluation, comparison: PairedComparison) -> tuple[str, ...]:
    metric = evaluation.metric(comparison.metric)
    unit = metric.unit if metric is not None else ""
    return (
        metric.title if metric is not None else comparison.metric,
        comparison.model,
        shown_difference(comparison.difference, unit),
        shown_range(comparison.low, comparison.high, unit),
        shown_p(comparison.p_value),
        shown_p(comparison.p_adjusted),
        f"{comparison.wins:,} / {comparison.losses:,} / {comparison.ties:,}",
        f"{comparison.rows:,}",
        f"{comparison.left_out:,}",
        shown_size(comparison.detectable, unit),
    )


def _difference_figure(evaluation: Evaluation) -> Iterator[Figure]:
    """Shares on one axis; other units would need axes of their own."""
    many = len(evaluation.candidates) > 1
    rows: list[plots.Measured] = []
    for comparison in evaluation.comparisons:
        metric = evaluation.metric(comparison.metric)
        if metric is None or metric.unit != "share" or comparison.difference is None:
            continue
        name = f"{comparison.model}: {metric.title}" if many else metric.title
        ends = (_scaled(comparison.low, 100), _scaled(comparison.high, 100))
        rows.append((name, 100 * comparison.difference, *ends))
    if rows:
        caption = f"Differences to {evaluation.reference} in points, 95% intervals"
        yield Figure(partial(plots.intervals, rows, "points", zero=True), caption)


def _confusion(evaluation: Evaluation) -> Section | None:
    blocks: list[Block] = []
    for model in evaluation.models:
        for metric in evaluation.metrics:
            measured = metric.values.get(model.name)
            if measured is None or "confusion" not in measured.details:
                continue
            details = measured.details
            labels, columns = list(details["labels"]), list(details["columns"])
            matrix: list[list[int]] = details["confusion"]
            rows = tuple(
                (label, *(f"{count:,}" for count in line))
                for label, line in zip(labels, matrix, strict=True)
            )
            caption = f"{model.name}, {metric.title}: a line per reference, a column per answer"
            table = Table(("reference", *columns), rows, caption)
            if 0 < len(labels) <= MOST_LABELS:
                blocks.append(
                    Figure(partial(plots.confusion, labels, columns, matrix), caption, table)
                )
            else:
                blocks.append(table)
    return section("confusion", "Which label for which", blocks)


def _lengths(evaluation: Evaluation) -> Section | None:
    references = {
        row.row: len(row.reference)
        for rows in evaluation.answers.values()
        for row in rows
        if row.reference
    }
    series = {"reference": list(references.values())} if references else {}
    for model in evaluation.models:
        answers = evaluation.answers.get(model.name, ())
        lengths = [len(row.answer) for row in answers if row.error is None]
        if lengths:
            series[model.name] = lengths
    if not series:
        return None
    rows = tuple(
        (name, f"{len(values):,}", f"{median(values):,.0f}", f"{mean(values):,.1f}",
         f"{min(values):,}", f"{max(values):,}")
        for name, values in series.items()
    )  # fmt: skip
    caption = "Length in characters"
    table = Table(("", "rows", "median", "mean", "min", "max"), rows, caption)
    figure = Figure(partial(plots.lengths, series, "characters"), caption, table)
    return section("lengths", "Length", [figure])


# --- judges and people ----------------------------------------------------------------------------


def _opinions(evaluation: Evaluation) -> Section | None:
    blocks: list[Block] = []
    if evaluation.opinions:
        rows = tuple(
            (
                f"{opinion.name} ({opinion.source})",
                opinion.criterion,
                opinion.model,
                shown(opinion.value, opinion.unit),
                shown_range(opinion.low, opinion.high, opinion.unit),
                f"{opinion.rows:,}",
                f"{opinion.excluded:,}",
                shown_difference(opinion.position_bias, "share"),
            )
            for opinion in evaluation.opinions
        )
        head = ("who", "criterion", "model", "mean", "95%", "rows", "excluded", "position bias")
        caption = "Excluded judgements failed or could not be read; they are in no mean."
        blocks.append(Table(head, rows, caption, words=3))
    if evaluation.agreements:
        agreed = tuple(
            (a.between, a.criterion, a.statistic, shown(a.value, ""), f"{a.rows:,}")
            for a in evaluation.agreements
        )
        columns = ("between", "criterion", "statistic", "value", "rows")
        blocks.append(Table(columns, agreed, "Agreement: 1 is full, 0 is chance.", words=3))
    return section("opinions", "Judges and people", blocks)


# --- how it was measured --------------------------------------------------------------------------


def _measured(evaluation: Evaluation) -> Section | None:
    data = evaluation.data
    facts = [
        ("data", data.file),
        ("SHA-256", data.sha256),
        ("rows", _rows_of(data.rows, data.file_rows)),
        ("measured", evaluation.created),
        ("seconds", shown(evaluation.seconds, "") if evaluation.seconds is not None else NOTHING),
        *((f"decoding: {name}", str(value)) for name, value in evaluation.decoding.items()),
        *((f"version: {name}", value) for name, value in evaluation.versions.items()),
    ]
    models = tuple(
        (
            model.name,
            model.kind,
            model.where or NOTHING,
            f"{sum(row.error is None for row in evaluation.answers.get(model.name, ())):,}",
            f"{sum(row.error is not None for row in evaluation.answers.get(model.name, ())):,}",
            shown(model.seconds, "seconds"),
        )
        for model in evaluation.models
    )
    head = ("model", "kind", "where", "answers", "errors", "seconds")
    return section(
        "measured",
        "How it was measured",
        [
            Table(head, models, words=3),
            *(Text(note) for note in evaluation.notes),
            Table(("fact", "value"), tuple(facts), words=2),
        ],
    )


def _rows_of(rows: int, file_rows: int | None) -> str:
    if file_rows is None or file_rows == rows:
        return f"{rows:,}"
    return f"{rows:,} of the file's {file_rows:,}"
