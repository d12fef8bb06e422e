"""Laws of teachers on this machine: batched, the same for the same seed, and a run is one too."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from distill.distilling import Carry, answers, lines, write_texts
from safetensors.torch import load_file, save_file
from tiny import TINY_CHAT

from tanren.distill.local import LocalTeacher
from tanren.distill.settings import DistillConfig
from tanren.distill.teacher import choose_teacher
from tanren.endpoint import Failure, Ledger, Reply
from tanren.errors import ConfigError, DivergenceError
from tanren.generate import Decoding, answer_all
from tanren.rundir import RunDirectory
from tanren.session import open_session

QUESTIONS = ("空はなぜ青いの？", "Who are you?", "3たす4はいくつですか。", "傘とは何ですか。")


def local(source: Path, teacher: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"source": str(source), "teacher": {"max_tokens": 24, **teacher}, **changes}


def texts(folder: Path) -> Path:
    folder.mkdir()
    for number, question in enumerate(QUESTIONS):
        (folder / f"{number}.txt").write_text(question, encoding="utf-8")
    return folder


def test_a_local_model_answers_as_it_does_anywhere(tmp_path: Path, carry_out: Carry) -> None:
    done = carry_out(local(texts(tmp_path / "t"), {"model": str(TINY_CHAT)}))
    session = open_session(str(TINY_CHAT))
    said = answer_all(
        session.model,
        session.tokenizer,
        session.renderer,
        [[{"role": "user", "content": question}] for question in QUESTIONS],
        Decoding(max_new_tokens=24),
    )
    whole = [one.text.strip() for one in said if one.finish_reason == "stop"]
    assert len(whole) >= 3 and answers(done.folder.train_file) == whole
    assert done.spent["requests"] == 4
    assert done.spent["answer_tokens"] == sum(len(one.token_ids) for one in said)
    assert done.summary.accepted + done.summary.rejected == 4


def test_by_chance_the_same_seed_gives_the_same_rows(tmp_path: Path, carry_out: Carry) -> None:
    """However many rows share a batch; and each try has draws of its own."""
    source = texts(tmp_path / "t")
    teacher = {"model": str(TINY_CHAT), "temperature": 1.5, "seed": 3}
    constraints = [{"must_contain": ["絶対にない"]}]
    found = []
    for concurrency in (1, 4):
        values = local(source, teacher, constraints=constraints, repairs=0, tries=2)
        done = carry_out({**values, "concurrency": concurrency}, overwrite=True)
        found.append(done.folder.rejected_file.read_bytes())
    assert found[0] == found[1]
    rows = [row["attempts"] for row in lines(done.folder.rejected_file)]
    assert any(row[0]["answer"] != row[1]["answer"] for row in rows)
    values["teacher"] = {**values["teacher"], "seed": 4}
    assert carry_out(values, overwrite=True).folder.rejected_file.read_bytes() != found[0]


def test_a_run_teaches_the_next_round(
    tmp_path: Path, carry_out: Carry, make_run: Callable[..., RunDirectory]
) -> None:
    from tanren.pipeline import execute

    run = make_run("training.max_steps=2")
    execute(run)
    source = write_texts(tmp_path / "t", 3)
    values = local(source, {"run": str(run.path), "max_tokens": 8}, constraints=[])
    done = carry_out({**values, "concurrency": 2})
    assert done.complete and done.teacher == "run"
    assert done.summary.accepted + done.summary.rejected == 3
    with pytest.raises(ConfigError, match="a finished run"):
        carry_out(local(source, {"run": str(TINY_CHAT)}))


def test_questions_beyond_the_context_are_rejected_with_the_reason(
    tmp_path: Path, carry_out: Carry, tiny_model: Callable[..., Path]
) -> None:
    source = write_texts(tmp_path / "t", 1)
    (source / "long.txt").write_text("あ" * 2000, encoding="utf-8")
    done = carry_out(local(source, {"model": str(tiny_model()), "max_tokens": 4}, repairs=0))
    reasons = [row["reason"] for row in lines(done.folder.rejected_file)]
    assert any("in a context of 256" in reason for reason in reasons)


def test_a_budget_holds_for_local_teachers_too(tmp_path: Path, carry_out: Carry) -> None:
    values = local(texts(tmp_path / "t"), {"model": str(TINY_CHAT)}, concurrency=4)
    done = carry_out({**values, "budget": {"requests": 3}})
    assert not done.complete and done.spent["requests"] == 3 and done.summary.left == 1
    whole = carry_out(values)
    assert whole.complete and whole.spent["requests"] == 4
    with pytest.raises(ConfigError, match="prices"):
        carry_out({**values, "budget": {"money": 1.0}})


class CountingTeacher(LocalTeacher):
    """Keeps how many questions each batch had."""

    batches: ClassVar[list[int]] = []

    def _write(self, batch: Sequence[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.batches.append(len(batch))
        super()._write(batch, loop)


def test_many_questions_share_a_batch(tiny_model: Callable[..., Path]) -> None:
    """All that wait make up the next batch: one batch, not one a question."""
    config = DistillConfig(teacher={"model": str(tiny_model()), "max_tokens": 4}, out="x")
    choice = choose_teacher(config, source="c", beside=Path("."))
    asked = [[{"role": "user", "content": f"question {k}"}] for k in range(6)]
    assert choice.local is not None
    at_work = CountingTeacher.at_work(choice, choice.local, Ledger(), "2026-01-31")

    async def ask() -> list[Reply | Failure]:
        async with at_work as teacher:
            asking = (teacher.ask(messages, stream=k) for k, messages in enumerate(asked))
            return await asyncio.gather(*asking)

    replies = asyncio.run(ask())
    assert len(replies) == 6 and all(isinstance(reply, Reply) for reply in replies)
    assert CountingTeacher.batches == [6]


def test_an_error_of_the_model_reaches_the_caller_as_it_is(
    tmp_path: Path, carry_out: Carry, tiny_model: Callable[..., Path]
) -> None:
    """Weights that are not finite, which is told by generation, not swallowed by a batch."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model(), folder)
    weights = load_file(folder / "model.safetensors")
    weights = {name: tensor * float("nan") for name, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DivergenceError):
        carry_out(local(texts(tmp_path / "t"), {"model": str(folder)}))
