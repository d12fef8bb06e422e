"""Bugs planted into runs have to be seen by who reads the report, before any number of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare.hand_made import DORA, LORA_PLUS, arm, compared

from tanren.compare.analyse import ArmInput
from tanren.compare.report import write_report

PLANTED: dict[str, tuple[ArmInput, str]] = {
    "a LoRA+ ratio of 1 given as 16": (
        arm("planted", LORA_PLUS, by=0.2, ratio=1.0),
        "learning rates as set",
    ),
    "an arm on other rows": (
        arm("planted", DORA, by=-0.4, facts={"train_sha256": "f" * 64}),
        "same training rows",
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
@pytest.mark.parametrize("page", ["report.html", "report.md"])
def test_a_planted_bug_stands_before_the_table(bug: str, page: str, tmp_path: Path) -> None:
    planted, check = PLANTED[bug]
    write_report(compared(arm("lora"), planted), tmp_path)
    text = (tmp_path / page).read_text(encoding="utf-8")
    place = text.lower().find("not fair")
    table = text.find("<table") if page.endswith("html") else text.find("\n| ")
    assert 0 <= place < table, "the warning comes first"
    banner = text[:table]
    assert check in banner and "planted" in banner


@pytest.mark.parametrize("page", ["report.html", "report.md"])
def test_without_a_bug_there_is_no_warning(page: str, tmp_path: Path) -> None:
    write_report(compared(arm("lora"), arm("planted", DORA, by=-0.4)), tmp_path)
    assert "not fair" not in (tmp_path / page).read_text(encoding="utf-8").lower()
