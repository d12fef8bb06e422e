"""What a run ran on: versions, device, processes. Recorded, and compared when a run goes on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.distributed as dist

from tanren import __version__
from tanren.errors import Fault

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "tokenizers",
    "numpy",
)


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"tanren": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def describe(where: torch.device, *, world_size: int) -> dict[str, Any]:
    """Plain values for environment.json. What really runs is said, whatever the launcher was told
    (T35).
    """
    cuda = where.type == "cuda"
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "command": sys.argv,
        "device": torch.cuda.get_device_name(where) if cuda else platform.processor() or "cpu",
        "device_type": where.type,
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "sharding": "none"
        if world_size == 1
        else "none: every process holds the whole model (DDP)",
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> tuple[list[Fault], list[str]]:
    """What changed since a run began: faults that change its numbers, and remarks about the
    rest.
    """
    faults, remarks = [], []
    if before["world_size"] != now["world_size"]:
        faults.append(
            Fault(
                "processes",
                f"{now['world_size']}",
                f"{before['world_size']}, as when the run began",
                "start as many processes, or resume with --accept-changes",
            )
        )
    for name, old in before["versions"].items():
        new = now["versions"].get(name)
        if old != new:
            remarks.append(f"{name} was {old} when the run began and is {new} now")
    for name in ("device", "threads"):
        if before[name] != now[name]:
            remarks.append(f"{name} was {before[name]} when the run began and is {now[name]} now")
    return faults, remarks


def join_processes() -> tuple[int, int]:
    """(rank, world size). Under torchrun the processes meet here, before anything is written."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world <= 1:
        return 0, 1
    if not dist.is_initialized():
        on_gpu = torch.cuda.is_available() and os.environ.get("TANREN_DEVICE", "") != "cpu"
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return dist.get_rank(), world


def this_rank() -> int:
    """This process's number; 0 when there is one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def everyone_gets(value: Any) -> Any:
    """Rank 0's value on every process; the value itself when there is one process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def everyone_waits() -> None:
    if dist.is_initialized():
        dist.barrier()
