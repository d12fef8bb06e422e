"""A run directory: the one place that knows its layout, and its only reader and writer.

    runs/<id>/
      config.yaml        resolved settings: alone they reproduce the run
      environment.json   versions, device, world size, command line
      data.json          hashes, ledger and length statistics of the data
      events.jsonl       everything that happened, one JSON object a line; CLI, API and UI tail it
      process.json       who is working on it now (process id and start time)
      output.log         what a process printed that a comparison or the service started
      checkpoints/       step-00000010/ with a COMPLETE mark, best/
      adapter/           plain PEFT adapter and tokenizer (or model/ for full fine-tuning)
      proof.json         what reloading the adapter from disk showed
      result.json        the outcome

Files appear whole or not at all: they are written beside their place, flushed to disk and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from safetensors import SafetensorError

from tanren.config import RunConfig, read_yaml, validate
from tanren.errors import Fault, RunError, StorageError

State = Literal["created", "running", "succeeded", "failed", "interrupted", "killed"]
COMPLETE = "COMPLETE.json"


def home() -> Path:
    """Root of runs and caches: `$TANREN_HOME`, or the current folder."""
    return Path(os.environ.get("TANREN_HOME", "."))


def runs_root() -> Path:
    return home() / "runs"


def run_folders() -> tuple[Path, Path]:
    """Where runs lie: those begun by hand, and those of the service's jobs."""
    return runs_root(), home() / "service" / "runs"


def run_named(target: Path | str) -> Path | None:
    """The run directory that a path, or a name under one of the folders of runs, means."""
    places = [Path(target), *(folder / str(target) for folder in run_folders())]
    return next((path for path in places if (path / "config.yaml").is_file()), None)


def new_run_path(name: str) -> Path:
    """`runs/20261122-101530-name`, free at the time of asking."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    for suffix in ["", *[f"-{k}" for k in range(2, 1000)]]:
        path = runs_root() / f"{stamp}-{safe}{suffix}"
        if not path.exists():
            return path
    raise StorageError(f"no free run name under {runs_root()}")


@contextlib.contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn a full or read-only disk, or a path that cannot be, into an error that says so (T14)."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        known = None if isinstance(error, StorageError) else _storage_fault(error)
        if known is None:
            raise
        found, expected, remedy = known
        raise StorageError(
            "could not write", [Fault(str(where), found, expected, remedy)]
        ) from error


def _storage_fault(error: Exception) -> tuple[str, str, str] | None:
    """What was found, expected, and the remedy; None for errors that are none of the disk's."""
    if _is_full(error):
        remedy = "free some space and resume; everything saved before is still there"
        return "a full disk", "room to write", remedy
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        number = errno.EFBIG if "os error 27" in str(error) else 0
    if number not in _REFUSED:
        return None
    found, expected, remedy = _REFUSED[number]
    return f"{found} ({error})", expected, remedy


_FORBIDDEN = (
    "a folder that cannot be written",
    "room to write",
    "change its permissions or choose another --out",
)
_A_FILE = ("a file where a folder is needed", "a path of folders", "choose another --out")
_REFUSED = {
    errno.EROFS: _FORBIDDEN,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EFBIG: (
        "a file larger than may be written here",
        "no limit on the size of files",
        "raise the limit (`ulimit -f unlimited`), or choose an --out on another file system",
    ),
    errno.ENAMETOOLONG: ("a name that is too long", "a shorter one", "choose a shorter --out"),
    errno.ENOTDIR: _A_FILE,
    errno.EISDIR: (
        "a folder where a file is needed",
        "a file or nothing",
        "move it away or choose another --out",
    ),
    errno.ELOOP: ("a link that leads to itself", "a folder", "choose another --out"),
    errno.EBUSY: (
        "a folder that is in use, such as a mounted disk",
        "one that can be replaced",
        "choose a folder inside it as --out",
    ),
}


def _is_full(error: Exception) -> bool:
    """Whether a write failed for lack of room. torch and safetensors say so in words only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    words = str(error)
    signs = ("No space left", "os error 28", "os error 122", "PytorchStream", "inline_container.cc")
    return any(sign in words for sign in signs)


def write_text(path: Path, text: str) -> None:
    """Write a whole file atomically: a reader sees the old content or the new, never a part."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        try:
            with open(staged, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    write_text(
        path,
        json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=_plain) + "\n",
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return value.item()  # numpy scalars


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError.of(
            Fault(str(path), "no such file", "a file of the run", "check the run's path")
        ) from None
    except json.JSONDecodeError as error:
        raise RunError.of(
            Fault(
                f"{path}:{error.lineno}", error.msg, "JSON", "restore the file or start a new run"
            )
        ) from None
    except UnicodeDecodeError as error:
        raise RunError.of(
            Fault(str(path), str(error), "UTF-8", "restore the file or start a new run")
        ) from None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    step: int


class RunDirectory:
    """Typed access to one run directory. Creating the object touches nothing on disk."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    # --- layout -----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def data_file(self) -> Path:
        return self.path / "data.json"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def proof_file(self) -> Path:
        return self.path / "proof.json"

    @property
    def evaluation_file(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def process_file(self) -> Path:
        return self.path / "process.json"

    @property
    def output_file(self) -> Path:
        """What a process that was started for the run printed."""
        return self.path / "output.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """Whole weights, of full fine-tuning only."""
        return self.path / "model"

    # --- creation and opening ---------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunDirectory:
        """Make a new run. Raises RunError when the folder already holds something."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            remedy = "choose another --out"
            if (path / "config.yaml").exists():
                remedy += f", or go on with that run: tanren train --resume {path}"
            raise RunError.of(
                Fault(str(path), "something there already", "a new or empty folder", remedy)
            )
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run.write_config(config)
        run.event("created", config_sha256=run.config_sha256())
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """An existing run, by its path or by its name under a folder of runs."""
        found = run_named(path)
        if found is not None:
            return cls(found)
        raise RunError.of(
            Fault(
                str(path),
                "no run (no config.yaml)",
                "a run directory",
                "`tanren runs` lists the runs there are",
            )
        )

    def write_config(self, config: RunConfig) -> None:
        write_text(self.config_file, config.to_yaml())

    def config(self) -> RunConfig:
        return validate(read_yaml(self.config_file), source=str(self.config_file))

    def config_sha256(self) -> str:
        return hashlib.sha256(self.config_file.read_bytes()).hexdigest()

    # --- events -----------------------------------------------------------------------------------

    def event(self, kind: str, /, **fields: Any) -> None:
        """Append one event. A line is one write, so that readers never see half of it."""
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": kind,
            **fields,
        }
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
        with storage_errors(self.events_file), open(self.events_file, "ab+") as file:
            file.write((b"" if _ends_with_newline(file) else b"\n") + line.encode("utf-8"))

    def events(self) -> list[dict[str, Any]]:
        """All events; a torn last line (the machine died while it was written) is left out."""
        if not self.events_file.exists():
            return []
        events = []
        for line in self.events_file.read_bytes().split(b"\n"):
            if line.strip():
                with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
                    events.append(json.loads(line))
        return events

    def last_event(self, *kinds: str) -> dict[str, Any] | None:
        return next(
            (e for e in reversed(self.events()) if not kinds or e.get("event") in kinds), None
        )

    # --- who works on it --------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the run for this process. Raises RunError while another live process holds it; what
        a process that is gone held is taken over.
        """
        with one_at_a_time(self.path):
            owner = self.owner()
            if owner is not None:
                raise RunError.of(
                    Fault(
                        str(self.path),
                        f"process {owner} at work",
                        "a run nobody works on",
                        "wait, or stop that process",
                    )
                )
            name_process(self.process_file, os.getpid())
        try:
            yield
        finally:
            self.process_file.unlink(missing_ok=True)

    def owner(self) -> int | None:
        """Process id of the live process that holds the run, if there is one."""
        return named_process(self.process_file)

    def state(self) -> State:
        """What became of the run, seen from outside (T25): a process that vanished without a word
        was killed.
        """
        events = self.events()
        last: Any = events[-1].get("event") if events else "created"
        if last == "refused":  # a start that was turned away changes nothing
            before = self.last_event("created", "started", "succeeded", "failed", "interrupted")
            last = before["event"] if before else "created"
        if last in ("succeeded", "failed", "interrupted"):
            state: State = last
            return state
        if self.owner() is not None:
            return "running"
        return "created" if last == "created" else "killed"

    def discard_if_unstarted(self) -> bool:
        """Remove a run whose data or settings were refused before anything was done with them."""
        untouched = not self.data_file.exists() and not self.checkpoints.exists()
        if untouched and self.owner() is None:
            shutil.rmtree(self.path, ignore_errors=True)
        return untouched

    # --- checkpoints ------------------------------------------------------------------------------

    def complete_checkpoints(self) -> list[Checkpoint]:
        """Checkpoints whose completion mark and every listed file are there, oldest first (T14,
        T34).
        """
        found = []
        for path in self._step_folders():
            if not missing_files(path):
                found.append(Checkpoint(path, int(path.name.removeprefix("step-"))))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def has_reached(self, step: int) -> bool:
        """Whether this optimizer step is made and kept, or the run has succeeded."""
        kept = any(checkpoint.step >= step for checkpoint in self.complete_checkpoints())
        return kept or self.state() == "succeeded"

    def _step_folders(self) -> list[Path]:
        return sorted(p for p in self.checkpoints.glob("step-*") if p.name[5:].isdecimal())

    def incomplete_checkpoints(self) -> dict[Path, list[str]]:
        """Damaged checkpoint folders, with what is wrong in each."""
        found = {path: missing_files(path) for path in self._step_folders()}
        return {path: problems for path, problems in found.items() if problems}

    def rotate(self, keep: int) -> None:
        """Keep the newest `keep` complete checkpoints; older ones go, half-removed ones too."""
        complete = self.complete_checkpoints()
        oldest_kept = complete[-keep:][0].path.name if complete else ""
        for path in self.checkpoints.glob("step-*"):
            if path.name < oldest_kept:
                shutil.rmtree(path, ignore_errors=True)

    def discard_staging(self) -> None:
        """Remove what a killed process left half-written; put back what it was about to replace."""
        for path in [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:
            final = path.with_name(path.name.removeprefix(".").removesuffix(".old.tmp"))
            if path.name.endswith(".old.tmp") and not final.exists():
                os.rename(path, final)
                continue
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(
                missing_ok=True
            )


def _ends_with_newline(file: BinaryIO) -> bool:
    """Whether a file is empty or ends a line; a machine that died may have left half of one."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def seal(folder: Path, **facts: Any) -> None:
    """Mark a folder complete: list every file with its size, flushed to disk before the mark
    itself.
    """
    files = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != COMPLETE):
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
        files[file.relative_to(folder).as_posix()] = file.stat().st_size
    write_json(folder / COMPLETE, {"files": files, **facts})
    _fsync_folder(folder)


def missing_files(folder: Path) -> list[str]:
    """What keeps a sealed folder from being complete; empty when it is complete."""
    try:
        mark = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        files = dict(mark["files"])
    except FileNotFoundError:
        return [f"{COMPLETE} is missing: the checkpoint was never finished"]
    except (OSError, ValueError, TypeError, KeyError):
        return [f"{COMPLETE} is damaged"]
    problems = []
    for name, size in files.items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{name} has {file.stat().st_size} bytes instead of {size}")
    return problems


@contextlib.contextmanager
def staged_folder(final: Path, **facts: Any) -> Iterator[Path]:
    """Write a folder beside its place; it appears under its name whole and sealed, or not at all
    (T14). A link stays: what it leads to is replaced.
    """
    final = Path(os.path.realpath(final))
    staged = staging_path(final)
    with storage_errors(final):
        if final.exists() and not final.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(final))
        absent = [folder for folder in final.parents if not folder.exists()]
        try:
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            yield staged
            seal(staged, **facts)
            _put_in_place(staged, final)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            for folder in absent:
                with contextlib.suppress(OSError):  # not empty: somebody else uses it by now
                    folder.rmdir()
            raise


def staging_path(final: Path) -> Path:
    """Where this process writes what will lie at `final`."""
    return final.with_name(f".{final.name}.{os.getpid()}.tmp")


def _put_in_place(staged: Path, final: Path) -> None:
    """Rename, with what was there moved aside first and back again where that fails."""
    if final.exists():
        old = final.with_name(f".{final.name}.old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
        try:
            os.rename(staged, final)
        except OSError:
            os.rename(old, final)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(staged, final)
    _fsync_folder(final.parent)


def discard_stale(final: Path) -> int:
    """Remove what killed processes left half-written beside `final`; returns how many folders."""
    final = Path(os.path.realpath(final))
    stale = []
    for path in final.parent.glob(f".{glob.escape(final.name)}.*.tmp"):
        holder = path.name.removesuffix(".tmp").rpartition(".")[2]
        if holder.isdecimal() and _start_time(int(holder)) is None:
            stale.append(path)
            shutil.rmtree(path, ignore_errors=True)
    return len(stale)


def sha256_of(file: Path) -> str:
    """Of a file's bytes, in hex."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def name_process(file: Path, pid: int) -> None:
    """Keep which process works here."""
    write_json(file, {"pid": pid, "started": _start_time(pid)})


def named_process(file: Path) -> int | None:
    """Process id of the process that a file names, if it still lives."""
    try:
        named = json.loads(file.read_text(encoding="utf-8"))
        pid, started = int(named["pid"]), named["started"]
    except (OSError, ValueError, TypeError, KeyError):
        return None  # nobody, or a file that a dying machine damaged
    now = _start_time(pid)
    return pid if now is not None and now == started else None


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Look and then write, with no other process between the two.

    The lock is the system's own, on the folder: it leaves no file, and a process that dies lets go
    of it. Where a file system or a system has none (some network disks, Windows), nothing is held.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield
        return
    with storage_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _start_time(pid: int) -> str | None:
    """When a process began, in clock ticks since boot plus the boot's id; None when there is no
    such process.

    The start time tells a process from a later one that was given the same number.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        if fields[0] == "Z":  # ended, waiting for its parent
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{fields[19]}@{boot}"
    except (FileNotFoundError, ProcessLookupError):
        pass
    except OSError:
        return None
    if Path("/proc").exists():
        return None
    try:  # no /proc (macOS, Windows): only whether it lives
        os.kill(pid, 0)
    except OSError:
        return None
    return "alive"


def list_runs(root: Path | None = None) -> list[RunDirectory]:
    """Runs under `root` (None: under all folders of runs), newest first."""
    folders = run_folders() if root is None else (root,)
    runs = [RunDirectory(p.parent) for folder in folders for p in folder.glob("*/config.yaml")]
    return sorted(runs, key=lambda run: run.config_file.stat().st_mtime, reverse=True)
