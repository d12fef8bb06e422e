"""Whether judges and people can be believed."""

from __future__ import annotations

from collections.abc import Iterator

from tanren.evaluate.report.data import Evaluation
from tanren.evaluate.report.document import Advice
from tanren.evaluate.report.rules.enough import many
from tanren.evaluate.report.wording import counted, shown_difference

EXCLUDED_SHARE = 0.1
POSITION_BIAS = 0.1
POOR_AGREEMENT = 0.4
"""Krippendorff's alpha or kappa below which a judge's word decides nothing."""


def of_judges(evaluation: Evaluation) -> Iterator[Advice]:
    for opinion in evaluation.opinions:
        who = f"{opinion.name} on {opinion.criterion}"
        if opinion.source == "judge" and many(
            opinion.excluded, opinion.rows + opinion.excluded, EXCLUDED_SHARE
        ):
            every = opinion.rows + opinion.excluded
            yield Advice(
                "judgements_lost", opinion.model, "measurement",
                f"{who}: {opinion.excluded} of {counted(every, 'judgement')} could not be read "
                "and are in no mean.",
                "Look at some of them, and give the judge a plainer prompt or more tokens.",
            )  # fmt: skip
        if opinion.position_bias is not None and abs(opinion.position_bias) >= POSITION_BIAS:
            place = "first" if opinion.position_bias > 0 else "second"
            yield Advice(
                "position_bias", opinion.model, "measurement",
                f"{who} prefers the answer in the {place} place by "
                f"{shown_difference(abs(opinion.position_bias), 'share').lstrip('+')}.",
                "Keep both orders, and ask another judge as well.",
            )  # fmt: skip
    for agreement in evaluation.agreements:
        if agreement.value is not None and agreement.value < POOR_AGREEMENT:
            yield Advice(
                "poor_agreement", "", "measurement",
                f"{agreement.between} hardly agree on {agreement.criterion}: {agreement.statistic} "
                f"{agreement.value:.2f} over {counted(agreement.rows, 'row')}.",
                "Decide nothing by this criterion before its wording is clearer and they agree.",
            )  # fmt: skip
