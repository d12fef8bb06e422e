"""Resuming is never having stopped (T6), and starting alike is ending alike (T23)."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training.rig import Child, KillAt, adapter_bytes, build_trainer, of_kind, steps_told

from tanren.batches import Row
from tanren.errors import RunError
from tanren.pipeline import execute
from tanren.rundir import RunDirectory, read_json
from tanren.sft import Trainer

MakeRun = Callable[..., RunDirectory]

# 24 rows in steps of 5: five steps an epoch, the last with 4 rows; checkpoints fall into the middle
# of both epochs and on none of their ends.
SETTINGS = (
    "training.batch_size=5",
    "training.num_epochs=2",
    "training.save_every=3",
    "training.warmup_fraction=0.3",
)
STEPS = 10
ROWS = 24
# bitsandbytes keeps the state of tensors below 4096 elements in 32 bits: rank 64 makes it 8.
QUICK = [
    {"name": "lora", "dropout": 0.1},
    {"name": "qlora", "dropout": 0.1, "rank": 64},
    {"name": "dora", "dropout": 0.1},
    {"name": "lora_plus", "dropout": 0.1},
]
THOROUGH = [
    {"name": "pissa", "dropout": 0.1},
    {"name": "olora", "dropout": 0.1},
    {"name": "eva", "dropout": 0.1},
    {"name": "rslora", "dropout": 0.1},
    {"name": "dora", "dropout": 0.1, "lr_ratio": 4},
    {"name": "qlora", "dropout": 0.1, "rank": 64, "dora": True},
    {"name": "full"},
]


def named(method: dict[str, Any]) -> str:
    return "-".join(str(value) for key, value in method.items() if key != "dropout")


@pytest.mark.parametrize(
    "method",
    [*QUICK, *(pytest.param(method, marks=pytest.mark.slow) for method in THOROUGH)],
    ids=named,
)
def test_a_run_killed_in_both_epochs_ends_as_if_never_stopped(
    make_run: MakeRun, method: dict[str, Any]
) -> None:
    """T6: kill -9 at a random moment of epoch 1 and again of epoch 2, real processes, dropout,
    shuffling, rows side by side: the same adapter file, and of every step the same loss, rate,
    gradient norm and tokens, whichever process did it.
    """
    chance = random.Random()
    first, second = chance.uniform(4, 6), chance.uniform(7, STEPS)
    told = f"killed after steps {first:.3f} and {second:.3f}"
    unharmed = make_run(*SETTINGS, method=method, rows=ROWS, name="unharmed")
    killed = make_run(*SETTINGS, method=method, rows=ROWS, name="killed")
    with Child(unharmed) as whole:
        for moment, resume in ((first, False), (second, True)):
            with Child(killed, resume=resume) as child:
                child.wait_for_step(int(moment))
                time.sleep(moment % 1 * 0.03)
                child.signal(signal.SIGKILL)
                assert child.wait() == -signal.SIGKILL, told
            assert killed.state() == "killed"
        with Child(killed, resume=True) as child:
            child.succeed()
        whole.succeed()

    assert adapter_bytes(killed) == adapter_bytes(unharmed), told
    expected = steps_told(unharmed)
    assert steps_told(killed) == expected, told
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert all(len(versions) == 1 for versions in expected.values())
    resumed = [event["resumed_from"] for event in of_kind(killed, "started")]
    assert resumed[0] is None and resumed[1] in (3, 6) and resumed[2] in (6, 9, STEPS), told
    assert all(event["side_by_side"] for event in of_kind(killed, "started"))
    assert_same_state(unharmed, killed)


def assert_same_state(one: RunDirectory, other: RunDirectory) -> None:
    """Optimizer, schedule and random numbers of the last checkpoints agree bit for bit."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        states = []
        for run in (one, other):
            last = run.complete_checkpoints()[-1]
            assert last.step == STEPS
            states.append(list(leaves(torch.load(last.path / name, weights_only=False))))
        assert len(states[0]) == len(states[1]) > 0
        for a, b in zip(*states, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def leaves(value: Any) -> Any:
    if isinstance(value, dict):
        for key in value:
            yield key
            yield from leaves(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif hasattr(value, "tolist") and not isinstance(value, torch.Tensor):
        yield value.tolist()
    else:
        yield value


class Recording(Trainer):
    """Keeps the rows of every step it makes, and the rates they were made with."""

    rows_seen: list[tuple[tuple[int, ...], ...]]
    rates_seen: list[dict[str, float]]

    def training_step(
        self, model: torch.nn.Module, inputs: list[Row], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        self.rows_seen = [
            *getattr(self, "rows_seen", []),
            tuple(tuple(row.ids.tolist()) for row in inputs),
        ]
        assert self.optimizer is not None
        rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        self.rates_seen = [*getattr(self, "rates_seen", []), rates]
        return super().training_step(model, inputs, num_items_in_batch)


@pytest.mark.parametrize("step", [3, 6], ids=["mid-epoch", "epoch 2"])
def test_rows_and_rates_go_on_where_they_were(make_run: MakeRun, step: int) -> None:
    """T6: from a checkpoint on, the rows of each step and the rate of each optimizer group are what
    they are in the run that never stopped; no row is seen twice in an epoch or left out.
    """
    keep = "training.keep_checkpoints=9"
    run = make_run(*SETTINGS, keep, method="lora_plus", rows=ROWS)
    whole = build_trainer(run, kind=Recording)
    whole.fit()
    rest = build_trainer(run, kind=Recording)
    rest.fit(run.checkpoints / f"step-{step:08d}")

    assert rest.rows_seen == whole.rows_seen[step:]
    assert rest.rates_seen == whole.rates_seen[step:]
    for epoch in (whole.rows_seen[:5], whole.rows_seen[5:]):
        seen = [row for rows in epoch for row in rows]
        assert len(seen) == len(set(seen)) == ROWS
    assert whole.rows_seen[:5] != whole.rows_seen[5:], "a new order in each epoch"


# --- a run that is over ---------------------------------------------------------------------------


@pytest.mark.parametrize("length", [("training.num_epochs=1",), ("training.max_steps=4",)])
def test_a_run_killed_after_its_last_step_learns_nothing_more(
    make_run: MakeRun, length: tuple[str, ...]
) -> None:
    """T6: between the last checkpoint and the result a run has no step left to make, whether it
    ended with an epoch or within one.
    """
    run = make_run(*SETTINGS, *length, rows=ROWS)
    result = execute(run)
    before = adapter_bytes(run)
    shutil.rmtree(run.adapter)
    run.result_file.unlink()

    again = execute(run, resume=True)
    assert again["steps"] == result["steps"]
    assert adapter_bytes(run) == before
    assert all(len(versions) == 1 for versions in steps_told(run).values())


# --- changes --------------------------------------------------------------------------------------


@pytest.fixture
def stopped(make_run: MakeRun, tiny_model: Callable[..., Path], tmp_path: Path) -> RunDirectory:
    """A run with a checkpoint at step 3 of 10, as a kill leaves it; model and data its own."""
    model = shutil.copytree(tiny_model("qwen3"), tmp_path / "model")
    run = make_run(*SETTINGS, f"model.name={model}", rows=ROWS, validation=3)
    with Child(run) as child:
        child.wait_for_step(4)
        child.signal(signal.SIGKILL)
        child.wait()
    assert run.complete_checkpoints()
    return run


def change_a_row(run: RunDirectory) -> str:
    path = Path(run.config().data.train)
    path.write_text(path.read_text(encoding="utf-8").replace("Taro", "Hana"), encoding="utf-8")
    return str(path)


def change_validation(run: RunDirectory) -> str:
    path = Path(str(run.config().data.validation))
    path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")
    return str(path)


def change_processes(run: RunDirectory) -> str:
    text = run.environment_file.read_text(encoding="utf-8")
    text = text.replace('"world_size": 1', '"world_size": 2')
    run.environment_file.write_text(text, encoding="utf-8")
    return "processes"


def change_batch_size(run: RunDirectory) -> str:
    text = run.config_file.read_text(encoding="utf-8")
    text = text.replace("batch_size: 5", "batch_size: 4")
    run.config_file.write_text(text, encoding="utf-8")
    return "training.batch_size"


def change_base(run: RunDirectory) -> str:
    from safetensors.torch import load_file, save_file

    file = Path(run.config().model.name) / "model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, file, {"format": "pt"})
    return "model"


@pytest.mark.parametrize(
    "change", [change_a_row, change_validation, change_processes, change_batch_size, change_base]
)
def test_what_changed_since_the_start_is_refused_until_accepted(
    stopped: RunDirectory, change: Callable[[RunDirectory], str]
) -> None:
    """T6: other data, processes, settings or base weights would go on as if nothing were wrong. The
    fault names what changed; told to, the run goes on and notes what was accepted.
    """
    where = change(stopped)
    config, before = stopped.config_file.read_bytes(), len(stopped.events())
    assert stopped.state() == "killed"
    with pytest.raises(RunError) as raised:
        execute(stopped, resume=True)
    assert [where in str(fault) for fault in raised.value.faults] == [True]
    assert "--accept-changes" in raised.value.faults[0].remedy
    told = [event["event"] for event in stopped.events()[before:]]
    assert "step" not in told
    assert stopped.config_file.read_bytes() == config, "refusing must not settle the question"
    assert stopped.state() == "killed", "nor change what became of the run"

    with Child(stopped, resume=True, accept_changes=True) as child:
        child.wait_for_step(1)
    notes = [event["text"] for event in of_kind(stopped, "note")]
    assert any("accepted" in note and where in note for note in notes), notes


def test_unchanged_surroundings_are_no_change(stopped: RunDirectory) -> None:
    """The other half of the law above: nothing is refused without a reason."""
    with Child(stopped, resume=True) as child:
        child.wait_for_step(1)
    notes = [event["text"] for event in of_kind(stopped, "note")]
    assert not any("accepted" in note or "when the run began" in note for note in notes)


def test_a_run_killed_before_its_first_checkpoint_starts_with_the_first_step(
    make_run: MakeRun,
) -> None:
    """T34: there is nothing to go on from; resuming says so and makes every step once."""
    run = make_run(*SETTINGS, rows=ROWS)
    with Child(run, kill_at=KillAt("os.mkdir", r"/\.step-00000003")) as child:
        assert child.wait() == -signal.SIGKILL, child.said()
    assert not run.complete_checkpoints()
    result = execute(run, resume=True)
    assert result["steps"] == STEPS
    assert any("no checkpoint" in event["text"] for event in of_kind(run, "note"))
    assert all(len(versions) == 1 for versions in steps_told(run).values())
    assert of_kind(run, "started")[-1]["resumed_from"] is None


def test_a_run_someone_works_on_is_refused(make_run: MakeRun) -> None:
    """Two processes on one run would write each other's checkpoints over."""
    run = make_run(*SETTINGS, rows=ROWS)
    with Child(run) as child:
        child.wait_for_step(1)
        with pytest.raises(RunError, match="at work"):
            execute(run, resume=True)
        child.succeed()
    assert read_json(run.result_file)["state"] == "succeeded"
