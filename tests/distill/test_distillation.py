"""Laws of a distillation: what is accepted holds, every row is accounted for, nothing is silent."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from distill.distilling import Carry, lines, settings, write_texts
from distill.distilling import answers as accepted
from distill.teacher import REFUSED, SILENT, STUBBORN, TROUBLES, Teacher, running_teacher
from endpoint.chat_server import Answer, ChatServer, completion

from tanren.chat import Example
from tanren.data.read import ChatReader
from tanren.distill.answers import Answers
from tanren.distill.checks import Checks
from tanren.distill.constraints import Constraints
from tanren.distill.loop import Loop
from tanren.distill.rows import Source, SourceRow
from tanren.distill.settings import SourceConfig
from tanren.distill.wording import Wording
from tanren.distill.work import settle_all
from tanren.endpoint import Failure, Journal, Reply


def test_every_accepted_row_holds_and_every_row_is_accounted_for(
    tmp_path: Path, carry_out: Carry
) -> None:
    """Against a teacher with every trouble that passes by itself."""
    source = write_texts(tmp_path / "texts", 24, STUBBORN, "", REFUSED, SILENT)
    with running_teacher(troubles=TROUBLES) as server:
        done = carry_out(settings(server.url, source, concurrency=4))
    found = done.summary
    assert (found.rows, found.accepted, found.rejected, found.left) == (24, 21, 3, 0)
    assert done.complete
    kept = accepted(done.folder.train_file)
    assert len(kept) == 21 and all(95 <= len(text) <= 105 for text in kept)
    assert [row["messages"][0]["content"] for row in lines(done.folder.train_file)] == [
        file.read_text(encoding="utf-8").strip()
        for number, file in enumerate(sorted(source.iterdir()))
        if number not in (0, 2, 3)
    ]
    rows = list(ChatReader(done.folder.train_file))
    assert all(isinstance(row, Example) and not row.warnings for row in rows)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_never_more_than_concurrency_at_once_and_no_less(
    tmp_path: Path, carry_out: Carry, concurrency: int
) -> None:
    source = write_texts(tmp_path / "texts", 9, STUBBORN)
    with running_teacher(delay=0.03) as server:
        carry_out(settings(server.url, source, concurrency=concurrency))
        assert server.most_at_once == concurrency


class CountingTeacher:
    """Bounds nothing itself; counts how many questions wait for it at once."""

    name = "counting"

    def __init__(self) -> None:
        self.at_once = self.most_at_once = 0

    async def ask(self, messages: Sequence[Mapping[str, Any]], *, stream: int) -> Reply | Failure:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        return Reply("an answer", "", "stop", "m", 1, 1, 0.001)


def test_rows_at_work_are_bounded_whoever_teaches(tmp_path: Path) -> None:
    """A model on this machine takes whatever waits into its next batch."""
    source = Source(
        SourceConfig(path=str(write_texts(tmp_path / "texts", 20))), system=None, user="{{ text }}"
    )
    facts = source.survey()
    teacher = CountingTeacher()
    ended: list[SourceRow] = []
    with Journal(tmp_path / "replies.jsonl") as journal:
        answers = Answers(teacher, journal)
        loop = Loop(answers, Checks(Constraints(), Wording("ja")), repairs=0, tries=1)
        asyncio.run(
            settle_all(
                source.rows(facts), loop, answers, lambda row, _: ended.append(row), concurrency=3
            )
        )
    assert (len(ended), teacher.most_at_once) == (20, 3)


def test_rejected_rows_keep_all_attempts_and_what_was_wrong(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    source = write_texts(tmp_path / "texts", 4, STUBBORN, REFUSED, SILENT)
    constraints = [{"length": {"target": 100, "tolerance": 5}}, {"must_contain": ["絶対にない"]}]
    values = settings(teacher.url, source, constraints=constraints, repairs=2, concurrency=1)
    done = carry_out({**values, "tries": 2})
    stubborn, refused, silent, other = lines(done.folder.rejected_file)
    assert stubborn["reason"] == "length.characters, must_contain"
    assert [(a["try"], a["turn"]) for a in stubborn["attempts"]] == [
        (number, turn) for number in (1, 2) for turn in (0, 1, 2)
    ]
    wrong = stubborn["attempts"][0]["wrong"][0]
    assert (wrong["value"], len(stubborn["attempts"][0]["answer"])) == (200, 200)
    assert "shorten it by at least 95" in wrong["words"]
    assert "this text is not for me" in refused["reason"] and len(refused["attempts"]) == 1
    assert silent["reason"] == "answer.whole" and len(silent["attempts"]) == 2, "one for each try"
    assert "must_contain" in other["reason"] and len(other["attempts"]) == 6
    rows = (stubborn, refused, silent, other)
    reasons = Counter(name for row in rows for name in row["reason"].split(", "))
    found = done.summary.rejected_by
    assert all(reasons[name] == found.pop(name) for name in ("length.characters", "must_contain"))
    assert found == {"no answer": 1, "answer.whole": 1}
    assert done.summary.rejected_most in ("length.characters", "must_contain")
    assert accepted(done.folder.train_file) == []


def test_the_words_go_back_as_the_next_turn_and_the_talk_is_kept(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    said = iter(["一" * 112, "二" * 80, "三" * 100])
    teacher.behave = lambda body: Answer(body=completion(next(said)))
    source = write_texts(tmp_path / "texts", 1)
    carry_out(settings(teacher.url, source, system="Be brief.", wording="ja"))
    first, second, third = (body["messages"] for body in teacher.bodies)
    assert [m["role"] for m in first] == ["system", "user"]
    assert second[:2] == first and third[:4] == second
    assert [m["role"] for m in third] == ["system", "user", *["assistant", "user"] * 2]
    assert second[2]["content"] == "一" * 112 and "あと7文字以上短く" in second[3]["content"]
    assert third[4]["content"] == "二" * 80 and "あと15文字以上長く" in third[5]["content"]


@pytest.mark.parametrize(
    ("system_in_rows", "keep", "roles"),
    [
        ("same", False, ["system", "user", "assistant"]),
        ("none", False, ["user", "assistant"]),
        ("You are brief.", True, ["system", "user", "assistant", "user", "assistant"]),
    ],
)
def test_rows_train_the_accepted_answer_alone(
    tmp_path: Path,
    carry_out: Carry,
    teacher: ChatServer,
    system_in_rows: str,
    keep: bool,
    roles: list[str],
) -> None:
    """T27: where the repair talk is kept, what failed has weight 0."""
    said = iter(["short", "三" * 100])
    teacher.behave = lambda body: Answer(body=completion(next(said)))
    source = write_texts(tmp_path / "texts", 1)
    values = settings(teacher.url, source, system="Be brief.", keep_repair_turns=keep)
    done = carry_out({**values, "system_in_rows": system_in_rows})
    (row,) = lines(done.folder.train_file)
    assert [m["role"] for m in row["messages"]] == roles
    if roles[0] == "system":
        wanted = "Be brief." if system_in_rows == "same" else system_in_rows
        assert row["messages"][0]["content"] == wanted
    (example,) = ChatReader(done.folder.train_file)
    assert isinstance(example, Example)
    assert [example.messages[k]["content"] for k in example.trained_turns] == ["三" * 100]


def test_an_answer_that_broke_off_is_never_accepted(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    cut = completion("三" * 100, finish_reason="length")
    teacher.behave = lambda body: Answer(body=cut)
    done = carry_out(settings(teacher.url, write_texts(tmp_path / "texts", 1), repairs=1))
    (row,) = lines(done.folder.rejected_file)
    assert row["reason"] == "answer.whole" and len(teacher.bodies) == 2
    assert "broke off" in teacher.asked[1]


def test_thoughts_are_no_part_of_the_answer(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    text = f"<think>well, about a hundred</think>\n\n{'三' * 100} \n"
    teacher.behave = lambda body: Answer(body=completion(text))
    done = carry_out(settings(teacher.url, write_texts(tmp_path / "texts", 2)))
    assert accepted(done.folder.train_file) == ["三" * 100] * 2
    assert done.summary.with_reasoning == 2


# --- provenance and summary -----------------------------------------------------------------------


def test_provenance_tells_where_a_row_comes_from_and_what_it_took(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    source = write_texts(tmp_path / "texts", 9, STUBBORN)
    done = carry_out(settings(teacher.url, source, concurrency=1))
    found = lines(done.folder.provenance_file)
    assert [row["row"] for row in found] == list(range(1, 9))
    kept = accepted(done.folder.train_file)
    asked = Counter(body["messages"][0]["content"] for body in teacher.bodies)
    for row, text in zip(found, kept, strict=True):
        question = Path(row["source"]["file"]).read_text(encoding="utf-8").strip()
        assert row["values"] == {"length.characters": len(text)}
        assert row["attempts"] == asked[question] == row["repairs"] + 1
        assert row["teacher"] == {"name": "t", "model": "judge-1"}
        assert row["source"]["row"] == row["row"] + 1, "the first one was rejected"
        assert row["seconds"] > 0 and row["prompt_tokens"] > 0
    assert len({row["prompt_sha256"] for row in found}) == 8
    assert sum(r["answer_tokens"] for r in found) + 200 * 7 == done.spent["answer_tokens"]
    assert done.spent["requests"] == len(teacher.bodies)


def test_the_summary_is_the_arithmetic_of_the_rows(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    source = write_texts(tmp_path / "texts", 30, STUBBORN)
    values = settings(teacher.url, source, repairs=1, concurrency=3)
    done = carry_out(values)
    found = done.summary
    kept = [len(text) for text in accepted(done.folder.train_file)]
    assert found.lengths.mean == pytest.approx(statistics.fmean(kept))
    assert found.lengths.median == statistics.median(kept)
    assert (found.lengths.least, found.lengths.most) == (min(kept), max(kept))
    assert found.lengths.deviation == pytest.approx(statistics.stdev(kept))
    teach = Teacher()
    texts = [f.read_text(encoding="utf-8").strip() for f in sorted(source.iterdir())]
    firsts = [teach.length([text]) for text in texts]
    near = sum(95 <= n <= 105 for n in firsts)
    assert found.at_first.rows == near and 0 < near < found.accepted < 30
    assert found.at_first.share == pytest.approx(near / 30)
    assert found.after_repair.rows == found.after_all_tries.rows == found.accepted == len(kept)
    assert found.length_within_first == found.at_first
    assert found.first_lengths.mean == pytest.approx(statistics.fmean(firsts))
    assert found.attempts_histogram == {"1": near, "2": 30 - near}
    assert found.attempts.mean == pytest.approx((60 - near) / 30) and found.attempts.most == 2
    assert found.broken_at_first == {"length.characters": 30 - near}
    assert found.rejected_by == {"length.characters": 30 - len(kept)}
    tokens = done.spent["prompt_tokens"] + done.spent["answer_tokens"]
    assert found.tokens_per_row == pytest.approx(tokens / 30)
    document = json.loads(done.folder.summary_file.read_text(encoding="utf-8"))
    assert document["accepted"] == found.accepted and document["complete"] is True


def test_a_fresh_try_begins_anew(tmp_path: Path, carry_out: Carry, teacher: ChatServer) -> None:
    said = iter(["x", "y", "三" * 100])
    teacher.behave = lambda body: Answer(body=completion(next(said)))
    values = settings(teacher.url, write_texts(tmp_path / "texts", 1), repairs=1, tries=3)
    done = carry_out(values)
    assert [len(body["messages"]) for body in teacher.bodies] == [1, 3, 1]
    (row,) = lines(done.folder.provenance_file)
    assert (row["tries"], row["attempts"], row["repairs"]) == (2, 3, 0)
    assert done.summary.after_repair.rows == 0 and done.summary.after_all_tries.rows == 1
