"""What a run says of its time, memory, energy and order; pausing at a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training.rig import adapter_bytes, of_kind, steps_told

from tanren.batches import StepOrder
from tanren.cli import main
from tanren.costs import Costs, peak_of_process
from tanren.energy import energy_counter
from tanren.pipeline import execute
from tanren.rundir import RunDirectory, read_json, write_json

MakeRun = Callable[..., RunDirectory]
ROOT = Path(__file__).resolve().parents[2]


# --- time -----------------------------------------------------------------------------------------


def test_evaluating_and_saving_are_no_training(make_run: MakeRun) -> None:
    """An evaluation and a checkpoint that take a second each leave `train_seconds` and the speed
    alone; what a step's own event takes counts.
    """
    run = make_run("training.save_every=2", "evaluation.every=1", rows=8, validation=2)

    def slow(event: dict[str, Any]) -> None:
        if event["event"] in ("evaluation", "checkpoint"):
            time.sleep(0.5)

    result = execute(run, observer=slow)
    slept = 0.5 * (len(of_kind(run, "evaluation")) + len(of_kind(run, "checkpoint")))
    assert slept >= 2.5
    assert 0 < result["train_seconds"] < result["seconds"]["train"] - slept
    told = [e for e in run.events() if e["event"] in ("step", "evaluation")]
    seconds = [event["train_seconds"] for event in told]
    assert seconds == sorted(seconds) and seconds[-1] <= result["train_seconds"]
    for step, evaluation in zip(of_kind(run, "step"), of_kind(run, "evaluation"), strict=True):
        assert (step["step"], step["tokens"]) == (evaluation["step"], evaluation["tokens"])
        assert evaluation["train_seconds"] - step["train_seconds"] < 0.3
    measured = result["tokens"] - of_kind(run, "step")[0]["tokens"]
    first = of_kind(run, "step")[0]["train_seconds"]
    rate = measured / (seconds[-1] - first)
    assert result["tokens_per_second"] == pytest.approx(rate, rel=0.2)


def test_the_stopwatch_counts_between_start_and_stop_and_not_in_pauses() -> None:
    costs = Costs()
    with costs.paused():  # nothing runs
        time.sleep(0.02)
    assert costs.train_seconds == 0
    costs.start()
    time.sleep(0.05)
    with costs.paused(), costs.paused():
        time.sleep(0.2)
    time.sleep(0.05)
    costs.stop()
    time.sleep(0.05)
    assert costs.train_seconds is not None and 0.1 <= costs.train_seconds < 0.2


def test_an_attempt_goes_on_from_what_its_checkpoint_kept() -> None:
    first = Costs()
    first.measured(100, 2.0)
    first.saw_memory(10**15)
    first.start()
    time.sleep(0.03)
    first.stop()
    second = Costs()
    second.go_on(json.loads(json.dumps(first.as_dict())))
    second.start()
    time.sleep(0.03)
    second.stop()
    second.measured(300, 2.0)
    second.saw_memory(5)
    assert second.train_seconds is not None and 0.06 <= second.train_seconds < 0.2
    assert second.tokens_per_second() == 100
    assert second.peak_memory_bytes == 10**15
    old = Costs()
    old.go_on({"tokens_seen": 3})
    assert (old.train_seconds, old.energy_joules) == (None, None), "unknown, not too little"


def test_a_checkpoint_of_an_older_version_is_gone_on_with(make_run: MakeRun) -> None:
    run = make_run("training.max_steps=3", rows=8)
    execute(run, until_step=1)
    folder = run.complete_checkpoints()[-1].path
    old = {k: read_json(folder / "step.json")[k]
           for k in ("micro_batch_tokens", "side_by_side", "tokens_seen")}  # fmt: skip
    write_json(folder / "step.json", old)
    sealed = read_json(folder / "COMPLETE.json")
    sealed["files"]["step.json"] = (folder / "step.json").stat().st_size
    write_json(folder / "COMPLETE.json", sealed)
    result = execute(run, resume=True)
    assert result["train_seconds"] is None and result["steps"] == 3
    assert result["tokens"] > old["tokens_seen"] > 0


# --- memory and energy ----------------------------------------------------------------------------


def test_the_largest_size_is_this_process_s_own() -> None:
    """A process that a large one starts is not as large as that one was."""
    ballast = bytearray(os.urandom(1024)) * (300 * 1024)
    assert peak_of_process() > len(ballast)
    code = "from tanren.costs import peak_of_process; print(peak_of_process())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "train")},
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    own = int(done.stdout)
    del ballast
    assert 10**6 < own < 200 * 2**20
    assert peak_of_process(Path("/nowhere")) >= own / 10, "without /proc: the system's own figure"


STAND_IN = '''
"""Stands in for NVIDIA's library on a machine without its devices."""
class NVMLError(Exception): pass
joules = [{readings}]
def nvmlInit(): {init}
def nvmlDeviceGetHandleByUUID(uuid):
    assert uuid == "GPU-1"
    return 5
def nvmlDeviceGetTotalEnergyConsumption(handle):
    assert handle == 5
    value = joules.pop(0)
    if value is None:
        raise NVMLError("gone")
    return value * 1000
'''


@pytest.mark.parametrize(
    "readings, init, expected",
    [
        ("0, 100, 130, 500, 510", "pass", 40.0),  # the first is the trial; then two stretches
        ("0, 100, None, 500, 510", "pass", None),
        ("None", "pass", None),
        ("", "raise NVMLError", None),
    ],
)
def test_energy_counts_where_time_does(
    tmp_path: Path, readings: str, init: str, expected: float | None
) -> None:
    """Joules from the driver's millijoules, pauses left out; a counter that fails is no error."""
    text = STAND_IN.format(readings=readings, init=init)
    (tmp_path / "pynvml.py").write_text(text, encoding="utf-8")
    code = (
        "from tanren.costs import Costs\nfrom tanren.energy import _counter_of\n"
        "costs = Costs(_counter_of('GPU-1'))\ncosts.start()\n"
        "with costs.paused(): pass\ncosts.stop()\nprint(costs.energy_joules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'train'}"},
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(expected)


def test_a_cpu_has_no_counter() -> None:
    assert energy_counter(torch.device("cpu"))() is None


@pytest.mark.gpu
def test_a_gpu_at_work_uses_energy() -> None:
    """At least a watt, and no more than any card could draw."""
    device = torch.device("cuda:0")
    costs = Costs(energy_counter(device))
    costs.start()
    a = torch.randn(4096, 4096, device=device)
    began = time.monotonic()
    while time.monotonic() - began < 1:
        a = torch.nn.functional.normalize(a @ a)
        torch.cuda.synchronize()
    costs.stop()
    if costs.energy_joules is None:
        pytest.skip("this device has no counter, or nvidia-ml-py is not installed")
    assert 1 < costs.energy_joules / costs.elapsed < 2000


# --- the result -----------------------------------------------------------------------------------


def test_a_result_says_what_a_comparison_needs(make_run: MakeRun) -> None:
    """Methods that share a data seed share the order; the rate is the plan's peak; memory is at
    least what is in use now.
    """
    found = {}
    for name, method, seed in (("a", "lora", 3), ("b", "dora", 3), ("c", "lora", 4)):
        run = make_run(f"training.data_seed={seed}", f"seed={ord(name)}", method=method, name=name)
        found[name] = execute(run)
    hashes = {name: result["order_sha256"] for name, result in found.items()}
    assert hashes["a"] == hashes["b"] != hashes["c"]
    assert hashes["a"] == StepOrder(6, 2, 3).sha256(1)
    for result in found.values():
        assert result["learning_rate"] == 1e-3
        assert result["mfu"] is None and result["energy_joules"] is None, "a CPU tells neither"
        assert result["peak_host_bytes"] >= result["peak_memory_bytes"] > 10**7
        assert result["train_seconds"] > 0


def test_the_order_s_hash_is_of_rows_seed_and_epochs_alone() -> None:
    base = StepOrder(50, 8, seed=5)
    base.set_epoch(3)
    assert base.sha256(2) == StepOrder(50, 3, seed=5).sha256(2)
    others = [StepOrder(50, 8, 6).sha256(2), StepOrder(51, 8, 5).sha256(2), base.sha256(3)]
    assert len({base.sha256(2), *others}) == 4
    assert base.sha256(10**6) != base.sha256(10**6 + 1)
    assert base.epoch == 3, "asking changes nothing"


# --- pausing at a step ----------------------------------------------------------------------------


def test_a_pause_changes_nothing(make_run: MakeRun) -> None:
    """T6: paused in an epoch and at its end, beside an evaluation and away from one, a run ends bit
    for bit as without; each pause is a checkpoint of just that step.
    """
    settings = ("training.num_epochs=3", "evaluation.every=2", "training.save_every=100")
    method = {"name": "lora", "dropout": 0.1}
    whole = make_run(*settings, method=method, rows=6, validation=2, name="whole")
    run = make_run(*settings, method=method, rows=6, validation=2, name="paused")
    execute(whole)
    for number, step in enumerate((1, 3, 4)):
        told = execute(run, resume=number > 0, until_step=step)
        assert (told["state"], told["planned"], told["step"]) == ("interrupted", True, step)
        assert run.state() == "interrupted" and run.complete_checkpoints()[-1].step == step
        last = run.events()[-1]
        assert (last["event"], last["planned"], last["step"]) == ("interrupted", True, step)
    assert execute(run, resume=True, until_step=9)["state"] == "succeeded", "as many as there are"
    assert adapter_bytes(run) == adapter_bytes(whole)
    assert steps_told(run) == steps_told(whole)
    assert [event["step"] for event in of_kind(run, "checkpoint")] == [1, 3, 4]


def test_a_run_that_is_there_already_is_left_as_it_is(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line, which ends well: a planned pause is no failure."""
    run = make_run("training.num_epochs=2")
    assert main(["run", str(run.path), "--until-step", "2"]) == 0
    assert f"paused at step 2; go on with: tanren train --resume {run.path}" in said(capsys)
    before = run.events()
    for step in ("1", "2"):
        for words in ([], ["--resume"]):
            assert main(["run", str(run.path), "--until-step", step, *words]) == 0
    assert run.events() == before and run.complete_checkpoints()[-1].step == 2
    execute(run, resume=True)
    before = run.events()
    assert main(["run", str(run.path), "--until-step", "5"]) == 0
    assert "this run has succeeded" in said(capsys)
    assert run.events() == before


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return out + err


def test_early_stopping_before_the_pause_is_an_end(make_run: MakeRun) -> None:
    run = make_run(
        "training.num_epochs=9", "evaluation.every=1", "evaluation.early_stopping_patience=1",
        "evaluation.early_stopping_min_delta=1000", validation=2,
    )  # fmt: skip
    result = execute(run, until_step=20)
    assert result["state"] == "succeeded" and result["stopped_early"] and result["steps"] == 2
