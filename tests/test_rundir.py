"""A run directory seen from outside: states, whole files or none, damage found, one owner."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tanren.config import RunConfig, validate
from tanren.errors import RunError, StorageError
from tanren.rundir import (
    COMPLETE,
    RunDirectory,
    discard_stale,
    list_runs,
    missing_files,
    new_run_path,
    read_json,
    seal,
    staged_folder,
    storage_errors,
    write_json,
    write_text,
)

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config() -> RunConfig:
    values = {"model": {"name": "日本"}, "data": {"train": "chat.jsonl"}}
    return validate(values, source="test")


@pytest.fixture
def run(tmp_path: Path, config: RunConfig) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", config)


@pytest.fixture
def python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start real processes that know the package; all are gone afterwards."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "train")},
            stdin=subprocess.PIPE,
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


def said(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- creation -------------------------------------------------------------------------------------


def test_the_directory_alone_brings_back_its_settings(run: RunDirectory, config: RunConfig) -> None:
    assert RunDirectory.open(run.path).config() == config
    assert run.events()[0]["config_sha256"] == run.config_sha256()
    assert "日本" in run.config_file.read_text(encoding="utf-8")


def test_nothing_is_written_over(run: RunDirectory, config: RunConfig, tmp_path: Path) -> None:
    before = run.config_file.read_bytes()
    with pytest.raises(RunError, match="--resume"):
        RunDirectory.create(run.path, config)
    assert run.config_file.read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(RunError, match="something there already"):
        RunDirectory.create(tmp_path / "full", config)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunError):
        RunDirectory.create(tmp_path / "file", config)
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", config)


def test_runs_are_found_by_path_and_by_name(config: RunConfig) -> None:
    path = new_run_path("taro-lora")
    made = RunDirectory.create(path, config)
    assert path.parent == Path(os.environ["TANREN_HOME"]) / "runs"
    assert RunDirectory.open(path.name).path == made.path
    with pytest.raises(RunError, match="no run"):
        RunDirectory.open("elsewhere")


def test_names_of_new_runs_are_safe_and_free(config: RunConfig) -> None:
    path = new_run_path("../../é a/日本 b")
    assert path.parent == Path(os.environ["TANREN_HOME"]) / "runs"
    assert datetime.strptime(path.name[:15], "%Y%m%d-%H%M%S")
    assert "日本" in path.name and "/" not in path.name and " " not in path.name
    assert new_run_path("...").name.endswith("-run")
    first = new_run_path("x")
    RunDirectory.create(first, config)
    RunDirectory.create(new_run_path("x"), config)
    assert len(list_runs()) == 2


def test_the_newest_run_comes_first(config: RunConfig, tmp_path: Path) -> None:
    for i, name in enumerate(("a", "b", "c")):
        made = RunDirectory.create(tmp_path / name, config)
        os.utime(made.config_file, (1000 + i, 1000 + i))
    assert [r.name for r in list_runs(tmp_path)] == ["c", "b", "a"]
    assert list_runs(tmp_path / "nowhere") == []


# --- events ---------------------------------------------------------------------------------------


def test_events_come_back_in_order_with_their_time(run: RunDirectory) -> None:
    run.event("note", text="日本語\nzwei Zeilen", path=Path("a/b"))
    run.event("step", step=1, loss=0.5)
    kinds = [event["event"] for event in run.events()]
    assert kinds == ["created", "note", "step"]
    note = run.events()[1]
    assert (note["text"], note["path"]) == ("日本語\nzwei Zeilen", "a/b")
    assert datetime.fromisoformat(note["time"]).tzinfo is not None
    assert run.last_event()["event"] == "step" and run.last_event("note") == note  # type: ignore[index]
    assert run.last_event("failed") is None
    assert len(run.events_file.read_bytes().splitlines()) == 3


def test_numbers_that_are_not_finite_are_never_written(run: RunDirectory) -> None:
    """NaN is no JSON: browsers and other readers of events.jsonl would fail."""
    with pytest.raises(ValueError, match="JSON"):
        run.event("step", loss=float("nan"))
    assert len(run.events()) == 1


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_torn_last_line_is_left_out_and_the_next_event_is_whole(
    run: RunDirectory, cut: int
) -> None:
    """The machine died while a line was written; the run goes on."""
    run.event("note", text="日本語")
    with open(run.events_file, "rb+") as file:
        file.truncate(run.events_file.stat().st_size - cut)
    assert [e["event"] for e in run.events()] == ["created"] if cut > 1 else ["created", "note"]
    run.event("started")
    assert run.last_event()["event"] == "started"  # type: ignore[index]


def test_readers_beside_a_writer_see_whole_events_in_order(run: RunDirectory) -> None:
    """A reader may catch half of a long line; it is left out until the rest is there."""
    stop = threading.Event()
    seen: list[list[int]] = []

    def read() -> None:
        while not stop.is_set():
            seen.append([event["step"] for event in run.events()[1:]])

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(200):
        run.event("step", step=i, text="x" * 9000)
    stop.set()
    reader.join()
    assert seen and all(steps == list(range(len(steps))) for steps in seen)
    assert len(run.events()) == 201


# --- states (T25) ---------------------------------------------------------------------------------

WORKER = """
    import sys
    from pathlib import Path
    from tanren.rundir import RunDirectory
    run = RunDirectory(Path(sys.argv[1]))
    with run.claim():
        run.event("started")
        print("working", flush=True)
        word = sys.stdin.readline().strip()
        if word in ("succeeded", "failed", "interrupted"):
            run.event(word)
    print("done", flush=True)
    sys.stdin.readline()
"""


def test_t25_a_run_that_nobody_began_is_created(run: RunDirectory) -> None:
    assert run.state() == "created" and run.owner() is None


@pytest.mark.parametrize("ending", ["succeeded", "failed", "interrupted"])
def test_t25_a_live_process_is_running_and_then_what_it_said(
    run: RunDirectory, python: Any, ending: str
) -> None:
    worker = python(WORKER, run.path)
    assert said(worker) == "working"
    assert run.state() == "running" and run.owner() == worker.pid
    worker.stdin.write(ending + "\n")
    worker.stdin.flush()
    assert said(worker) == "done"
    assert run.state() == ending
    assert run.owner() is None, "the process lives on, but it let go of the run"


@pytest.mark.parametrize("reaped", [True, False])
def test_t25_a_process_that_vanished_was_killed(
    run: RunDirectory, python: Any, reaped: bool
) -> None:
    """Also while its parent has not asked for it yet and it is still in the process table."""
    worker = python(WORKER, run.path)
    assert said(worker) == "working"
    os.kill(worker.pid, signal.SIGKILL)
    if reaped:
        worker.wait()
    else:
        _until(lambda: _state_letter(worker.pid) == "Z")
    assert run.state() == "killed" and run.owner() is None
    assert (run.path / "process.json").exists()


@pytest.mark.parametrize("word", ["preparing", "started"])
def test_t25_a_process_killed_before_or_after_it_started_is_not_merely_created(
    run: RunDirectory, python: Any, word: str
) -> None:
    """Reading and encoding data comes before `started` and may take long or much memory."""
    worker = python(
        """
        import sys, time
        from pathlib import Path
        from tanren.rundir import RunDirectory
        run = RunDirectory(Path(sys.argv[1]))
        with run.claim():
            run.event("stage" if sys.argv[2] == "preparing" else "started", name="data", text="")
            print("working", flush=True)
            time.sleep(60)
        """,
        run.path,
        word,
    )
    assert said(worker) == "working"
    assert run.state() == "running"
    worker.kill()
    worker.wait()
    assert run.state() == "killed"


def test_t25_a_resumed_run_is_running_again(run: RunDirectory, python: Any) -> None:
    run.event("started")
    run.event("interrupted")
    assert run.state() == "interrupted"
    worker = python(WORKER, run.path)
    assert said(worker) == "working"
    assert run.state() == "running"


def test_one_process_works_on_a_run(run: RunDirectory, python: Any) -> None:
    worker = python(WORKER, run.path)
    assert said(worker) == "working"
    with pytest.raises(RunError, match=f"process {worker.pid} at work"), run.claim():
        pass
    assert run.owner() == worker.pid, "being refused must not take the run from its owner"
    worker.kill()
    worker.wait()
    with run.claim():
        assert run.owner() == os.getpid()
    assert run.owner() is None and not (run.path / "process.json").exists()


def test_of_processes_that_start_together_one_gets_the_run(run: RunDirectory, python: Any) -> None:
    """Eight of them at the same moment, again and again, on a run that a process that is gone held:
    one works on it, and the others are told of it.
    """
    code = """
        import os, sys, time
        from tanren.errors import RunError
        from tanren.rundir import RunDirectory
        run = RunDirectory(sys.argv[1])
        print("ready", flush=True)
        while line := sys.stdin.readline():
            time.sleep(max(0, float(line) - time.time()))
            try:
                with run.claim():
                    print("mine" if run.owner() == os.getpid() else "lost", flush=True)
                    sys.stdin.readline()
                print("free", flush=True)
            except RunError as error:
                print("refused" if "at work" in str(error) else error, flush=True)
    """
    racers = [python(code, run.path) for _ in range(8)]
    assert {said(racer) for racer in racers} == {"ready"}
    for _ in range(20):
        write_json(run.process_file, {"pid": 2**22 + 1, "started": "long ago"})
        moment = time.time() + 0.02
        for racer in racers:
            tell(racer, str(moment))
        answers = [said(racer) for racer in racers]
        assert sorted(answers) == ["mine", *["refused"] * 7]
        winner = racers[answers.index("mine")]
        assert run.owner() == winner.pid
        tell(winner, "let go")
        assert said(winner) == "free" and not run.process_file.exists()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def test_a_number_given_to_a_later_process_is_not_the_owner(run: RunDirectory, python: Any) -> None:
    """Process ids come round again: the start time tells one process from the next."""
    worker = python(WORKER, run.path)
    assert said(worker) == "working"
    holder = read_json(run.path / "process.json")
    assert holder["pid"] == worker.pid
    for stale in ({"started": "1@another-boot"}, {"started": None}, {"pid": 2**22 + 1}):
        write_json(run.path / "process.json", {**holder, **stale})
        assert run.owner() is None and run.state() == "killed"


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"pid": null, "started": "x"}'])
def test_a_damaged_process_file_is_nobody(run: RunDirectory, text: str) -> None:
    (run.path / "process.json").write_text(text, encoding="utf-8")
    run.event("started")
    assert run.owner() is None and run.state() == "killed"


def _state_letter(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return stat.rpartition(")")[2].split()[0]


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- whole or absent (T14) ------------------------------------------------------------------------


def test_a_staged_folder_appears_whole_and_sealed(tmp_path: Path) -> None:
    final = tmp_path / "step-00000010"
    with staged_folder(final, step=10) as staged:
        (staged / "inner").mkdir()
        (staged / "inner" / "a.bin").write_bytes(b"12345")
        (staged / "b.txt").write_text("日本", encoding="utf-8")
        assert not final.exists()
    mark = read_json(final / COMPLETE)
    assert mark == {"files": {"b.txt": 6, "inner/a.bin": 5}, "step": 10}
    assert missing_files(final) == []
    assert [p.name for p in tmp_path.iterdir()] == [final.name]


def test_a_staged_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "best"
    for text in ("one", "two"):
        with staged_folder(final) as staged:
            (staged / f"{text}.txt").write_text(text, encoding="utf-8")
    assert sorted(p.name for p in final.iterdir()) == [COMPLETE, "two.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for text in ("one", "two"):
        with staged_folder(tmp_path / "link") as staged:
            (staged / f"{text}.txt").write_text(text, encoding="utf-8")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "two.txt").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with (
        pytest.raises(StorageError, match="a file where a folder"),
        staged_folder(tmp_path / "file"),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_found_under_any_name(tmp_path: Path, python: Any) -> None:
    gone = python("")
    gone.wait()
    (tmp_path / f".[a].{gone.pid}.tmp").mkdir()
    (tmp_path / f".a.{gone.pid}.tmp").mkdir()
    assert discard_stale(tmp_path / "[a]") == 1
    assert [p.name for p in tmp_path.iterdir()] == [f".a.{gone.pid}.tmp"]


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_what_goes_wrong_inside_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    final = tmp_path / "best"
    with staged_folder(final) as staged:
        (staged / "old.txt").write_text("old", encoding="utf-8")
    with pytest.raises(type(error)), staged_folder(final) as staged:
        (staged / "new.txt").write_text("new", encoding="utf-8")
        raise error
    assert sorted(p.name for p in final.iterdir()) == [COMPLETE, "old.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


SAVER = """
    import sys
    from pathlib import Path
    from tanren.rundir import staged_folder
    with staged_folder(Path(sys.argv[1])) as staged:
        for i in range(5):
            (staged / f"{i}.bin").write_bytes(bytes(1000))
        if sys.argv[2] == "inside":
            print("half", flush=True)
            sys.stdin.readline()
    print("whole", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("before", [True, False])
def test_t14_kill_9_in_the_middle_of_saving_leaves_nothing_half(
    run: RunDirectory, python: Any, before: bool
) -> None:
    if before:
        _checkpoint(run, 10)
    saver = python(SAVER, run.checkpoints / "step-00000020", "inside")
    assert said(saver) == "half"
    saver.kill()
    saver.wait()
    assert not (run.checkpoints / "step-00000020").exists()
    assert [c.step for c in run.complete_checkpoints()] == ([10] if before else [])
    assert run.incomplete_checkpoints() == {}
    assert len(list(run.checkpoints.glob(".*"))) == 1, "what was half-written lies aside"
    run.discard_staging()
    assert list(run.checkpoints.glob(".*")) == []
    assert [c.step for c in run.complete_checkpoints()] == ([10] if before else [])


def test_t14_kill_9_while_the_best_is_replaced_never_loses_both(
    tmp_path: Path, python: Any
) -> None:
    """Stopped at every system call in turn: afterwards there is the old folder or the new one."""
    folder = tmp_path / "best"
    seen = set()
    for stop_at in range(1, 40):
        shutil.rmtree(tmp_path / "best", ignore_errors=True)
        with staged_folder(folder) as staged:
            (staged / "which.txt").write_text("old", encoding="utf-8")
        if not _replaced_but_killed_at(python, folder, stop_at):
            break
        found = _found_after_a_kill(folder)
        seen.add(found)
        assert found in ("old", "new"), f"nothing left after a kill at call {stop_at}"
    assert seen == {"old", "new"}


def _replaced_but_killed_at(python: Any, folder: Path, call: int) -> bool:
    """Replace the folder in a process that dies at its n-th rename, rmdir, unlink, or fsync.

    Whether it died. An audit hook sees the calls before they are made; fsync has no audit event,
    but it changes no name.
    """
    process = python(
        """
        import os, signal, sys
        from pathlib import Path
        from tanren.rundir import staged_folder
        left = int(sys.argv[2])
        CALLS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
        def hook(event, arguments):
            global left
            if armed and event in CALLS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        armed = False
        sys.addaudithook(hook)
        with staged_folder(Path(sys.argv[1])) as staged:
            (staged / "which.txt").write_text("new", encoding="utf-8")
            armed = True
        armed = False
        """,
        folder,
        call,
    )
    process.communicate()
    return bool(process.returncode == -signal.SIGKILL)


def _found_after_a_kill(folder: Path) -> str | None:
    """What a run that goes on would find: the folder, after leftovers were cleared away."""
    RunDirectory(folder.parent).discard_staging()
    if not folder.exists() or missing_files(folder):
        return None
    return (folder / "which.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "日本" * 1000])
def test_a_file_is_replaced_whole(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")
    write_text(path, text)
    assert path.read_bytes() == text.encode()
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"path": Path("a"), "names": ("b",), "kinds": {"c"}})
    assert read_json(path) == {"path": "a", "names": ["b"], "kinds": ["c"]}
    before = path.read_bytes()
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            write_json(path, bad)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_reading_what_is_not_there_or_damaged_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{\n"a": 1,,\n}', encoding="utf-8")
    with pytest.raises(RunError, match=r"x\.json:2"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes("日本".encode("cp932"))
    with pytest.raises(RunError):
        read_json(tmp_path / "x.json")


# --- a full disk (T14) ----------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 256 KiB, where the machine lets us mount one.

    Not inside pytest's folders: a test run that is killed must not leave there what cannot be
    removed.
    """
    place = Path(tempfile.mkdtemp(prefix="tanren-small-disk-"))
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        place.rmdir()
        pytest.skip("no right to mount a small file system")
    try:
        yield place
    finally:  # lazily: a library whose write failed may still hold its file
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def test_t14_a_full_disk_is_named_and_costs_nothing(small_disk: Path, config: RunConfig) -> None:
    run = RunDirectory.create(small_disk / "run", config)
    _checkpoint(run, 10)
    before = _contents(run.path)
    with (
        pytest.raises(StorageError) as caught,
        staged_folder(run.checkpoints / "step-00000020") as staged,
    ):
        (staged / "weights.bin").write_bytes(bytes(400_000))
    fault = caught.value.faults[0]
    assert fault.found == "a full disk" and "still there" in fault.remedy
    assert fault.where == str(run.checkpoints / "step-00000020")
    assert caught.value.exit_code == 1 and isinstance(caught.value, OSError)
    assert "a full disk" in str(caught.value)
    assert _contents(run.path) == before
    assert [c.step for c in run.complete_checkpoints()] == [10]
    _checkpoint(run, 30)
    assert [c.step for c in run.complete_checkpoints()] == [10, 30]


def test_t14_a_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    path = small_disk / "result.json"
    write_text(path, "old")
    with pytest.raises(StorageError, match="a full disk"):
        write_text(path, "x" * 400_000)
    assert path.read_text(encoding="utf-8") == "old" and len(list(small_disk.iterdir())) == 1


def test_t14_an_event_that_does_not_fit_leaves_whole_lines(
    small_disk: Path, config: RunConfig
) -> None:
    """Half a line at the end would swallow the next event."""
    run = RunDirectory.create(small_disk / "run", config)
    with pytest.raises(StorageError):
        for i in range(1000):
            run.event("note", number=i, text="x" * 5000)
    written = len(run.events())
    filler = small_disk / "filler"
    assert written > 5 and not filler.exists()
    run.config_file.unlink()  # room again
    run.event("failed")
    assert run.last_event()["event"] == "failed"  # type: ignore[index]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_by_any_name(tmp_path: Path, number: int) -> None:
    with pytest.raises(StorageError, match="a full disk"), storage_errors(tmp_path):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_place_that_cannot_be_written(tmp_path: Path, number: int) -> None:
    with pytest.raises(StorageError, match="cannot be written"), storage_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_other_errors_of_the_system_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path):
        (tmp_path / "none").read_text(encoding="utf-8")


def test_t14_full_disks_inside_libraries_are_named_too(small_disk: Path) -> None:
    """safetensors and torch report a full disk in errors of their own."""
    import torch
    from safetensors.torch import save_file

    tensor = torch.ones(200_000)
    for save in (
        lambda folder: save_file({"x": tensor}, folder / "x.safetensors"),
        lambda folder: torch.save(tensor, folder / "x.pt"),
    ):
        with pytest.raises(StorageError, match="a full disk"), staged_folder(small_disk / "a") as s:
            save(s)
        assert list(small_disk.iterdir()) == []


# --- damage found (T34) ---------------------------------------------------------------------------

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth",
         "trainer_state.json", "step.json", COMPLETE)  # fmt: skip


def _checkpoint(run: RunDirectory, step: int) -> Path:
    folder = run.checkpoints / f"step-{step:08d}"
    with staged_folder(folder, step=step) as staged:
        for name in FILES[:-1]:
            (staged / name).write_bytes(name.encode() * 3)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["deleted", "cut short", "grown", "a folder"])
def test_t34_each_damaged_file_of_a_checkpoint_is_found(
    run: RunDirectory, name: str, damage: str
) -> None:
    _checkpoint(run, 10)
    folder = _checkpoint(run, 20)
    file = folder / name
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:-2])
    elif damage == "grown":
        file.write_bytes(file.read_bytes() + b"x")
    else:
        file.unlink()
        if damage == "a folder":
            file.mkdir()
    assert [c.step for c in run.complete_checkpoints()] == [10]
    ((path, problems),) = run.incomplete_checkpoints().items()
    assert path == folder and len(problems) == 1
    assert problems[0].startswith(name)


@pytest.mark.parametrize(
    "text", ["", "{}", "null", "[]", '{"files": null}', '{"files": {"a": "x"}}']
)
def test_t34_a_mark_that_says_nothing_is_no_mark(run: RunDirectory, text: str) -> None:
    folder = _checkpoint(run, 10)
    (folder / COMPLETE).write_text(text, encoding="utf-8")
    assert run.complete_checkpoints() == []
    assert len(run.incomplete_checkpoints()) == 1


def test_checkpoints_come_oldest_first_and_strangers_are_left_alone(run: RunDirectory) -> None:
    for step in (30, 4, 100_000_000, 20):
        _checkpoint(run, step)
    (run.checkpoints / "best").mkdir()
    (run.checkpoints / "step-final").mkdir()
    (run.checkpoints / "notes.txt").write_text("mine", encoding="utf-8")
    assert [c.step for c in run.complete_checkpoints()] == [4, 20, 30, 100_000_000]


def test_discarding_takes_only_what_a_killed_process_left(run: RunDirectory) -> None:
    keep = _checkpoint(run, 10)
    (run.path / ".result.json.123.tmp").write_text("half", encoding="utf-8")
    (run.checkpoints / ".step-00000020.123.tmp").mkdir()
    (run.path / ".hidden").write_text("mine", encoding="utf-8")
    run.discard_staging()
    assert keep.exists() and (run.path / ".hidden").exists()
    assert not list(run.path.rglob(".*.tmp"))


def test_sealing_twice_lists_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a", encoding="utf-8")
    seal(tmp_path, step=1)
    first = (tmp_path / COMPLETE).read_text(encoding="utf-8")
    seal(tmp_path, step=1)
    assert (tmp_path / COMPLETE).read_text(encoding="utf-8") == first
    assert COMPLETE not in json.loads(first)["files"]


def test_runs_of_the_service_are_found_by_name_and_listed(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANREN_HOME", str(tmp_path))
    by_hand = RunDirectory.create(tmp_path / "runs" / "mine", config)
    job = RunDirectory.create(tmp_path / "service" / "runs" / "ftjob-1", config)
    assert {run.name for run in list_runs()} == {"mine", "ftjob-1"}
    assert {run.name for run in list_runs(tmp_path / "runs")} == {"mine"}
    assert RunDirectory.open("ftjob-1").path == job.path
    assert RunDirectory.open("mine").path == by_hand.path
    with pytest.raises(RunError):
        RunDirectory.open("ftjob-2")
