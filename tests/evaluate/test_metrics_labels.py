"""Classification and multiple choice, by what was said and by likelihood."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import metric_named, options_in


def row(answer: str, reference: str, number: int = 1, prompt: str = "?", **facts: Any) -> Answered:
    said = ({"role": "user", "content": prompt},)
    return Answered(number, said, reference, answer, "stop", **facts)


def rows_of(meant: list[Any], said: list[Any]) -> list[Answered]:
    pairs = zip(meant, said, strict=True)
    return [row(str(b), str(a), i) for i, (a, b) in enumerate(pairs, 1)]


# --- classification -------------------------------------------------------------------------------


def test_f1_of_the_scikit_learn_manual() -> None:
    rows = rows_of([0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1])
    assert metric_named("macro_f1").value(rows) == pytest.approx(0.26666667)
    assert metric_named("micro_f1").value(rows) == pytest.approx(1 / 3)
    assert metric_named("accuracy").value(rows) == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_agrees(seed: int) -> None:
    draw = random.Random(seed)
    names = ["含意", "矛盾", "中立"]
    meant = [draw.choice(names) for _ in range(60)]
    said = [m if draw.random() < 0.6 else draw.choice([*names, "わからない"]) for m in meant]
    details = metric_named("accuracy").details(rows_of(meant, said))
    labels = details["labels"]
    plain = [s if s in names else "other" for s in said]
    everything = confusion_matrix(meant, plain, labels=[*labels, "other"])
    assert details["confusion"] == everything[:-1].tolist()
    p, r, f, support = precision_recall_fscore_support(meant, plain, labels=labels)
    for i, label in enumerate(labels):
        found = details["per_label"][label]
        assert found["precision"] == pytest.approx(p[i]) and found["recall"] == pytest.approx(r[i])
        assert found["f1"] == pytest.approx(f[i]) and found["support"] == support[i]
    macro, micro = (f1_score(meant, plain, labels=labels, average=a) for a in ("macro", "micro"))
    assert details["macro_f1"] == pytest.approx(macro)
    assert details["micro_f1"] == pytest.approx(micro)


def test_an_answer_that_is_no_label_is_wrong_and_has_its_column() -> None:
    rows = rows_of(["yes", "no", "yes", "no"], ["Yes.", "the answer is no", "perhaps", ""])
    details = metric_named("accuracy").details(rows)
    assert details["columns"] == ["no", "yes", "other"]
    assert details["confusion"] == [[0, 0, 2], [0, 1, 1]]
    assert details["other"] == 3 and details["other_naming_one_label"] == 1
    assert details["other_answers"]["perhaps"] == 1
    assert metric_named("accuracy").value(rows) == 0.25
    assert details["per_label"]["no"]["precision"] is None  # never said
    assert metric_named("micro_f1").value(rows) == pytest.approx(2 / 5)  # 1 of 1 said, 1 of 4 meant


def test_given_labels_leave_other_references_out_and_count_them() -> None:
    metric = metric_named("accuracy", labels=["YES", "no"])
    rows = rows_of(["yes", "maybe"], ["yes", "maybe"])
    assert metric.value(rows) == 1.0 and metric.details(rows)["without_score"] == 1


def test_labels_come_from_options_too() -> None:
    rows = [row("a", "a", options=("a", "b", "c"))]
    assert metric_named("accuracy").details(rows)["labels"] == ["a", "b", "c"]
    assert metric_named("macro_f1").value(rows) == 1.0  # labels nobody meant or said do not count


def test_by_likelihood_the_cheapest_label_is_said() -> None:
    options = ("positive", "negative")
    rows = [
        row("?", "negative", 1, options=options, option_losses=(2.0, 0.5)),
        row("?", "negative", 2, options=options, option_losses=(0.1, 0.5)),
        row("negative", "negative", 3, options=options),
    ]
    metric = metric_named("accuracy", by="likelihood")
    assert [metric.score(r) for r in rows] == [1, 0, None]
    assert metric.name == "accuracy_by_likelihood"
    assert metric.details(rows)["confusion"] == [[1, 1, 0], [0, 0, 0]]
    assert metric_named("macro_f1", by="likelihood").value(rows) == pytest.approx(1 / 3)


# --- options in prompts ---------------------------------------------------------------------------

THREE = ["世界", "写真集", "絵本"]


@pytest.mark.parametrize(
    ("prompt", "markers", "texts"),
    [
        ("どれ？\nA. 世界\nB. 写真集\nC. 絵本", "abc", THREE),
        ("どれ？\n（Ａ）世界\n（Ｂ）写真集\n（Ｃ）絵本\n記号で答えて。", "abc", THREE),
        ("どれ？\n0: 世界\n1: 写真集\n2: 絵本", "012", THREE),
        ("どれ？\n１）世界\n２）写真集\n３）絵本", "123", THREE),
        ("どれ？\n- ア：世界\n- イ：写真集\n- ウ：絵本", "アイウ", THREE),
        ("どれ？ ①世界 ②写真集 ③絵本", "123", THREE),
        ("どれ？ 選択肢：0.世界,1.写真集,2.絵本", "012", THREE),
        ("Which? (a) the world (b) a photo book (c) 3.5 books", "abc",
         ["the world", "a photo book", "3.5 books"]),
        ("どれ？\n選択肢：世界、写真集、絵本。", "", THREE),
        ("どれ？\n選択肢：\n- 世界\n- 写真集\n- 絵本\n\n一つ選んで。", "", THREE),
        ("Pick one.\nOptions: red, green", "", ["red", "green"]),
        ("Ex.\nA. x\nB. y\nAnswer: A\n\nQ\nA. red\nB. green\nC. blue", "abc",
         ["red", "green", "blue"]),
        ("どれ？\nＡ　世界\nＢ　写真集\nＣ　絵本", "abc", THREE),
        ("どれ？\n【選択肢】\n・世界\n・写真集\n・絵本", "", THREE),
        ("どれ？\n1：七つ\n2：3行広告\n3：10", "123", ["七つ", "3行広告", "10"]),
        ("次を要約して。\n1. 始めに\n", "", []),
        ("At 10:30 he ran 3.5 km. B. followed.", "", []),
        ("B. one\nC. two", "", []),
        ("", "", []),
    ],
)  # fmt: skip
def test_options_in_a_prompt(prompt: str, markers: str, texts: list[str]) -> None:
    found = options_in(prompt)
    assert [option.text for option in found] == texts
    assert "".join(option.marker for option in found) == markers


# --- multiple choice ------------------------------------------------------------------------------

PROMPT = "どれ？\nA. 世界\nB. 写真集\nC. 絵本"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("絵本", 1), ("絵本。", 1), ("C", 1), ("ｃ", 1), ("(C)", 1), ("C.", 1), ("【Ｃ】", 1),
        ("C. 絵本", 1), ("C：絵本", 1), ("A", 0), ("世界", 0),
        ("C. 世界", 0),  # marker and text contradict each other
        ("3", 0),  # the prompt shows letters
        ("絵本だと思います", 0), ("", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reference", ["絵本", "C", "C. 絵本"])
@pytest.mark.parametrize("options", [(), tuple(THREE), ("A", "B", "C")])
def test_a_choice(answer: str, right: int, reference: str, options: tuple[str, ...]) -> None:
    one = row(answer, reference, prompt=PROMPT, options=options)
    assert metric_named("choice").score(one) == right


def test_without_markers_letters_and_numbers_from_one_count() -> None:
    scores = [
        metric_named("choice").score(row(answer, "絵本", options=tuple(THREE)))
        for answer in ("C", "3", "2", "絵本")
    ]
    assert scores == [1, 1, 0, 1]


def test_an_option_that_is_a_number_goes_before_its_place() -> None:
    one = row("2", "2", options=("2", "3", "5"))
    assert metric_named("choice").score(one) == 1
    assert metric_named("choice").score(row("3", "2", options=("2", "3", "5"))) == 0


def test_details_of_choices() -> None:
    rows = [
        row("A", "絵本", 1, PROMPT), row("A", "世界", 2, PROMPT), row("絵本かな", "C", 3, PROMPT),
        row("?", "辞書", 4, PROMPT), row("x", "y", 5),
    ]  # fmt: skip
    details = metric_named("choice").details(rows)
    assert details["rows"] == 3 and details["without_score"] == 2
    assert details["chance"] == pytest.approx(1 / 3)
    assert details["chosen_places"] == {"1": 2} and details["right_places"] == {"1": 1, "3": 2}
    assert details["other"] == 1 and details["other_naming_one_option"] == 1


def test_length_normalisation_changes_the_choice() -> None:
    """Sums 2.0, 2.4, 3.0; per token 2.0, 1.2, 0.75; per character 2.0, 0.4, 0.5."""
    facts = {
        "options": ("x", "yyyyyy", "zzzzzz"),
        "option_losses": (2.0, 1.2, 0.75),
        "option_tokens": (1, 2, 4),
    }
    for normalise, right in (("sum", "x"), ("character", "yyyyyy"), ("token", "zzzzzz")):
        metric = metric_named("choice", by="likelihood", normalise=normalise)
        assert metric.score(row("", right, **facts)) == 1, normalise
    near = {"options": ("xx", "yyy"), "option_losses": (2.0, 2.7), "option_tokens": (1, 1)}
    by_character = metric_named("choice", by="likelihood", normalise="character")
    assert by_character.score(row("", "yyy", **near)) == 1  # 1.0 and 0.9 a character
    sums = metric_named("choice", by="likelihood", normalise="sum")
    assert sums.score(row("", "x", **{**facts, "option_tokens": ()})) is None
    assert sums.name == "choice_by_likelihood_sum"
