"""Reports: nothing of a user's text becomes markup, everything measured is on the page, and the
page needs nothing but itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from evaluate.planted import BASE, TUNED, answered, evaluated

from tanren.errors import DataError
from tanren.evaluate.report import Agreement, Evaluation, Opinion, Training, write_report
from tanren.evaluate.report.document import Figure, Table
from tanren.evaluate.report.examples import changes, gains, losses
from tanren.evaluate.report.markdown import markdown, plain
from tanren.evaluate.report.page import page
from tanren.evaluate.report.plots import Labels, cut, intervals
from tanren.evaluate.report.sections import document
from tanren.evaluate.report.wording import shown, shown_difference, shown_p, shown_range
from tanren.evaluate.retention import RetentionSet, retention

EVIL = (
    '</dd><script>alert("x")</script><img src=http://evil/x onerror=alert(1)> {{ 7*7 }} $x$ &amp; |'
)
LABELS = ("含意", "中立", "矛盾")
WANTED = [LABELS[i % 3] for i in range(60)]


@pytest.fixture(scope="module")
def whole() -> Evaluation:
    """Every part is there, and every text is hostile."""
    base = [label if i < 30 else EVIL for i, label in enumerate(WANTED)]
    tuned = [label if i >= 15 else EVIL for i, label in enumerate(WANTED)]
    rows = RetentionSet.read()
    references = [row.reference for row in rows.rows]
    before = answered(references, references)
    after = answered(references, [EVIL if i % 9 == 0 else ref for i, ref in enumerate(references)])
    return evaluated(
        {BASE: answered(WANTED, base, answer_tokens=7), f"調整 {EVIL}": answered(WANTED, tuned)},
        ("accuracy", "macro_f1", "characters", "stop_rate"),
        training=Training(train_loss=0.1, validation_loss=1.0),
        retention={f"調整 {EVIL}": retention(before, after, rows)},
        opinions=(Opinion("judge", EVIL, BASE, EVIL, "likert", 3.94, 3.5, 4.2, 50, 1, 0.01),),
        agreements=(Agreement(EVIL, "clear", "alpha", 0.71, 50),),
        decoding={"max_new_tokens": 64},
        versions={"torch": "2.13"},
        seconds=12.5,
        notes=(EVIL,),
    )


class Reader(HTMLParser):
    """Tags with their attributes, and text by the tag around it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def html(whole: Evaluation) -> Reader:
    return Reader(page(document(whole)))


# --- data -----------------------------------------------------------------------------------------


def test_json_reads_back_equal(whole: Evaluation) -> None:
    assert Evaluation.from_json(whole.to_json()) == whole


def test_json_that_is_another_shape_is_a_fault_with_its_place(whole: Evaluation) -> None:
    broken = whole.to_json().replace('"rows": 60', '"rows": "many"', 1)
    with pytest.raises(DataError, match=r"evaluation.json data.rows.*integer"):
        Evaluation.from_json(broken)


# --- the page -------------------------------------------------------------------------------------


def test_no_text_becomes_markup(html: Reader) -> None:
    tags = Counter(tag for tag, _ in html.tags)
    assert tags["script"] == 1 and tags["img"] == 0
    assert not any(name.startswith("on") for _, attrs in html.tags for name in attrs)
    words = "".join(html.words)
    assert words.count(EVIL) >= 10  # it is there, as text
    assert "{{ 7*7 }}" in words


def test_the_page_asks_for_nothing_outside(html: Reader) -> None:
    asking = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
    asked = [attrs[name] for _, attrs in html.tags for name in asking if name in attrs]
    assert asked and all((address or "").startswith("#") for address in asked)
    styles = " ".join(attrs.get("style") or "" for _, attrs in html.tags)
    assert not re.search(r"url\((?!#)", styles) and "@import" not in "".join(html.words)
    policy = next(a["content"] for t, a in html.tags if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")


def test_ids_stand_once_and_links_lead_somewhere(html: Reader) -> None:
    ids = Counter(attrs["id"] for _, attrs in html.tags if "id" in attrs)
    assert ids.most_common(1)[0][1] == 1
    links = [attrs.get("href") or attrs.get("xlink:href") or "" for _, attrs in html.tags]
    assert {link[1:] for link in links if link} <= ids.keys()


def test_every_part_is_on_the_page(html: Reader) -> None:
    found = {attrs["id"] for tag, attrs in html.tags if tag == "section"}
    assert found == {
        "outcome", "advice", "scores", "differences", "confusion", "lengths", "retention",
        "opinions", "examples", "measured",
    }  # fmt: skip
    assert sum(tag == "svg" for tag, _ in html.tags) == 6  # two confusion matrices
    words = "".join(html.words)
    for number in ("50.0% (37.7 to 62.3)", "75.0% (62.8 to 84.2)", "+25.0 points", "3.94 of 5"):
        assert number in words


def test_parts_that_were_not_measured_are_left_out() -> None:
    alone = document(evaluated({TUNED: answered(WANTED, WANTED)}, ("accuracy",)))
    present = [part.id for part in alone.sections]
    assert present == ["outcome", "advice", "scores", "confusion", "lengths", "measured"]
    advice = alone.section("advice")
    assert advice is not None and "Nothing" in getattr(advice.blocks[0], "words", "")


def test_every_candidate_has_its_outcome_in_words(whole: Evaluation) -> None:
    outcome = document(whole).section("outcome")
    assert outcome is not None
    first, second = (getattr(block, "words", "") for block in outcome.blocks)
    assert "+25.0 points" in first and "lost 23 of the 206 rows" in second


# --- Markdown -------------------------------------------------------------------------------------


def test_markdown_holds_every_number_that_the_page_draws(whole: Evaluation) -> None:
    text = markdown(document(whole))
    for part in document(whole).sections:
        for block in part.blocks:
            table = block.table if isinstance(block, Figure) else block
            if isinstance(table, Table):
                assert all(plain(cell) in text for row in table.rows for cell in row)


def test_markdown_acts_on_no_users_text(whole: Evaluation) -> None:
    text = markdown(document(whole))
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside and "<img" not in outside
    tables = re.findall(r"(?:^\|.*\n)+", outside, flags=re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1


def test_an_answer_cannot_leave_its_fence() -> None:
    rows = answered(["a"], ["```\n# not a title\n````"])
    planted = evaluated({BASE: answered(["a"], ["a"]), TUNED: rows}, ("exact_match",))
    assert "`````text\n```\n# not a title\n````\n`````" in markdown(document(planted))


# --- examples -------------------------------------------------------------------------------------


def test_examples_begin_with_the_worst_loss_and_the_best_gain() -> None:
    references = ["one two three four"] * 5
    base = ["one two three four", "one two", "one", "four", "nothing"]
    tuned = ["nothing", "one", "one two three four", "four", "nothing at all"]
    planted = evaluated(
        {BASE: answered(references, base), TUNED: answered(references, tuned)}, ("rouge_1",)
    )
    found = changes(planted, TUNED)
    assert [pair.after.row for pair in losses(found)] == [1, 2]
    assert [pair.after.row for pair in gains(found)] == [3]


def test_where_less_is_better_a_fall_is_a_gain() -> None:
    base, tuned = (answered(["a"] * 2, ["a"] * 2) for _ in range(2))
    base = tuple(replace(row, seconds=2.0) for row in base)
    tuned = tuple(replace(row, seconds=1.0 + 2 * (row.row == 2)) for row in tuned)
    found = changes(evaluated({BASE: base, TUNED: tuned}, ("latency",)), TUNED)
    assert [pair.after.row for pair in gains(found)] == [1]
    assert [pair.after.row for pair in losses(found)] == [2]


def test_rows_with_an_error_are_no_examples() -> None:
    failed = tuple(replace(row, error="lost") for row in answered(["a"], [""]))
    planted = evaluated({BASE: answered(["a"], ["a"]), TUNED: failed}, ("exact_match",))
    assert changes(planted, TUNED) == []


# --- drawings -------------------------------------------------------------------------------------


def test_japanese_labels_need_no_font_and_stay_text() -> None:
    """matplotlib warns of every sign that its font lacks, and warnings are errors here."""
    svg = intervals([("日本語のモデル <b> $x$ & 'q'", 0.5, 0.4, 0.6)], "正解率")
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    assert "日本語のモデル <b> $x$ & 'q'" in texts and "正解率" in texts
    assert "#0a0b0c" not in svg and "var(--ink" in svg


def test_the_same_drawing_twice_is_the_same_text() -> None:
    rows = [("a", 0.5, 0.4, 0.6), ("b", 0.7, None, None)]
    assert intervals(rows, "%") == intervals(rows, "%")


def test_a_label_is_cut_by_its_width_on_the_screen() -> None:
    assert cut("abc\ndef", 10) == "abc def"
    assert cut("a" * 20, 10) == "a" * 9 + "…"
    assert cut("日本語日本語", 10) == "日本語日…"


def test_labels_that_look_like_stand_ins_come_back_themselves() -> None:
    labels = Labels()
    marks = [labels.of(text) for text in ("Q1Q", "Q0Qxx", "plain")]
    assert labels.restore(" ".join(marks)) == "Q1Q Q0Qxx plain"


WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None
from pathlib import Path
from tanren.errors import ConfigError
from tanren.evaluate.report import Evaluation, write_report
evaluation, folder = Evaluation.read(Path(sys.argv[1])), Path(sys.argv[2])
try:
    write_report(evaluation, folder, drawings=True)
except ConfigError as error:
    print(error)
assert not folder.exists()
write_report(evaluation, folder)
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_without_matplotlib_there_are_tables_and_a_word_of_it(
    whole: Evaluation, tmp_path: Path
) -> None:
    """An evaluation is not lost for want of a picture. And nothing of it needs torch."""
    stored, folder = tmp_path / "evaluation.json", tmp_path / "report"
    stored.write_text(whole.to_json(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MATPLOTLIB, str(stored), str(folder)],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "train"), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert 'pip install "tanren[eval]"' in done.stdout
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" not in text and "75.0% (62.8 to 84.2)" in text
    assert "matplotlib is not installed" in text


def test_the_written_files_are_whole(whole: Evaluation, tmp_path: Path) -> None:
    written = write_report(whole, tmp_path / "new" / "report")
    assert Evaluation.read(written.json) == whole
    assert written.html.read_text(encoding="utf-8").endswith("</html>")
    assert {file.name for file in written.html.parent.iterdir()} == {
        "evaluation.json", "report.md", "report.html",
    }  # fmt: skip


# --- numbers in words -----------------------------------------------------------------------------


def test_numbers_as_people_read_them() -> None:
    assert shown(0.623, "share") == "62.3%" and shown(31.24, "points") == "31.2"
    assert shown(0.53124, "nats") == "0.531 nats" and shown(None, "share") == "–"
    assert shown_range(-0.05, 0.1, "share") == "−5.0 to 10.0"
    assert shown_difference(0.062, "share") == "+6.2 points"
    assert shown_difference(-0.062, "share") == "−6.2 points"
    assert shown_difference(0.0001, "share") == "±0.0 points"
    assert [shown_p(p) for p in (0.00001, 0.0012, 0.04, None)] == [
        "< 0.0001",
        "0.0012",
        "0.04",
        "–",
    ]
