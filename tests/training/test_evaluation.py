"""Evaluation while training: its numbers (T31), its memory (T13), and what it decides (T30)."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training.rig import (
    Child,
    KillAt,
    adapter_bytes,
    build_trainer,
    forkserver,
    give_weights_to_b,
    of_kind,
    peak_of_measuring,
    steps_told,
    trained,
)

from tanren.batches import plan
from tanren.config import EvaluationConfig
from tanren.pipeline import execute
from tanren.rundir import RunDirectory, read_json
from tanren.sft import Step, Trainer
from tanren.verdict import judge

MakeRun = Callable[..., RunDirectory]
ROOM = 10**6


# --- numbers --------------------------------------------------------------------------------------


def by_hand(trainer: Trainer) -> tuple[float, float, list[float]]:
    """Loss and accuracy over all labelled tokens of the validation rows, each row alone through the
    plain model; and the mean loss of each row.
    """
    assert trainer.validation is not None
    losses: list[list[float]] = []
    hits = 0
    trainer.network.eval()
    for i in range(len(trainer.validation)):
        ids, labels = trainer.validation.row(i)
        with torch.no_grad():
            logits = trainer.network(input_ids=torch.tensor([ids.tolist()]), use_cache=False).logits
        losses.append([])
        for position in range(len(ids) - 1):
            wanted = int(labels[position + 1])
            if wanted != -100:
                row = logits[0, position]
                losses[-1].append(float(-row.log_softmax(dim=-1)[wanted]))
                hits += int(row.argmax()) == wanted
    every = [loss for row in losses for loss in row]
    return sum(every) / len(every), hits / len(every), [sum(row) / len(row) for row in losses]


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("side_by_side", [False, True], ids=["padded", "side by side"])
def test_the_loss_does_not_depend_on_how_rows_are_batched(
    make_run: MakeRun, side_by_side: bool, method: str
) -> None:
    """T31: one row a pass, all nine in one, and anything between give the loss and the token
    accuracy of the definition; a mean of row means would be another number.
    """
    run = make_run(method=method, rows=3, validation=9)
    trainer = build_trainer(run, prepare=give_weights_to_b)
    assert trainer.validation is not None
    loss, accuracy, rows = by_hand(trainer)
    assert abs(sum(rows) / len(rows) - loss) > 1e-4, "equal rows would hide it"
    lengths = trainer.validation.lengths.tolist()
    counts = set()
    for budget in (1, 2 * max(lengths), ROOM):
        trainer.step = Step(budget, side_by_side, trainer.step.pad_id)
        found = trainer.measure(trainer.validation)
        assert found["loss"] == pytest.approx(loss, abs=1e-5)
        assert found["token_accuracy"] == accuracy
        counts.add(len(plan(lengths, budget, side_by_side=side_by_side)))
    assert {1, 9} <= counts


def test_evaluating_changes_nothing_in_training(make_run: MakeRun) -> None:
    """T32 for every method without quantisation: dropout's random numbers, gradients and weights
    are those of a run that evaluates after its last step alone.
    """
    ends = []
    for name, every in (("often", 1), ("at the end", 1000)):
        run = make_run(
            f"evaluation.every={every}",
            "evaluation.keep_best=false",
            method={"name": "dora", "dropout": 0.1},
            rows=8,
            validation=4,
            name=name,
        )
        trainer = build_trainer(run)
        trainer.fit()
        assert len(of_kind(run, "evaluation")) == (4 if name == "often" else 1)
        ends.append(trained(trainer.network))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


# --- memory ---------------------------------------------------------------------------------------

VOCABULARY = 150_000


def long_rows(path: Path, count: int) -> Path:
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"{i}?"},
                {"role": "assistant", "content": "a cat sat on the mat " * 9 + str(i)},
            ]
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_evaluation_never_holds_all_logits(
    make_run: MakeRun, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """T13: with 150,000 words the peak is far below the logits of the labelled positions, and the
    same as for four times as many rows. With the chunked loss switched off the test's own measure
    finds the logits, so it would notice.
    """
    model = tiny_model(
        "qwen3", vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1
    )
    grown, tokens, losses = [], [], []
    for rows, all_logits in ((16, False), (64, False), (16, True)):
        data = long_rows(tmp_path / f"{rows}.jsonl", rows)
        run = make_run(
            f"model.name={model}", f"data.validation={data}", name=f"{rows}-{all_logits}"
        )
        here, there = multiprocessing.Pipe(duplex=False)
        child = forkserver().Process(
            target=peak_of_measuring, args=(str(run.path), there, all_logits)
        )
        child.start()
        assert here.poll(120)
        answer = here.recv()
        child.join()
        grown.append(answer[0])
        tokens.append(answer[1])
        losses.append(answer[2])
    full = [count * VOCABULARY * 4 for count in tokens]
    assert full[0] > 400e6
    assert grown[2] > full[0], "all logits at once are seen"
    assert grown[0] < 0.6 * full[0]
    assert grown[1] < 0.2 * full[1]
    assert grown[1] < 1.5 * grown[0] + 50e6
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)


# --- decisions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "rules", "verdict"),
    [
        ([3.0, 2.0, 1.0], {}, (3, 1.0, 0)),
        ([1.0, 2.0, 3.0], {}, (1, 1.0, 2)),
        ([2.0, 1.0, 1.5, 1.0], {}, (2, 1.0, 2)),  # equal is not better
        ([2.0, 1.95, 1.85], {"early_stopping_min_delta": 0.1}, (3, 1.85, 0)),  # against the best
        ([2.0, 1.95, 1.91], {"early_stopping_min_delta": 0.1}, (1, 2.0, 2)),
        ([0.1, 0.3, 0.2], {"metric": "token_accuracy"}, (2, 0.3, 1)),
    ],
)
def test_the_best_and_the_wait(
    values: list[float], rules: dict[str, Any], verdict: tuple[int, float, int]
) -> None:
    """T30: better is lower loss or higher accuracy, by more than `early_stopping_min_delta`."""
    history = list(enumerate(values, start=1))
    assert judge(history, EvaluationConfig(**rules)) == verdict


# Nothing is better than the first evaluation by 100 nats: patience counts from there.
STUBBORN = (
    "training.num_epochs=4",
    "training.schedule=constant",
    "evaluation.every=2",
    "evaluation.early_stopping_min_delta=100",
)


def test_patience_stops_and_the_best_becomes_the_result(make_run: MakeRun) -> None:
    """T30: after `patience` evaluations without a better one the run stops. Its adapter is that of
    the best evaluation, byte for byte what a run of so many steps makes; without `keep_best` it is
    that of the last step.
    """
    patience = "evaluation.early_stopping_patience=2"
    run = make_run(*STUBBORN, patience, rows=8, validation=3)
    result = execute(run)
    assert result["stopped_early"] is True
    assert result["steps"] == 6 and result["best"]["step"] == 2
    told = [(e["step"], e["best"], e["evaluations_since_best"]) for e in of_kind(run, "evaluation")]
    assert told == [(2, True, 0), (4, False, 1), (6, False, 2)]
    (stopping,) = of_kind(run, "early_stopping")
    assert (stopping["step"], stopping["best_step"], stopping["patience"]) == (6, 2, 2)
    assert read_json(run.result_file)["best"] == result["best"]

    last = make_run(
        *STUBBORN, patience, "evaluation.keep_best=false", rows=8, validation=3, name="last"
    )
    execute(last)
    assert not (last.checkpoints / "best").exists()
    for steps, twin in ((2, run), (6, last)):
        shorter = make_run(
            *STUBBORN, f"training.max_steps={steps}", rows=8, validation=3, name=f"steps-{steps}"
        )
        if steps == 6:
            shorter.write_config(
                shorter.config().model_copy(update={"evaluation": last.config().evaluation})
            )
        execute(shorter)
        assert adapter_bytes(twin) == adapter_bytes(shorter)
    assert adapter_bytes(run) != adapter_bytes(last)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Filled by the first test below that needs it: what a run decides that nothing stops."""
    return {}


@pytest.mark.parametrize(
    "moment",
    [
        None,  # when the second evaluation begins
        KillAt("os.rename", r"\.best\.\d+\.tmp$"),  # the best is written and not yet in its place
        KillAt("os.mkdir", r"/\.adapter\.\d+\.tmp"),  # stopped early, result not yet written
    ],
    ids=["before", "while the best is kept", "after stopping"],
)
def test_a_killed_run_decides_as_one_that_never_stopped(
    make_run: MakeRun, decided: dict[str, Any], moment: KillAt | None
) -> None:
    """T30, T6: killed before patience is used up, in the middle of keeping the best, or after it
    stopped early: the same evaluations, the same end, the same adapter.
    """
    settings = (*STUBBORN, "evaluation.early_stopping_patience=2", "training.save_every=3")
    if not decided:
        whole = make_run(*settings, rows=8, validation=3, name="whole")
        execute(whole)
        decided.update(adapter=adapter_bytes(whole), **decisions(whole))
    run = make_run(*settings, rows=8, validation=3)
    with Child(run, kill_at=moment) as child:
        if moment is None:
            child.wait_for_step(4)
            child.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, child.said()
    result = execute(run, resume=bool(run.complete_checkpoints()))
    assert result["stopped_early"] is True and result["steps"] == 6
    assert {"adapter": adapter_bytes(run), **decisions(run)} == decided


def decisions(run: RunDirectory) -> dict[str, Any]:
    """What the evaluations said, whichever process did them; and the steps that were made."""
    names = ("step", "loss", "token_accuracy", "best", "best_step", "evaluations_since_best")
    evaluations = {tuple(event[name] for name in names) for event in of_kind(run, "evaluation")}
    stopping = {(e["step"], e["best_step"], e["best"]) for e in of_kind(run, "early_stopping")}
    return {"evaluations": evaluations, "stopping": stopping, "steps": steps_told(run)}
