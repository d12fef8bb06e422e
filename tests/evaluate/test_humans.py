"""Laws of rating sheets: blind, shuffled, safe to open; what comes back means what was meant."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tanren.endpoint import Journal
from tanren.errors import ConfigError, DataError
from tanren.evaluate.answered import Answered
from tanren.evaluate.humans import (
    Items,
    Ratings,
    Sheet,
    pair_items,
    read_ratings,
    single_items,
    write_sheet,
)
from tanren.evaluate.judges import judge_from, judge_pairs, judge_rows, load_prompt

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & \"'\n二行目\u2028🙂"
SECRET_NAMES = ("tuned-model-v7", "base-model-v7")


def row(number: int, answer: str, error: str | None = None) -> Answered:
    asked = ({"role": "user", "content": f"質問 {number}"},)
    return Answered(number, asked, "", answer, "error" if error else "stop", error=error)


def pairs(count: int = 8) -> Items:
    tuned = [row(k, f"良い回答 {k}") for k in range(1, count + 1)]
    base = [row(k, f"悪い回答 {k}") for k in range(1, count + 1)]
    return pair_items(tuned, base, model=SECRET_NAMES[0], against=SECRET_NAMES[1])


def singles(count: int = 4) -> Items:
    return single_items(
        {
            SECRET_NAMES[0]: [row(k, f"良い回答 {k}") for k in range(1, count + 1)],
            SECRET_NAMES[1]: [row(k, f"悪い回答 {k}") for k in range(1, count + 1)],
        }
    )


Write = Callable[..., Sheet]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(items, "rubric.ja", seed=1, name="sheet")`: a sheet with a prompt's criteria."""

    def make(items: Items, prompt: str, seed: int = 1, name: str = "sheet") -> Sheet:
        asked = load_prompt(prompt)
        return write_sheet(
            items, tmp_path / name, seed=seed, mode=asked.mode, criteria=asked.criteria,
            language="ja",
        )  # fmt: skip

    return make


def table(sheet: Sheet) -> list[dict[str, str]]:
    text = sheet.csv.read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def fill(
    sheet: Sheet,
    path: Path,
    mark: Callable[[str, Mapping[str, str]], str],
    *,
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
    head: str = "",
) -> Path:
    """Fill the table by a rule (criterion, line) -> mark, and save it as a sheet program would."""
    lines = table(sheet)
    criteria = [c["name"] for c in json.loads(sheet.key.read_text(encoding="utf-8"))["criteria"]]
    columns = {name: next(c for c in lines[0] if c.startswith(name + ":")) for name in criteria}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    for line in lines:
        marks = {columns[name]: mark(name, line) for name in criteria}
        writer.writerow({**line, **marks})
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((head + text.getvalue()).encode(encoding))
    return path


def likes_good(_: str, line: Mapping[str, str]) -> str:
    return "A" if line["answer_a"].startswith("良い") else "B"


# --- what raters get ------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "prompt"), [(pairs(), "pairwise.ja"), (singles(), "rubric.en")])
def test_nothing_that_raters_get_tells_who_answered(
    write: Write, items: Items, prompt: str
) -> None:
    sheet = write(items, prompt, seed=987654321)
    assert {p.name for p in sheet.csv.parent.iterdir()} == {"sheet.csv", "sheet.html"}
    for file in (sheet.csv, sheet.html):
        text = file.read_text(encoding="utf-8")
        assert "良い回答 3" in text or "\\u826f\\u3044\\u56de\\u7b54 3" in text
        assert not [name for name in (*SECRET_NAMES, "987654321", "key.json") if name in text]
    key = sheet.key.read_text(encoding="utf-8")
    assert all(name in key for name in SECRET_NAMES)


def test_order_is_random_recorded_and_the_same_for_a_seed(write: Write) -> None:
    one, two, three = (
        write(pairs(40), "pairwise.ja", s, n) for s, n in [(1, "a"), (1, "b"), (2, "c")]
    )
    assert one.csv.read_bytes() == two.csv.read_bytes()
    assert one.html.read_bytes() == two.html.read_bytes()
    assert one.csv.read_bytes() != three.csv.read_bytes()
    lines = table(one)
    first = sum(line["answer_a"].startswith("良い") for line in lines)
    assert 10 <= first <= 30, "either answer stands first about as often"
    numbers = [line["question"] for line in lines]
    assert numbers != sorted(numbers, key=lambda text: int(text.split()[-1]))
    places = json.loads(one.key.read_text(encoding="utf-8"))["items"]
    for line in lines:
        shown_first = places[line["item"]]["models"][0]
        assert line["answer_a"].startswith("良い") == (shown_first == SECRET_NAMES[0])


def test_the_table_opens_in_excel_as_it_is(write: Write) -> None:
    answers = ['=HYPERLINK("http://x")', "-5", "@SUM(1)", "＝1+1", "長い" * 20_000, "普通\n二行"]
    items = single_items({"m": [row(k, text) for k, text in enumerate(answers, start=1)]})
    sheet = write(items, "likert.ja")
    assert sheet.csv.read_bytes().startswith(b"\xef\xbb\xbf")
    found = {line["question"]: line["answer"] for line in table(sheet)}
    for number, text in enumerate(answers[:4], start=1):
        assert found[f"質問 {number}"] == "'" + text
    assert len(found["質問 5"]) < 32_767 and "8000 more characters" in found["質問 5"]
    assert sheet.cut_cells == 1
    assert found["質問 6"] == "普通\n二行"


class _Parts(HTMLParser):
    """Tags with their attributes, and the texts of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = [("", "")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self.texts.append(("", ""))

    def handle_data(self, data: str) -> None:
        tag, before = self.texts.pop()
        self.texts.append((tag, before + data))

    def of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def test_the_form_holds_everything_runs_only_its_own_script_and_has_no_network(
    write: Write,
) -> None:
    sheet = write(single_items({"m": [row(1, NASTY), row(2, "@SCRIPT@ @DATA@")]}), "rubric.ja")
    page = sheet.html.read_text(encoding="utf-8")
    parts = _Parts()
    parts.feed(page)
    scripts = [attributes for tag, attributes in parts.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert not [tag for tag, _ in parts.tags if tag in ("img", "link", "iframe")]
    assert not [
        a for _, attributes in parts.tags for a in attributes if a in ("src", "href", "onerror")
    ]
    data = json.loads(parts.of("script")[0])
    assert {item["answers"][0] for item in data["items"]} == {NASTY, "@SCRIPT@ @DATA@"}
    policy = next(a["content"] for t, a in parts.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    known = [
        f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
        for text in (parts.of("style")[0], parts.of("script")[1])
    ]
    assert re.findall(r"sha256-[\w+/=]+", policy) == known
    assert not re.findall(r"https?://|//\w+\.\w", page)


def test_what_cannot_be_shown_is_left_out_and_counted(write: Write) -> None:
    rows = [row(1, "a"), row(2, "", error="failed"), row(3, "c")]
    others = [row(1, "x"), row(2, "y")]
    items = pair_items(rows, others, model="m", against="n")
    assert (len(items.items), items.left_out) == (1, 3)
    assert write(items, "pairwise.en").left_out == 3
    assert single_items({"m": rows}).left_out == 1


def test_a_sheet_that_cannot_be_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mode pairwise for single answers"):
        write(singles(), "pairwise.en")
    with pytest.raises(ConfigError, match="nothing to rate"):
        write(single_items({"m": [row(1, "", error="e")]}), "score.en")
    write(singles(), "score.en")
    with pytest.raises(ConfigError, match="raters may be at work"):
        write(singles(), "score.en")
    with pytest.raises(ConfigError, match="two models"):
        pair_items([row(1, "a")], [row(1, "b")], model="m", against="m")


# --- what comes back ------------------------------------------------------------------------------


def test_preferences_are_turned_back_to_the_models(write: Write, tmp_path: Path) -> None:
    sheet = write(pairs(), "pairwise.ja")
    ratings = read_ratings([fill(sheet, tmp_path / "taro.csv", likes_good)], sheet.key)
    assert ratings.raters == ("taro",)
    assert ratings.values("preference", SECRET_NAMES[0]) == dict.fromkeys(range(1, 9), 1.0)
    assert ratings.against == SECRET_NAMES[1]
    other = fill(sheet, tmp_path / "hana.csv", lambda *_: "引き分け")
    both = read_ratings([tmp_path / "taro.csv", other], sheet.key)
    assert both.mean("preference", SECRET_NAMES[0]) == 0.75


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": ";"},
        {"delimiter": "\t"},
        {"encoding": "utf-8"},
        {"delimiter": ";", "head": "sep=;\r\n"},
    ],
    ids=["semicolons", "tabs", "no mark", "sep line"],
)
def test_what_sheet_programs_save_is_read(
    write: Write, tmp_path: Path, options: dict[str, Any]
) -> None:
    sheet = write(singles(), "score.ja")

    def mark(_: str, line: Mapping[str, str]) -> str:
        good = "８０" if line["answer"].startswith("良い") else "20.5"
        return good.replace(".", ",") if options.get("delimiter") == ";" else good

    path = fill(sheet, tmp_path / "taro.csv", mark, **options)
    ratings = read_ratings([path], sheet.key)
    assert ratings.mean("score", SECRET_NAMES[0]) == 80.0
    assert ratings.mean("score", SECRET_NAMES[1]) == 20.5
    assert ratings.not_rated == {"taro": 0}


@pytest.mark.parametrize(
    ("encoding", "words"), [("cp932", "CP932"), ("utf-16", "UTF-16"), ("euc_jp", "EUC-JP")]
)
def test_another_encoding_is_told_with_what_to_do_in_excel(
    write: Write, tmp_path: Path, encoding: str, words: str
) -> None:
    sheet = write(singles(), "likert.ja")
    path = fill(sheet, tmp_path / "taro.csv", lambda *_: "3", encoding=encoding)
    with pytest.raises(DataError, match=words) as refused:
        read_ratings([path], sheet.key)
    assert len(refused.value.faults) == 1
    assert "CSV UTF-8" in refused.value.faults[0].remedy
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04....")
    with pytest.raises(DataError, match="an Excel workbook"):
        read_ratings([tmp_path / "book.xlsx"], sheet.key)


def test_empty_cells_are_counted_and_no_zeros(write: Write, tmp_path: Path) -> None:
    sheet = write(singles(), "rubric.ja")

    def mark(criterion: str, line: Mapping[str, str]) -> str:
        return "はい" if line["item"] in ("q1", "q2") and criterion != "concise" else ""

    ratings = read_ratings([fill(sheet, tmp_path / "taro.csv", mark)], sheet.key)
    assert ratings.not_rated == {"taro": 8 * 4 - 6}
    assert len(ratings.ratings) == 6
    assert all(ratings.mean("concise", model) is None for model in SECRET_NAMES)
    assert {one.value for one in ratings.ratings} == {1.0}


def test_all_faults_of_all_files_at_once_by_file_and_line(write: Write, tmp_path: Path) -> None:
    sheet = write(single_items({"m": [row(k, "一行\n二行") for k in (1, 2, 3)]}), "likert.ja")
    marks = {"q1": "6", "q2": "good", "q3": "3"}
    first = fill(sheet, tmp_path / "taro.csv", lambda _, line: marks[line["item"]])
    second = fill(sheet, tmp_path / "hana.csv", lambda *_: "5")
    second.write_text(
        second.read_text(encoding="utf-8-sig").replace(",q2,", ",q9,", 1), encoding="utf-8"
    )
    third = tmp_path / "gone.csv"
    form = tmp_path / "form.json"
    form.write_text(
        json.dumps(
            {
                "format": "tanren-ratings", "version": 1, "sheet": sheet.sheet, "rater": " ",
                "ratings": [{"item": "q1", "values": {"rating": "7", "stars": "1"}}, 5],
            }
        ),
        encoding="utf-8",
    )  # fmt: skip
    with pytest.raises(DataError) as refused:
        read_ratings([first, second, third, form], sheet.key)
    where = [fault.where.removeprefix(f"{tmp_path}/") for fault in refused.value.faults]
    assert sorted(where) == sorted(
        [
            "taro.csv:2 rating",
            "taro.csv:4 rating",
            "hana.csv:4",
            "gone.csv",
            "form.json rater",
            "form.json ratings[0] rating",
            "form.json ratings[0]",
            "form.json ratings[1]",
        ]
    )


def test_another_sheet_or_a_lost_header_is_one_fault(write: Write, tmp_path: Path) -> None:
    one, two = write(singles(), "likert.ja", 1, "a"), write(singles(), "likert.ja", 2, "b")
    path = fill(one, tmp_path / "taro.csv", lambda *_: "3")
    with pytest.raises(DataError, match="the key of that sheet") as refused:
        read_ratings([path], two.key)
    assert len(refused.value.faults) == 1
    lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(DataError, match="restore the first line"):
        read_ratings([path], one.key)
    with pytest.raises(DataError, match="no key of a rating sheet"):
        (tmp_path / "other.json").write_text("{}", encoding="utf-8")
        read_ratings([path], tmp_path / "other.json")


def test_two_people_of_one_name_are_not_one_person(write: Write, tmp_path: Path) -> None:
    sheet = write(singles(), "likert.ja")
    first = fill(sheet, tmp_path / "a" / "sheet.csv", lambda *_: "3")
    second = fill(sheet, tmp_path / "b" / "sheet.csv", lambda *_: "3")
    with pytest.raises(DataError, match="rename it after its rater"):
        read_ratings([first, second], sheet.key)


def test_one_person_who_says_two_things_is_told(write: Write, tmp_path: Path) -> None:
    sheet = write(singles(), "likert.ja")
    columns = fill(sheet, tmp_path / "a.csv", lambda *_: "3")
    named = columns.read_text(encoding="utf-8-sig").replace(",3,,\n", ",3,,花\n")
    columns.write_text(named, encoding="utf-8")
    form = tmp_path / "b.json"
    whole = {"format": "tanren-ratings", "version": 1, "sheet": sheet.sheet, "rater": "花"}
    rating = {"item": "q1", "values": {"rating": "3"}, "comment": "同じ"}
    form.write_text(json.dumps({**whole, "ratings": [rating]}), encoding="utf-8")
    again = read_ratings([columns, form], sheet.key)
    assert again.raters == ("花",)
    assert again.notes == ("1 marks stand in two places with the same value",)
    assert [comment.text for comment in again.comments] == ["同じ"]
    rating["values"] = {"rating": "4"}
    form.write_text(json.dumps({**whole, "ratings": [rating]}), encoding="utf-8")
    with pytest.raises(DataError, match="another mark than at"):
        read_ratings([columns, form], sheet.key)


# --- agreement ------------------------------------------------------------------------------------


def rated(sheet: Sheet, folder: Path, **people: Callable[[str, Mapping[str, str]], str]) -> Ratings:
    files = [fill(sheet, folder / f"{name}.csv", mark) for name, mark in people.items()]
    return read_ratings(files, sheet.key)


def good(_: str, line: Mapping[str, str]) -> str:
    return "yes" if line["answer"].startswith("良い") else "no"


def test_agreement_of_people(write: Write, tmp_path: Path) -> None:
    sheet = write(singles(), "rubric.ja")

    def contrary(criterion: str, line: Mapping[str, str]) -> str:
        return "no" if good(criterion, line) == "yes" else "yes"

    one = rated(sheet, tmp_path, taro=good)
    assert one.agreement("correct") is None
    same = rated(sheet, tmp_path, taro=good, hana=good).agreement("correct")
    assert same is not None
    assert (same.units, same.alpha, same.same) == (8, 1.0, 1.0)
    other = rated(sheet, tmp_path, taro=good, hana=contrary).agreement("correct")
    assert other is not None and other.alpha is not None
    assert other.same == 0 and other.alpha < 0


def test_judges_are_held_against_peoples_majority(write: Write, tmp_path: Path) -> None:
    prompt = load_prompt("rubric.ja")
    names = [criterion.name for criterion in prompt.criteria]

    def ask(messages: Any) -> str:
        verdict = "良い回答" in messages[-1]["content"]
        return json.dumps({**dict.fromkeys(names, verdict), "wording": not verdict})

    judge = judge_from(ask, name="judge", identity="judge")
    with Journal(tmp_path / "judgements.jsonl") as journal:
        judgings = [
            judge_rows([row(k, f"{word} {k}") for k in range(1, 5)], prompt, [judge], journal,
                       model=model)
            for model, word in zip(SECRET_NAMES, ("良い回答", "悪い回答"), strict=True)
        ]  # fmt: skip
    ratings = rated(
        write(singles(), "rubric.ja"), tmp_path, taro=good, hana=good, jiro=lambda *_: "no"
    )
    found = ratings.agreement_with(judgings)
    assert (found["correct"]["judge"].units, found["correct"]["judge"].alpha) == (8, 1.0)
    assert found["wording"]["judge"].same == 0
    split = rated(write(singles(), "rubric.ja", 1, "b"), tmp_path, taro=good, jiro=lambda *_: "no")
    assert len(split.consensus("correct")) == 4, "an even split is no majority"
    shown = ratings.as_dict(judgings)
    assert shown["criteria"]["correct"]["agreement_with_judges"]["judge"]["alpha"] == 1.0
    json.dumps(shown)
    score = write_sheet(
        singles(), tmp_path / "s", seed=1, mode="score", criteria=load_prompt("score.en").criteria
    )
    other_scale = rated(score, tmp_path, taro=lambda *_: "5")
    assert other_scale.agreement_with(judgings) == {}


def test_judges_of_pairs_are_held_against_people_whichever_way_they_were_asked(
    write: Write, tmp_path: Path
) -> None:
    def ask(messages: Any) -> str:
        text = messages[-1]["content"]
        return json.dumps({"preference": "A" if text.index("良い") < text.index("悪い") else "B"})

    judge = judge_from(ask, name="judge", identity="judge")
    tuned, base = ([row(k, f"{w}回答 {k}") for k in range(1, 9)] for w in ("良い", "悪い"))
    with Journal(tmp_path / "judgements.jsonl") as journal:
        judging = judge_pairs(
            base, tuned, load_prompt("pairwise.ja"), [judge], journal,
            model=SECRET_NAMES[1], against=SECRET_NAMES[0],
        )  # fmt: skip
    assert set(judging.values("preference").values()) == {0.0}

    def mostly(_: str, line: Mapping[str, str]) -> str:
        return "tie" if line["item"] == "q1" else likes_good(_, line)

    ratings = rated(write(pairs(), "pairwise.ja"), tmp_path, taro=mostly)
    found = ratings.agreement_with([judging])["preference"]["judge"]
    assert (found.units, found.same) == (8, 7 / 8)
