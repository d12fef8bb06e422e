"""Laws of an evaluation: equals stay equal, a stop costs nothing, failures are counted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from cli.commands import start
from endpoint.chat_server import Answer, completion, running_chat
from evaluate.evaluating import (
    Tuned,
    answers_in,
    chat,
    records,
    run,
    settings,
    tune,
    untimed,
    write,
)

from tanren.errors import ConfigError, RunError, UserError
from tanren.evaluate.answered import read_rows
from tanren.evaluate.embedding import text_encoder
from tanren.evaluate.folder import EvaluationFolder, slug
from tanren.evaluate.named_models import read_models
from tanren.evaluate.report.data import Evaluation
from tanren.evaluate.request import choose_models
from tanren.evaluate.settings import load_evaluation
from tanren.evaluation import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.write_rows(tmp_path / "test.jsonl", 9)


@pytest.fixture
def general(tmp_path: Path) -> Path:
    """Two questions that a model may get right, and one that none does."""
    return write(
        tmp_path / "general.jsonl",
        chat("hi", "hello", metadata={"check": {"max_characters": 10_000}}),
        chat("ho", "hello", metadata={"check": {"max_characters": 10_000}}),
        chat("hm", "no model says exactly this"),
    )


# --- equals ---------------------------------------------------------------------------------------


def test_the_same_model_twice_shows_no_difference(tuned: Tuned, data: Path, tmp_path: Path) -> None:
    done = run(f"a={tuned.run}", f"b={tuned.run}", data=data, out=tmp_path / "e", reference="a")
    found = done.evaluation
    assert [model.name for model in found.models] == ["a", "b"]
    assert untimed(found.answers["a"]) == untimed(found.answers["b"])
    assert found.comparisons and {c.model for c in found.comparisons} == {"b"}
    for one in found.comparisons:
        assert (one.difference, one.wins, one.losses, one.ties) == (0.0, 0, 0, 9)


def test_the_base_is_the_same_on_every_path(tuned: Tuned, data: Path, tmp_path: Path) -> None:
    """Below its run with the adapter off, loaded below it, and as a plain model."""
    beside = run(tuned.run, data=data, out=tmp_path / "a").evaluation
    below = run(f"{tuned.run}@base", data=data, out=tmp_path / "b", reference="none").evaluation
    plain = run(tuned.base, data=data, out=tmp_path / "c", reference="none").evaluation
    rows = [untimed(e.answers[n]) for e, n in (
        (beside, "mine@base"), (below, "mine@base"), (plain, tuned.base.name)
    )]  # fmt: skip
    for other in rows[1:]:
        assert [r.answer for r in other] == [r.answer for r in rows[0]]
        assert [r.loss for r in other] == pytest.approx([r.loss for r in rows[0]], rel=1e-6)
    assert [r.answer for r in beside.answers["mine"]] != [r.answer for r in rows[0]]


def test_a_run_is_compared_with_its_own_base_and_loaded_once(
    tuned: Tuned, data: Path, tmp_path: Path
) -> None:
    told: list[Any] = []
    done = run(tuned.run, tuned.base, data=data, out=tmp_path / "e", told=told)
    assert sum("loading" in fields.get("text", "") for _, fields in told) == 1
    assert done.evaluation.reference == tuned.base.name
    assert any("compared with" in note for note in done.evaluation.notes), "nothing silent"


def test_values_are_those_of_the_rows(tuned: Tuned, data: Path, tmp_path: Path) -> None:
    done = run(tuned.run, data=data, out=tmp_path / "e", metrics=["exact_match", "bleu", "loss"])
    found = done.evaluation
    assert found.main == "exact_match"
    rows = found.answers["mine"]
    exact = found.metric("exact_match")
    assert exact is not None
    assert exact.values["mine"].value == sum(r.answer == r.reference for r in rows) / 9
    loss = found.metric("loss")
    tokens = sum(r.reference_tokens or 0 for r in rows)
    nats = sum((r.loss or 0) * (r.reference_tokens or 0) for r in rows)
    assert loss is not None and loss.values["mine"].value == pytest.approx(nats / tokens)
    assert set(rows[0].scores) == {"exact_match", "bleu", "loss"}
    bleu = found.metric("bleu")
    assert bleu is not None and "signature" in json.dumps(bleu.values["mine"].details)


# --- resuming -------------------------------------------------------------------------------------


def test_a_killed_evaluation_goes_on_and_asks_nothing_twice(
    tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny.write_rows(tmp_path / "many.jsonl", 30)
    config = tmp_path / "e.yaml"
    values = settings(tuned.run, data=data, batch_tokens=256, decoding={"max_new_tokens": 30})
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    out = tmp_path / "killed"
    process = start("eval", "--config", str(config), "--out", str(out))
    journals = [out / "answers" / f"{slug(name)}.jsonl" for name in ("mine@base", "mine")]
    while sum(len(answers_in(journal)) for journal in journals) < 6:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = [answers_in(journal) for journal in journals]
    assert 6 <= sum(map(len, before)) < 60, "killed in the middle"
    assert not (out / "evaluation.json").exists()

    loaded = load_evaluation(config, {})
    resumed = evaluate(loaded, out=out, resume=True, tell=lambda *_, **__: None)
    after = [answers_in(journal) for journal in journals]
    assert [len(found) for found in after] == [30, 30], "each question once"
    assert [found[: len(old)] for found, old in zip(after, before, strict=True)] == before
    whole = evaluate(loaded, out=tmp_path / "whole", tell=lambda *_, **__: None)
    for name in ("mine", "mine@base"):
        rows = [list(read_rows(done.folder.rows_file(name))) for done in (resumed, whole)]
        assert untimed(rows[0]) == untimed(rows[1])
    assert [c.difference for c in resumed.evaluation.comparisons] == [
        c.difference for c in whole.evaluation.comparisons
    ]


def test_a_finished_evaluation_is_measured_anew_without_a_model(
    tuned: Tuned, data: Path, tmp_path: Path
) -> None:
    run(tuned.run, data=data, out=tmp_path / "e")
    told: list[Any] = []
    again = run(
        tuned.run, data=data, out=tmp_path / "e", resume=True, told=told, metrics=["contains"]
    )
    assert not any("loading" in fields.get("text", "") for _, fields in told)
    assert [metric.name for metric in again.evaluation.metrics] == ["contains"]


def test_going_on_with_something_else_is_refused(tuned: Tuned, data: Path, tmp_path: Path) -> None:
    run(tuned.run, data=data, out=tmp_path / "e", reference="none")
    other = tiny.write_rows(tmp_path / "other.jsonl", 4)
    with pytest.raises(RunError) as caught:
        run(
            tuned.run, data=other, out=tmp_path / "e", reference="none", resume=True,
            decoding={"max_new_tokens": 13},
        )  # fmt: skip
    assert {fault.where.rsplit(" ", 1)[1] for fault in caught.value.faults} == {"data", "decoding"}
    with pytest.raises(RunError, match="something there already"):
        run(tuned.run, data=data, out=tmp_path / "e", reference="none")
    with pytest.raises(RunError, match="no evaluation"):
        run(tuned.run, data=data, out=tmp_path / "none", resume=True)


def test_a_change_of_the_weights_is_another_model(tuned: Tuned, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tuned.run / "adapter", copy)
    (first,) = read_models([str(copy)], max_new_tokens=8)
    file = copy / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    (second,) = read_models([str(copy)], max_new_tokens=8)
    assert first.identity != second.identity


# --- endpoints beside models ----------------------------------------------------------------------


def test_an_endpoint_and_a_model_stand_in_one_table(
    tuned: Tuned, data: Path, tmp_path: Path
) -> None:
    with running_chat() as server:
        server.behave = lambda body: (
            Answer(status=400, body={"error": {"message": "no"}})
            if body["messages"][-1]["content"] == tiny.QUESTIONS[1]
            else Answer(body=completion("I am Taro."))
        )
        done = run(
            f"mine={tuned.run}", f"{server.url}#gpt", data=data, out=tmp_path / "e",
            reference="mine", metrics=["exact_match", "loss"],
        )  # fmt: skip
        assert len(server.bodies) == 9
        assert {body["max_tokens"] for body in server.bodies} == {12}, "the same limit for all"
    found = done.evaluation
    assert [model.kind for model in found.models] == ["run", "endpoint"]
    failed = [row.row for row in found.answers["gpt"] if row.error is not None]
    assert failed == [2]
    exact = next(c for c in found.comparisons if c.metric == "exact_match")
    assert (exact.model, exact.rows, exact.left_out) == ("gpt", 8, 1)
    assert any("1 rows without an answer" in note for note in found.notes)
    loss = found.metric("loss")
    assert loss is not None and loss.values["gpt"].value is None
    assert not found.retention, "general questions stay here unless asked for"


def test_rows_leave_for_no_host_that_was_not_named(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "far.yaml"
    file.write_text("base_url: https://example.invalid/v1\nmodel: m\n", encoding="utf-8")
    with pytest.raises(UserError, match="remote_host"):
        run(file, data=data, out=tmp_path / "e")
    (named,) = read_models(["https://example.invalid/v1#m"], max_new_tokens=8)
    assert named.endpoint is not None and named.endpoint.remote_host == "example.invalid"


# --- retention ------------------------------------------------------------------------------------


def test_retention_has_lost_rows_drift_and_a_gate(
    tuned: Tuned, data: Path, general: Path, tmp_path: Path
) -> None:
    kept = {"enabled": "auto", "file": str(general), "gate_points": 0, "max_new_tokens": 8}
    done = run(tuned.run, data=data, out=tmp_path / "e", retention=kept)
    result = done.evaluation.retention["mine"]
    assert (result.rows, result.overall.right_before, result.overall.lost) == (3, 2, 0)
    assert result.drift_nats is not None and result.drift_nats > 0
    assert done.passed
    hard = write(tmp_path / "hard.jsonl", chat("hm", "no model says exactly this"))
    failed = run(tuned.run, data=data, out=tmp_path / "f", retention={**kept, "file": str(hard)})
    assert not failed.passed and "mine" in failed.gate
    assert failed.as_dict()["gate"]["passed"] is False


def test_the_drift_of_the_base_itself_is_not_told(
    tuned: Tuned, data: Path, general: Path, tmp_path: Path
) -> None:
    kept = {"enabled": True, "file": str(general), "max_new_tokens": 8}
    done = run(f"{tuned.run}@base", tuned.base, data=data, out=tmp_path / "e", retention=kept)
    (result,) = done.evaluation.retention.values()
    assert result.overall.lost == 0 and result.drift_nats is None
    again = run(
        f"{tuned.run}@base", tuned.base, data=data, out=tmp_path / "e", retention=kept, resume=True
    )
    assert again.evaluation.retention == done.evaluation.retention


def test_a_gate_without_anything_to_compare_with_is_refused(
    tuned: Tuned, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="retention"):
        run(tuned.base, data=data, out=tmp_path / "e", retention={"gate_points": 5})


def test_a_run_of_whole_weights_stands_beside_its_base(
    tuned: Tuned, data: Path, general: Path, tmp_path: Path
) -> None:
    whole = tune(tuned.base, tmp_path, method="full")
    kept = {"file": str(general), "max_new_tokens": 8}
    done = run(whole.run, data=data, out=tmp_path / "e", retention={"enabled": True, **kept})
    found = done.evaluation
    assert found.reference == "mine@base"
    own = run(tuned.base, data=data, out=tmp_path / "f", reference="none").evaluation
    answers = [[r.answer for r in e.answers[e.models[0].name]] for e in (found, own)]
    assert answers[0] == answers[1] != [r.answer for r in found.answers["mine"]]
    assert found.retention["mine"].drift_nats is None, "its base is not in the same memory"


# --- judges and encoders --------------------------------------------------------------------------


def test_a_judge_on_this_machine_is_asked_and_its_noise_is_counted(
    tuned: Tuned, data: Path, tmp_path: Path
) -> None:
    judge = tmp_path / "judge.yaml"
    judge.write_text(
        f"name: own\nprompt: short.yaml\nlocal: {tuned.base}\nmax_tokens: 5\n", encoding="utf-8"
    )
    (tmp_path / "short.yaml").write_text(
        "name: short\nmode: score\ncriteria: [{name: good, question: 'Good?'}]\n"
        "prompt: '{{ answer }}'\n",
        encoding="utf-8",
    )
    done = run(tuned.run, data=data, out=tmp_path / "e", judges=[str(judge)])
    said = done.evaluation.opinions
    assert [(one.model, one.value, one.excluded) for one in said] == [
        ("mine@base", None, 9),
        ("mine", None, 9),
    ], "a random model writes no JSON: never a zero"
    assert any("could not be read" in note for note in done.evaluation.notes)
    assert len(records(tmp_path / "e" / "judgements.jsonl")) == 18


def test_similarity_needs_an_encoder_and_is_one_for_the_same_text(
    tuned: Tuned, data: Path, tmp_path: Path
) -> None:
    embed = text_encoder(str(tuned.base))
    texts = ["one", "two and a longer one", "三"]
    together = embed(texts)
    assert together.shape[0] == 3 and together == pytest.approx(
        np.concatenate([embed([text]) for text in texts]), abs=1e-4
    )
    done = run(
        tuned.base, data=data, out=tmp_path / "e", metrics=["similarity"],
        embedding_model=str(tuned.base),
    )  # fmt: skip
    metric = done.evaluation.metric("similarity")
    assert metric is not None
    (value,) = metric.values.values()
    assert value.value is not None and -1 <= value.value < 1
    with pytest.raises(ConfigError, match="similarity"):
        run(tuned.base, data=data, out=tmp_path / "f", metrics=["similarity"])


# --- tasks ----------------------------------------------------------------------------------------


def test_labels_are_measured_by_likelihood_too(tuned: Tuned, tmp_path: Path) -> None:
    lines = [chat(f"Is {i} even?", "Yes" if i % 2 == 0 else "No") for i in range(12)]
    done = run(tuned.run, data=write(tmp_path / "d.jsonl", *lines), out=tmp_path / "e")
    found = done.evaluation
    assert found.task == "classification"
    rows = found.answers["mine"]
    assert {row.options for row in rows} == {("No", "Yes")}, "as the references spell them"
    by = found.metric("accuracy_by_likelihood")
    assert by is not None
    right = [row.options[row.option_losses.index(min(row.option_losses))] for row in rows]
    share = sum(said == row.reference for said, row in zip(right, rows, strict=True)) / 12
    assert by.values["mine"].value == pytest.approx(share)
    own = next(iter(rows))
    place = own.options.index(own.reference)
    assert own.option_losses[place] == pytest.approx(own.loss, rel=1e-5)


# --- files ----------------------------------------------------------------------------------------


def test_the_folder_holds_everything_and_the_run_its_outcome(
    tuned: Tuned, data: Path, tmp_path: Path
) -> None:
    own = tmp_path / "mine"
    shutil.copytree(tuned.run, own)
    done = run(own, data=data, out=tmp_path / "e")
    folder = EvaluationFolder(tmp_path / "e")
    back = Evaluation.read(folder.evaluation_file)
    assert back == done.evaluation
    assert folder.report_markdown.stat().st_size and folder.report_html.stat().st_size
    assert Evaluation.read(own / "evaluation.json").metrics == back.metrics
    training = next(model.training for model in back.models if model.name == "mine")
    assert training is not None
    assert training.method == "lora" and training.rank == 4
    assert training.validation_loss == pytest.approx(tuned.losses[-1])
    assert all("key" in record for record in records(folder.path / "answers" / "mine.jsonl"))


def test_names_that_differ_have_files_that_differ() -> None:
    assert len({slug("a b"), slug("a-b"), slug("a/b"), slug("日本"), slug("日本語")}) == 5
    assert slug("mine-2.0") == "mine-2.0"


@pytest.mark.parametrize(
    ("words", "reference", "models", "chosen"),
    [
        (["{run}"], None, ["mine@base", "mine"], "mine@base"),
        (["{run}"], "none", ["mine"], None),
        (["{base}"], None, ["{name}"], None),
        (["{run}", "{run}@base"], None, ["mine", "mine@base"], "mine@base"),
        (["new={run}", "old={base}"], None, ["new", "old"], "old"),
        (["a={run}", "b={run}"], "b", ["a", "b"], "b"),
        (["{run}"], "old={base}", ["mine", "old"], "old"),
        (["{run}", "{run}"], "none", ["mine", "mine (2)"], None),
    ],
)
def test_what_is_compared_with_what(
    tuned: Tuned, words: list[str], reference: str | None, models: list[str], chosen: str | None
) -> None:
    places = {"run": tuned.run, "base": tuned.base, "name": tuned.base.name}
    wanted = reference.format(**places) if reference else None
    config = load_evaluation(
        None, {"models": [word.format(**places) for word in words], "reference": wanted}
    )
    found, against = choose_models(config)
    assert [model.name for model in found] == [name.format(**places) for name in models]
    assert (against.name if against else None) == chosen
    assert against is None or any(model is against for model in found)


def test_all_faults_of_a_request_are_told_at_once(tuned: Tuned, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run("/nowhere/a", "/nowhere/b", data=data, out=tmp_path / "e")
    assert len(caught.value.faults) == 2
    with pytest.raises(ConfigError) as told:
        run(tuned.run, data=data, out=tmp_path / "e", metrics=["blue", "accuracyy"])
    assert [fault.remedy for fault in told.value.faults] == [
        "did you mean 'bleu'?",
        "did you mean 'accuracy'?",
    ]
    assert not (tmp_path / "e").exists(), "nothing was begun"
    with pytest.raises(ConfigError, match="did you mean 'decoding'"):
        load_evaluation(None, {"decodign": {}})
