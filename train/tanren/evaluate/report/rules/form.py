"""The form of answers: labels and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tanren.evaluate.report.document import Advice
from tanren.evaluate.report.rules.enough import FEW, many
from tanren.evaluate.report.subject import Subject
from tanren.evaluate.report.wording import counted, percent

OTHER_SHARE = 0.1
INVALID_SHARE = 0.1
ONE_LABEL = 0.9


def labels(of: Subject) -> Iterator[Advice]:
    """No label at all, always the same one, or one never."""
    details = of.details("other", "rows")
    if details is not None and many(int(details["other"]), int(details["rows"]), OTHER_SHARE):
        yield _other(of, int(details["other"]), int(details["rows"]), details)
        if 2 * int(details["other"]) >= int(details["rows"]):
            return  # then no label is said often, for the same cause
    by_label = of.details("per_label", "rows")
    if by_label is None:
        return
    rows = int(by_label["rows"])
    said = {name: int(facts["said"]) for name, facts in by_label["per_label"].items()}
    support = {name: int(facts["support"]) for name, facts in by_label["per_label"].items()}
    most = max(said, key=lambda name: said[name], default=None)
    if most and said[most] >= ONE_LABEL * rows > 1.2 * support[most] and rows >= 10:
        yield Advice(
            "one_label", of.name, "data",
            f'{said[most]} of {counted(rows, "answer")} are "{most}", which is right for '
            f"{support[most]}.",
            "Balance the labels of the training data, shuffle it, and try a lower rate.",
        )  # fmt: skip
        return
    never = [name for name, count in support.items() if count >= FEW and said[name] == 0]
    if never:
        missing = ", ".join(f'"{name}" ({support[name]} rows)' for name in never)
        yield Advice(
            "label_never_said", of.name, "data",
            f"Never answered, though right for some rows: {missing}.",
            "Count these labels in the training data and add rows of them.",
        )  # fmt: skip


def _other(of: Subject, other: int, rows: int, details: Mapping[str, Any]) -> Advice:
    naming = details.get("other_naming_one_label", details.get("other_naming_one_option", 0))
    share = percent(other, rows)
    finding = f"{other} of {counted(rows, 'answer')} ({share}) are none of the labels"
    if 2 * naming >= other:
        return Advice(
            "label_with_more", of.name, "data quality",
            f"{finding}; {naming} of them hold exactly one label among other words.",
            "The thought may be right and the form is not: make every training reply the label "
            "alone, or measure by likelihood.",
        )  # fmt: skip
    return Advice(
        "format_not_learned", of.name, "hyperparameters",
        f"{finding}; {naming} of them hold one label among other words.",
        "The form of the answer is not learned yet: train more epochs or at a higher rate, and "
        "check that training and test prompts are worded alike.",
    )  # fmt: skip


def json(of: Subject) -> Iterator[Advice]:
    for name in ("json_schema", "json_valid"):
        measured = of.measured(name)
        if measured is None or measured.value is None or not measured.rows:
            continue
        invalid = round((1 - measured.value) * measured.rows)
        if many(invalid, measured.rows, INVALID_SHARE):
            fences = int(measured.details.get("only_in_a_fence", 0))
            extra = f"; {fences} would be once a code fence is taken off" if fences else ""
            yield Advice(
                "json_not_learned", of.name, "hyperparameters",
                f"{invalid} of {counted(measured.rows, 'answer')} are not the JSON that was asked "
                f"for{extra}.",
                "Check that every training reply is valid JSON, train more epochs, or constrain "
                "the decoding to the schema when serving.",
            )  # fmt: skip
        return
