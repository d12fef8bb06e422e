"""Ctrl-C and SIGTERM: a checkpoint, an event, the command that goes on; and then the same end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from training.rig import Child, adapter_bytes, of_kind, steps_told

from tanren.errors import Interrupted
from tanren.pipeline import execute
from tanren.rundir import RunDirectory

MakeRun = Callable[..., RunDirectory]
SETTINGS = ("training.num_epochs=8", "training.save_every=100", "training.batch_size=4")
METHOD = {"name": "lora_plus", "dropout": 0.1}
ROWS = 24
STEPS = 48


@pytest.fixture(scope="module")
def unharmed(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    folder = tmp_path_factory.mktemp("unharmed")
    rows = tiny.write_rows(folder / "train.jsonl", ROWS)
    config = tiny.settings(tiny_model("qwen3"), rows, SETTINGS, method=METHOD)
    run = RunDirectory.create(folder / "run", config)
    execute(run)
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_in_order(
    make_run: MakeRun, unharmed: RunDirectory, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM between two checkpoints saves one at the step that was being made, says how
    to go on, and exits with 130; resuming ends bit for bit where the run without a stop does.
    """
    run = make_run(*SETTINGS, method=METHOD, rows=ROWS)
    with Child(run) as child:
        child.wait_for_step(2)
        child.signal(number)
        assert child.wait() == Interrupted.exit_code == 130
        said = child.said()
    command = f"tanren train --resume {run.path}"
    assert command in said and number.name in said and "Traceback" not in said
    (checkpoint,) = run.complete_checkpoints()
    assert 2 <= checkpoint.step < STEPS
    last = run.events()[-1]
    assert last["event"] == "interrupted" and last["resume"] == command
    assert f"step {checkpoint.step}" in last["message"]
    assert run.state() == "interrupted"
    assert not run.adapter.exists() and not run.result_file.exists()
    assert run.owner() is None

    result = execute(run, resume=True)
    assert result["steps"] == STEPS
    assert adapter_bytes(run) == adapter_bytes(unharmed)
    assert steps_told(run) == steps_told(unharmed)
    assert run.state() == "succeeded"


def test_asked_twice_it_ends_at_once(make_run: MakeRun) -> None:
    """A second Ctrl-C does not wait for the step or for saving; the run says it was interrupted."""
    run = make_run("training.num_epochs=9999", rows=ROWS)
    with Child(run) as child:
        child.wait_for_step(1)
        while child.process.is_alive():
            child.signal(signal.SIGINT)
            child.process.join(0.005)
        assert child.wait() != 0
    assert run.state() in ("interrupted", "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_keeps_the_promise(
    make_run: MakeRun, unharmed: RunDirectory, number: signal.Signals
) -> None:
    """While the model is loading there is nothing to save; the run ends as interrupted all the
    same, and the command that it prints does go on.
    """
    run = make_run(*SETTINGS, method=METHOD, rows=ROWS)
    with Child(run) as child:
        child.wait_for(lambda event: event["event"] == "gate")
        child.signal(number)
        assert child.wait() == 130, child.said()
    last = run.events()[-1]
    assert last["event"] == "interrupted"
    assert last["resume"] == f"tanren train --resume {run.path}"
    execute(run, resume=True)
    assert adapter_bytes(run) == adapter_bytes(unharmed)


def test_a_stop_at_the_last_step_is_a_finished_run(make_run: MakeRun) -> None:
    """Asked to stop when nothing is left to do, the run finishes: no one resumes for nothing."""
    run = make_run("training.max_steps=1", rows=ROWS)
    observed = []

    def stop(event: dict[str, object]) -> None:
        observed.append(event["event"])
        if event["event"] == "stage" and event["name"] == "train":
            return
        if event["event"] == "step":
            signal.raise_signal(signal.SIGTERM)

    result = execute(run, observer=stop)
    assert result["state"] == "succeeded" and result["steps"] == 1
    assert observed.count("step") == 1
    assert of_kind(run, "interrupted") == []


def test_every_event_reaches_the_observer(make_run: MakeRun) -> None:
    """What is written to events.jsonl after the start is what the observer was handed, in order."""
    run = make_run(rows=4, validation=2)
    seen: list[dict[str, object]] = []
    execute(run, observer=seen.append)
    written = [
        {name: value for name, value in event.items() if name != "time"} for event in run.events()
    ]
    kept = [event["event"] for event in seen if event["event"] != "progress"]  # of the moment only
    assert kept == [event["event"] for event in written[1:]]
    assert {"checkpoint", "step", "evaluation", "succeeded"} <= {str(e["event"]) for e in seen}
