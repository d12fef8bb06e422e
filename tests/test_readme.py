"""The README keeps its word: every command that needs no GPU is run, and what it is said to print
is printed.

A fenced ```bash block has a comment above it: `<!-- run -->`, `<!-- run: ends with 2 -->` (exit
code), `<!-- needs a GPU -->` or `<!-- not run: why -->`. A ```text block has `<!-- output -->` (of
the block before it; numbers may differ, `…` stands for lines left out) or `<!-- shown only: why
-->`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.ja.md")
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the comment above it, its text, its line in the file."""

    kind: str
    mark: str
    body: str
    line: int


def blocks(name: str) -> list[Block]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [
        Block(m["kind"], m["mark"] or "", m["body"], text.count("\n", 0, m.start()) + 1)
        for m in FENCE.finditer(text)
    ]


def commands(name: str) -> list[Block]:
    return [block for block in blocks(name) if block.kind == "bash"]


def output_of(name: str) -> dict[int, list[Block]]:
    """Line of a command block -> the blocks that show its output."""
    shown: dict[int, list[Block]] = {}
    last = 0
    for block in blocks(name):
        if block.kind == "bash":
            last = block.line
        elif block.mark == "output":
            shown.setdefault(last, []).append(block)
    return shown


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the commands need, with a `.venv` that is set up already."""
    place = tmp_path_factory.mktemp("clone")
    for folder in ("data", "configs"):
        shutil.copytree(ROOT / folder, place / folder)
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, place / file)
    programs = place / ".venv" / "bin"
    programs.mkdir(parents=True)
    tanren = programs / "tanren"
    tanren.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m tanren "$@"\n', encoding="utf-8")
    tanren.chmod(0o755)
    (place / ".venv" / ".installed").touch()
    return place


def run(clone: Path, script: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "train"),
        "TANREN_HOME": str(clone),
        "TANREN_DEVICE": "cpu",
        "COLUMNS": "100",
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def comparable(text: str) -> list[str]:
    """Lines without spacing and with every number as `#`."""
    lines = (re.sub(r"\d[\d.,]*(?:e[+-]?\d+)?", "#", " ".join(x.split())) for x in text.split("\n"))
    return [line for line in lines if line]


def missing_lines(shown: str, real: str) -> list[str]:
    """Lines of a README's output that the real output does not have in this order."""
    rest = iter(comparable(real))
    return [line for line in comparable(shown) if line != "…" and not any(line == r for r in rest)]


def test_commands_do_what_the_readme_says(clone: Path) -> None:
    """README.ja.md has the same blocks (see below), so one run serves both."""
    name = READMES[0]
    for block in commands(name):
        if not block.mark.startswith("run"):
            continue
        ended = run(clone, block.body)
        wanted = re.search(r"ends with (\d+)", block.mark)
        where = f"{name}:{block.line}\n{ended.stdout}"
        assert ended.returncode == (int(wanted[1]) if wanted else 0), where
        for shown in output_of(name).get(block.line, []):
            assert missing_lines(shown.body, ended.stdout) == [], where


@pytest.mark.parametrize("name", READMES)
def test_every_block_says_whether_it_is_run(name: str) -> None:
    known = re.compile(r"run(: ends with \d+)?|needs a GPU|not run: .+|output|shown only: .+")
    for block in blocks(name):
        assert known.fullmatch(block.mark), f"{name}:{block.line} has no mark that is known"
    assert sum(block.mark.startswith("run") for block in blocks(name)) >= 4


def test_both_languages_show_the_same_commands() -> None:
    english, japanese = ([(b.kind, b.mark, b.body) for b in blocks(name)] for name in READMES)
    assert english == japanese


def test_commands_that_need_a_gpu_are_not_misspelled() -> None:
    """They cannot be run here, but their files, settings and options must exist."""
    import typer

    from tanren.cli.app import app
    from tanren.config import load

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    words = [w for b in commands(READMES[0]) if b.mark == "needs a GPU" for w in b.body.split("\n")]
    seen = set()
    for line in words:
        for config in re.findall(r"configs/\S+\.yaml", line):
            assert load(ROOT / config, re.findall(r"\s([a-z_.]+=\S+)", line))
        for verb, rest in re.findall(r"tanren (\w+)(.*)", line):
            options = {option for parameter in known[verb].params for option in parameter.opts}
            assert set(re.findall(r"--[a-z-]+", rest)) <= options, line
            seen.add(verb)
    assert seen == {"check", "train", "chat"}


@pytest.mark.parametrize(
    "name",
    [
        *READMES,
        "CONTRIBUTING.md",
        "docs/compare.md",
        "docs/compare-settings.md",
        "docs/data.md",
        "docs/distill.md",
        "docs/distill-settings.md",
        "docs/evaluate.md",
        "docs/export.md",
        "docs/how-it-works.md",
        "docs/lint-rules.md",
        "docs/serving.md",
        "docs/settings.md",
    ],
)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    dead = [
        link
        for link in links
        if not link.startswith("http") and not (ROOT / name).parent.joinpath(link).exists()
    ]
    assert dead == []


@pytest.mark.parametrize("name", READMES)
def test_numbers_in_the_measured_section_come_from_measured_pages(name: str) -> None:
    """Either every page of docs/measured is linked there, or it holds no figure at all."""
    text = (ROOT / name).read_text(encoding="utf-8")
    section = re.search(r"<!-- measured: begin.*?-->\n(.*?)<!-- measured: end -->", text, re.S)
    assert section is not None
    pages = sorted(page.name for page in (ROOT / "docs" / "measured").glob("*.md"))
    linked = re.findall(r"\]\(docs/measured/([^)#]+)", section[1])
    assert set(linked) == set(pages), "link each page of docs/measured in this section"
    if not pages:
        assert not re.search(r"\d", section[1])


def test_the_settings_page_is_what_the_settings_say() -> None:
    """`make docs` writes it; a field that is added, renamed or reworded changes it."""
    assert _script("make_settings_page").page() == (ROOT / "docs" / "settings.md").read_text(
        encoding="utf-8"
    ), "run `make docs`"


def test_the_page_of_a_comparisons_settings_is_what_they_say() -> None:
    page = _script("make_settings_page").compare_page()
    assert page == (ROOT / "docs" / "compare-settings.md").read_text(encoding="utf-8"), "make docs"
    for name in ("base", "search.trials", "halving.eta", "test.metrics", "parallel"):
        assert f"| `{name}` |" in page


def test_the_page_of_a_distillations_settings_is_what_they_say() -> None:
    from tanren.distill.constraints import KINDS

    page = _script("make_settings_page").distill_page()
    assert page == (ROOT / "docs" / "distill-settings.md").read_text(encoding="utf-8"), "make docs"
    for name in ("repairs", "source.encoding", "teacher.remote_host", "ideas.patience"):
        assert f"| `{name}` |" in page
    assert all(f"## constraint: {kind}\n" in page for kind in KINDS)


def test_the_page_of_lints_rules_is_what_the_catalog_says() -> None:
    from tanren.data.lint.catalog import RULES

    page = _script("make_settings_page").rules_page()
    assert page == (ROOT / "docs" / "lint-rules.md").read_text(encoding="utf-8"), "make docs"
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", page, re.M)) == sorted(RULES)


@pytest.mark.parametrize("name", ["README.md", "docs/data.md", "docs/distill.md"])
def test_commands_that_make_data_are_not_misspelled(name: str) -> None:
    import typer

    from tanren.cli.data import app

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"tanren data (\w+) ([^`\n|#]+)", text)
    for verb, words in found:
        options = {option for parameter in known[verb].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", words)) <= options, words
        assert all((ROOT / file).is_file() for file in re.findall(r"configs/\S+", words)), words
    asked = {verb for verb, _ in found}
    assert asked == (set(known) if name == "docs/data.md" else asked) and asked


@pytest.mark.parametrize("name", ["README.md", "docs/compare.md"])
def test_commands_that_compare_are_not_misspelled(name: str) -> None:
    """Comparisons take too long to be run here; their files, options and settings must exist."""
    import typer

    from tanren.cli.app import app
    from tanren.config import documentation

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    settings = {path for path, *_ in documentation()} | {"data.rows"}
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"tanren (compare|sweep) ([^`\n|]+)", text)
    for verb, words in found:
        options = {option for parameter in known[verb].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", words)) <= options, words
        assert set(re.findall(r"\s'?([a-z_.]+)=", words)) <= settings, words
        assert all((ROOT / file).is_file() for file in re.findall(r"configs/\S+", words)), words
    assert {verb for verb, _ in found} == {"compare", "sweep"}


def _script(name: str) -> Any:
    from importlib import util

    spec = util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_output_that_is_not_printed_is_noticed() -> None:
    """The comparison itself: numbers are free, words and order are not."""
    real = "rows   24\n refused 0\nproof passed: 56 tensors\n"
    assert missing_lines("rows 30\n…\nproof passed: 7 tensors", real) == []
    assert missing_lines("proof failed: 56 tensors", real) == ["proof failed: # tensors"]
    assert missing_lines("refused 0\nrows 24", real) == ["rows #"]
