"""What is asked for and what comes back: the two ends of every export."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from tanren.errors import Fault, StorageError, UserError
from tanren.export.tuned import Onto, Tuned
from tanren.rundir import runs_root

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


def asked_for(request: Request) -> dict[str, str | None]:
    """What of a request shapes its result; it lies in proof.json."""
    return {
        "dtype": request.dtype,
        "onto": request.onto,
        "base_name": request.base_name,
        "system": request.system,
    }


def require_free(folder: Path, request: Request) -> None:
    if folder.exists() and not request.overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError.of(
            Fault(
                str(folder),
                "something there already",
                "a new or empty folder",
                "choose another --out, or add --overwrite",
            )
        )


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
