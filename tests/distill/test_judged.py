"""Laws of a judge among the constraints: asked last, of what holds, once, and heard in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from distill.distilling import Carry, lines, settings, write_texts
from distill.teacher import Teacher
from endpoint.chat_server import Answer, ChatServer, completion, running_chat

from tanren.errors import ConfigError


def verdict(body: Mapping[str, Any]) -> Answer:
    """Two points for an answer that ends in x, else four."""
    text = body["messages"][-1]["content"]
    value = 2 if "x。\n" in text else 4
    names = ("helpful", "correct", "clear", "natural")
    said = {"reason": "It is dull.", **dict.fromkeys(names, value)}
    return Answer(body=completion(json.dumps(said)))


@pytest.fixture
def judge() -> Iterator[ChatServer]:
    with running_chat(verdict) as server:
        yield server


PROMPT = """
name: dull
mode: likert
criteria: [{name: clear, question: "Is it clear?"}]
prompt: "{{ answer }} {{ json_form }}"
"""


def judged(tmp_path: Path, judge: ChatServer, **changes: Any) -> dict[str, Any]:
    (tmp_path / "prompt.yaml").write_text(PROMPT, encoding="utf-8")
    (tmp_path / "judge.yaml").write_text(
        f"name: reader\nprompt: prompt.yaml\nbase_url: {judge.url}\nmodel: j\n"
        "first_wait_seconds: 0.01\n",
        encoding="utf-8",
    )
    return {"judge": {"file": "judge.yaml", "at_least": 3, **changes}}


def test_a_judge_is_asked_last_and_its_words_go_back(
    tmp_path: Path,
    carry_out: Carry,
    teacher: ChatServer,
    judge: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = iter(["short", "二" * 98 + "x。", "三" * 100])
    teacher.behave = lambda body: Answer(body=completion(next(said)))
    source = write_texts(tmp_path / "texts", 1)
    values = settings(teacher.url, source)
    values["constraints"] = [*values["constraints"], judged(tmp_path, judge)]
    done = carry_out(values)
    assert done.summary.accepted == 1 and len(teacher.bodies) == 3
    assert len(judge.bodies) == 2, "not about an answer that breaks the length"
    told = teacher.asked[2]
    assert "2 for clear; it must be at least 3" in told and "It is dull." in told
    (row,) = lines(done.folder.provenance_file)
    assert row["values"] == {"length.characters": 100, "judge.judge": {"clear": 4.0}}
    assert done.spent["judges"]["reader"]["requests"] == 2
    monkeypatch.setenv("TANREN_HOME", str(tmp_path / "elsewhere"))
    carry_out(values)
    assert len(judge.bodies) == 2, "what was judged is kept in the folder itself"


def test_a_judge_that_cannot_be_read_rejects_and_one_that_is_down_leaves(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer, judge: ChatServer
) -> None:
    source = write_texts(tmp_path / "texts", 1)
    values = settings(teacher.url, source)
    values["constraints"] = [*values["constraints"], judged(tmp_path, judge)]
    judge.behave = lambda body: Answer(status=400, body={"error": {"message": "not now"}})
    down = carry_out(values)
    assert (down.summary.left, down.summary.rejected) == (1, 0) and not down.complete
    assert "the judge reader" in next(iter(down.summary.left_reasons))
    judge.behave = lambda body: Answer(body=completion("I like it"))
    asked = len(teacher.bodies)
    unread = carry_out(values)
    assert (unread.summary.left, unread.summary.rejected) == (0, 1)
    assert unread.summary.rejected_most == "judge.judge"
    assert len(teacher.bodies) == asked, "telling the teacher would not help"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"at_least": 6}, "1 to 5"),
        ({"criterion": "klar"}, "one of clear"),
        ({"file": "x.yaml"}, "x.yaml"),
    ],
)
def test_wrong_settings_say_where(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer, judge: ChatServer,
    changes: dict[str, Any], says: str,
) -> None:  # fmt: skip
    values = settings(teacher.url, write_texts(tmp_path / "texts", 1))
    values["constraints"] = [judged(tmp_path, judge, **changes)]
    with pytest.raises(ConfigError) as error:
        carry_out(values)
    assert says in str(error.value)
    assert not teacher.bodies


def test_a_judge_on_this_machine(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer, tiny_model: Any
) -> None:
    """An untrained model says nothing that could be read, which is told as such."""
    teacher.behave = Teacher()
    (tmp_path / "judge.yaml").write_text(
        f"prompt: likert.en\nlocal: {tiny_model(max_position_embeddings=2048)}\nmax_tokens: 4\n",
        encoding="utf-8",
    )
    values = settings(teacher.url, write_texts(tmp_path / "texts", 1), repairs=8)
    score = {"judge": {"file": "judge.yaml", "at_least": 3}}
    done = carry_out({**values, "constraints": [*values["constraints"], score]})
    assert done.summary.rejected_by == {"judge.judge": 1}
