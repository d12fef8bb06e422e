"""Where runs can take place side by side: one slot a GPU, or shares of the processor."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tanren.devices import VARIABLE
from tanren.errors import ConfigError, Fault

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader")
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one process. `environment` is laid over this process's own."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["cuda", "cpu", "mps"] = "cpu"


@dataclass(frozen=True, slots=True)
class Gpu:
    """As the driver tells of it. `memory` is its own text, such as `81559 MiB`."""

    index: str
    uuid: str
    name: str
    memory: str


def find_slots(parallel: int | None = None) -> tuple[Slot, ...]:
    """`parallel` slots; None: all GPUs that this process may use, or one on the processor.

    `CUDA_VISIBLE_DEVICES` and `TANREN_DEVICE` decide as they do for a single run. Raises
    ConfigError where there are fewer GPUs than were asked for.
    """
    if parallel is not None and parallel < 1:
        raise ConfigError.of(Fault("parallel", str(parallel), "1 or more", "change it"))
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if wanted == "mps":
        return (Slot("Apple GPU", {}, "mps"),)
    gpus = () if wanted == "cpu" else _gpu_slots(wanted)
    if not gpus:
        return _processor_slots(parallel or 1, wanted)
    if parallel is not None and parallel > len(gpus):
        names = ", ".join(slot.name for slot in gpus)
        remedy = f"ask for {len(gpus)} at most, or for the processor with {VARIABLE}=cpu"
        raise ConfigError.of(
            Fault("parallel", str(parallel), f"one GPU a run; here: {names}", remedy)
        )
    return gpus[:parallel]


# --- GPUs -----------------------------------------------------------------------------------------


def _gpu_slots(wanted: str) -> tuple[Slot, ...]:
    slots = _visible(gpus_of_driver(), os.environ.get(VISIBLE))
    if not wanted.startswith("cuda"):
        return slots
    number = wanted.partition(":")[2]
    if number:  # the process sees its one GPU as the first
        slots = slots[int(number) : int(number) + 1] if number.isdecimal() else ()
    return tuple(Slot(s.name, {**s.environment, VARIABLE: "cuda"}, s.kind) for s in slots)


def gpus_of_driver(command: Sequence[str] = _QUERY) -> tuple[Gpu, ...]:
    """All GPUs of this machine; none where the driver's tool is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if done.returncode != 0:  # it prints its errors where the list would be
        return ()
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return tuple(Gpu(*row) for row in rows if len(row) == 4 and row[1].startswith("GPU-"))


def _visible(gpus: Sequence[Gpu], setting: str | None) -> tuple[Slot, ...]:
    """The GPUs that CUDA would show, one a slot.

    As CUDA reads it: indices, the beginning of a UUID, or MIG parts; what comes after the first
    name that is none is not seen, and an empty text hides all.
    """
    if not gpus:
        return ()
    if setting is None:
        return tuple(_gpu_slot(gpu, gpu.uuid) for gpu in gpus)
    slots: dict[str, Slot] = {}
    for name in (part.strip() for part in setting.split(",")):
        slot = _named(name, gpus)
        if slot is None:
            break
        slots.setdefault(slot.environment[VISIBLE], slot)
    return tuple(slots.values())


def _named(name: str, gpus: Sequence[Gpu]) -> Slot | None:
    if name.startswith("MIG-"):
        return Slot(name, {VISIBLE: name}, "cuda")
    if name.startswith("GPU-"):
        found = [gpu for gpu in gpus if gpu.uuid.startswith(name)]
        return _gpu_slot(found[0], found[0].uuid) if len(found) == 1 else None
    found = [gpu for gpu in gpus if gpu.index == name]
    if not found:
        return None
    # CUDA numbers the fastest first, the driver by place: with different cards the user's number
    # may be another card than the driver's, so it is passed on as it is.
    alike = len({gpu.name for gpu in gpus}) == 1
    by_place = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if alike or by_place:
        return _gpu_slot(found[0], found[0].uuid)
    return Slot(f"GPU {name}", {VISIBLE: name}, "cuda")


def _gpu_slot(gpu: Gpu, uuid: str) -> Slot:
    return Slot(f"GPU {gpu.index} ({gpu.name}, {gpu.memory})", {VISIBLE: uuid}, "cuda")


# --- the processor --------------------------------------------------------------------------------


def _processor_slots(count: int, wanted: str) -> tuple[Slot, ...]:
    """Slots that share the cores evenly; a number of threads that the user set is not exceeded."""
    threads = max(1, cores() // count)
    given = os.environ.get(THREADS, "")
    if given.isdecimal() and int(given) > 0:
        threads = min(threads, int(given))
    environment = {THREADS: str(threads), **({VARIABLE: wanted} if wanted else {})}
    return tuple(Slot(f"CPU {number}/{count}", environment) for number in range(1, count + 1))


def cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: of its affinity and its container's share of time."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    share = _container_cores(root)
    return allowed if share is None else max(1, min(allowed, int(share)))


def _container_cores(root: Path) -> float | None:
    """A container's limit in cores, None: no limit; control groups version 2, then 1."""
    try:
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)
