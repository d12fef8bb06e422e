"""Final numbers, read as a person reads them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import metric_named
from tanren.evaluate.metrics.final_number import final_number, numbers_in


def row(answer: str, reference: str) -> Answered:
    return Answered(1, (), reference, answer, "stop")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("She earned $1,234.50.", ["1234.50"]),
        ("１，２３４円と５個", ["1234", "5"]),
        ("10-5 = 5", ["10", "5", "5"]),
        ("3 - 2", ["3", "2"]),
        ("it is -7 degrees", ["-7"]),
        ("気温は約−3.5度", ["-3.5"]),
        ("a loss of -$20", ["-20"]),
        ("1-(-5)", ["1", "-5"]),
        ("50%-75%", ["50", "75"]),
        ("- 5 apples\n- 6 pears", ["5", "6"]),
        ("A-1", ["1"]),
        ("+4", ["4"]),
        (".5 and 0.50", [".5", "0.50"]),
        ("1e3 or 2.5E-1", ["1000", "0.25"]),
        ("12,34", ["12", "34"]),
        ("1,234,567", ["1234567"]),
        ("1,2345", ["1", "2345"]),
        ("3.", ["3"]),
        ("答えは②", ["2"]),
        ("五つ", []),
        ("none", []),
    ],
)
def test_numbers_of_a_text(text: str, numbers: list[str]) -> None:
    assert [number.value for number in numbers_in(text)] == [Decimal(n) for n in numbers]


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("48/2 = 24, so 72.", "24+48=72\n#### 72", 1),
        ("#### 72", "#### 72", 1),
        ("#### 72\nQ: 5 apples?", "#### 72", 1),  # what is said after the mark does not count
        ("＃＃＃＃　７２", "#### 72", 1),
        ("72 in total, of 100", "#### 72", 0),
        ("The answer is 72.0", "#### 72", 1),
        ("1,000円です", "#### 1000", 1),
        ("-72", "#### 72", 0),
        ("I do not know", "#### 72", 0),
        ("#### none, 72", "no mark, 72", 1),
        ("72 ####", "72", 0),  # a mark with nothing after it
        ("", "72", 0),
    ],
)
def test_the_final_number(answer: str, reference: str, right: int) -> None:
    assert metric_named("number").score(row(answer, reference)) == right


def test_a_reference_without_number_says_nothing() -> None:
    assert metric_named("number").score(row("72", "many")) is None


def test_tolerance_includes_its_end() -> None:
    near = metric_named("number", tolerance=0.1)
    assert [near.score(row(a, "1")) for a in ("1.1", "0.9", "1.11")] == [1, 1, 0]


def test_what_could_not_be_read_is_counted() -> None:
    rows = [row("3万円", "30000"), row("わからない", "5"), row("#### 5", "5")]
    details = metric_named("number").details(rows)
    assert details["kanji_numerals"] == 1 and details["no_number"] == 1 and details["marked"] == 1
    assert metric_named("number").value(rows) == pytest.approx(1 / 3)


def test_a_huge_exponent_is_no_trap() -> None:
    assert final_number("1e999") is not None
    assert metric_named("number", tolerance=0.5).score(row("1e999", "3")) == 0
