"""Metrics of answers while training: their values, what they decide, and that training sees nothing
of them."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training.rig import (
    Child,
    adapter_bytes,
    answers_where_one_fails,
    build_trainer,
    forkserver,
    of_kind,
    steps_told,
    trained,
)

from tanren import adapter as adapters
from tanren import model as models
from tanren.cli.events import describe
from tanren.cli.result_page import result_facts
from tanren.config import EvaluationConfig, load
from tanren.errors import ConfigError
from tanren.evaluate.metrics import METRICS, metric_named
from tanren.evaluate.while_training import AnswerMetrics
from tanren.gate import Gate, examine
from tanren.pipeline import execute
from tanren.rundir import RunDirectory, read_json
from tanren.verdict import ANSWER_METRICS, evaluations, judge

MakeRun = Callable[..., RunDirectory]
BASE = {"model": {"name": "m"}, "data": {"train": "t.jsonl", "validation": "v.jsonl"}}

# Learns its rows by heart within 16 steps, by way of wrong answers that stop and half-right ones.
LEARNS = (
    "training.num_epochs=18",
    "training.learning_rate=0.02",
    "training.schedule=constant",
    "training.save_every=1000",
    "evaluation.every=4",
    "evaluation.sample_tokens=40",
    "evaluation.samples=2",
)
METRIC_NAMES = "evaluation.metrics=[exact_match,chrf,tokens]"


@pytest.fixture
def learning(make_run: MakeRun, tmp_path: Path) -> MakeRun:
    """`learning(*overrides)`: a run whose validation rows are its four training rows."""

    def make(*overrides: str, **options: Any) -> RunDirectory:
        settings = (*LEARNS, METRIC_NAMES, f"data.validation={tmp_path / 'train.jsonl'}")
        method = options.pop("method", {"name": "lora", "rank": 16})
        return make_run(*settings, *overrides, rows=4, method=method, **options)

    return make


def metrics_of(gate: Gate) -> AnswerMetrics:
    context = models.context_length(gate.source.config)
    return AnswerMetrics(gate.config, gate.tokenizer, gate.renderer, context)


def tuned(run: RunDirectory, gate: Gate) -> torch.nn.Module:
    """The saved adapter on a fresh base."""
    base = models.load_base(gate.source, gate.config.method, gate.config.model)
    models.set_tokens(base, gate.tokenizer, gate.renderer.facts.stop_ids)
    return adapters.load_adapter(base, run.adapter)


# --- settings -------------------------------------------------------------------------------------


def test_directions_are_those_of_the_metrics() -> None:
    """Every metric that needs no settings can be measured, except what says nothing of the weights
    or is measured anyway.
    """
    left_out = {"json_schema", "similarity", "within_target"}  # need settings
    left_out |= {"latency", "tokens_per_second"}  # of the machine at work
    left_out |= {"loss", "perplexity"}  # the evaluation's own
    assert set(METRICS) - left_out == set(ANSWER_METRICS)
    for name, better in ANSWER_METRICS.items():
        metric = metric_named(name)
        assert (metric.name, metric.higher_is_better) == (name, better)


@pytest.mark.parametrize(
    ("override", "where", "said"),
    [
        ("evaluation.metrics=[exact_mach]", "evaluation.metrics", "did you mean 'exact_match'?"),
        ("evaluation.metrics=[chrf,chrf]", "evaluation.metrics", "once"),
        ("evaluation.metric=token_acuracy", "evaluation.metric", "did you mean 'token_accuracy'?"),
        ("evaluation.metric=chrf", "evaluation.metric", "add chrf"),
        ("evaluation.metric=characters", "evaluation.metric", "a better side"),
        ("evaluation.metric_rows=0", "evaluation.metric_rows", "greater than or equal to 1"),
    ],
)
def test_wrong_metrics_are_faults_of_their_setting(override: str, where: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, ["evaluation.metrics=[characters]", override], base=BASE)
    (fault,) = caught.value.faults
    assert fault.where == where
    assert said in fault.expected


def test_metrics_need_validation_rows() -> None:
    without = {**BASE, "data": {"train": "t.jsonl"}}
    with pytest.raises(ConfigError, match=r"data\.validation for evaluation\.metrics"):
        load(None, ["evaluation.metrics=[chrf]"], base=without)


def test_settings_survive_the_file() -> None:
    config = load(None, [METRIC_NAMES, "evaluation.metric=chrf"], base=BASE)
    again = load(None, base=yaml.safe_load(config.to_yaml()))
    assert again.evaluation.metrics == ("exact_match", "chrf", "tokens")
    assert again == config


# --- before the first step ------------------------------------------------------------------------


def test_what_does_not_suit_the_rows_stops_before_the_model_is_loaded(learning: MakeRun) -> None:
    """Not even the right answers have a value: no run would ever have one. Both are named."""
    run = learning("evaluation.metrics=[choice,chrf,json_fields]")
    with pytest.raises(ConfigError) as caught:
        execute(run)
    assert [fault.remedy for fault in caught.value.faults] == [
        "leave out choice",
        "leave out json_fields",
    ]
    assert not [e for e in of_kind(run, "stage") if e["name"] == "model"]


def test_a_missing_library_is_named_before_training(
    learning: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = learning()
    for name in ("sacrebleu", "sacrebleu.metrics"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r'pip install "tanren\[eval\]"'):
        execute(run)


def test_rows_are_spread_and_what_is_not_asked_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    """Three of nine rows that can be asked, over the whole file; the others are counted."""
    texts = [
        [("user", f"{i}?"), ("assistant", "a cat " * (40 if i == 3 else 1) + str(i))]
        for i in range(9)
    ]
    texts.append([("user", "long " * 400), ("assistant", "no room")])
    lines = [{"messages": [{"role": r, "content": c} for r, c in row]} for row in texts]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asks = {"role": "assistant", "content": "", "tool_calls": [call]}
    lines.append({"messages": [{"role": "user", "content": "x"}, asks]})
    data = tmp_path / "asked.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    run = make_run(
        f"data.validation={data}",
        "data.faulty_rows=skip",
        "evaluation.metrics=[stop_rate]",
        "evaluation.metric_rows=3",
        "evaluation.sample_tokens=30",
    )
    made = metrics_of(examine(run.config()))
    assert [question.row for question in made.questions] == [1, 4, 7]
    told = "\n".join(made.notes)
    assert "answers 3 of 11 validation rows, 30 tokens at most, for stop_rate" in told
    assert "1 validation rows: the prompt leaves no room" in told
    assert "1 validation rows: the reference is a tool call" in told
    assert "1 of the 3 references do not fit into evaluation.sample_tokens=30" in told


# --- training sees nothing of it ------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        {"name": "dora", "dropout": 0.1},
        {"name": "qlora", "dropout": 0.1},
        "full",
    ],
    ids=["dora", "qlora", "full"],
)
def test_answering_changes_nothing_in_training(make_run: MakeRun, method: Any) -> None:
    """T32: dropout's random numbers, losses, gradient norms and weights are bit for bit those of a
    run that answers nothing.
    """
    runs = {}
    for names in ("[]", "[stop_rate,exact_match]"):
        run = make_run(
            f"evaluation.metrics={names}",
            "evaluation.every=1",
            "evaluation.keep_best=false",
            "evaluation.sample_tokens=12",
            method=method,
            rows=8,
            validation=3,
            name=f"answers-{len(names)}",
        )
        execute(run)
        runs[names] = run
    plain, answering = runs.values()
    assert [e["metric_rows"] for e in of_kind(answering, "evaluation")] == [3] * 4
    assert not any("metrics" in event for event in of_kind(plain, "evaluation"))
    assert steps_told(answering) == steps_told(plain)
    assert adapter_bytes(answering) == adapter_bytes(plain)


def test_modes_and_gradients_stay_while_answering(make_run: MakeRun) -> None:
    """Between two steps: every module's mode, the gradients of a started step, the random state."""
    run = make_run(
        "evaluation.metrics=[stop_rate]",
        "evaluation.sample_tokens=8",
        method={"name": "lora", "dropout": 0.1},
        validation=3,
    )
    trainer = build_trainer(run)
    trainer.training_step(trainer.network, list(next(iter(trainer.step_loader))))
    modes = [module.training for module in trainer.network.modules()]
    before = {
        n: p.grad.clone() for n, p in trainer.network.named_parameters() if p.grad is not None
    }
    random, weights = torch.get_rng_state(), trained(trainer.network)
    metrics_of(examine(run.config())).measure(trainer.network)
    assert [module.training for module in trainer.network.modules()] == modes and any(modes)
    after = {n: p.grad for n, p in trainer.network.named_parameters() if p.grad is not None}
    assert before and all(torch.equal(after[name], before[name]) for name in before)
    assert after.keys() == before.keys()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, weights[n]) for n, value in trained(trainer.network).items())


def test_too_little_memory_halves_the_batch(learning: MakeRun) -> None:
    """The same answers when no more than one row fits at a time."""
    run = learning()
    trainer = build_trainer(run)
    metrics = metrics_of(examine(run.config()))
    whole = metrics.measure(trainer.network)
    refused = []

    def small(module: torch.nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        if len(inputs["input_ids"]) > 1:
            refused.append(len(inputs["input_ids"]))
            raise torch.OutOfMemoryError("no room")

    hook = trainer.network.register_forward_pre_hook(small, with_kwargs=True)
    alone = metrics.measure(trainer.network)
    hook.remove()
    assert refused == [4, 2, 2]
    assert [row.answer for row in alone.rows] == [row.answer for row in whole.rows]
    assert alone.values == whole.values


# --- values and decisions -------------------------------------------------------------------------


def test_values_are_those_of_the_saved_model(learning: MakeRun) -> None:
    """The last evaluation's values are what the saved adapter reaches on a fresh base, and exact
    match is the share of answers that are the reference.
    """
    run = learning("evaluation.keep_best=false", "evaluation.samples=4", "training.max_steps=12")
    result = execute(run)
    told = of_kind(run, "evaluation")
    gate = examine(run.config())
    again = metrics_of(gate).measure(tuned(run, gate))
    assert told[-1]["step"] == 12 and told[-1]["metrics"] == again.values
    assert told[-1]["answers"] == again.samples(4)
    for event in told:
        right = [answer["answer"] == answer["reference"] for answer in event["answers"]]
        assert len(right) == 4 and event["metrics"]["exact_match"] == sum(right) / 4
    assert len({event["metrics"]["chrf"] for event in told}) > 1, "a constant would hide it"
    last = result["evaluations"]["last"]
    assert {name: last[name] for name in again.values} == again.values


def test_any_metric_chooses_the_best_and_stops(learning: MakeRun) -> None:
    """T30: exact match decides where the loss would go on: patience is used up at a perfect score,
    and the result answers as the best evaluation did.
    """
    run = learning("evaluation.metric=exact_match", "evaluation.early_stopping_patience=2")
    result = execute(run)
    told = of_kind(run, "evaluation")
    values = [event["metrics"]["exact_match"] for event in told]
    best = told[values.index(max(values))]
    assert max(values) == 1.0 and min(values) < 1.0
    assert result["best"] == {"step": best["step"], "exact_match": 1.0, "kept": True}
    lowest = min(told, key=lambda event: float(event["loss"]))
    assert lowest["step"] != best["step"], "the loss would have chosen another"
    assert result["stopped_early"] is True and told[-1]["evaluations_since_best"] == 2
    assert [event["best"] for event in told] == [
        value > max([-1.0, *values[:i]]) for i, value in enumerate(values)
    ]
    gate = examine(run.config())
    assert metrics_of(gate).measure(tuned(run, gate)).values == best["metrics"]
    assert read_json(run.result_file)["evaluations"]["best"]["exact_match"] == 1.0


@pytest.mark.parametrize(
    ("metric", "values", "verdict"),
    [
        ("chrf", [10.0, 30.0, 20.0], (2, 30.0, 1)),
        ("empty", [0.5, 0.25, 0.25], (2, 0.25, 1)),
        ("chrf", [None, 3.0, None], (2, 3.0, 1)),  # nothing said is no better one, and is waited
        ("chrf", [None, None], (1, None, 1)),
    ],
)
def test_better_is_what_the_metric_says(
    metric: str, values: list[float | None], verdict: tuple[int, float | None, int]
) -> None:
    rules = EvaluationConfig(metrics=(metric,), metric=metric)
    assert judge(list(enumerate(values, start=1)), rules) == verdict


def test_an_evaluation_without_a_value_is_one() -> None:
    from transformers import TrainerState

    state = TrainerState()
    state.log_history = [
        {"step": 2, "loss": 1.0},
        {"step": 2, "eval_loss": 1.0, "eval_chrf": 5.0},
        {"step": 4, "eval_loss": 0.5},
    ]
    assert evaluations(state, "chrf") == [(2, 5.0), (4, None)]


def test_a_killed_run_keeps_the_best_so_far(learning: MakeRun) -> None:
    """T6, T30: killed after the best evaluation by exact match, resumed: the same decisions and the
    same adapter as a run that never stopped.
    """
    settings = (
        "evaluation.metric=exact_match",
        "evaluation.early_stopping_patience=3",
        "training.save_every=6",
    )
    whole = learning(*settings, name="whole")
    execute(whole)
    best = next(e["step"] for e in of_kind(whole, "evaluation") if e["metrics"]["exact_match"] == 1)
    run = learning(*settings, name="killed")
    with Child(run) as child:
        child.wait_for(lambda e: e["event"] == "checkpoint" and e["step"] > best)
        child.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, child.said()
    execute(run, resume=True)
    names = ("step", "loss", "best", "best_step", "evaluations_since_best", "metrics")
    decided = [
        {json.dumps([event[name] for name in names]) for event in of_kind(one, "evaluation")}
        for one in (whole, run)
    ]
    assert decided[0] == decided[1]
    assert adapter_bytes(run) == adapter_bytes(whole)


# --- several processes ----------------------------------------------------------------------------


def test_one_process_that_fails_is_heard_by_all(tmp_path: Path) -> None:
    """T35: without it the others would wait for its answers for ever."""
    heard = []
    for rank in (0, 1):
        here, there = multiprocessing.Pipe(duplex=False)
        child = forkserver().Process(
            target=answers_where_one_fails, args=(rank, str(tmp_path / "meet"), there)
        )
        child.start()
        heard.append((child, here))
    for child, here in heard:
        assert here.poll(60), "still waiting"
        assert here.recv() == ("DataError", "row 7 cannot be asked")
        child.join()


# --- what people see ------------------------------------------------------------------------------


def test_values_stand_in_every_place(learning: MakeRun) -> None:
    """The log line, the result's page, and the time that answering took."""
    run = learning("evaluation.metric=chrf", "training.max_steps=8")
    result = execute(run)
    event = of_kind(run, "evaluation")[-1]
    line = describe(event)
    chrf = f"chrF {event['metrics']['chrf']:.1f}"
    assert f"Exact match {event['metrics']['exact_match']:.1%}" in line and chrf in line
    assert "by chrf" in line and "4 rows answered in" in line
    assert 0 < event["answer_seconds"] <= event["seconds"]
    assert len(event["answers"]) == 2
    page = dict(result_facts(result))
    best = result["evaluations"]["best"]
    assert f"chrF {best['chrf']:.1f}" in str(page["best metrics"])
    assert str(page["best validation"]).startswith(f"chrf {best['chrf']:.4f} at step")
    assert str(page["evaluated"]).startswith("2 times")
    assert result["evaluations"]["seconds"] >= event["seconds"]


@pytest.mark.parametrize("values", [None, "x", {"chrf": None}, {"of_later": 0.5}, {"chrf": [1]}])
def test_metrics_of_other_versions_are_shown(values: Any) -> None:
    line = describe({"event": "evaluation", "step": 3, "metrics": values})
    assert line.startswith("validation at step 3")
    assert ("of_later 0.5000" in line) == (values == {"of_later": 0.5})
