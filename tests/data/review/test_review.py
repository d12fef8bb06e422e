"""Laws of a review: nothing is lost, nothing is changed unasked, and it goes on where it was."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tanren.chat import parse_line
from tanren.data.review import (
    Chosen,
    Review,
    chosen_by_lint,
    chosen_places,
    journal_path,
    rejected_path,
    sampled,
)
from tanren.data.review.chosen import Choose
from tanren.errors import ConfigError, DataError, RunError


def line(question: str, answer: str = "はい。") -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes(end.join([*lines, ""]).encode("utf-8"))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "質問.jsonl", *(line(f"空は{i}？") for i in range(6)))


@contextmanager
def reviewing(data: Path, *, choose: Chosen | Choose | None = None) -> Iterator[Review]:
    with Review(data, out_of(data), choose=choose, overwrite=False) as review:
        yield review


def out_of(data: Path) -> Path:
    return data.with_name("out.jsonl")


def decide(review: Review, words: str) -> None:
    """One letter a row: a, r, s, e."""
    for letter in words:
        row = review.next()
        assert row is not None
        if letter == "e":
            review.edit(row, json.loads(line("new", "新しい。")))
        else:
            {"a": review.accept, "r": review.reject, "s": review.skip}[letter](row)


def accounted(review: Review) -> bool:
    p = review.progress
    return p.accepted + p.edited + p.rejected + p.undecided == p.rows


# --- what is written ------------------------------------------------------------------------------


def test_every_row_goes_where_it_was_put_in_the_files_order(data: Path) -> None:
    rows = data.read_bytes().splitlines(keepends=True)
    with reviewing(data) as review:
        decide(review, "arse")
        written = review.write()
        assert written is not None
        assert accounted(review)
        assert (written.kept_rows, written.rejected_rows, written.undecided_rows) == (2, 1, 3)
    new = line("new", "新しい。").encode() + b"\n"
    assert out_of(data).read_bytes() == rows[0] + new
    assert rejected_path(out_of(data)).read_bytes() == rows[1]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_that_are_not_edited_are_copied_byte_for_byte(tmp_path: Path, end: str) -> None:
    odd = '{ "messages" :[{"content":"\\u3042","role":"user"},{"role":"assistant","content":"b"}]}'
    data = write(tmp_path / "d.jsonl", line("a"), odd, line("c"), end=end)
    data.write_bytes(b"\xef\xbb\xbf" + data.read_bytes())
    with reviewing(data) as review:
        decide(review, "aaa")
        review.write()
    assert out_of(data).read_bytes() == data.read_bytes()
    assert not rejected_path(out_of(data)).exists()


def test_blank_lines_are_no_rows_and_a_missing_line_end_is_added(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text(f"\n{line('a')}\n\n \n{line('b')}", encoding="utf-8")
    with reviewing(data) as review:
        row = review.next()
        assert row is not None and row.line == 2
        decide(review, "aa")
        review.write()
        assert review.progress.rows == 2
    assert out_of(data).read_text(encoding="utf-8") == f"{line('a')}\n{line('b')}\n"


def test_what_is_taken_back_is_gone_from_the_files(data: Path) -> None:
    with reviewing(data) as review:
        decide(review, "ra")
        review.write()
        assert review.undo() and review.undo()
        decide(review, "aa")
        review.write()
    rows = data.read_bytes().splitlines(keepends=True)
    assert out_of(data).read_bytes() == b"".join(rows[:2])
    assert not rejected_path(out_of(data)).exists()


def test_a_failing_write_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    """Rows of a megabyte, so that none is still in memory when the file changes."""
    data = write(tmp_path / "d.jsonl", *(line(f"空は{i}？" + "あ" * 400_000) for i in range(4)))
    with reviewing(data) as review:
        decide(review, "ar")
        review.write()
        before = out_of(data).read_bytes()
        decide(review, "a")
        data.write_bytes(data.read_bytes().replace("空は0".encode(), "海は0".encode()))
        with pytest.raises(DataError, match="another row"):
            review.write()
    assert out_of(data).read_bytes() == before
    assert not list(data.parent.glob(".*.tmp"))


@settings(max_examples=25, deadline=None)
@given(keys=st.text(alphabet="arseuq", max_size=25), data=st.data())
def test_no_row_is_lost_whatever_is_pressed(
    keys: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`q`: leave and come back. Repeated rows among them are told apart."""
    folder = tmp_path_factory.mktemp("review")
    count = data.draw(st.integers(1, 6))
    names = data.draw(st.lists(st.sampled_from("xyz"), min_size=count, max_size=count))
    path = write(folder / "d.jsonl", *(line(name) for name in names))
    expected: dict[int, str] = {}
    history: list[int] = []
    decided_once = False
    for part in keys.split("q"):
        with reviewing(path) as review:
            history = [i for i in history if i in expected]
            for key in part:
                row = review.next()
                if key == "u":
                    back = review.undo()
                    assert (back.index if back else None) == (history[-1] if history else None)
                    if history:
                        expected.pop(history.pop(), None)
                elif row is not None:
                    decide(review, key)
                    history.append(row.index)
                    if key != "s":
                        decided_once = True
                        expected[row.index] = key
                assert accounted(review)
            review.write()
    kept = [i for i in sorted(expected) if expected[i] in "ae"]
    rejected = [i for i in sorted(expected) if expected[i] == "r"]
    lines = [line("new", "新しい。") if expected[i] == "e" else line(names[i]) for i in kept]
    assert out_of(path).exists() == decided_once
    if out_of(path).exists():
        assert out_of(path).read_text(encoding="utf-8").splitlines() == lines
    side = rejected_path(out_of(path))
    found = side.read_text(encoding="utf-8").splitlines() if side.exists() else []
    assert found == [line(names[i]) for i in rejected]


# --- going on -------------------------------------------------------------------------------------


def test_a_review_goes_on_where_it_was_left(data: Path) -> None:
    with reviewing(data) as review:
        decide(review, "asr")
    with reviewing(data) as review:
        row = review.next()
        assert row is not None and row.index == 1  # it was skipped, so it is asked again
        decide(review, "aaaa")
        assert review.next() is None
        assert review.progress.undecided == 0


def test_a_row_that_changed_is_asked_again_and_others_keep_their_decision(data: Path) -> None:
    with reviewing(data) as review:
        decide(review, "aaaaaa")
    lines = data.read_text(encoding="utf-8").splitlines()
    lines[2] = line("空は何色？")
    write(data, *reversed(lines))
    with reviewing(data) as review:
        row = review.next()
        assert row is not None and row.index == 3 and review.progress.undecided == 1
        assert row.entry.decision is None


def test_equal_rows_are_decided_one_by_one(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", line("same"), line("other"), line("same"), line("same"))
    with reviewing(data) as review:
        decide(review, "aar")
    with reviewing(data) as review:
        row = review.next()
        assert row is not None and row.index == 3
        assert (review.progress.accepted, review.progress.rejected) == (2, 1)


def test_undo_reaches_back_over_the_start(data: Path) -> None:
    with reviewing(data) as review:
        decide(review, "ar")
    with reviewing(data) as review:
        row = review.undo()
        assert row is not None and row.index == 1 and row.entry.decision is None
        assert review.next() == row
        earlier = review.undo()
        assert earlier is not None and earlier.index == 0
        assert review.undo() is None
        assert review.progress.undecided == 6


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_half_a_line_of_a_killed_process_costs_that_decision_alone(data: Path, cut: int) -> None:
    with reviewing(data) as review:
        decide(review, "aaa")
    journal = journal_path(out_of(data))
    journal.write_bytes(journal.read_bytes()[:-cut])
    with reviewing(data) as review:
        assert review.progress.accepted == 2
        decide(review, "r")
    with reviewing(data) as review:
        assert (review.progress.accepted, review.progress.rejected) == (2, 1)


def test_a_damaged_journal_is_refused_with_its_line(data: Path) -> None:
    with reviewing(data) as review:
        decide(review, "aa")
    journal = journal_path(out_of(data))
    first, second = journal.read_text(encoding="utf-8").splitlines()
    journal.write_text(f"{first[:-9]}\n{second}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught, reviewing(data):
        pass
    assert caught.value.faults[0].where.endswith("out.jsonl.review.jsonl:1")


def test_the_journal_only_grows_and_a_look_alone_leaves_none(data: Path) -> None:
    with reviewing(data) as review:
        review.next()
    assert not journal_path(out_of(data)).exists()
    sizes = []
    with reviewing(data) as review:
        for _ in range(2):
            decide(review, "a")
            sizes.append(journal_path(out_of(data)).read_bytes())
        review.undo()
        sizes.append(journal_path(out_of(data)).read_bytes())
    assert sizes[1].startswith(sizes[0]) and sizes[2].startswith(sizes[1])
    assert len(set(sizes)) == 3


def test_two_reviews_do_not_write_into_one_journal(data: Path) -> None:
    with (
        reviewing(data),
        pytest.raises(RunError) as caught,
        reviewing(data),
    ):
        pass
    assert caught.value.faults[0].found == "another review at work"


# --- what may be taken ----------------------------------------------------------------------------


def test_a_faulty_row_is_shown_and_cannot_be_accepted(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    bad = b'{"messages": [{"role": "bot", "content": "\xff"}]}'
    data.write_bytes(line("空").encode() + b"\n" + bad + b"\nno json\n")
    with reviewing(data) as review:
        decide(review, "a")
        for remaining in (2, 1):
            row = review.next()
            assert row is not None and row.example is None and row.faults
            with pytest.raises(DataError):
                review.accept(row)
            assert review.progress.undecided == remaining
            review.reject(row)
        review.write()
    assert rejected_path(out_of(data)).read_bytes() == bad + b"\nno json\n"


def test_an_edit_with_faults_changes_nothing(data: Path) -> None:
    with reviewing(data) as review:
        row = review.next()
        assert row is not None
        with pytest.raises(DataError) as caught:
            review.edit(row, {"messages": [{"role": "bot", "content": "x"}]})
        assert len(caught.value.faults) == len(
            review.faults_of(row, {"messages": [{"role": "bot", "content": "x"}]})
        )
        assert review.next() == row and review.progress.undecided == 6
    assert not journal_path(out_of(data)).exists()


def test_whatever_is_written_passes_the_check(data: Path) -> None:
    with reviewing(data) as review:
        decide(review, "aerea")
        review.write()
    for number, words in enumerate(out_of(data).read_text(encoding="utf-8").splitlines(), 1):
        assert not isinstance(parse_line(words, source="out", line=number), list)


def test_notes_stay_with_their_row_and_decide_nothing(data: Path) -> None:
    with reviewing(data) as review:
        row = review.next()
        assert row is not None
        noted = review.note(row, "  変な答え \n")
        assert noted.entry.note == "変な答え" and review.progress.undecided == 6
        review.reject(row)
    with reviewing(data) as review:
        assert review.row(0).entry.note == "変な答え"
        assert review.row(0).entry.decision == "reject"
        assert review.progress.noted == 1
        review.note(review.row(0), "")
        assert (review.progress.noted, review.progress.rejected) == (0, 1)


def test_a_file_that_no_review_made_is_not_replaced(data: Path) -> None:
    out_of(data).write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError) as caught, reviewing(data):
        pass
    assert "--overwrite" in caught.value.faults[0].remedy
    with pytest.raises(ConfigError):
        Review(data, data, overwrite=True)
    assert out_of(data).read_text(encoding="utf-8") == "mine"


# --- which rows -----------------------------------------------------------------------------------


def shown(data: Path, choose: Chosen | Choose | None) -> list[int]:
    found = []
    with reviewing(data, choose=choose) as review:
        while (row := review.next()) is not None:
            found.append(row.line)
            review.skip(row)
    return found


def test_a_sample_is_the_same_for_the_same_seed(data: Path) -> None:
    first = shown(data, sampled(3, 1))
    assert first == shown(data, sampled(3, 1)) and len(first) == 3 == len(set(first))
    assert first == sorted(i + 1 for i in random.Random(1).sample(range(6), 3))
    assert len({tuple(shown(data, sampled(3, seed))) for seed in range(8)}) > 2
    assert shown(data, sampled(99, 1)) == [1, 2, 3, 4, 5, 6]


def test_places_are_shown_with_their_reasons(data: Path, tmp_path: Path) -> None:
    places = tmp_path / "places.txt"
    places.write_text(f"# mine\n5\n\n{data}:2 too short\n", encoding="utf-8")
    chosen = chosen_places(places, data)
    assert shown(data, chosen) == [2, 5]
    with reviewing(data, choose=chosen) as review:
        row = review.next()
        assert row is not None and row.why == ("too short",)
        decide(review, "a")
        p = review.progress
        assert (p.chosen, p.left, p.undecided, p.rows) == (2, 1, 5, 6)


def test_every_place_that_is_none_is_a_fault(data: Path, tmp_path: Path) -> None:
    places = tmp_path / "places.txt"
    places.write_text("x\nother.jsonl:3\n0\n-1\n2\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        chosen_places(places, data)
    assert [fault.where[-2:] for fault in caught.value.faults] == [":1", ":2", ":3", ":4"]
    places.write_text("7\n99\n1\n", encoding="utf-8")
    with pytest.raises(DataError) as caught, reviewing(data, choose=chosen_places(places, data)):
        pass
    assert len(caught.value.faults) == 2


def test_what_lint_found_is_shown_with_what_it_is(tmp_path: Path) -> None:
    from tanren.data.lint import lint_files

    texts = {3: "ﾃﾞｰﾀです。", 5: "\ufffdです。"}
    rows = [line(f"質問{i}はなんですか？", texts.get(i, f"答え{i}です。")) for i in range(9)]
    data = write(tmp_path / "d.jsonl", *rows)
    report = tmp_path / "findings.json"
    document = lint_files([data]).as_dict()
    report.write_text(json.dumps(document), encoding="utf-8")
    chosen = chosen_by_lint(report, data)
    lines = {
        place["line"]
        for finding in document["files"][0]["findings"]
        for place in finding["places"]
        if place["line"]
    }
    assert {4, 6} <= lines and set(chosen.why) == lines and all(chosen.why.values())
    assert shown(data, chosen) == sorted(lines)


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": [{"findings": [{}]}]}'])
def test_a_report_that_is_none_is_refused(data: Path, tmp_path: Path, text: str) -> None:
    report = tmp_path / "r.json"
    report.write_text(text, encoding="utf-8")
    with pytest.raises(DataError):
        chosen_by_lint(report, data)
