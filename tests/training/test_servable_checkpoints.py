"""A checkpoint can be talked to, and answers as the model that was being trained (T1, T8, T10)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from assembled import PROBE, logits
from safetensors.torch import load_file
from training.rig import build_trainer
from transformers import AutoTokenizer

from tanren import model as models
from tanren.artefact import plain_lora
from tanren.checkpoint import AS_TRAINED
from tanren.encode.encoded import EncodedBuilder
from tanren.errors import StorageError
from tanren.gate import examine
from tanren.generate import Decoding
from tanren.pipeline import execute
from tanren.rundir import RunDirectory, missing_files
from tanren.session import open_session

MakeRun = Callable[..., RunDirectory]
SETTINGS = (
    "training.num_epochs=2",
    "training.save_every=2",
    "training.keep_checkpoints=9",
    "training.learning_rate=1e-2",
)
METHODS = [
    {"name": "lora"},
    {"name": "qlora"},
    {"name": "dora"},
    {"name": "pissa"},
    {"name": "olora"},
    {"name": "full"},
]
QUESTION = [{"role": "user", "content": "空はなぜ青いの？"}]


def named(method: dict[str, Any]) -> str:
    return str(method["name"])


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_a_checkpoint_answers_as_the_trainer_would(make_run: MakeRun, method: Any) -> None:
    """T8: the logits of a session on the last checkpoint, which is of the last step, are those of
    the result, whose proof compares it with the trainer's model; an earlier one has others.
    """
    run = make_run(*SETTINGS, method=method, rows=8, validation=2)
    execute(run)
    checkpoints = run.complete_checkpoints()
    result = open_session(str(run.path))
    expected = logits(result.model)
    last = open_session(str(checkpoints[-1].path))
    assert torch.equal(logits(last.model), expected)
    earlier = logits(open_session(str(checkpoints[0].path)).model)
    assert float((earlier - expected).abs().max()) > 1e-4
    assert last.renderer.prompt_ids(QUESTION) == result.renderer.prompt_ids(QUESTION)
    stops = last.model.generation_config.eos_token_id
    assert stops == result.model.generation_config.eos_token_id
    assert list(last.stream(QUESTION, Decoding(max_new_tokens=4))) is not None
    assert missing_files(run.checkpoints / "best") == []
    best = open_session(str(run.checkpoints / "best"))
    assert bool(logits(best.model, PROBE).isfinite().all())


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_a_base_that_was_changed_is_not_what_a_checkpoint_stands_on(
    make_run: MakeRun, name: str
) -> None:
    """The folder's adapter is the one that PEFT itself makes for the unchanged base, bit for bit;
    what is trained on lies apart and is another one.
    """
    run = make_run(*SETTINGS, method=name, rows=8)
    execute(run)
    last = run.complete_checkpoints()[-1].path
    by_peft = load_file(run.adapter / "adapter_model.safetensors")
    ours = load_file(last / "adapter_model.safetensors")
    assert ours.keys() == by_peft.keys() and len(ours) > 0
    assert all(torch.equal(ours[key], by_peft[key]) for key in ours)
    trained = load_file(last / AS_TRAINED / "adapter_model.safetensors")
    key = next(key for key in ours if "lora_A" in key)
    assert ours[key].shape[0] == 2 * trained[key].shape[0]


def test_ranks_of_single_layers_are_doubled_too(tmp_path: Path) -> None:
    """Layers with a rank of their own keep their scale in the difference."""
    from safetensors.torch import save_file

    from tanren.rundir import read_json, write_json

    for name, value in (("now", 2.0), ("before", 1.0)):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {"x.lora_A.weight": torch.full((3, 4), value), "x.other": torch.ones(2)}
        tensors["x.lora_B.weight"] = torch.full((5, 3), value)
        save_file(tensors, folder / "adapter_model.safetensors")
        settings = {"r": 8, "lora_alpha": 16, "rank_pattern": {"x": 3}, "alpha_pattern": {"x": 6}}
        write_json(folder / "adapter_config.json", settings)
    out = tmp_path / "out"
    out.mkdir()
    plain_lora(tmp_path / "now", tmp_path / "before", out)
    found, settings = (
        load_file(out / "adapter_model.safetensors"),
        read_json(out / "adapter_config.json"),
    )
    product = found["x.lora_B.weight"] @ found["x.lora_A.weight"]
    assert torch.equal(product, torch.full((5, 4), 3 * 4.0 - 3 * 1.0))
    assert (settings["r"], settings["lora_alpha"]) == (16, 32)
    assert settings["rank_pattern"] == {"x": 6} and settings["alpha_pattern"] == {"x": 12}


def test_what_prompts_the_model_lies_on_disk_once(make_run: MakeRun) -> None:
    """Checkpoints hold links to one tokenizer; deleting one of them leaves the others whole."""
    run = make_run(*SETTINGS, rows=8)
    execute(run)
    first, *_, last = run.complete_checkpoints()
    one, other = (c.path / "tokenizer.json" for c in (first, last))
    assert one.stat().st_ino == other.stat().st_ino
    one.unlink()
    assert missing_files(last.path) == []
    ids = AutoTokenizer.from_pretrained(last.path).apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False
    )
    assert list(ids) == open_session(str(run.path)).renderer.prompt_ids(QUESTION)


@pytest.mark.parametrize("name", ["pissa", "full"])
def test_resuming_goes_on_from_what_was_trained(make_run: MakeRun, name: str) -> None:
    """T6: the weights that the last checkpoint puts back into the trainer's model are those of a
    run that never stopped, and the end is the same file.
    """
    whole = make_run(*SETTINGS, method=name, rows=8, name="whole")
    halved = make_run(*SETTINGS, method=name, rows=8, name="halved")
    execute(whole)
    execute(halved, until_step=3)
    execute(halved, resume=True)
    folders = [run.adapter if run.adapter.is_dir() else run.model for run in (whole, halved)]
    one, other = (
        b"".join(f.read_bytes() for f in sorted(folder.glob("*.safetensors"))) for folder in folders
    )
    assert one == other


# --- what steps and results tell ------------------------------------------------------------------


def test_a_step_tells_its_token_accuracy_and_whether_an_evaluation_follows(
    make_run: MakeRun,
) -> None:
    """With a rate of nothing the accuracy of a step is that of the untrained model on its rows,
    counted here from the logits; over an epoch's steps together that of the whole file.
    """
    run = make_run("training.learning_rate=1e-30", "evaluation.every=2", rows=7, validation=2)
    build_trainer(run).fit()
    steps = [event for event in run.events() if event["event"] == "step"]
    assert [event["evaluation_follows"] for event in steps] == [False, True, False, True]
    evaluated = [event["step"] for event in run.events() if event["event"] == "evaluation"]
    assert evaluated == [2, 4], "the last step is evaluated whatever `every` says"

    gate = examine(run.config())
    base = models.load_base(gate.source, gate.config.method, gate.config.model)
    hits, labelled = [], []
    for i in range(len(gate.train)):
        ids, labels = gate.train.row(i)
        with torch.no_grad():
            said = base(torch.tensor([ids.tolist()])).logits[0].argmax(-1)
        wanted = torch.tensor(labels[1:].tolist())
        hits.append(int((said[:-1][wanted != -100] == wanted[wanted != -100]).sum()))
        labelled.append(int((wanted != -100).sum()))
    from tanren.batches import StepOrder

    order = list(StepOrder(7, 2, gate.config.seed))
    expected = [sum(hits[i] for i in s) / sum(labelled[i] for i in s) for s in order]
    assert [event["token_accuracy"] for event in steps] == pytest.approx(expected, abs=1e-12)
    assert sum(hits) > 0


def test_trained_tokens_count_every_row_once_an_epoch(make_run: MakeRun) -> None:
    """The sum of min(length, limit) over the rows, times the epochs made; a row that became two
    sequences, the second holding the first, counts its longest.
    """
    run = make_run("data.max_length=24", "training.num_epochs=2", rows=6)
    result = execute(run)
    gate = examine(run.config())
    whole = examine(make_run(rows=6, name="whole").config())
    expected = 2 * sum(min(int(n), 24) for n in whole.train.lengths)
    assert gate.train_ledger.cut_tokens > 0
    assert result["trained_tokens"] == result["tokens"] == expected
    told = run.last_event("succeeded")
    assert told is not None and told["result"]["trained_tokens"] == expected

    build = EncodedBuilder()
    for line, ids in ((1, [5, 6]), (1, [5, 6, 7, 8]), (2, [1, 2, 3])):
        build.add(ids, [(1, len(ids))], "a.jsonl", line)
    assert build.encoded().row_tokens == 4 + 3


def test_accuracy_is_over_the_steps_of_a_log_line(make_run: MakeRun) -> None:
    one = make_run("training.learning_rate=1e-30", rows=8, name="one")
    two = make_run("training.learning_rate=1e-30", "training.log_every=4", rows=8, name="two")
    build_trainer(one).fit()
    build_trainer(two).fit()
    each = [e["token_accuracy"] for e in one.events() if e["event"] == "step"]
    first, rest = [e["token_accuracy"] for e in two.events() if e["event"] == "step"]
    assert first == each[0]
    assert min(each[1:]) - 1e-12 <= rest <= max(each[1:]) + 1e-12


def test_the_rate_is_multiplied_and_the_gate_says_so(make_run: MakeRun) -> None:
    run = make_run("training.learning_rate_multiplier=2", rows=4)
    gate = examine(run.config())
    assert gate.plan.learning_rate == pytest.approx(2e-3)
    assert gate.plan.learning_rate_multiplier == 2
    assert gate.config.training.learning_rate == gate.plan.learning_rate
    again = examine(gate.config)
    assert again.plan.learning_rate == gate.plan.learning_rate, "a resumed run multiplies no more"
    plain = examine(make_run("training.learning_rate=auto", rows=4, name="plain").config())
    tripled = make_run(
        "training.learning_rate=auto", "training.learning_rate_multiplier=3", rows=4, name="t"
    )
    assert examine(tripled.config()).plan.learning_rate == pytest.approx(
        3 * plain.plan.learning_rate
    )
    execute(run)
    rates = [e["learning_rate"] for e in run.events() if e["event"] == "step"]
    assert max(rates) == pytest.approx(2e-3)


# --- a full disk (T14) ----------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 6 MiB, where the machine lets us mount one."""
    place = Path(tempfile.mkdtemp(prefix="tanren-small-disk-"))
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        place.rmdir()
        pytest.skip("no right to mount a small file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def test_t14_a_disk_that_fills_up_is_the_last_thing_a_run_tells(
    make_config: Any, small_disk: Path
) -> None:
    """The second checkpoint finds no room, and a file of somebody else takes the rest: the last
    event says StorageError all the same, the first checkpoint is whole, and with room again the
    run goes on to its end.
    """
    config = make_config(*SETTINGS, "training.save_every=3", rows=8)
    run = RunDirectory.create(small_disk / "run", config)
    filler = small_disk / "filler"

    def fill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            with open(filler, "wb", buffering=0) as file:
                try:
                    while file.write(b"x" * 4096):
                        pass
                except OSError:
                    return

    heard: list[dict[str, Any]] = []
    with pytest.raises(StorageError):
        execute(run, observer=lambda event: (heard.append(event), fill(event))[0])
    last = run.events()[-1]
    assert (last["event"], last["kind"]) == ("failed", "StorageError")
    assert last["faults"][0]["found"] == "a full disk"
    assert heard[-1]["event"] == "failed" and heard[-1]["kind"] == "StorageError"
    assert [checkpoint.step for checkpoint in run.complete_checkpoints()] == [3]
    assert run.state() == "failed"
    filler.unlink()
    assert execute(run, resume=True)["state"] == "succeeded"
    assert not list(run.path.glob(".room*"))
