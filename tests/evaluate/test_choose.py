"""What to measure, told from the data: the file's own rows decide, and the reason is in words."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from tanren.evaluate.answered import Answered
from tanren.evaluate.choose import Task, choose, choose_from

KIDS_WHY = Path(__file__).parents[2] / "data" / "kids_why.csv"

SETS = (
    ("絵本", "図鑑", "論文", "世界"),
    ("犬", "机", "空", "海"),
    ("歯医者", "駅", "学校", "八百屋"),
    ("春", "父", "雪", "石"),
)
LETTERS = "ABCD"


def questions(style: str, spell: str) -> tuple[list[str], list[str]]:
    """Twenty questions with four options each, listed and answered in different ways."""
    prompts, references = [], []
    for i in range(20):
        options = SETS[i % 4]
        lines = {
            "letters": "\n".join(f"{a}. {o}" for a, o in zip(LETTERS, options, strict=True)),
            "numbers": "\n".join(f"{n}) {o}" for n, o in enumerate(options)),
            "plain": "選択肢：" + "、".join(options),
            "circled": " ".join(f"{c}{o}" for c, o in zip("①②③④", options, strict=True)),
        }[style]
        right = i * 7 % 4
        prompts.append(f"問{i}：どれですか？\n{lines}")
        references.append(
            {"text": options[right], "letter": LETTERS[right], "number": str(right)}[spell]
        )
    return prompts, references


@pytest.mark.parametrize(
    ("style", "spell"),
    [("letters", "text"), ("letters", "letter"), ("numbers", "text"), ("numbers", "number"),
     ("plain", "text"), ("circled", "text")],
)  # fmt: skip
def test_multiple_choice(style: str, spell: str) -> None:
    task = choose_from(*questions(style, spell))
    assert task.kind == "multiple_choice" and task.primary == "choice"
    assert "20 of 20 rows" in task.reason and "(4)" in task.reason


def test_options_of_their_own_field() -> None:
    rows = [
        Answered(i, ({"role": "user", "content": f"問{i}"},), SETS[i % 4][i % 3], "", "stop",
                 options=SETS[i % 4])
        for i in range(12)
    ]  # fmt: skip
    task = choose(rows)
    assert task.kind == "multiple_choice" and "its own options" in task.reason


def test_the_same_options_in_every_row_are_labels() -> None:
    prompts = [f"感想{i}は？ 選択肢：良い、悪い、普通" for i in range(12)]
    task = choose_from(prompts, ["良い", "悪い"] * 6)
    assert task.kind == "classification" and task.labels == ("悪い", "普通", "良い")
    assert task.build()[0].details([])["labels"] == list(task.labels)


def test_numbers_after_a_mark() -> None:
    references = [f"{i} + {i} = {2 * i}\n#### {2 * i:,}" for i in range(900, 1100)]
    task = choose_from([f"Double {i}?" for i in range(200)], references)
    assert task.kind == "numbers" and task.primary == "number" and "200 of 200" in task.reason


@pytest.mark.parametrize("form", ["{}円", "{}", "${}.50", "-{}", "{} km", "１，{}"])
def test_bare_numbers(form: str) -> None:
    task = choose_from(["?"] * 20, [form.format(i) for i in range(100, 120)])
    assert task.kind == "numbers" and "is a number" in task.reason


def test_json() -> None:
    references = [f'{{"name": "n{i}", "age": {i}}}' for i in range(19)] + ["no idea"]
    task = choose_from(["?"] * 20, references)
    assert task.kind == "json" and task.primary == "json_fields" and "19 of 20" in task.reason


def test_few_short_references_are_labels() -> None:
    labels = ["含意", "矛盾", "中立"] * 10
    task = choose_from([f"前提{i} 仮説{i}" for i in range(30)], labels)
    assert task.kind == "classification" and task.primary == "accuracy"
    assert task.labels == ("中立", "含意", "矛盾")
    assert "30 rows have only 3 different" in task.reason and "含意" in task.reason


def test_a_file_of_one_label_says_so() -> None:
    task = choose_from(["?"] * 10, ["spam"] * 10)
    assert task.kind == "classification" and "all 10 rows have the same" in task.reason


@pytest.mark.parametrize(
    "references",
    [
        ["yes", "no"] * 3,  # too few to tell
        [f"a{i}" for i in range(40)],  # all different
        ["a long reference that is the same sentence twice over and over"] * 20,
    ],
)
def test_what_is_no_classification(references: Sequence[str]) -> None:
    assert choose_from(["?"] * len(references), references).kind == "text"


def test_free_text() -> None:
    with open(KIDS_WHY, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    task = choose_from([r["question"] for r in rows], [r["answer"] for r in rows])
    assert task.kind == "text" and task.primary == "rouge_l"
    assert "130 different references in 130 rows" in task.reason
    assert "exact_match" not in task.metrics


def test_short_free_text_can_also_be_right_word_for_word() -> None:
    task = choose_from(["?"] * 30, [f"都市{i}号" for i in range(30)])
    assert task.kind == "text" and task.primary == "normalised_match"


def test_lists_in_prompts_make_no_choice() -> None:
    prompts = [f"次の材料を使って。\n1. 卵{i}\n2. 牛乳\n3. 砂糖" for i in range(20)]
    task = choose_from(
        prompts, [f"卵{i}と牛乳をよく混ぜて、砂糖を加えてから焼きます。" for i in range(20)]
    )
    assert task.kind == "text"


@pytest.mark.parametrize("references", [[], ["", " "]])
def test_without_references_only_behaviour_is_measured(references: list[str]) -> None:
    task = choose_from(["?"] * len(references), references)
    assert task.kind == "text" and "no row has a reference" in task.reason


def test_every_choice_can_be_built() -> None:
    tasks: list[Task] = [
        choose_from(["?"] * 12, references)
        for references in (["yes", "no"] * 6, ["#### 1"] * 12, ["{}"] * 12, list("abcdefghijkl"))
    ]
    for task in tasks:
        assert tuple(metric.name for metric in task.build()) == task.metrics
        assert len(set(task.metrics)) == len(task.metrics)
