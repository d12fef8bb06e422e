"""The page and the Markdown of a comparison: nothing of a user's text becomes markup, every part
copes with what is missing, and columns sort as numbers.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from compare import comparisons
from compare.comparisons import MEMORY, SCORE

from tanren.compare.data import Checked, Comparison
from tanren.compare.report.curves import ceiling, validation_curves
from tanren.compare.report.front_plot import Placed, front
from tanren.compare.report.plots import short
from tanren.compare.report.sections import document, figures
from tanren.compare.report.styles import looks
from tanren.evaluate.report.document import Document, Figure
from tanren.evaluate.report.markdown import markdown
from tanren.evaluate.report.page import page
from tanren.evaluate.report.plots import cut

EVIL = '<script>alert("x")</script><img src=http://evil/x onerror=1> {{ 7*7 }} $x$ `|`\n# = 猫'
BUILT: tuple[Callable[[], Comparison], ...] = (
    comparisons.methods,
    comparisons.sweep,
    comparisons.troubled,
    comparisons.empty,
    comparisons.single,
)


@pytest.fixture(scope="module")
def methods() -> Comparison:
    return comparisons.methods()


@pytest.fixture(scope="module")
def troubled() -> Comparison:
    return comparisons.troubled()


def renamed(value: Any) -> Any:
    """Every text of a comparison hostile, but for what has to be a name of ours."""
    if isinstance(value, dict):
        return {
            key: each if key in ("outcome", "rate_source", "kind", "unit", "config") else
            renamed(each)
            for key, each in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [renamed(each) for each in value]
    return f"{value} {EVIL}" if isinstance(value, str) else value


@pytest.fixture(scope="module")
def hostile(troubled: Comparison) -> Comparison:
    plain = json.loads(troubled.to_json())
    found = renamed(plain)
    for part in (found, *found["arms"]):
        part["measures"] = (
            {f"{name} {EVIL}": each for name, each in part["measures"].items()}
            if isinstance(part["measures"], dict)
            else part["measures"]
        )
    return Comparison.from_json(json.dumps(found))


@cache
def drawn(build: Callable[[], Comparison]) -> Document:
    """With every drawing made once for all tests."""
    return document(build())


class Reader(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


# --- the page -------------------------------------------------------------------------------------


def test_no_text_becomes_markup(hostile: Comparison) -> None:
    made = document(hostile)
    reader = Reader(page(made))
    tags = Counter(tag for tag, _ in reader.tags)
    assert tags["script"] == 1 and tags["img"] == 0
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    words = "".join(reader.words)
    assert words.count('<script>alert("x")</script>') > 50 and "{{ 7*7 }}" in words
    assert tags["svg"] == 9  # drawn all the same


def test_markdown_acts_on_no_users_text(hostile: Comparison) -> None:
    text = markdown(document(hostile), drawings="plots")
    outside = re.sub(r"^(`{3,})\w+\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside and "<img" not in outside
    assert "\n# " not in outside.removeprefix("# ")
    found = re.findall(r"(?:^\|.*\n)+", outside, flags=re.MULTILINE)
    assert len(found) >= 8
    for table in found:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("build", BUILT)
def test_the_page_asks_for_nothing_outside(build: Callable[[], Comparison]) -> None:
    reader = Reader(page(drawn(build)))
    asking = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
    asked = [attrs[name] for _, attrs in reader.tags for name in asking if name in attrs]
    assert asked and all((address or "").startswith("#") for address in asked)
    styles = " ".join(attrs.get("style") or "" for _, attrs in reader.tags)
    assert not re.search(r"url\((?!#)", styles)
    ids = Counter(attrs["id"] for _, attrs in reader.tags if "id" in attrs)
    assert ids.most_common(1)[0][1] == 1
    assert {(a or "")[1:] for a in asked} <= ids.keys()
    policy = next(a["content"] for _, a in reader.tags if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")


@pytest.mark.parametrize("build", BUILT)
def test_every_part_is_there_whatever_is_missing(build: Callable[[], Comparison]) -> None:
    made = drawn(build)
    assert [section.id for section in made.sections] == [
        "findings", "arms", "curves", "rates", "fronts", "differences", "reach", "audit",
        "failures", "settings", "servers", "measured", "reading", "recommended",
    ]  # fmt: skip
    assert all(section.blocks for section in made.sections)
    html = re.sub(r"<script>.*?</script>", "", page(made), flags=re.DOTALL)
    for text in (html, markdown(made), markdown(document(build(), drawings=False))):
        assert not re.search(r"\b(nan|inf|None of None|undefined)\b", text)


def test_what_is_missing_is_said() -> None:
    text = markdown(document(comparisons.empty()))
    for sentence in (
        "No run finished", "No validation loss was measured", "No learning rate was searched for",
        "Nothing could be compared with lora", "whether the comparison is fair is not known",
        "out of memory", "out of time", "no arm finished that could be recommended",
    ):  # fmt: skip
        assert sentence in text
    alone = markdown(document(comparisons.single()))
    assert "One seed: no intervals over seeds" in alone and " to " not in alone.split("## ")[2]


def test_a_comparison_without_arms_is_a_report_still() -> None:
    nothing = replace(comparisons.empty(), arms=(), seeds=())
    assert "The comparison has no arms." in page(document(nothing))


# --- sorting --------------------------------------------------------------------------------------


NODE = Path("/usr/bin/node")
DOM = """
const button = { append() {}, addEventListener(_, act) { this.act = act; } };
const table = JSON.parse(require("fs").readFileSync(0, "utf8"));
const rows = table.rows.map((cells) => ({ cells }));
const body = { rows, append(...all) { this.rows = all; } };
const heads = table.head.map((words, at) => ({
  words, at, cellIndex: at, childNodes: [], attributes: {},
  classList: { contains: () => words !== "arm" },
  append(made) { this.button = made; },
  getAttribute(name) { return this.attributes[name] ?? null; },
  setAttribute(name, value) { this.attributes[name] = value; },
  removeAttribute(name) { delete this.attributes[name]; },
  closest: () => ({ tBodies: [body] }),
}));
for (const head of heads) head.parentElement = { children: heads };
globalThis.document = {
  querySelectorAll: () => heads,
  createElement: () => Object.create(button),
};
SCRIPT
const found = [];
for (const head of heads) for (const click of [1, 2]) {
  head.button.act();
  found.push([head.words, head.attributes["aria-sort"],
    body.rows.map((row) => row.cells[0].textContent)]);
}
console.log(JSON.stringify(found));
"""


class Cells(HTMLParser):
    """Heads of the first table, and its cells with their keys."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.head: list[str] = []
        self.rows: list[list[dict[str, Any]]] = []
        self.into: str | None = None
        self.feed(html[html.index("<table") : html.index("</table>")])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.into = tag
            key = dict(attrs).get("data-key")
            dataset = {} if "data-key" not in dict(attrs) else {"key": key}
            if tag == "th":
                self.head.append("")
            else:
                self.rows[-1].append({"textContent": "", "dataset": dataset})

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.into = None

    def handle_data(self, data: str) -> None:
        if self.into == "th":
            self.head[-1] += data
        elif self.into == "td":
            self.rows[-1][-1]["textContent"] += data


def test_columns_sort_as_numbers_with_what_is_missing_last(troubled: Comparison) -> None:
    """Rates from 1e-3 to 0.5, negative differences, and arms without a value."""
    html = page(document(troubled, drawings=False))
    read = Cells(html)
    rows = [row for row in read.rows if row]
    keys = [row[1]["dataset"].get("key") for row in rows]
    assert [float(k) if k else None for k in keys] == [1e-3, 1e-3, None, 1e-3, 0.5, None]
    if not NODE.exists():
        pytest.skip("the script itself runs only where node is installed")
    script = re.search(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert script is not None
    done = subprocess.run(
        [NODE, "-e", DOM.replace("SCRIPT", script[1])],
        input=json.dumps({"head": read.head, "rows": rows}),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    by_name = {row[0]["textContent"]: row for row in rows}
    for head, way, order in json.loads(done.stdout):
        column = read.head.index(head)
        keys = [by_name[name][column]["dataset"].get("key") or None for name in order]
        if head == "arm":
            places = ["base model(before tuning)", "wild"]
            assert [order[0], order[-1]] == (places if way == "ascending" else places[::-1])
            continue
        numbers = [float(key) for key in keys if key is not None]
        assert keys[len(numbers) :] == [None] * (len(keys) - len(numbers))
        assert numbers == sorted(numbers, reverse=way == "descending")


# --- drawings -------------------------------------------------------------------------------------


def test_names_that_differ_at_their_ends_stay_apart() -> None:
    names = [f"低ランク適応の学習率と階数を変えた長い名前の設定 rank={rank}" for rank in (4, 8, 16)]
    for columns in (26, 30, 36):
        shortened = [short(name, columns) for name in names]
        assert len(set(shortened)) == 3 and all(s.startswith("低ラン") for s in shortened)
        assert [cut(s, columns) for s in shortened] == shortened  # none is cut again
    assert short("lora  rank=4\n") == "lora rank=4"


def test_every_name_of_the_legend_is_inside_the_drawing() -> None:
    """Wide signs count twice: twelve such names once ran out of the picture on the right."""
    arms = [comparisons.arm(f"低ランク適応の設定その{at} rank={at}", {}) for at in range(12)]
    made = document(comparisons.comparison(arms)).section("curves")
    assert made is not None and isinstance(made.blocks[0], Figure)
    svg = ElementTree.fromstring(made.blocks[0].draw())
    width = float(svg.attrib["viewBox"].split()[2])
    texts = [each for each in svg.iter() if (each.text or "").startswith("低ラン")]
    assert len(texts) == 12
    for text in texts:
        assert (
            float(text.attrib["x"])
            + 10 * sum(1.0 if sign > "\u2fff" else 0.6 for sign in text.text or "")
            < width + 5
        )


def test_names_beside_points_cover_no_other_name() -> None:
    points = [Placed(f"arm number {at}", 5 + 0.02 * (at % 3), 50 + at / 10) for at in range(8)]
    points.append(Placed("arm number 8", 9, 62))  # so far away that the others lie close together
    drawn = {point.arm: looks(comparisons.sweep())["lora rank=64 alpha=16"] for point in points}
    svg = front(points, {"arm number 0"}, drawn, cost="cost", quality="quality")
    boxes = []
    for text in ElementTree.fromstring(svg).iter():
        if (text.text or "").startswith("arm number"):
            x, y = float(text.attrib["x"]), float(text.attrib["y"])
            anchor = text.attrib["style"].partition("text-anchor: ")[2][:3]
            wide = 0.55 * 9 * len(text.text or "")
            left = x - {"sta": 0, "mid": wide / 2, "end": wide}[anchor]
            boxes.append((left, y - 7, left + wide, y))
    assert len(boxes) == 9
    for a, b in combinations(boxes, 2):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_one_arm_that_came_apart_does_not_press_the_others_flat() -> None:
    good = [2.4, 1.9, 1.6, 1.4, 1.3, 1.25, 1.22, 1.2, 1.2, 1.19]
    top = ceiling([good, [value + 0.05 for value in good], [9.0 + at for at in range(10)]])
    assert top is not None and 2.4 < top < 5
    assert ceiling([good, good]) is None and ceiling([[1.0]]) is None and ceiling([]) is None


def test_a_curve_is_the_mean_over_seeds_at_steps_that_all_of_them_have() -> None:
    one = comparisons.single().arms[0]
    runs = tuple(
        replace(one.runs[0], seed=seed, checks=checks)
        for seed, checks in enumerate((
            (Checked(1, 1, 3.0, seconds=1.0), Checked(2, 2, 1.0, seconds=2.0)),
            (Checked(1, 1, 5.0, seconds=3.0),),
        ))
    )  # fmt: skip
    (curve,) = validation_curves(replace(comparisons.single(), arms=(replace(one, runs=runs),)))
    assert (curve.steps, curve.mean, curve.low, curve.high) == ((1,), (4.0,), (3.0,), (5.0,))
    assert curve.seconds == (2.0,) and curve.seeds == 2


def test_failed_rates_and_the_chosen_one_are_drawn() -> None:
    made = document(comparisons.troubled()).section("rates")
    assert made is not None
    figure = next(block for block in made.blocks if isinstance(block, Figure))
    svg = figure.draw()
    dora = "var(--s3, #3d8a5f)"
    crosses = re.findall(r'<use [^>]*style="[^"]*' + re.escape(dora), svg)
    assert len(crosses) == 5 + 1  # and the mark in the legend
    plain = replace(comparisons.troubled(), arms=comparisons.methods().arms[:1])
    one = document(plain).section("rates")
    assert one is not None and isinstance(one.blocks[1], Figure)
    assert one.blocks[1].draw().count("<use ") < svg.count("<use ")


def test_what_is_drawn_is_the_datas(methods: Comparison) -> None:
    made = {section.id: list(figures(section.blocks)) for section in document(methods).sections}
    (forest, *_), (reach,) = (
        [figure.draw.__wrapped__.args for figure in made[id]] for id in ("differences", "reach")
    )
    differences = [c for c in methods.comparisons if c.measure == SCORE.name]
    assert [(row.arm, row.shown) for row in forest[0]] == [(c.arm, c.shown) for c in differences]
    for row, found in zip(forest[0], differences, strict=True):
        assert found.difference is not None and found.low is not None and found.high is not None
        wanted = [100 * found.difference, 100 * found.low, 100 * found.high]
        assert [row.value, row.low, row.high] == pytest.approx(wanted)
    assert [row.value for row in reach[0]] == [r.steps_ratio for r in methods.reaches[1:]]
    for point in made["fronts"][0].draw.__wrapped__.args[0]:
        memory, score = (methods.arm(point.arm).measures[m.name] for m in (MEMORY, SCORE))
        assert memory.mean is not None and score.mean is not None and memory.low is not None
        assert (point.cost, point.quality) == pytest.approx((memory.mean / 2**30, 100 * score.mean))
        assert point.low[0] == pytest.approx(memory.low / 2**30)
