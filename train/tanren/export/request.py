"""What is asked for and what comes back: the two ends of every export."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from tanren.errors import Fault, StorageError, UserError
from tanren.export.merge.adapter_file import WEIGHTS
from tanren.export.tuned import Onto, Tuned
from tanren.model import fingerprint
from tanren.rundir import COMPLETE, runs_root, sha256_of, staging_path, storage_errors

T = TypeVar("T")
Kind = Literal["merged", "adapter", "gguf", "gguf-lora", "ollama", "vllm", "sglang"]


class Teller(Protocol):
    def __call__(self, event: str, /, **fields: Any) -> None: ...


@dataclass(frozen=True)
class Request:
    """`out` None: beside the adapter in the run's folder. `dtype` None: what the base has."""

    to: Kind = "merged"
    out: Path | None = None
    dtype: str | None = None
    onto: Onto = "trained"
    prompts: int = 8
    overwrite: bool = False
    base_name: str | None = None
    """Public name of a base that the run knows as a folder."""
    proof: Literal["answers", "numbers"] = "answers"
    """How a merged model is proven: by what it says, or, too large for that, by its numbers."""
    system: str | None = None
    """Ollama's system message."""


@dataclass(frozen=True, slots=True)
class Step:
    """A line to copy into a shell, and what it does."""

    title: str
    line: str


@dataclass
class Exported:
    """What lies in `folder` now. `commands` use it; `notes` are what a user should know."""

    kind: Kind
    folder: Path
    dtype: str
    bytes: int
    proof: dict[str, Any]
    commands: Sequence[Step] = ()
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "folder": str(self.folder),
            "dtype": self.dtype,
            "bytes": self.bytes,
            "commands": [asdict(step) for step in self.commands],
            "notes": self.notes,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "proof": self.proof,
        }


def default_folder(tuned: Tuned, kind: Kind) -> Path:
    if tuned.run is not None:
        return tuned.run.path / kind.replace("adapter", "adapter-export")
    return runs_root() / "exports" / f"{tuned.folder.resolve().name}-{kind}"


def asked_for(tuned: Tuned, request: Request) -> dict[str, str | None]:
    """What was exported, and what of a request shapes its result; it lies in proof.json."""
    weights = tuned.folder / WEIGHTS
    return {
        "adapter_sha256": sha256_of(weights) if weights.is_file() else None,
        "model_fingerprint": fingerprint(tuned.model_folder),
        "dtype": request.dtype,
        "onto": request.onto,
        "base_name": request.base_name,
        "system": request.system,
    }


def folder_for(tuned: Tuned, request: Request) -> Path:
    """Where the export will lie. Absolute, since `--out .` has no name and may be replaced; a link
    stays, and what it leads to is written. Raises StorageError for a path that cannot be.
    """
    if request.out is None:
        return default_folder(tuned, request.to)
    folder = request.out.absolute()
    with storage_errors(folder):
        if folder.is_symlink() or ".." in folder.parts:
            folder = Path(os.path.realpath(folder))
        _require_possible(folder)
    return folder


def _require_possible(folder: Path) -> None:
    """Raise OSError for a name that is too long, or a file on the way to it."""
    place = _existing(folder)
    names = folder.relative_to(place).parts[:-1]
    for name in [*names, staging_path(folder).name]:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(place / name)


def _existing(folder: Path) -> Path:
    """The innermost folder above that is there."""
    return next(parent for parent in folder.parents if parent.exists())


def require_free(tuned: Tuned, folder: Path, request: Request) -> None:
    """Raise UserError where the export would take the place of something that no export made, and
    StorageError where nothing can be written.
    """
    real = Path(os.path.realpath(folder))
    with storage_errors(folder):
        fault = _source_fault(tuned, real) or _content_fault(real, overwrite=request.overwrite)
        if fault is not None:
            found, expected, remedy = fault
            raise UserError.of(Fault(str(folder), found, expected, remedy))
        existing = _existing(real)
        effective = os.access in os.supports_effective_ids
        if not os.access(existing, os.W_OK | os.X_OK, effective_ids=effective):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))


Problem = tuple[str, str, str]


def _source_fault(tuned: Tuned, folder: Path) -> Problem | None:
    """What the export is made from must outlive it, whatever was asked for."""
    sources = {"adapter" if tuned.adapter else "model": tuned.folder, "base": tuned.model_folder}
    if tuned.run is not None:
        sources = {"run": tuned.run.path, **sources}
    for name, source in sources.items():
        place = Path(os.path.realpath(source))
        if folder == place or folder in place.parents:
            found = f"a folder in which the {name} lies ({place})"
            return found, "a folder that can be replaced", "choose another --out"
    return None


def _content_fault(folder: Path, *, overwrite: bool) -> Problem | None:
    if not folder.exists():
        return None
    if not folder.is_dir():
        return "a file", "a new or empty folder", "choose another --out"
    if os.path.ismount(folder):
        return "a mounted disk", "a folder that can be replaced", "choose a folder inside it"
    if not any(folder.iterdir()):
        return None
    expected = "a new or empty folder"
    if not overwrite:
        remedy = "choose another --out"
        if _strangers(folder) == []:
            remedy += ", or add --overwrite"
        return "something there already", expected, remedy
    strangers = _strangers(folder)
    if strangers is None:
        expected += ", or an earlier export (proof.json and COMPLETE.json)"
        return "something that no export made", expected, "choose another --out, or empty it"
    if strangers:
        found = f"{len(strangers)} files that the earlier export did not write, such as"
        remedy = "move them away, or choose another --out"
        return f"{found} {strangers[0]}", "an earlier export alone", remedy
    return None


def _strangers(folder: Path) -> list[str] | None:
    """Files in an earlier export that it did not write; None where no export made the folder."""
    try:
        made = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))["files"]
        proof = json.loads((folder / "proof.json").read_text(encoding="utf-8"))
        own = {COMPLETE, *made}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    if "proof.json" not in own or not isinstance(proof, dict) or "kind" not in proof:
        return None
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if _is_leaf(path))
    return sorted(set(files) - own)


def _is_leaf(path: Path) -> bool:
    return path.is_symlink() or not path.is_dir()


def require_room(folder: Path, needed: int) -> None:
    """Fail before an hour of work rather than after it."""
    existing = next(p for p in [folder, *folder.resolve().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise StorageError(
            "the export does not fit on this disk",
            [
                Fault(
                    str(folder),
                    f"{free / 1e9:.1f} GB free",
                    f"{needed / 1e9:.1f} GB",
                    "free some space or choose another --out",
                )
            ],
        )


class Clock:
    """Seconds by the name of what was done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        value = work()
        self.seconds[name] = time.perf_counter() - began
        return value


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
