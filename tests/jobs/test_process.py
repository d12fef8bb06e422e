"""Runs in processes of their own: killed, adopted, stopped, resumed; nothing is lost or left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tanren.jobs import Child, Slot, Stop, command_to_end, run_to_end
from tanren.pipeline import execute
from tanren.rundir import RunDirectory, name_process, read_json

MakeRun = Callable[..., RunDirectory]
ROOT = Path(__file__).resolve().parents[2]
SLOT = Slot("here", {"PYTHONPATH": str(ROOT / "train")})
SETTINGS = ("training.batch_size=4", "training.save_every=5", "training.num_epochs=6")
METHOD = {"name": "lora", "dropout": 0.1}
PATIENCE_SECONDS = 120.0
PARENT = """
    import sys
    from tanren.jobs import Pool, Slot, run_to_end
    from tanren.rundir import RunDirectory
    slots = [Slot(str(n)) for n in range(len(sys.argv) - 1)]
    def task(path):
        return lambda slot, stop: run_to_end(RunDirectory(path), slot, stop=stop)
    with Pool(slots) as pool:
        for end in [pool.submit(task(path)) for path in sys.argv[1:]]:
            found = end.result()
            print(found.state, found.exit_code, found.why, flush=True)
"""


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def at_step(run: RunDirectory, step: int) -> Callable[[], bool]:
    return lambda: any(e["event"] == "step" and e["step"] >= step for e in run.events())


def results(run: RunDirectory) -> tuple[bytes, set[tuple[object, ...]]]:
    """The adapter's bytes and everything told of steps but the time."""
    told = {
        tuple(event[name] for name in ("step", "loss", "learning_rate", "grad_norm", "tokens"))
        for event in run.events()
        if event["event"] == "step"
    }
    return (run.adapter / "adapter_model.safetensors").read_bytes(), told


@pytest.fixture
def parents() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that wait for runs; none is left afterwards, nor what they started."""
    started: list[subprocess.Popen[str]] = []

    def start(*runs: RunDirectory) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT), *(str(run.path) for run in runs)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "train")},
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def make_long_run(make_run: MakeRun) -> Iterator[MakeRun]:
    made: list[RunDirectory] = []

    def make(name: str) -> RunDirectory:
        made.append(
            make_run(*SETTINGS, "training.num_epochs=4000", method=METHOD, rows=24, name=name)
        )
        return made[-1]

    yield make
    for run in made:
        if (owner := run.owner()) is not None:
            os.kill(owner, signal.SIGKILL)


# --- kill -9 --------------------------------------------------------------------------------------


def test_a_run_that_is_left_killed_and_paused_ends_as_if_never_stopped(
    make_run: MakeRun, parents: Callable[..., subprocess.Popen[str]]
) -> None:
    """T6, T25: who waits for a run is killed, and the next one waits for the same process; kill -9
    of that in mid-training; a pause at a step; and the rest in a third process. The end is that of
    a run that was never stopped: weights, losses and all of result.json but times and memory.
    """
    whole = make_run(*SETTINGS, method=METHOD, rows=24, validation=3, name="whole")
    run = make_run(*SETTINGS, method=METHOD, rows=24, validation=3, name="stopped")
    first = parents(run)
    wait_for(at_step(run, 1))
    owner = run.owner()
    first.kill()
    first.wait()
    assert run.owner() == owner, "it works on"
    killer = threading.Thread(target=_kill_at, args=(run, 7))
    killer.start()
    end = run_to_end(run, SLOT)
    killer.join()
    assert (end.state, end.exit_code, end.paused) == ("killed", None, False)
    assert "without a word" in end.why
    assert starts(run) == [None], "begun once"

    assert execute(run, resume=True, until_step=13)["state"] == "interrupted"
    last = run.events()[-1]
    assert last["planned"] is True and last["message"] == "paused at step 13 as asked"
    assert run.complete_checkpoints()[-1].step == 13
    before = len(run.events())
    paused = run_to_end(run, SLOT, until_step=13)
    assert (paused.state, paused.exit_code, paused.why, paused.paused) == (
        "interrupted", None, "", True
    )  # fmt: skip
    assert len(run.events()) == before, "it stands there already"

    assert run_to_end(run, SLOT).succeeded
    assert starts(run) == [None, 5, 13]
    known = run_to_end(run, SLOT)
    assert known.succeeded and known.exit_code is None, "a finished run is not started"
    execute(whole)
    assert results(run) == results(whole)
    assert untimed(run) == untimed(whole)
    assert_time_counts_once(run)


def starts(run: RunDirectory) -> list[int | None]:
    return [event["resumed_from"] for event in run.events() if event["event"] == "started"]


def _kill_at(run: RunDirectory, step: int) -> None:
    wait_for(at_step(run, step))
    owner = run.owner()
    assert owner is not None
    os.kill(owner, signal.SIGKILL)


def untimed(run: RunDirectory) -> dict[str, object]:
    timed = (
        "run", "artefact", "seconds", "train_seconds", "tokens_per_second", "mfu",
        "peak_memory_bytes", "peak_host_bytes",
    )  # fmt: skip
    result = {k: v for k, v in read_json(run.result_file).items() if k not in timed}
    result["evaluations"] = {k: v for k, v in result["evaluations"].items() if k != "seconds"}
    return result


def assert_time_counts_once(run: RunDirectory) -> None:
    """Training time grows over all attempts, from what the checkpoint knew; what a killed process
    did after it does not count.
    """
    seconds: dict[int, float] = {}
    for event in run.events():
        if event["event"] in ("step", "evaluation"):
            seconds[event["step"]] = event["train_seconds"]
    told = [seconds[step] for step in sorted(seconds)]
    assert told == sorted(told) and told[0] > 0
    result = read_json(run.result_file)
    assert told[-1] <= result["train_seconds"] < told[-1] + 1
    assert result["train_seconds"] < result["seconds"]["all"] + told[-1]
    saved = read_json(run.complete_checkpoints()[-1].path / "step.json")
    assert saved["train_seconds"] == pytest.approx(told[-1], abs=0.5)


# --- SIGTERM --------------------------------------------------------------------------------------


def test_sigterm_of_the_parent_leaves_no_process_and_resumable_runs(
    make_long_run: MakeRun, parents: Callable[..., subprocess.Popen[str]]
) -> None:
    """Two slots work at the same time; asked to end, both runs save and no process lives on."""
    runs = [make_long_run("one"), make_long_run("two")]
    parent = parents(*runs)
    for run in runs:
        wait_for(at_step(run, 2))
    owners = [run.owner() for run in runs]
    assert None not in owners and owners[0] != owners[1], "side by side"
    family = psutil.Process(parent.pid).children(recursive=True)
    assert {child.pid for child in family} == set(owners)
    assert all(os.getpgid(child.pid) == child.pid for child in family), "each in its own group"
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(PATIENCE_SECONDS) != 0
    assert not any(child.is_running() for child in family)
    for run in runs:
        assert run.state() == "interrupted" and run.owner() is None
        assert run.complete_checkpoints()[-1].step >= 2


def test_a_stop_before_the_start_starts_nothing(make_run: MakeRun) -> None:
    run = make_run()
    end = run_to_end(run, SLOT, stop=stopped())
    assert (end.state, end.exit_code) == ("created", None) and len(run.events()) == 1


def pretended(tmp_path: Path, code: str) -> Slot:
    """A slot where `python -m tanren` is this code."""
    package = tmp_path / "pretended" / "tanren"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "__main__.py").write_text(code, encoding="utf-8")
    return Slot("x", {"PYTHONPATH": str(package.parent)})


DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(600)"
)


def deaf_child(tmp_path: Path) -> Child:
    """It does not hear SIGTERM, and has a child of its own in its group."""
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}]); {DEAF}"
    child = Child([], tmp_path / "log", pretended(tmp_path, code))
    wait_for(lambda: child.log.read_text(encoding="utf-8").count("deaf") == 2)
    return child


def test_who_does_not_end_is_killed_with_its_whole_group(tmp_path: Path) -> None:
    child = deaf_child(tmp_path)
    group = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    assert len(group) == 2
    assert child.terminate(grace_seconds=0.3) == -signal.SIGKILL
    _, alive = psutil.wait_procs(group, timeout=10)
    assert not alive


@pytest.mark.parametrize("hurry", [False, True])
def test_a_stop_that_is_not_heard_becomes_a_kill(
    make_run: MakeRun, tmp_path: Path, hurry: bool
) -> None:
    """After the grace, or at once when asked twice; the run can be begun later."""
    run, stop = make_run(), Stop()
    timer = threading.Thread(target=_stop_when_deaf, args=(run, stop, hurry))
    timer.start()
    end = run_to_end(run, pretended(tmp_path, DEAF), stop=stop, grace_seconds=600 if hurry else 0.2)
    timer.join()
    assert end.exit_code == -signal.SIGKILL and end.state == "killed"
    assert run.state() == "created" and run.owner() is None


def _stop_when_deaf(run: RunDirectory, stop: Stop, hurry: bool) -> None:
    wait_for(lambda: run.output_file.exists() and b"deaf" in run.output_file.read_bytes())
    stop.set()
    if hurry:
        stop.at_once.set()


# --- why ------------------------------------------------------------------------------------------


def test_why_a_run_failed_is_its_own_words(make_run: MakeRun, tmp_path: Path) -> None:
    """T25: never only `failed`; and a failed run is tried again when it is asked for."""
    run = make_run()
    fault = {"where": "step 3", "found": "a loss of nan", "expected": "numbers", "remedy": "-"}
    run.event("failed", error="training diverged", faults=[fault, fault])
    end = run_to_end(run, pretended(tmp_path, "import sys; print(sys.argv[1:]); sys.exit(1)"))
    assert (end.state, end.exit_code) == ("failed", 1)
    assert end.why == (
        "training diverged: step 3: found a loss of nan, expected numbers (and 1 more)"
    )
    assert f"['run', '{run.path}', '--resume']" in run.output_file.read_text(encoding="utf-8")
    run.event("refused", error="1 fault found", faults=[fault])
    again = run_to_end(run, SLOT, until_step=7, stop=stopped())
    assert again.state == "refused" and "step 3" in again.why


def stopped() -> Stop:
    stop = Stop()
    stop.set()
    return stop


def test_a_pause_is_asked_for_in_the_words_of_the_command_line(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    run_to_end(run, pretended(tmp_path, "import sys; print(sys.argv[1:])"), until_step=7)
    said = run.output_file.read_text(encoding="utf-8")
    assert said == f"['run', '{run.path}', '--until-step', '7']\n"


@pytest.mark.parametrize(
    "code, state, words",
    [
        ("import os; os.kill(os.getpid(), 9)", "killed", ["SIGKILL (signal 9)", "out of memory"]),
        ("import os; os.kill(os.getpid(), 11)", "killed", ["SIGSEGV (signal 11)"]),
        ("import sys; print('said before'); sys.exit('no such module')", "failed",
         ["said before no such module"]),
        ("raise SystemExit(3)", "failed", ["exit code 3"]),
    ],
)  # fmt: skip
def test_why_a_process_ended_that_told_nothing(
    make_run: MakeRun, tmp_path: Path, code: str, state: str, words: list[str]
) -> None:
    """T25: it died before, or without, a word in the run's events."""
    run = make_run()
    run.output_file.write_text("an earlier attempt\n", encoding="utf-8")
    end = run_to_end(run, pretended(tmp_path, code))
    assert end.state == state and all(word in end.why for word in words), end
    assert "earlier" not in end.why
    assert run.output_file.read_text(encoding="utf-8").startswith("an earlier attempt\n")


def test_a_run_killed_in_its_work_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    run.event("started")
    end = run_to_end(run, pretended(tmp_path, "import os; os.kill(os.getpid(), 9)"))
    assert (end.state, end.exit_code) == ("killed", -9) and "SIGKILL" in end.why


def test_why_a_command_failed_is_what_it_printed(tmp_path: Path) -> None:
    end = command_to_end(["runs", "show", "nowhere"], tmp_path / "log", SLOT)
    assert (end.state, end.exit_code) == ("refused", 2) and "nowhere" in end.why
    good = command_to_end(["--version"], tmp_path / "log", SLOT)
    assert (good.state, good.exit_code, good.why) == ("succeeded", 0, "")
    printed = (tmp_path / "log" / "output.log").read_text(encoding="utf-8")
    assert "nowhere" in printed and printed.rstrip().endswith("0.1.0")
    assert not (tmp_path / "log" / "process.json").exists()


def test_a_command_of_a_killed_caller_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.2)"])
    reaper = threading.Thread(target=other.wait)
    reaper.start()
    name_process(log / "process.json", other.pid)
    began = time.monotonic()
    assert command_to_end(["--version"], log, SLOT).succeeded
    assert time.monotonic() - began > 0.8
    reaper.join()
