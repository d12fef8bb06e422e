"""Runs in processes of their own: equal from process to process (T23), silent and offline (T29),
and the same whether one process does them or two (T35)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from training.rig import (
    ADAPTER,
    PYTHONPATH,
    adapter_bytes,
    largest_difference,
    of_kind,
    steps_told,
)

from tanren.pipeline import execute
from tanren.rundir import RunDirectory, read_json

MakeRun = Callable[..., RunDirectory]
HERE = Path(__file__).parent
PATIENCE_SECONDS = 240


def environment(home: Path, **changes: str) -> dict[str, str]:
    """What a user's shell has, and nothing of what the tests set for themselves."""
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ
    }
    ours = {"PYTHONPATH": PYTHONPATH, "TANREN_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    return {**kept, **ours, "HOME": str(home), **changes}


def python(*arguments: str | Path, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


# --- one process ----------------------------------------------------------------------------------


def test_fresh_processes_make_the_same_files(make_run: MakeRun, tmp_path: Path) -> None:
    """T23: the same seed in two processes, with different hash seeds, as the command line starts
    them: every file of the adapter folder is the same, its settings as well as its weights.
    """
    method = {"name": "lora_plus", "dropout": 0.1}
    runs = [make_run(method=method, rows=6, name=name) for name in ("first", "second")]
    children = [
        python(
            "-P", "-m", "tanren", "run", run.path, env=environment(tmp_path, PYTHONHASHSEED=seed)
        )
        for run, seed in zip(runs, ("1", "2"), strict=True)
    ]
    for child in children:
        _, said = child.communicate(timeout=PATIENCE_SECONDS)
        assert child.returncode == 0, said
    first, second = (
        {file.name: file.read_bytes() for file in sorted(run.adapter.iterdir())} for run in runs
    )
    assert first.keys() == second.keys() and ADAPTER in first
    assert [name for name in first if first[name] != second[name]] == []


def test_another_seed_makes_another_adapter(make_run: MakeRun) -> None:
    """T23, the other half: the seed is what decides."""
    runs = [make_run(f"seed={seed}", rows=4, name=f"seed-{seed}") for seed in (7, 8)]
    for run in runs:
        execute(run)
    assert adapter_bytes(runs[0]) != adapter_bytes(runs[1])


def test_a_run_is_silent_and_offline(make_run: MakeRun, tmp_path: Path) -> None:
    """T29 and the recipe of silence: with every warning an error and the network closed, runs of
    the four methods print nothing at all; what there is to say is in their events.
    """
    runs = [
        make_run("evaluation.samples=1", method=method, rows=4, validation=2, name=method)
        for method in ("lora", "qlora", "dora", "lora_plus")
    ]
    child = python(
        *("-W", "error", *ALLOWED_WARNINGS),
        *(HERE / "closed_network.py", *(run.path for run in runs)),
        env=environment(tmp_path),
    )
    out, said = child.communicate(timeout=PATIENCE_SECONDS)
    assert (child.returncode, out, said) == (0, "", "")
    assert all(run.state() == "succeeded" for run in runs)


# Third-party warnings while importing, which nobody here can mend. None is needed now.
ALLOWED_WARNINGS: tuple[str, ...] = ()


# --- two processes --------------------------------------------------------------------------------

# 7 rows in steps of 3: the last step has one row for two processes.
SHARED = (
    "training.batch_size=3",
    "training.num_epochs=2",
    "training.save_every=2",
    "evaluation.metrics=[chrf,tokens]",
    "evaluation.sample_tokens=8",
)
METHODS = ("lora", "qlora", "dora", "lora_plus")


def torchrun(home: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    return python(*launcher, HERE / "several_processes.py", *arguments, env=environment(home))


def test_two_processes_train_what_one_does(make_run: MakeRun, tmp_path: Path) -> None:
    """T35: the four methods under torchrun with gloo, the last step with fewer rows than processes:
    the adapter within 1e-5 of the single process's, the same losses, everything written by the
    first process alone, and recorded what really ran. Answers are spread over the processes, once
    so that one has none, and all of them are measured.
    """

    def run_of(method: str, name: str) -> RunDirectory:
        asked = f"evaluation.metric_rows={1 if method == 'qlora' else 3}"
        return make_run(*SHARED, asked, method=method, name=name, rows=7, validation=3)

    shared = [run_of(m, f"two-{m}") for m in METHODS]
    child = torchrun(tmp_path, *(run.path for run in shared))
    alone = [run_of(m, f"one-{m}") for m in METHODS]
    for run in alone:
        execute(run)
    _, said = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 0, said

    for one, two in zip(alone, shared, strict=True):
        weights = load_file(one.adapter / ADAPTER), load_file(two.adapter / ADAPTER)
        assert largest_difference(*weights) < 1e-5, two.name
        assert any(bool(tensor.any()) for name, tensor in weights[1].items() if "lora_B" in name)
        for kind in ("step", "evaluation"):
            losses = [[event["loss"] for event in of_kind(run, kind)] for run in (one, two)]
            assert losses[1] == pytest.approx(losses[0], abs=1e-5), (two.name, kind)
        for left, right in zip(of_kind(one, "evaluation"), of_kind(two, "evaluation"), strict=True):
            assert right["metric_rows"] == left["metric_rows"] == (1 if "qlora" in two.name else 3)
            assert right["metrics"] == pytest.approx(left["metrics"])
        assert [e["tokens"] for e in of_kind(two, "step")] == [
            e["tokens"] for e in of_kind(one, "step")
        ]
        record = read_json(two.environment_file)
        assert record["world_size"] == 2 and "DDP" in record["sharding"]
        assert read_json(one.environment_file)["world_size"] == 1
        assert read_json(two.result_file)["world_size"] == 2
        assert [event["world_size"] for event in of_kind(two, "started")] == [2]
        names = {file.name for file in two.complete_checkpoints()[-1].path.iterdir()}
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= names


@pytest.mark.parametrize("goes_on", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_stop_together(make_run: MakeRun, tmp_path: Path, goes_on: bool) -> None:
    """T35 with SIGTERM to the group: one checkpoint at one step, and every process ends. Resumed by
    two processes, with dropout, the end is bit for bit that of two processes that never stopped.
    """
    method = {"name": "lora", "dropout": 0.1}
    settings = ("training.batch_size=4", "training.num_epochs=20", "training.save_every=900")
    run = make_run(*settings, rows=24, method=method, name="stopped")
    child = torchrun(tmp_path, run.path)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not of_kind(run, "step") and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode != 0
    assert run.events()[-1]["event"] == "interrupted", said
    (checkpoint,) = run.complete_checkpoints()
    assert 1 <= checkpoint.step < 120
    assert run.owner() is None
    if not goes_on:
        return

    whole = make_run(*settings, rows=24, method=method, name="whole")
    for process in (torchrun(tmp_path, whole.path), torchrun(tmp_path, "--resume", run.path)):
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, said
    assert adapter_bytes(run) == adapter_bytes(whole)
    assert steps_told(run) == steps_told(whole)
