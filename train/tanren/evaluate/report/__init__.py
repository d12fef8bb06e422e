"""Reports of an evaluation, from plain data: what was measured, and what to try next."""

from tanren.evaluate.report.advice import advise
from tanren.evaluate.report.data import (
    Agreement,
    DataFacts,
    EvaluatedModel,
    Evaluation,
    MeasuredMetric,
    MeasuredValue,
    Opinion,
    PairedComparison,
    Training,
)
from tanren.evaluate.report.document import Advice
from tanren.evaluate.report.report import WrittenReport, write_report

__all__ = [
    "Advice",
    "Agreement",
    "DataFacts",
    "EvaluatedModel",
    "Evaluation",
    "MeasuredMetric",
    "MeasuredValue",
    "Opinion",
    "PairedComparison",
    "Training",
    "WrittenReport",
    "advise",
    "write_report",
]
