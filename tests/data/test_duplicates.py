"""Repeats, contradictions and leaks: all of them, none that is false, and the same every time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tanren.chat import Example, parse_object
from tanren.data import near
from tanren.data.duplicates import (
    MAX_PAIRS,
    DuplicateReport,
    Finding,
    find_duplicates,
)
from tanren.data.near import (
    NearIndex,
    comparable,
    jaccard,
    recall,
    rows_per_band,
    shingles,
)

NO_REPEAT = Finding()
LETTERS = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめも日月火水木金土"


def example(line: int, question: str, answer: str = "はい。", **more: Any) -> Example:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    row = parse_object({"messages": messages, **more}, source=more.pop("source", "a"), line=line)
    assert isinstance(row, Example), row
    return row


def prose(seed: int, length: int = 200) -> str:
    draw = random.Random(seed)
    return "".join(draw.choices(LETTERS, k=length))


def edited(text: str, seed: int, changes: int) -> str:
    draw = random.Random(seed)
    characters = list(text)
    for _ in range(changes):
        characters[draw.randrange(len(characters))] = draw.choice(LETTERS)
    return "".join(characters)


def lines(finding: Finding) -> list[tuple[int, int]]:
    return [(pair.first.line, pair.second.line) for pair in finding.pairs]


def similarity(left: str, right: str) -> float:
    return jaccard(shingles(comparable(left)), shingles(comparable(right)))


# --- exact ---


def test_identical_rows_point_to_the_first() -> None:
    rows = [example(n, q) for n, q in [(1, "あ"), (4, "い"), (7, "あ"), (9, "あ"), (11, "い")]]
    found = find_duplicates(rows).train
    assert lines(found.identical) == [(1, 7), (1, 9), (4, 11)]
    assert found.identical.count == 3
    assert found.near == found.contradictions == NO_REPEAT
    assert found.rows == 5


def test_order_of_keys_does_not_hide_a_repeat() -> None:
    messages = [
        {"content": "あ", "role": "user"},
        {"weight": 1, "role": "assistant", "content": "x"},
    ]
    other = parse_object({"messages": messages}, source="a", line=2)
    assert isinstance(other, Example)
    assert find_duplicates([example(1, "あ", "x"), other]).train.identical.count == 1


def test_the_same_prompt_with_another_answer_is_a_contradiction() -> None:
    rows = [
        example(1, "2+2?", "4"),
        example(2, "3+3?", "6"),
        example(3, "2+2?", "5"),
        example(4, "2+2?", "4"),
        example(5, "2+2?", "４です"),
    ]
    found = find_duplicates(rows).train
    assert lines(found.contradictions) == [(1, 3), (1, 5)]
    assert lines(found.identical) == [(1, 4)]


def test_other_tools_make_another_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    rows = [example(1, "2+2?", "4"), example(2, "2+2?", "5", tools=tools)]
    assert find_duplicates(rows).train.contradictions == NO_REPEAT


def test_leaks_name_the_training_row_and_the_validation_row() -> None:
    train = [example(n, prose(n), "答え") for n in range(1, 6)]
    validation = [
        example(1, prose(99), "答え"),
        example(2, prose(3), "答え"),
        example(3, prose(4), "べつの答え"),
        example(4, edited(prose(5), 1, 3), "答え"),
    ]
    report = find_duplicates(train, validation)
    assert lines(report.leaks.identical) == [(3, 2)]
    assert lines(report.leaks.same_prompt) == [(4, 3)]
    assert lines(report.leaks.near) == [(4, 3), (5, 4)]
    assert report.train.near == report.validation.near == NO_REPEAT
    assert (report.train.rows, report.validation.rows) == (5, 4)


def test_places_name_the_file_they_are_in() -> None:
    def row(source: str, line: int) -> Example:
        parsed = parse_object(
            {"messages": list(example(1, "あ").messages)}, source=source, line=line
        )
        assert isinstance(parsed, Example)
        return parsed

    rows = [row("a.jsonl", 3), row("b.jsonl", 1), row("a.jsonl", 9)]
    pairs = find_duplicates(rows).train.identical.pairs
    assert [(str(pair.first), str(pair.second)) for pair in pairs] == [
        ("a.jsonl:3", "b.jsonl:1"),
        ("a.jsonl:3", "a.jsonl:9"),
    ]


def test_pairs_are_bounded_and_counts_are_not() -> None:
    rows = (example(n, "あ") for n in range(MAX_PAIRS + 51))
    found = find_duplicates(rows).train.identical
    assert (found.count, len(found.pairs), found.hidden) == (MAX_PAIRS + 50, MAX_PAIRS, 50)


def test_empty_splits_have_no_findings() -> None:
    report = find_duplicates([])
    assert report.train.rows == report.validation.rows == 0
    assert report.train.identical == report.leaks.identical == report.leaks.near == NO_REPEAT


# --- near ---


def test_near_rows_are_found_and_every_similarity_is_true() -> None:
    """Against all pairs compared by brute force, over texts edited a little or a lot."""
    texts = []
    for seed in range(60):
        texts.append(prose(seed, 150 + seed))
        texts.append(edited(texts[-1], seed, seed % 12))
    rows = [example(n, text) for n, text in enumerate(texts)]
    found = find_duplicates(rows).train
    said = [text + "\nはい。" for text in texts]
    expected = [
        (first, second)
        for second in range(len(texts))
        for first in range(second)
        if texts[first] != texts[second] and similarity(said[first], said[second]) >= 0.8
    ]
    assert 10 < len(expected) < 55
    assert lines(found.near) == expected
    for pair in found.near.pairs:
        true = similarity(said[pair.first.line], said[pair.second.line])
        assert pair.similarity == true >= 0.8


def test_near_looks_at_what_is_said_not_at_width_case_or_the_system_prompt() -> None:
    def row(line: int, system: str, question: str) -> Example:
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
            {"role": "assistant", "content": "ok"},
        ]
        parsed = parse_object({"messages": messages}, source="a", line=line)
        assert isinstance(parsed, Example)
        return parsed

    rows = [
        row(1, "x", "ＡＢＣ　テスト です"),
        row(2, "y" * 500, "abc  テスト\nです"),
        row(3, "x", "別"),
    ]
    assert lines(find_duplicates(rows).train.near) == [(1, 2)]


def test_short_texts_are_near_only_when_equal() -> None:
    rows = [example(n, q, "x") for n, q in enumerate(["あ", "い", "あい", "A", "a"])]
    assert lines(find_duplicates(rows).train.near) == [(3, 4)]


def test_a_repeat_is_reported_once_as_identical_or_as_near() -> None:
    base = prose(1)
    rows = [example(1, base), example(2, edited(base, 1, 2)), example(3, edited(base, 1, 2))]
    found = find_duplicates(rows).train
    assert lines(found.near) == [(1, 2)]
    assert lines(found.identical) == [(2, 3)]


def test_without_the_reported_rows_nothing_near_is_left() -> None:
    base = prose(1, 300)
    rows = [example(n, edited(base, n, n % 30)) for n in range(120)]
    found = find_duplicates(rows).train
    dropped = {pair.second.line for pair in (*found.near.pairs, *found.identical.pairs)}
    kept = [row for row in rows if row.line not in dropped]
    assert 0 < len(kept) < len(rows)
    left = [
        (a.line, b.line)
        for i, a in enumerate(kept)
        for b in kept[:i]
        if similarity(*("\n".join(m["content"] for m in row.messages) for row in (a, b))) >= 0.8
    ]
    assert left == []


def test_the_limit_bounds_near_only_and_is_reported() -> None:
    base = prose(1)
    rows = [example(n, prose(n + 10)) for n in range(5)]
    rows += [example(5, base), example(6, edited(base, 1, 1)), example(7, prose(10))]
    report = find_duplicates(rows, limit=5)
    assert report.train.near == NO_REPEAT
    assert (report.train.near_rows, report.near_limit, report.train.rows) == (5, 5, 8)
    assert lines(report.train.identical) == [(0, 7)]
    assert lines(find_duplicates(rows, limit=7).train.near) == [(5, 6)]


def test_the_threshold_is_a_threshold() -> None:
    base = prose(1, 100)
    other = edited(base, 1, 5)
    rows = [example(1, base), example(2, other)]
    true = similarity(base + "\nはい。", other + "\nはい。")
    assert 0.5 < true < 0.8
    assert find_duplicates(rows, near_threshold=true - 0.01).train.near.count == 1
    assert find_duplicates(rows, near_threshold=true + 0.01).train.near.count == 0


def test_tool_calls_are_part_of_what_is_said() -> None:
    def row(line: int, arguments: str) -> Example:
        function = {"name": "search", "arguments": arguments}
        call = {"id": "c", "type": "function", "function": function}
        messages = [
            {"role": "user", "content": "調べて"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
        parsed = parse_object({"messages": messages}, source="a", line=line)
        assert isinstance(parsed, Example)
        return parsed

    rows = [row(1, '{"q": "空が青い理由をくわしく"}'), row(2, '{"q": "海の深さと水圧について"}')]
    found = find_duplicates(rows).train
    assert found.near == NO_REPEAT
    assert found.contradictions.count == 1


def test_the_report_is_the_same_every_time() -> None:
    def report() -> DuplicateReport:
        rows = [example(n, edited(prose(n % 7), n, n % 9)) for n in range(100)]
        return find_duplicates(rows[:80], rows[80:])

    first = report()
    assert first.train.near.count > 10
    assert first == report()


def test_long_texts_are_cut_and_counted() -> None:
    long = prose(1, near.MAX_CHARACTERS)
    rows = [example(1, long + prose(2)), example(2, long + prose(3)), example(3, prose(4))]
    found = find_duplicates(rows).train
    assert found.near_cut_rows == 2
    assert lines(found.near) == [(1, 2)]


def test_crowded_buckets_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_BUCKET_ROWS", 2)
    stem = prose(1, 300)
    index = NearIndex()
    for row in range(20):
        assert index.add(row, stem + prose(row + 50, 150)) is None
    assert index.crowded_rows > 0


def test_banding_proposes_99_percent_at_the_threshold() -> None:
    """The closed form, and what really happens to pairs whose similarity is known."""
    assert recall(0.8, 5) == pytest.approx(1 - (1 - 0.8**5) ** 20)
    for threshold in (0.5, 0.7, 0.8, 0.9, 1.0):
        assert recall(threshold, rows_per_band(threshold)) >= 0.99
    assert rows_per_band(0.8) > rows_per_band(0.5)
