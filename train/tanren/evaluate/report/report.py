"""Writing a report: Markdown to read anywhere, HTML to look at, JSON to go on from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from tanren.evaluate.report.data import Evaluation
from tanren.evaluate.report.markdown import markdown
from tanren.evaluate.report.page import page
from tanren.evaluate.report.sections import document
from tanren.rundir import storage_errors, write_text

WITHOUT_MATPLOTLIB = (
    "Tables stand in the place of drawings: matplotlib is not installed "
    '(pip install "tanren[eval]").'
)


@dataclass(frozen=True, slots=True)
class WrittenReport:
    json: Path
    markdown: Path
    html: Path


def write_report(
    evaluation: Evaluation, folder: Path, *, drawings: bool | None = None
) -> WrittenReport:
    """`evaluation.json`, `report.md` and `report.html` in `folder`, each whole or not at all.

    `drawings` False: tables in their place. None: so too where matplotlib is missing, which the
    report then says; an evaluation that took hours is not lost for want of a picture. True:
    ConfigError where it is missing, and nothing is written.
    """
    missing = drawings is None and find_spec("matplotlib") is None
    if missing:
        evaluation = replace(evaluation, notes=(*evaluation.notes, WITHOUT_MATPLOTLIB))
    made = document(evaluation, drawings=not missing and drawings is not False)
    texts = {
        "evaluation.json": evaluation.to_json(),
        "report.md": markdown(made),
        "report.html": page(made),
    }
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return WrittenReport(*(folder / name for name in texts))
