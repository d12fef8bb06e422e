"""The files of a comparison's report: whole, the same every time, and made of its results alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import comparisons

from tanren.compare.data import Comparison
from tanren.compare.report import write_report
from tanren.compare.report.sections import document
from tanren.errors import ConfigError
from tanren.evaluate.report.markdown import markdown
from tanren.evaluate.report.page import page

BUILT: tuple[Callable[[], Comparison], ...] = (
    comparisons.methods,
    comparisons.troubled,
    comparisons.empty,
    comparisons.single,
)


@pytest.fixture(scope="module")
def methods() -> Comparison:
    return comparisons.methods()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("build", BUILT)
def test_a_report_is_written_again_from_its_results_alone(
    build: Callable[[], Comparison], tmp_path: Path
) -> None:
    written = write_report(build(), tmp_path / "new" / "one", plots=True)
    assert all(path.is_file() for path in written)
    again = Comparison.read(tmp_path / "new" / "one" / "results.json")
    assert again == build()
    write_report(again, tmp_path / "two", plots=True)
    assert contents(tmp_path / "new" / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "two")) == len(written)


def test_only_what_was_asked_for_is_written(methods: Comparison, tmp_path: Path) -> None:
    write_report(methods, tmp_path, drawings=False)
    assert set(contents(tmp_path)) == {
        "results.json", "results.csv", "report.md", "report.html", "recommended.yaml",
    }  # fmt: skip
    assert "plots/" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    write_report(comparisons.empty(), tmp_path)
    assert not (tmp_path / "recommended.yaml").exists()  # of another comparison


def test_plots_are_files_that_stand_alone(methods: Comparison, tmp_path: Path) -> None:
    from xml.etree import ElementTree

    write_report(methods, tmp_path, plots=True)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\((plots/[\w-]+\.svg)\)", text))
    assert named == {name for name in contents(tmp_path) if name.startswith("plots/")}
    assert len(named) == 9
    for name in named:
        svg = (tmp_path / name).read_text(encoding="utf-8")
        assert "var(--" not in svg and "inherit" not in svg and "http" not in svg.split(">", 1)[1]
        assert 'fill="#ffffff"' in svg
        ElementTree.fromstring(svg)


def test_drawings_are_on_the_page_and_hold_every_name(methods: Comparison) -> None:
    html = page(document(methods))
    assert html.count("<svg") == 9
    drawing = html[html.index("<svg") : html.index("</svg>")]
    assert all(f">{arm.name}<" in drawing for arm in methods.arms)


def test_many_arms_share_no_look_and_the_rest_is_grey() -> None:
    from tanren.compare.report.styles import MOST_NAMED, looks

    comparison = comparisons.sweep()
    found = looks(comparison)
    named = [look for look in found.values() if look.named]
    assert len(named) == MOST_NAMED == len({(look.colour, look.dash) for look in named})
    assert len({(look.colour, look.mark) for look in named}) == MOST_NAMED
    assert comparison.recommendation is not None
    assert found[comparison.reference].named and found[comparison.recommendation.arm].named
    assert "12 of the 24 arms are grey" in markdown(document(comparison), drawings="plots")


WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None
from pathlib import Path
from tanren.compare.data import Comparison
from tanren.compare.report import write_report
from tanren.errors import ConfigError
comparison, folder = Comparison.read(Path(sys.argv[1])), Path(sys.argv[2])
try:
    write_report(comparison, folder, plots=True)
except ConfigError as error:
    print(error)
assert not folder.exists()
write_report(comparison, folder)
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
"""


def test_without_matplotlib_there_are_tables_and_a_word_of_it(
    methods: Comparison, tmp_path: Path
) -> None:
    stored, folder = tmp_path / "results.json", tmp_path / "report"
    stored.write_text(methods.to_json(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MATPLOTLIB, str(stored), str(folder)],
        env={"PYTHONPATH": str(Path(__file__).parents[3] / "train"), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "matplotlib is not installed" in done.stdout
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" not in text and "matplotlib is not installed" in text and "1.112" in text
    assert Comparison.read(folder / "results.json") == methods


def test_drawings_that_are_asked_for_are_not_left_out_silently(
    methods: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="matplotlib"):
        write_report(methods, tmp_path / "report", drawings=True)
    assert not (tmp_path / "report").exists()
