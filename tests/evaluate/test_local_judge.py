"""Laws of a judge on this machine: greedy, loaded when asked, and never a zero for what it cannot
say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from evaluate.evaluating import chat, run, settings, write

from tanren.endpoint import Journal
from tanren.errors import ConfigError
from tanren.evaluate.answered import Answered
from tanren.evaluate.answering import LocalModel
from tanren.evaluate.judges import Judge, judge_from_session, judge_rows, load_prompt
from tanren.evaluate.request import Request
from tanren.evaluate.settings import load_evaluation
from tanren.generate import Decoding
from tanren.session import Session, open_session

SCORE = load_prompt("score.en")


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session(str(tiny.TINY_CHAT))


def local(session: Session) -> LocalModel:
    return LocalModel(session.model, session.tokenizer, session.renderer, session.context_length)


def row(number: int, answer: str) -> Answered:
    asked = ({"role": "user", "content": f"Why {number}?"},)
    return Answered(number, asked, "", answer, "stop")


def judge(session: Session, loads: list[int] | None = None) -> Judge:
    def load() -> LocalModel:
        if loads is not None:
            loads.append(1)
        return local(session)

    return judge_from_session(load, name="small", identity="tiny-chat", max_tokens=24)


def test_what_a_judge_cannot_say_is_left_out_and_counted(session: Session, tmp_path: Path) -> None:
    """The small model talks, but not in JSON; and one answer is longer than its context."""
    rows = [row(1, "It is."), row(2, "石だから。"), row(3, "so " * 2000), row(4, "")]
    with Journal(tmp_path / "judgements.jsonl") as journal:
        found = judge_rows(rows, SCORE, [judge(session)], journal)
    counts = found.counts()["small"]
    assert (counts.ok, counts.unparsable, counts.failed, counts.not_asked) == (0, 3, 1, 0)
    (criterion,) = SCORE.criteria
    assert found.values(criterion.name) == {} and found.mean(criterion.name) is None
    (failed,) = (one for one in found.judgements if one.status == "failed")
    assert failed.row == 3 and "1,024" in failed.words


def test_a_local_judge_says_what_the_model_says_greedily(session: Session, tmp_path: Path) -> None:
    """Asked together or alone: the replies belong to their rows."""
    rows = [row(1, "a"), row(2, "a longer answer, so that prompts differ in length"), row(3, "b")]
    with Journal(tmp_path / "judgements.jsonl") as journal:
        found = judge_rows(rows, SCORE, [judge(session)], journal)
    said = {one.row: one.reply for one in found.judgements}
    for one in rows:
        texts: dict[Any, str] = {"question": one.question, "answer": one.answer, "reference": ""}
        stream = session.stream(SCORE.messages(texts), Decoding(max_new_tokens=24))
        assert said[one.row] == "".join(stream)


def test_known_judgements_need_no_model(session: Session, tmp_path: Path) -> None:
    rows, loads = [row(1, "a"), row(2, "b")], list[int]()
    for _ in range(2):
        with Journal(tmp_path / "judgements.jsonl") as journal:
            found = judge_rows(rows, SCORE, [judge(session, loads)], journal)
        assert len(found.judgements) == 2
    assert len(loads) == 1


def judge_file(folder: Path, **values: Any) -> Path:
    return write(folder / "judge.yaml", yaml.safe_dump({"prompt": "likert.ja", **values}))


def test_an_evaluation_with_a_judge_that_cannot_judge(tmp_path: Path) -> None:
    data = write(tmp_path / "test.jsonl", chat("Why?", "So."), chat("なぜ？", "そうだから。"))
    file = judge_file(tmp_path, local=str(tiny.TINY_CHAT), max_tokens=16)
    done = run(tiny.TINY_CHAT, data=data, out=tmp_path / "e", judges=[str(file)], likelihood=False)
    opinions = done.evaluation.opinions
    assert opinions and all(one.value is None for one in opinions)
    assert {(one.name, one.rows, one.excluded) for one in opinions} == {("tiny-chat", 0, 2)}
    assert any("2 could not be read" in note for note in done.evaluation.notes)


@pytest.mark.parametrize("where", ["https://api.example.com/v1#judge", "no/such/folder"])
def test_a_local_judge_that_is_none_is_refused_before_anything_is_asked(
    where: str, tmp_path: Path
) -> None:
    data = write(tmp_path / "test.jsonl", chat("Why?", "So."))
    file = judge_file(tmp_path, local=where)
    config = load_evaluation(None, settings(tiny.TINY_CHAT, data=data, judges=[str(file)]))
    with pytest.raises(ConfigError, match=where.partition("#")[0]):
        Request.read(config)
