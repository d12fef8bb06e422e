"""Laws of asking: each question once, the same answer whatever shares the batch, nothing lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from endpoint.chat_server import Answer, completion, running_chat
from evaluate.evaluating import Tuned, answers_in, chat, write

from tanren.endpoint import Journal, Ledger, load_endpoint
from tanren.errors import DataError
from tanren.evaluate.answered import Answered
from tanren.evaluate.answering import (
    Answers,
    LocalModel,
    answer_at,
    answer_locally,
    measure_options,
    split_reasoning,
)
from tanren.evaluate.likelihood import reply_losses, reply_rows
from tanren.evaluate.measuring import replies_to_choose
from tanren.evaluate.questions import (
    NOT_VALID,
    TOOL_CALL,
    Question,
    read_questions,
    spread,
)
from tanren.generate import Decoding
from tanren.session import Session, open_session

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

GREEDY = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module")
def session(tuned: Tuned) -> Session:
    return open_session(str(tuned.run))


@pytest.fixture
def nine(tmp_path: Path) -> tuple[Question, ...]:
    return read_questions(tiny.write_rows(tmp_path / "nine.jsonl", 9)).rows


def ask(
    session: Session,
    questions: tuple[Question, ...],
    journal: Path,
    decoding: Decoding = GREEDY,
    **more: Any,
) -> list[Answered]:
    local = LocalModel(
        session.model, session.tokenizer, session.renderer, session.context_length, **more
    )
    with Journal(journal) as opened:
        return answer_locally(local, questions, decoding, Answers(opened, "m"))


def texts(rows: list[Answered]) -> list[str]:
    return [row.answer for row in rows]


def test_answers_are_the_same_alone_and_in_batches(
    session: Session, nine: tuple[Question, ...], tmp_path: Path
) -> None:
    together = ask(session, nine, tmp_path / "a.jsonl")
    alone = ask(session, nine, tmp_path / "b.jsonl", batch_tokens=1)
    assert texts(together) == texts(alone)
    assert len(set(texts(together))) > 1
    assert [row.row for row in together] == list(range(1, 10)), "in the order of the file"
    for question, row in zip(nine, together, strict=True):
        prompt = session.renderer.prompt_ids(question.messages)
        assert row.prompt_tokens == len(prompt)
        assert (row.finish_reason == "length") == (row.answer_tokens == 12)


def test_what_the_journal_holds_is_not_asked_again(
    session: Session, nine: tuple[Question, ...], tmp_path: Path
) -> None:
    journal = tmp_path / "a.jsonl"
    ask(session, nine[:4], journal)
    first = answers_in(journal)
    rows = ask(session, nine, journal)
    assert answers_in(journal)[:4] == first and len(answers_in(journal)) == 9
    assert texts(rows) == texts(ask(session, nine, tmp_path / "whole.jsonl"))


def test_equal_questions_are_asked_once(session: Session, tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", chat("hi", "a"), chat("hi", "b"), chat("ho", "c"))
    rows = ask(session, read_questions(data).rows, tmp_path / "j.jsonl")
    assert len(answers_in(tmp_path / "j.jsonl")) == 2
    assert rows[0].answer == rows[1].answer and rows[0].reference != rows[1].reference


def test_answers_by_chance_go_on_as_they_began(
    session: Session, nine: tuple[Question, ...], tmp_path: Path
) -> None:
    chance = Decoding(max_new_tokens=12, temperature=2.0, seed=3)
    whole = ask(session, nine, tmp_path / "a.jsonl", chance)
    ask(session, nine[5:], tmp_path / "b.jsonl", chance)
    assert texts(ask(session, nine, tmp_path / "b.jsonl", chance)) == texts(whole)
    assert texts(whole) != texts(ask(session, nine, tmp_path / "c.jsonl"))


def test_another_decoding_or_model_is_asked_anew(
    session: Session, nine: tuple[Question, ...], tmp_path: Path
) -> None:
    with Journal(tmp_path / "j.jsonl") as journal:
        keys = {Answers(journal, identity).key("answer", "q") for identity in ("a", "b")}
        keys |= {Answers(journal, "a").key("loss", "q"), Answers(journal, "a").key("answer", "r")}
    assert len(keys) == 4
    assert len({question.prompt_key() for question in nine}) == 9


def test_a_row_that_does_not_fit_has_an_error_and_the_others_an_answer(
    session: Session, tmp_path: Path
) -> None:
    data = write(tmp_path / "d.jsonl", chat("word " * 400, "a"), chat("hi", "b"))
    rows = ask(session, read_questions(data).rows, tmp_path / "j.jsonl")
    assert rows[0].error is not None and "context of 256" in rows[0].error
    assert rows[0].finish_reason == "error" and rows[1].error is None


def test_the_base_side_is_the_base(
    session: Session, tuned: Tuned, nine: tuple[Question, ...], tmp_path: Path
) -> None:
    base = ask(session, nine, tmp_path / "a.jsonl", base_side=True)
    own = ask(open_session(str(tuned.base)), nine, tmp_path / "b.jsonl")
    assert texts(base) == texts(own)
    assert texts(base) != texts(ask(session, nine, tmp_path / "c.jsonl"))


# --- questions ------------------------------------------------------------------------------------


def test_rows_that_cannot_be_used_are_counted_with_reasons(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with_call = chat("weather?", tools=[tool])
    with_call = with_call.replace("}]", "}, " + json.dumps(calling) + "]", 1)
    data = write(
        tmp_path / "d.jsonl", chat("q", "a"), chat("q"), with_call, chat("q", "a", "p", "b")
    )
    found = read_questions(data)
    assert found.left_out == {NOT_VALID: 1, TOOL_CALL: 1}
    assert found.file_rows == 4 == found.usable + sum(found.left_out.values())
    assert [question.row for question in found.rows] == [1, 4], "numbers are lines"
    last = found.rows[1]
    assert last.reference == "b" and [m["content"] for m in last.messages] == ["q", "a", "p"]
    assert len(found.notes) >= 2


def test_a_limit_is_told_and_the_file_is_hashed_whole(tmp_path: Path) -> None:
    data = tiny.write_rows(tmp_path / "d.jsonl", 6)
    some, every = read_questions(data, limit=2), read_questions(data)
    assert some.sha256 == every.sha256 and len(some.rows) == 2
    assert "first 2 of 6" in " ".join(some.notes) and not every.notes


def test_a_file_without_a_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_questions(write(tmp_path / "d.jsonl", chat("q")))


def test_rows_looked_at_are_spread_over_the_file(nine: tuple[Question, ...]) -> None:
    assert [question.row for question in spread(nine, 3)] == [1, 4, 7]
    assert spread(nine, 20) == list(nine)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("red", ("red", "blue", "green")),
        ("B", ("A", "B", "C")),
        ("b", ("a", "b", "c")),
        ("yellow", ()),
    ],
)
def test_what_a_reply_could_be_has_the_form_of_the_reference(
    tmp_path: Path, reference: str, expected: tuple[str, ...]
) -> None:
    data = write(tmp_path / "d.jsonl", chat("Which?\nA. red\nB. blue\nC. green", reference))
    assert replies_to_choose(read_questions(data).rows[0]) == expected


def test_option_losses_are_those_of_rows_that_end_so(session: Session, tmp_path: Path) -> None:
    options = ("yes", "not at all", "いいえ")
    data = write(tmp_path / "d.jsonl", *(chat("Is it?", option) for option in options))
    questions = read_questions(data).rows
    rows, _ = reply_rows([q.example for q in questions], session.renderer, 256)
    wanted = reply_losses(session.model, rows, pad_id=0)
    asked = [replace(questions[0], options=options)]
    local = LocalModel(session.model, session.tokenizer, session.renderer, 256)
    with Journal(tmp_path / "j.jsonl") as journal:
        found = measure_options(local, asked, [asked[0].unanswered()], Answers(journal, "m"))
    assert found[0].option_losses == pytest.approx([wanted[i].loss for i in (1, 2, 3)], rel=1e-5)
    assert found[0].option_tokens == tuple(wanted[i].tokens for i in (1, 2, 3))


# --- thoughts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>\nhm\n</think>\n\nYes.", False, ("hm", "Yes.")),
        ("<think>hm", False, ("hm", "")),
        ("hm</think>Yes.", True, ("hm", "Yes.")),
        ("hm", True, ("hm", "")),
        (" Yes <think>", False, ("", " Yes <think>")),
        ("", False, ("", "")),
    ],
)
def test_thoughts_are_no_answer(text: str, opened: bool, expected: tuple[str, str]) -> None:
    assert split_reasoning(text, opened=opened) == expected


# --- endpoints ------------------------------------------------------------------------------------


def test_an_endpoint_is_asked_once_and_failures_again(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", *(chat(f"q{i}", f"a{i}") for i in range(4)))
    questions = read_questions(data).rows
    with running_chat() as server:
        server.behave = lambda body: (
            Answer(status=400, body={"error": {"message": "no"}})
            if body["messages"][-1]["content"] == "q2"
            else Answer(body=completion("yes"))
        )
        config = load_endpoint(None, {"base_url": server.url, "model": "m", "retries": 0})
        asked = []
        for _ in range(2):
            before = len(server.bodies)
            with Journal(tmp_path / "j.jsonl") as journal:
                rows, stopped = answer_at(config, questions, Answers(journal, "e"), ledger=Ledger())
            asked.append(sorted(server.asked[before:]))
            assert stopped is None
            assert [row.error is None for row in rows] == [True, True, False, True]
            assert rows[0].answer == "yes" and rows[0].answer_tokens == 5
    assert asked == [["q0", "q1", "q2", "q3"], ["q2"]]


def test_rows_with_tools_are_counted_and_not_sent(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    data = write(tmp_path / "d.jsonl", chat("q", "a", tools=[tool]), chat("p", "b"))
    with running_chat() as server, Journal(tmp_path / "j.jsonl") as journal:
        config = load_endpoint(None, {"base_url": server.url, "model": "m"})
        questions = read_questions(data).rows
        rows, _ = answer_at(config, questions, Answers(journal, "e"), ledger=Ledger())
        assert server.asked == ["p"]
    assert rows[0].error is not None and "tools" in rows[0].error and rows[1].error is None
