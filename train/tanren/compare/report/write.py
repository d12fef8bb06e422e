"""Writing a report: Markdown to read anywhere, HTML to look at, JSON and CSV to go on from."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tanren.compare.data import Comparison
from tanren.compare.report.recommended import FILE as RECOMMENDED
from tanren.compare.report.recommended import recommended_file
from tanren.compare.report.sections import document, figures
from tanren.compare.report.spreadsheet import FILE as SPREADSHEET
from tanren.compare.report.spreadsheet import spreadsheet
from tanren.evaluate.report.document import Document
from tanren.evaluate.report.markdown import markdown
from tanren.evaluate.report.page import page
from tanren.evaluate.report.plots import standalone
from tanren.rundir import storage_errors, write_text

PLOTS = "plots"
WITHOUT_MATPLOTLIB = (
    "Tables stand in the place of drawings: matplotlib is not installed "
    '(pip install "tanren[compare]").'
)


def write_report(
    comparison: Comparison, folder: Path, *, plots: bool = False, drawings: bool | None = None
) -> tuple[Path, ...]:
    """`results.json`, `results.csv`, `report.md`, `report.html` and, where an arm is recommended,
    `recommended.yaml` in `folder`, each whole or not at all; returns their paths.

    `plots`: also `plots/<name>.svg`, which `report.md` then shows. `drawings` False: tables in
    their place. None: so too where matplotlib is missing, which the report then says. True, and
    with `plots`: ConfigError where it is missing, and nothing is written.
    """
    missing = drawings is None and not plots and find_spec("matplotlib") is None
    told = comparison
    if missing:
        told = replace(comparison, notes=(*comparison.notes, WITHOUT_MATPLOTLIB))
    made = document(told, drawings=not missing and drawings is not False)
    texts = {
        "results.json": comparison.to_json(),
        SPREADSHEET: spreadsheet(comparison),
        "report.md": markdown(made, drawings=PLOTS if plots else ""),
        "report.html": page(made),
        **(_plots(made) if plots else {}),
    }
    if comparison.recommendation is not None:
        texts[RECOMMENDED] = recommended_file(comparison.recommendation)
    with storage_errors(folder):
        (folder / PLOTS if plots else folder).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    if comparison.recommendation is None:
        with storage_errors(folder):
            (folder / RECOMMENDED).unlink(missing_ok=True)
    return tuple(folder / name for name in texts)


def _plots(made: Document) -> dict[str, str]:
    return {
        f"{PLOTS}/{figure.name}.svg": standalone(figure.draw())
        for part in made.sections
        for figure in figures(part.blocks)
        if figure.name
    }
