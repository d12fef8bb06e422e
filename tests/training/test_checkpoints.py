"""A checkpoint is whole or absent, and what is whole is enough to go on (T14, T34)."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from training.rig import ADAPTER, Child, KillAt, adapter_bytes, build_trainer, of_kind, steps_told

from tanren import adapter as adapters
from tanren.errors import RunError, StorageError
from tanren.pipeline import execute
from tanren.rundir import RunDirectory, missing_files
from tanren.sft import Trainer

MakeRun = Callable[..., RunDirectory]
SETTINGS = ("training.num_epochs=2", "training.save_every=3", "training.keep_checkpoints=1")
METHOD = {"name": "lora", "dropout": 0.1}
STEPS = 8
FILES = (
    "COMPLETE.json",
    ADAPTER,
    "adapter_config.json",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "step.json",
)
PROMPTING = (
    "tanren.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)


@pytest.fixture(scope="module")
def unharmed(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """A run of 8 steps that nothing disturbed, with checkpoints after 3, 6 and 8, all kept."""
    folder = tmp_path_factory.mktemp("unharmed")
    rows = tiny.write_rows(folder / "train.jsonl", 8)
    keep = "training.keep_checkpoints=9"
    config = tiny.settings(tiny_model("qwen3"), rows, [*SETTINGS, keep], method=METHOD)
    run = RunDirectory.create(folder / "run", config)
    execute(run)
    return run


def leftovers(run: RunDirectory) -> list[Path]:
    return [path for path in run.path.rglob("*") if ".tmp" in path.name]


# --- kept -----------------------------------------------------------------------------------------


def test_a_checkpoint_holds_exactly_what_resuming_needs(unharmed: RunDirectory) -> None:
    """T34: the first list is what the tests below take away one by one; the second is what talking
    to a checkpoint needs besides.
    """
    for checkpoint in unharmed.complete_checkpoints():
        assert sorted(f.name for f in checkpoint.path.iterdir()) == sorted((*FILES, *PROMPTING))
    assert [checkpoint.step for checkpoint in unharmed.complete_checkpoints()] == [3, 6, STEPS]
    told = [(event["step"], event["path"]) for event in of_kind(unharmed, "checkpoint")]
    assert told == [(step, f"checkpoints/step-{step:08d}") for step in (3, 6, STEPS)]


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_are_kept_and_the_best_beside_them(make_run: MakeRun, keep: int) -> None:
    """T30: of all checkpoints the newest `keep_checkpoints` stay, and best/ beside them."""
    run = make_run(
        "training.save_every=1",
        "training.num_epochs=2",
        "evaluation.every=2",
        f"training.keep_checkpoints={keep}",
        rows=8,
        validation=2,
    )
    build_trainer(run).fit()
    assert [e["step"] for e in of_kind(run, "checkpoint")] == list(range(1, STEPS + 1))
    steps = [checkpoint.step for checkpoint in run.complete_checkpoints()]
    assert steps == list(range(STEPS + 1 - keep, STEPS + 1))
    names = {path.name for path in run.checkpoints.iterdir()}
    assert names == {"best", *(f"step-{step:08d}" for step in steps)}
    assert missing_files(run.checkpoints / "best") == []


# --- killed while saving --------------------------------------------------------------------------

# moment -> how it is hit, the checkpoints that are whole then, whether half-written files are left
MOMENTS = {
    "before the first file": (KillAt("os.mkdir", r"/\.step-00000006"), [3], False),
    "after the weights": (KillAt("open", r"/\.step-00000006.*/trainer_state\.json"), [3], True),
    "before the mark": (KillAt("os.rename", r"/\.step-00000006.*/COMPLETE\.json$"), [3], True),
    "before its name": (KillAt("os.rename", r"/\.step-00000006\.\d+\.tmp$"), [3], True),
    "half of the old removed": (KillAt("os.remove", r"^optimizer\.pt$"), [6], False),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_saving_nothing_is_lost(
    make_run: MakeRun, unharmed: RunDirectory, moment: str
) -> None:
    """T14: SIGKILL at any point of saving step 6 leaves a checkpoint that is whole; from it the run
    ends where the unharmed one did, and what was left half-written is gone.
    """
    kill_at, whole, half_written = MOMENTS[moment]
    run = make_run(*SETTINGS, method=METHOD, rows=8)
    with Child(run, kill_at=kill_at) as child:
        assert child.wait() == -signal.SIGKILL, child.said()
    assert [checkpoint.step for checkpoint in run.complete_checkpoints()] == whole
    assert run.state() == "killed"
    assert bool(leftovers(run)) == half_written

    execute(run, resume=True)
    assert of_kind(run, "started")[-1]["resumed_from"] == whole[0]
    assert adapter_bytes(run) == adapter_bytes(unharmed)
    assert all(len(versions) == 1 for versions in steps_told(run).values())
    assert steps_told(run) == steps_told(unharmed)
    assert leftovers(run) == []
    assert [path.name for path in run.checkpoints.iterdir()] == [f"step-{STEPS:08d}"]


# --- a full disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["optimizer.pt", "trainer_state.json"])
def test_a_full_disk_loses_nothing(make_run: MakeRun, unharmed: RunDirectory, file: str) -> None:
    """T14: when the disk is full (the kernel's own ENOSPC, by /dev/full) within the second
    checkpoint, the error says so in our words, the first checkpoint is whole, nothing half-written
    stays, and the run goes on from there to the same end.
    """
    run = make_run(*SETTINGS, method=METHOD, rows=8)
    full = [False]

    def save(folder: Path) -> None:
        if full[0]:
            (folder / file).symlink_to("/dev/full")
        adapters.save_adapter(trainer.network, folder)
        full[0] = True

    trainer = build_trainer(run, save_weights=save, side_by_side=True)
    with pytest.raises(StorageError, match="full disk") as raised:
        trainer.fit()
    assert "resume" in raised.value.faults[0].remedy
    assert raised.value.exit_code == 1
    assert [checkpoint.step for checkpoint in run.complete_checkpoints()] == [3]
    assert leftovers(run) == []

    again = build_trainer(run, side_by_side=True)
    again.fit(run.complete_checkpoints()[-1].path)
    assert weights(run) == weights(unharmed)


def weights(run: RunDirectory) -> bytes:
    last = run.complete_checkpoints()[-1]
    assert last.step == STEPS
    return (last.path / ADAPTER).read_bytes()


# --- damaged --------------------------------------------------------------------------------------


@pytest.fixture
def over(unharmed: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the unharmed run without its result, to damage."""
    run = RunDirectory(shutil.copytree(unharmed.path, tmp_path / "over"))
    shutil.rmtree(run.adapter)
    run.result_file.unlink()
    return run


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_checkpoint_without_one_of_its_files_is_none(
    over: RunDirectory, file: str, damage: str
) -> None:
    """T34: a file of the newest checkpoint that is gone or cut, whichever it is, is noticed, named,
    and the checkpoint before it is the newest.
    """
    newest = over.complete_checkpoints()[-1].path
    if damage == "gone":
        (newest / file).unlink()
    else:
        (newest / file).write_bytes((newest / file).read_bytes()[:-7])
    assert [checkpoint.step for checkpoint in over.complete_checkpoints()] == [3, 6]
    ((path, problems),) = over.incomplete_checkpoints().items()
    assert path == newest and file in problems[0]


def test_resuming_falls_back_to_the_checkpoint_before_and_says_so(
    over: RunDirectory, unharmed: RunDirectory
) -> None:
    """T34: through the pipeline: the damaged checkpoint is named in a note, the one before is
    resumed, and the end is the same.
    """
    newest = over.complete_checkpoints()[-1].path
    (newest / "optimizer.pt").unlink()
    execute(over, resume=True)
    assert of_kind(over, "started")[-1]["resumed_from"] == 6
    notes = [event["text"] for event in of_kind(over, "note")]
    assert any(newest.name in note and "optimizer.pt" in note for note in notes), notes
    assert adapter_bytes(over) == adapter_bytes(unharmed)
    assert missing_files(newest) == [], "the damaged one was made anew"


def test_without_any_whole_checkpoint_every_fault_is_told(over: RunDirectory) -> None:
    """T34: when none is left the error names each and what to do instead."""
    for checkpoint in over.complete_checkpoints():
        (checkpoint.path / "rng_state.pth").unlink()
    with pytest.raises(RunError) as raised:
        execute(over, resume=True)
    assert [Path(fault.where).name for fault in raised.value.faults] == [
        f"step-{step:08d}" for step in (3, 6, STEPS)
    ]
    assert all("rng_state.pth" in fault.found for fault in raised.value.faults)
    assert all("tanren train" in fault.remedy for fault in raised.value.faults)


def test_starting_anew_over_checkpoints_is_refused(over: RunDirectory) -> None:
    """T6: a fresh start in a folder with checkpoints would be resumed from those of the attempt
    before it.
    """
    before = sorted(over.checkpoints.rglob("*"))
    assert over.state() == "succeeded"
    with pytest.raises(RunError, match="earlier attempt"):
        execute(over)
    assert sorted(over.checkpoints.rglob("*")) == before
    assert over.state() == "succeeded", "a refusal is no failure of the run"


def test_a_checkpoint_is_plain_peft(unharmed: RunDirectory) -> None:
    """The weights of a checkpoint load without this package's code, as the result does."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = unharmed.complete_checkpoints()[-1].path
    base = AutoModelForCausalLM.from_pretrained(unharmed.config().model.name)
    loaded = PeftModel.from_pretrained(base, folder)
    trainer: Trainer = build_trainer(unharmed)
    adapters.load_weights(trainer.network, folder)
    expected = {n: p for n, p in trainer.network.named_parameters() if "lora_" in n}
    found = {n: p for n, p in loaded.named_parameters() if "lora_" in n}
    assert found.keys() == expected.keys() and len(found) > 0
    assert all(bool((found[name] == expected[name]).all()) for name in found)
    assert any(bool(found[name].any()) for name in found if "lora_B" in name)
