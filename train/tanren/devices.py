"""What there is to train on: this machine's device, and a table of named cards to plan for.

Figures of the table are the vendors' data sheets, rounded: approximate, and peaks that no program
reaches. Nothing here imports torch until the machine itself is asked.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from tanren.errors import ConfigError, Fault

Kind = Literal["cuda", "cpu", "mps"]
VARIABLE = "TANREN_DEVICE"


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator. `bf16_tflops`: dense bfloat16 products with float32 sums, in 1e12 FLOP/s
    (where `bf16` is False, float16 products). `bandwidth`: GB/s. `watts`: the board's limit.
    `measured_bf16_tflops`: the best rate that was seen on this project's own runs, if any, with the
    circumstances in `note`.
    """

    name: str
    memory_gib: int
    bf16_tflops: float
    bandwidth: float
    watts: int
    bf16: bool = True
    measured_bf16_tflops: float | None = None
    note: str = ""

    @property
    def memory_bytes(self) -> int:
        return self.memory_gib * 2**30

    @property
    def peak_flops(self) -> float:
        """The data sheet's dense peak in FLOP/s."""
        return self.bf16_tflops * 1e12

    @property
    def reachable_flops(self) -> float:
        """FLOP/s to plan with: the measured rate where there is one, else the data sheet's peak."""
        return (self.measured_bf16_tflops or self.bf16_tflops) * 1e12


_TABLE = (
    Card("RTX 3060 12GB", 12, 25.5, 360, 170),
    Card("RTX 3080 10GB", 10, 59.5, 760, 320),
    Card("RTX 3090", 24, 71, 936, 350),
    Card("RTX 3090 Ti", 24, 80, 1008, 450),
    Card("RTX 4060 8GB", 8, 30, 272, 115),
    Card("RTX 4060 Ti 16GB", 16, 44, 288, 165),
    Card("RTX 4070", 12, 58, 504, 200),
    Card("RTX 4070 Ti", 12, 80, 504, 285),
    Card("RTX 4070 Ti Super", 16, 88, 672, 285),
    Card("RTX 4080", 16, 97.5, 717, 320),
    Card("RTX 4080 Super", 16, 104, 736, 320),
    Card("RTX 4090", 24, 165, 1008, 450),
    Card("RTX 5070 Ti", 16, 88, 896, 300),
    Card("RTX 5080", 16, 113, 960, 360),
    Card("RTX 5090", 32, 210, 1792, 575),
    Card("RTX A4000", 16, 77, 448, 140),
    Card("RTX A5000", 24, 111, 768, 230),
    Card("RTX A6000", 48, 155, 768, 300),
    Card("RTX 6000 Ada", 48, 364, 960, 300),
    Card("T4", 16, 65, 320, 70, bf16=False, note="float16 only"),
    Card("A10", 24, 125, 600, 150),
    Card("L4", 24, 121, 300, 72),
    Card("L40S", 48, 362, 864, 350),
    Card("A100 40GB", 40, 312, 1555, 400),
    Card("A100 80GB", 80, 312, 2039, 400),
    Card("H100 80GB", 80, 989, 3350, 700),
    Card("H100 80GB PCIe", 80, 756, 2000, 350),
    Card(
        "H200",
        140,
        989,
        4800,
        700,
        measured_bf16_tflops=790,
        note="790 of 989 TFLOP/s measured with random matrices; zeros run faster, data do not",
    ),
    Card("B200", 180, 2250, 8000, 1000),
)

CARDS: dict[str, Card] = {card.name: card for card in _TABLE}

# Words in a driver's device name that do not tell two cards of the table apart.
_SILENT_WORDS = {"nvidia", "geforce", "tesla", "gpu", "sxm", "sxm2", "sxm4", "sxm5", "sxm6"}
_FORM_WORDS = {"hbm2", "hbm2e", "hbm3", "hbm3e", "pcie", "generation", "rtx"}


@dataclass(frozen=True, slots=True)
class Device:
    """What this process can train on. Memory in bytes; `memory_free` is at the time of asking.

    `bf16`: whether it multiplies bfloat16 natively. `peak_flops`: the data sheet's dense bfloat16
    FLOP/s, None where the table does not know the card. `measured_peak_flops`: a rate measured on
    the same card, see `Card.note`.
    """

    kind: Kind
    name: str
    memory_total: int
    memory_free: int
    bf16: bool
    peak_flops: float | None = None
    measured_peak_flops: float | None = None
    watts: int | None = None
    index: int | None = None

    @property
    def torch_name(self) -> str:
        """As `torch.device` reads it: `cuda:0`, `cpu`, `mps`."""
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


def find_card(name: str) -> Card:
    """The card meant by a free spelling: "rtx4090", "4090", "NVIDIA A100-SXM4-80GB".

    Raises ConfigError when none or more than one is meant, with the names that come near. A word
    that makes another card of it ("Ti", "Laptop") is never ignored.
    """
    found = _matches(name)
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(card.name for card in found)
        fault = Fault("card", repr(name), "one card", f"say which: {several}")
    else:
        lowered = {known.lower(): known for known in CARDS}
        near = get_close_matches(" ".join(_words(name)), lowered, n=3, cutoff=0.5)
        remedy = " or ".join(repr(lowered[one]) for one in near)
        choice = "did you mean " + remedy + "?" if near else "choose one of " + ", ".join(CARDS)
        fault = Fault("card", repr(name), f"one of {len(CARDS)} known cards", choice)
    raise ConfigError.of(fault)


def known_card(name: str) -> Card | None:
    """The card of the table that a driver's device name stands for, or None."""
    found = _matches(name)
    return found[0] if len(found) == 1 else None


def this_device() -> Device:
    """The device to train on here: the first CUDA device, else Apple's GPU, else the CPU.

    `TANREN_DEVICE` (`cpu`, `cuda`, `cuda:1`, `mps`) decides otherwise. Raises ConfigError when it
    names what this machine does not have. With `cpu` torch is not imported at all.
    """
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if wanted == "cpu":
        return _cpu()
    if wanted and not re.fullmatch(r"cuda(:\d+)?|mps", wanted):
        raise ConfigError.of(
            Fault(VARIABLE, repr(wanted), "cpu, cuda, cuda:N or mps", "change or unset it")
        )
    import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if wanted.startswith("cuda") or (cuda and not wanted):
        # under torchrun each process has a card of its own
        index = int(wanted.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
        if index >= cuda:
            raise _absent(wanted, f"a machine with {cuda} CUDA device{'s' if cuda != 1 else ''}")
        return _cuda(index)
    if wanted == "mps" and not mps:
        raise _absent(wanted, "a machine without Apple's GPU")
    return _mps() if mps else _cpu()


def _absent(wanted: str, found: str) -> ConfigError:
    fault = Fault(f"{VARIABLE}={wanted}", found, "a device that is there", "unset it or use cpu")
    return ConfigError("the device asked for is not there", [fault])


def _cuda(index: int) -> Device:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    name = torch.cuda.get_device_properties(index).name
    card = known_card(name)
    measured = card.measured_bf16_tflops if card else None
    # Compute capability 8.0 (Ampere) is the first with bfloat16 tensor cores; older cards only
    # emulate it.
    major, _ = torch.cuda.get_device_capability(index)
    return Device(
        kind="cuda",
        name=name,
        memory_total=total,
        memory_free=free,
        bf16=major >= 8,
        peak_flops=card.peak_flops if card else None,
        measured_peak_flops=measured * 1e12 if measured else None,
        watts=card.watts if card else None,
        index=index,
    )


def _mps() -> Device:
    import torch

    total = torch.mps.recommended_max_memory()
    used = torch.mps.driver_allocated_memory()
    return Device("mps", "Apple GPU", total, max(0, total - used), bf16=True)


def _cpu() -> Device:
    total, free = host_memory()
    return Device("cpu", _cpu_name(), total, free, bf16=_cpu_multiplies_bf16())


def host_memory() -> tuple[int, int]:
    """Bytes of memory that this process may use at most, and that are free now: the machine's, or
    its container's where that has less.
    """
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = _container_memory()
    if limit is not None and limit < total:
        total, free = limit, min(free, max(0, limit - used))
    return total, free


def _container_memory(root: Path = Path("/sys/fs/cgroup")) -> tuple[int | None, int]:
    """A container's memory limit (None: no limit) and what it uses, in bytes; control groups
    version 2, then 1.
    """
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = (root / limit_name).read_text(encoding="ascii").strip()
            used = (root / used_name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return (int(limit) if limit.isdigit() else None), int(used)
    return None, 0


def _cpu_name() -> str:
    for line in _cpu_information():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return "CPU"


def _cpu_multiplies_bf16() -> bool:
    """Whether the processor has bfloat16 instructions (AVX-512 BF16 or AMX on x86, bf16 on ARM)."""
    for line in _cpu_information():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(value.split()))
    return False


def _cpu_information(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []  # not Linux


def _words(name: str) -> list[str]:
    """Lower-case words and numbers of a card's name: "RTX4090" and "rtx-4090" both become rtx,
    4090.
    """
    spaced = re.sub(r"(?i)\b(rtx|gtx)(?=[a-z]?\d)", r"\1 ", name.lower())
    spaced = re.sub(r"(\d+)\s*gi?b\b", r"\1gb", spaced)
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=\d)(ti|super)\b", r" \1", spaced))
    return [word for word in words if word not in _SILENT_WORDS]


def _matches(name: str) -> list[Card]:
    """Cards that the name can mean, those that leave fewest words over on either side.

    Every word of the name must belong to the card, save words of form that cards share; of the
    card's own words only "RTX", its form and its memory size may be missing ("4090", "A100").
    """
    asked = set(_words(name))
    scored: list[tuple[int, Card]] = []
    for card in _TABLE:
        own = set(_words(card.name))
        missing = {word for word in own - asked if not re.fullmatch(r"\d+gb", word)}
        model = {word for word in asked & own if not re.fullmatch(r"\d+gb", word)} - _FORM_WORDS
        if model and asked - own <= _FORM_WORDS and missing <= _FORM_WORDS:
            scored.append((len(asked - own) + len(own - asked), card))
    best = min((score for score, _ in scored), default=0)
    return [card for score, card in scored if score == best]
