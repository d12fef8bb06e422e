"""Laws of ending early: a budget is never exceeded, and what was answered is never lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from distill.distilling import Carry, answers, lines, settings, write_texts
from distill.teacher import Teacher
from endpoint.chat_server import Answer, ChatServer

from tanren.errors import ConfigError


@pytest.mark.parametrize(
    "budget",
    [{"requests": 20}, {"tokens": 9000}, {"money": 0.009}],
    ids=["requests", "tokens", "money"],
)
def test_a_budget_is_never_exceeded_and_going_on_needs_no_more_than_the_rest(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer, budget: dict[str, Any]
) -> None:
    source = write_texts(tmp_path / "texts", 20)
    values = settings(teacher.url, source, concurrency=3)
    prices = {"input_per_million": 1.0, "output_per_million": 1.0}
    values["teacher"] = {**values["teacher"], "prices": prices}
    done = carry_out({**values, "budget": budget})
    found = done.summary
    assert not done.complete and str(next(iter(budget))) in str(done.stopped)
    assert found.rows == found.accepted + found.rejected + found.left == 20
    assert 0 < found.accepted < 20
    assert len(answers(done.folder.train_file)) == found.accepted
    assert done.spent["requests"] == len(teacher.bodies) <= budget.get("requests", 1e9)
    tokens = done.spent["prompt_tokens"] + done.spent["answer_tokens"]
    assert tokens <= budget.get("tokens", 1e9) and tokens / 1e6 <= budget.get("money", 1e9)
    whole = carry_out(values)
    assert whole.complete and whole.summary.accepted == 20
    again = len(teacher.bodies)
    assert again == sum(len_attempts(whole.folder.provenance_file)), "nothing was asked twice"
    carry_out(values)
    assert len(teacher.bodies) == again


def len_attempts(file: Path) -> list[int]:
    return [row["attempts"] for row in lines(file)]


# --- a teacher that does not answer ---------------------------------------------------------------


def test_rows_without_an_answer_are_left_and_asked_next_time(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    source = write_texts(tmp_path / "texts", 6)
    teach = Teacher()
    teacher.behave = lambda body: (
        Answer(status=500, body={}) if "文章002" in str(body) else teach(body)
    )
    values = settings(teacher.url, source, concurrency=1)
    values["teacher"]["retries"] = 1
    done = carry_out(values)
    assert (done.summary.accepted, done.summary.left, done.stopped) == (5, 1, None)
    assert not done.complete and "500" in next(iter(done.summary.left_reasons))
    asked = len(teacher.bodies)
    teacher.behave = teach
    assert carry_out(values).summary.accepted == 6
    assert all("文章002" in str(body) for body in teacher.bodies[asked:])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(status=401, body={"error": {"message": "bad key"}}), "api_key_env"),
        (Answer(status=404, body={"error": {"message": "no such model"}}), "the model 't'"),
    ],
)
def test_a_hopeless_teacher_ends_at_once(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer, answer: Answer, says: str
) -> None:
    teacher.behave = lambda _: answer
    with pytest.raises(ConfigError, match=says):
        carry_out(settings(teacher.url, write_texts(tmp_path / "texts", 30), concurrency=2))
    assert len(teacher.bodies) <= 2


def test_refusals_before_any_answer_are_asked_again(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    """They may be a setting's fault; later ones are the row's."""
    source = write_texts(tmp_path / "texts", 12)
    refuse = Answer(status=400, body={"error": {"message": "temperature is not supported"}})
    teacher.behave = lambda _: refuse
    values = settings(teacher.url, source, concurrency=1)
    with pytest.raises(ConfigError, match="temperature"):
        carry_out(values)
    teacher.behave = Teacher()
    assert carry_out(values).summary.accepted == 12
