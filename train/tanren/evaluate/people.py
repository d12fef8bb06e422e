"""People's opinion of the answers: the blind sheet that is written, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tanren.errors import Fault, RunError
from tanren.evaluate.answered import Answered
from tanren.evaluate.folder import EvaluationFolder, evaluations_root
from tanren.evaluate.humans import Ratings, pair_items, read_ratings, single_items, write_sheet
from tanren.evaluate.judges import load_prompt
from tanren.evaluate.metrics.text import script_of
from tanren.evaluate.opinions import ALPHA, judgings_of, opinion_of
from tanren.evaluate.report.data import Agreement, Evaluation, Opinion
from tanren.evaluate.report.report import write_report
from tanren.evaluate.settings import StatisticsConfig
from tanren.rundir import write_json

PEOPLE = "people"


def write_sheets(
    answers: Mapping[str, Sequence[Answered]], folder: EvaluationFolder, *, reference: str | None
) -> list[str]:
    """A blind sheet: pairs where there are exactly two models, else single answers by the rubric.
    A sheet that is there already stays, since people may have begun to fill it in.
    """
    if folder.sheet.exists():
        return [f"the sheet for people is in {folder.sheet}"]
    others = [name for name in answers if name != reference]
    texts = [row.question for rows in answers.values() for row in rows]
    language = "ja" if script_of(texts) == "japanese" else "en"
    pairs = reference is not None and len(others) == 1
    prompt = load_prompt(f"{'pairwise' if pairs else 'rubric'}.{language}")
    if pairs:
        assert reference is not None
        items = pair_items(
            answers[others[0]], answers[reference], model=others[0], against=reference
        )
    else:
        items = single_items(answers)
    sheet = write_sheet(
        items, folder.sheet, seed=0, mode=prompt.mode, criteria=prompt.criteria,
        language="ja" if language == "ja" else "en",
    )  # fmt: skip
    notes = [f"the sheet for people is in {sheet.html.parent}, its key in {sheet.key}"]
    if sheet.left_out:
        notes.append(f"{sheet.left_out} answers are not on the sheet: there is none, or no pair")
    return notes


@dataclass(frozen=True)
class Imported:
    folder: EvaluationFolder
    ratings: Ratings
    evaluation: Evaluation
    summary: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder.path), **self.summary}


def import_ratings(evaluation: str, files: Sequence[Path]) -> Imported:
    """Read filled sheets back: `evaluation.json` and the report then hold what people think and how
    far they agree with each other and with the judges. Earlier imports are replaced.
    """
    folder = _evaluation_at(evaluation)
    ratings = read_ratings(files, folder.sheet / "key.json")
    measured = Evaluation.read(folder.evaluation_file)
    judgings = judgings_of(folder)
    opinions = [o for o in measured.opinions if o.source != "human"]
    agreements = [a for a in measured.agreements if not a.between.startswith(PEOPLE)]
    outcome = replace(
        measured,
        opinions=(*opinions, *_opinions(ratings, measured.answers)),
        agreements=(*agreements, *_agreements(ratings, judgings)),
    )
    summary = ratings.as_dict(judgings)
    write_json(folder.path / "ratings.json", summary)
    write_report(outcome, folder.path)
    return Imported(folder, ratings, outcome, summary)


def _evaluation_at(word: str) -> EvaluationFolder:
    for path in (Path(word), evaluations_root() / word):
        folder = EvaluationFolder(path)
        if folder.evaluation_file.is_file():
            return folder
    expected = "the folder of an evaluation that was made with --human"
    remedy = f"look in {evaluations_root()}"
    raise RunError.of(Fault(word, "no evaluation.json", expected, remedy))


def _opinions(ratings: Ratings, answers: Mapping[str, Sequence[Answered]]) -> list[Opinion]:
    found = []
    for model in ratings.models:
        for criterion in ratings.criteria:
            values = ratings.values(criterion, model)
            rows = answers.get(model, ())
            one = opinion_of(values, rows, ratings.mode, StatisticsConfig())
            found.append(
                replace(
                    one,
                    source="human",
                    name=f"{len(ratings.raters)} {PEOPLE}",
                    model=model,
                    criterion=criterion,
                )
            )
    return found


def _agreements(ratings: Ratings, judgings: Sequence[Any]) -> list[Agreement]:
    found = []
    for criterion in ratings.criteria:
        among = ratings.agreement(criterion)
        if among is not None:
            found.append(Agreement(PEOPLE, criterion, ALPHA, among.alpha, among.units))
    for criterion, by_judge in ratings.agreement_with(judgings).items():
        for judge, one in by_judge.items():
            between = f"{PEOPLE} and {judge}"
            found.append(Agreement(between, criterion, ALPHA, one.alpha, one.units))
    return found
