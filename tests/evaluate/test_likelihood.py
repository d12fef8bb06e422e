"""Laws of likelihood: the loss that training reports, by row, whatever shares the pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluate.evaluating import Tuned

from tanren.adapter import adapter_switched_off
from tanren.batches import IGNORED
from tanren.errors import OutOfMemoryError
from tanren.evaluate import likelihood
from tanren.evaluate.likelihood import answer_row, drift, reply_losses, reply_rows
from tanren.evaluate.questions import Question, read_questions
from tanren.session import Session, open_session

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def losses_of(
    session: Session, questions: tuple[Question, ...], batch_tokens: int = 16_384
) -> dict[int, likelihood.ReplyLoss]:
    examples = [question.example for question in questions]
    rows, refused = reply_rows(examples, session.renderer, session.context_length)
    assert not refused
    return reply_losses(session.model, rows, pad_id=0, batch_tokens=batch_tokens)


def mean(losses: dict[int, likelihood.ReplyLoss]) -> float:
    tokens = sum(one.tokens for one in losses.values())
    return sum(one.loss * one.tokens for one in losses.values()) / tokens


@pytest.mark.parametrize("batch_tokens", [256, 16_384])
def test_the_loss_is_the_one_that_training_reports(tuned: Tuned, batch_tokens: int) -> None:
    """T31. The adapter that was kept is the best one on the validation rows."""
    questions = read_questions(tuned.validation).rows
    found = mean(losses_of(open_session(str(tuned.run)), questions, batch_tokens))
    assert found == pytest.approx(min(tuned.losses), rel=1e-5)
    assert max(tuned.losses) > 1.01 * min(tuned.losses), "training moved it"


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gemma3", "mistral", "llama-tied"])
def test_a_rows_loss_is_that_of_the_models_own_logits(
    tiny_model: Callable[..., Path], tuned: Tuned, family: str
) -> None:
    """Scaled, capped and tied heads too, in one pass and in passes of one row (T31)."""
    session = open_session(str(tiny_model(family)))
    questions = read_questions(tuned.validation).rows
    together, alone = (losses_of(session, questions, budget) for budget in (16_384, 1))
    rows, _ = reply_rows([q.example for q in questions], session.renderer, 256)
    for line, row in rows.items():
        with torch.no_grad():
            logits = session.model(input_ids=torch.tensor([row.ids.tolist()])).logits[0]
        targets = torch.tensor(row.targets.tolist())
        wanted = torch.nn.functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED)
        assert together[line].loss == pytest.approx(float(wanted), rel=1e-5)
        assert alone[line].loss == pytest.approx(together[line].loss, rel=1e-5)
        assert alone[line].tokens == int((targets != IGNORED).sum())


def test_the_tokens_are_the_reply_and_its_end(tuned: Tuned) -> None:
    session = open_session(str(tuned.base))
    questions = read_questions(tuned.validation).rows
    rows, _ = reply_rows([q.example for q in questions], session.renderer, 256)
    for question in questions:
        labelled = [t for t in rows[question.row].targets.tolist() if t != IGNORED]
        assert session.tokenizer.decode(labelled) == question.reference + "<|im_end|>"


def test_a_reply_that_does_not_fit_has_no_loss_and_a_reason(tuned: Tuned) -> None:
    session = open_session(str(tuned.base))
    questions = read_questions(tuned.validation).rows
    examples = [questions[0].example, questions[1].with_reply("word " * 300, line=2)]
    rows, refused = reply_rows(examples, session.renderer, 256)
    assert set(rows) == {1} and set(refused) == {2} and "tokens" in refused[2]


def test_a_pass_that_is_too_large_is_halved(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(str(tuned.base))
    questions = read_questions(tuned.validation).rows
    wanted = losses_of(session, questions)
    most = 2
    forward = session.model.forward

    def narrow(**inputs: Any) -> Any:
        if len(inputs["input_ids"]) > most:
            raise torch.OutOfMemoryError("too many rows")
        return forward(**inputs)

    monkeypatch.setattr(session.model, "forward", narrow)
    found = losses_of(session, questions)
    assert {k: v.loss for k, v in found.items()} == pytest.approx(
        {k: v.loss for k, v in wanted.items()}, rel=1e-5
    )
    most = 0
    with pytest.raises(OutOfMemoryError):
        losses_of(session, questions)


def test_drift_is_zero_without_a_change_and_the_divergence_with_one(tuned: Tuned) -> None:
    session = open_session(str(tuned.run))
    model: Any = session.model
    rows = [answer_row([5, 6, 7], [8, 9, 10, 11]), answer_row([12], [13, 14])]
    wanted = positions = 0.0
    for row in rows:
        ids = torch.tensor([row.ids.tolist()])
        with torch.no_grad():
            q = model(input_ids=ids).logits[0].log_softmax(-1)
            with adapter_switched_off(model):
                p = model(input_ids=ids).logits[0].log_softmax(-1)
        kept = torch.tensor(row.targets.tolist()) != IGNORED
        wanted += float((p.exp() * (p - q)).sum(-1)[kept].sum())
        positions += int(kept.sum())
    assert positions == 6
    found = drift(model, rows, pad_id=0)
    assert found == pytest.approx(wanted / positions, rel=1e-4) and found > 1e-3
    assert drift(model, rows, pad_id=0, batch_tokens=1) == pytest.approx(found, rel=1e-4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert drift(model, rows, pad_id=0) == pytest.approx(0.0, abs=1e-9)
    assert drift(model, [], pad_id=0) is None


def test_the_model_is_left_as_it_was(tuned: Tuned) -> None:
    session = open_session(str(tuned.base))
    session.model.train()
    hooks = len(session.model.get_decoder()._forward_hooks)  # type: ignore[operator]
    losses_of(session, read_questions(tuned.validation).rows)
    assert session.model.training
    assert len(session.model.get_decoder()._forward_hooks) == hooks  # type: ignore[operator]
