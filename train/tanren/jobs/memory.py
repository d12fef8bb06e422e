"""Does a job fit into the memory of a slot now? What it needs, what is free, who holds the rest.

The need is that of the smallest plan there is for the run's longest rows (`estimate`), so that a
job is not kept waiting by what it could also use. A base that is not on this disk yet, or whose
architecture has no estimate, is not waited for: its run will say what is wrong.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from tanren.config import RunConfig
from tanren.devices import host_memory
from tanren.errors import ModelError, RunError
from tanren.estimate import MemoryPlan, MethodFacts, Workload, plan_memory, shape_of
from tanren.jobs.base_files import base_config
from tanren.jobs.slots import VISIBLE, Slot
from tanren.jobs.validate import JOB_FILE
from tanren.rundir import RunDirectory, read_json

_PATIENCE_SECONDS = 10.0
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a slot, in bytes, with who holds the most of what is not free (words, bytes)."""

    total: int
    free: int
    holders: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a job fits into a slot now (`fits`) and whether it would into the empty one
    (`ever_fits`). `words` say why not.
    """

    needed: int
    fits: bool
    ever_fits: bool
    words: str


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A job of ours that runs on the same memory and may not have taken all of it yet."""

    job: str
    needed: int
    process: int | None


def verdict(
    run: RunDirectory,
    slot: Slot,
    neighbours: Sequence[Neighbour] = (),
    *,
    memory: Memory | None = None,
) -> Verdict | None:
    """None where it cannot be known. `memory`: of the slot, where it was asked for just now."""
    memory = memory or memory_of(slot, neighbours)
    if memory is None:
        return None
    now = plan_of(run, slot, memory.free)
    if now is None:
        return None
    if now.fits:
        return Verdict(now.total_bytes, True, True, "")
    alone = plan_of(run, slot, memory.total)
    assert alone is not None
    held = ", ".join(f"{_gb(size)} by {who}" for who, size in memory.holders[:_MOST_NAMED])
    words = (
        f"It needs {_gb(now.total_bytes)} of memory; {slot.name} has {_gb(memory.free)} free of "
        f"{_gb(memory.total)}"
    )
    words += f". Held: {held}" if held else ""
    if not alone.fits:
        words = f"{words}. {' '.join(alone.advice)}"
    return Verdict(now.total_bytes, False, alone.fits, words)


def plan_of(run: RunDirectory, slot: Slot, free: int) -> MemoryPlan | None:
    """The best plan for `free` bytes, or the smallest there is where none fits; None: unknown."""
    config = run.config()
    values = base_config(config.model.name, config.model.revision)
    rows, sequences = longest_rows(run), sequences_a_row(run)
    if values is None or not rows:
        return None
    try:
        shape = shape_of(values, source=f"{config.model.name}/config.json")
        facts = MethodFacts.of(config.method, _optimizer(config, slot))
        return plan_memory(shape, facts, _workload(config, slot, values, rows, sequences, free))
    except ModelError:
        return None


def longest_rows(run: RunDirectory) -> list[int]:
    """Tokens of the training file's longest rows, longest first, as they were counted when the file
    was checked; empty where nobody did.
    """
    try:
        return [int(tokens) for tokens in read_json(run.path / JOB_FILE)["longest_rows"]]
    except (RunError, KeyError, TypeError):
        return []


def sequences_a_row(run: RunDirectory) -> int:
    """2 for preferences, each of which is a pair; else 1."""
    return 2 if read_json(run.path / JOB_FILE).get("method") == "dpo" else 1


def _workload(
    config: RunConfig,
    slot: Slot,
    base: Mapping[str, object],
    rows: list[int],
    sequences: int,
    free: int,
) -> Workload:
    training = config.training
    context = int(str(base.get("max_position_embeddings", 2048)))
    longest = context if config.data.max_length == "auto" else min(context, config.data.max_length)
    cut = [min(tokens, longest) for tokens in rows]
    wanted = training.micro_batch_tokens
    packed = training.packing is not False
    return Workload(
        memory_bytes=free,
        longest_row=cut[0],
        batch_tokens=sum(cut[: training.batch_size * sequences]),
        dtype=_dtype(config, slot),
        device=slot.kind,
        checkpointing=training.gradient_checkpointing,
        micro_batch_tokens=None if wanted == "auto" else wanted,
        attention="varlen" if packed else "sdpa",
        packed=packed,
    )


def _dtype(config: RunConfig, slot: Slot) -> Literal["float32", "bfloat16"]:
    if config.model.dtype != "auto":
        return config.model.dtype
    return "bfloat16" if slot.kind == "cuda" else "float32"


def _optimizer(config: RunConfig, slot: Slot) -> Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]:
    if config.training.optimizer != "auto":
        return config.training.optimizer
    if config.method.storage != "nf4":
        return "adamw"
    return "paged_adamw_8bit" if slot.kind == "cuda" else "adamw_8bit"


# --- what there is --------------------------------------------------------------------------------


def memory_of(slot: Slot, neighbours: Sequence[Neighbour] = ()) -> Memory | None:
    """Of this moment. Memory that neighbours were promised and have not taken yet is not free.
    None where nothing tells: MIG parts, Apple's GPU.
    """
    if slot.kind == "cuda":
        return _gpu_memory(slot.environment.get(VISIBLE, ""))
    if slot.kind != "cpu":
        return None
    total, free = host_memory()
    promised, holders = 0, []
    for each in neighbours:
        taken = resident_bytes(each.process)
        promised += max(0, each.needed - taken)
        holders.append((f"job {each.job}", max(taken, each.needed)))
    return Memory(total, max(0, free - promised), tuple(holders))


def resident_bytes(process: int | None) -> int:
    """What a process has of the machine's memory; 0 for none."""
    try:
        return int(psutil.Process(process).memory_info().rss) if process is not None else 0
    except psutil.Error:
        return 0


def _gpu_memory(name: str) -> Memory | None:
    if not name or name.startswith("MIG-"):
        return None
    card = _ask("--query-gpu=memory.total,memory.free", name)
    if not card or not all(cell.isdecimal() for cell in card[0]):
        return None
    total, free = (int(cell) << 20 for cell in card[0])
    return Memory(total, free, _gpu_holders(name))


def _gpu_holders(name: str) -> tuple[tuple[str, int], ...]:
    found = []
    for row in _ask("--query-compute-apps=pid,used_memory", name):
        if len(row) == 2 and all(cell.isdecimal() for cell in row):
            found.append((_process_words(int(row[0])), int(row[1]) << 20))
    return tuple(sorted(found, key=lambda each: -each[1]))


def _process_words(number: int) -> str:
    try:
        return f"process {number} ({psutil.Process(number).name()})"
    except psutil.Error:
        return f"process {number}"


def _ask(query: str, gpu: str) -> list[list[str]]:
    """nvidia-smi's answer as cells; empty where there is none. Numbers of memory are MiB."""
    command = ("nvidia-smi", query, "--format=csv,noheader,nounits", "-i", gpu)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    lines = done.stdout.decode("utf-8", errors="replace").splitlines()
    return [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
