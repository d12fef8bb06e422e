"""Where it fails and what to try next: rules over what was measured.

A rule speaks only where its numbers are there and past its threshold, and says them. Nothing is
said of the reference model, which nobody is about to train. Causes that would explain the same sign
stand in one rule, which names the likeliest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tanren.evaluate.report.data import Evaluation
from tanren.evaluate.report.document import Advice
from tanren.evaluate.report.rules import answers, change, form
from tanren.evaluate.report.rules.judges import of_judges
from tanren.evaluate.report.subject import Subject

Rule = Callable[[Subject], Iterator[Advice]]

RULES: tuple[Rule, ...] = (
    answers.errors,
    change.against_reference,
    change.form_only,
    form.labels,
    form.json,
    answers.cut,
    answers.empty,
    answers.repetition,
    answers.length,
    change.overfitting,
    change.retention,
)


def advise(evaluation: Evaluation) -> list[Advice]:
    """First what makes the measurement doubtful, then each model, in the order of the rules."""
    subjects = [Subject(evaluation, model) for model in evaluation.candidates]
    about_models = [advice for subject in subjects for rule in RULES for advice in rule(subject)]
    return [*of_judges(evaluation), *about_models]
