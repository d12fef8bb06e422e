"""`tanren data lint`: its page, its document, its files and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli.commands import Ended
from data.lint.linting import chat, clean, write

from tanren.data.lint import RULES

Tanren = Callable[..., Ended]
LETTER = "Dear {{name}}, all of this is <b>so & <script>alert(1) of it."


@pytest.fixture
def dirty(home: Path) -> Path:
    rows = [
        *clean(),
        chat("How is it in [red]?", LETTER),
        chat("ﾃﾞｰﾀ\u200b は?", " It is, and so it stays. "),
    ]
    return write(home, [*rows, rows[4]], "列.jsonl")


@pytest.fixture
def sound(home: Path) -> Path:
    return write(home, clean(), "sound.jsonl")


def test_the_page_has_every_rule_its_rows_and_a_place(tanren: Tanren, dirty: Path) -> None:
    ended = tanren("data", "lint", str(dirty), "--places", "1")
    assert ended.code == 0, ended.err
    for words in ("template-leftover", "half-width-kana", "outer-space", "duplicate"):
        assert words in ended.out
    assert f"{dirty}:61 messages[1].content  {{{{name}}}}" in ended.out
    assert f"repeats {dirty}:5" in ended.out
    assert "63 rows: 1 error, 5 warnings, 1 note" in ended.out
    assert "--fix" in ended.out


def test_sound_rows_give_a_short_page(tanren: Tanren, sound: Path) -> None:
    ended = tanren("data", "lint", str(sound), "--strict")
    assert ended.code == 0
    assert ended.out.strip() == "60 rows: 0 errors, 0 warnings, 0 notes"


def test_the_document_has_everything(tanren: Tanren, dirty: Path) -> None:
    document = tanren("data", "lint", str(dirty), "--json").document
    (file,) = document["files"]
    rules = {finding["rule"]: finding for finding in file["findings"]}
    assert rules["outer-space"]["places"][0]["line"] == 62
    for name, finding in rules.items():
        assert finding["finds"] == RULES[name].finds and finding["remedy"] == RULES[name].remedy
    assert document["counts"]["error"] == 1
    assert sum(file["answer_characters"]["counts"]) == file["rows"] == 63
    assert file["languages"]["answers"]["en"] >= 60


@pytest.mark.parametrize(("severity", "code"), [("warning", 1), ("error", 1), ("note", 0)])
def test_strict_makes_warnings_and_errors_count(
    tanren: Tanren, home: Path, severity: str, code: int
) -> None:
    said = {"warning": " It is. And so it stays. ", "error": LETTER,
            "note": "See https://example.com, and all of it is so."}  # fmt: skip
    path = write(home, [*clean(), chat("How is it there?", said[severity])])
    words = ["data", "lint", str(path)]
    assert tanren(*words).code == 0
    assert tanren(*words, "--strict").code == code
    assert tanren(*words, "--strict", "--json").document["counts"][severity] == 1


def test_faulty_rows_are_named_after_the_page(tanren: Tanren, dirty: Path, home: Path) -> None:
    with open(dirty, "a", encoding="utf-8") as file:
        file.write("{broken\n")
    ended = tanren("data", "lint", str(dirty), "--fix", "out.jsonl", "--html", "out.html")
    assert ended.code == 2
    assert "half-width-kana" in ended.out and f"{dirty}:64" in ended.err
    assert not (home / "out.jsonl").exists() and not (home / "out.html").exists()


def test_fix_writes_a_new_file_and_what_it_did(tanren: Tanren, dirty: Path, home: Path) -> None:
    before = dirty.read_bytes()
    ended = tanren("data", "lint", str(dirty), "--fix", "clean/out.jsonl")
    assert ended.code == 0, ended.err
    assert "62 rows of 63, 1 row changed" in ended.out
    out = home / "clean" / "out.jsonl"
    changes = (home / "clean" / "out.jsonl.changes.jsonl").read_text(encoding="utf-8")
    rules = [json.loads(line)["rule"] for line in changes.splitlines()]
    assert sorted(rules) == ["duplicate", "half-width-kana", "invisible-characters", "outer-space"]
    assert dirty.read_bytes() == before
    assert "(fix)" not in tanren("data", "lint", str(out), "--places", "0").out
    assert tanren("check", str(out)).code == 0
    assert tanren("data", "lint", str(dirty), "--fix", str(out)).code == 2
    assert tanren("data", "lint", str(dirty), "--fix", str(out), "--overwrite").code == 0
    assert tanren("data", "lint", str(dirty), "--fix", str(dirty), "--overwrite").code == 2
    assert dirty.read_bytes() == before


def test_leaks_between_files_and_against_one(tanren: Tanren, home: Path) -> None:
    train, test = write(home, clean(), "train.jsonl"), write(home, clean()[:1], "test.jsonl")
    both = tanren("data", "lint", str(train), str(test), "--strict")
    assert both.code == 1 and f"repeats {train}:1" in both.out
    against = tanren("data", "lint", str(train), "--against", str(test), "--json").document
    (finding,) = against["files"][0]["findings"]
    assert (finding["rule"], finding["rows"]) == ("leak-row", 1)


class Tags(HTMLParser):
    """Which elements a page has, and whether each is closed."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name in ("src", "href") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_html_page_needs_nothing_else_and_runs_nothing(
    tanren: Tanren, dirty: Path, home: Path
) -> None:
    rows = [chat("<b>x</b> which?", label) for label in ["<i>", "no"] * 30]
    labels = write(home, rows, "labels.jsonl")
    ended = tanren("data", "lint", str(dirty), str(labels), "--html", "page/報告.html")
    assert ended.code == 0, ended.err
    page = Tags()
    page.feed((home / "page" / "報告.html").read_text(encoding="utf-8"))
    page.close()
    assert page.open == [] and "script" not in page.seen
    assert page.seen.count("svg") >= 3 and page.seen.count("details") >= 5
    for words in (
        "列.jsonl: 63 rows",
        "labels.jsonl: 60 rows",
        "{{name}}",
        "<i>",
        "entropy 1.00 bits",
    ):
        assert words in page.words
    assert tanren("data", "lint", str(dirty), "--html", "page/報告.html").code == 2


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["--skip", "lop"], "--skip"),
        (["--near-threshold", "2"], "tanren data lint --near-threshold"),
        (["sound.jsonl", "--fix", "x.jsonl"], "--fix"),
        (["--against", "missing.jsonl"], "missing.jsonl"),
        (["--max-characters", "0"], "tanren data lint --max-characters"),
    ],
)
def test_mistakes_are_faults(
    tanren: Tanren, dirty: Path, sound: Path, words: list[str], where: str
) -> None:
    ended = tanren("data", "lint", str(dirty), *words, "--json")
    assert ended.code == 2
    assert ended.faults[0]["where"] == where
    assert (
        tanren("data", "lint", str(dirty), "--skip", "lop", "--json").faults[0]["remedy"]
        == "write loop"
    )
