"""Which slots there are: GPUs as CUDA would show them, or even shares of the processor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tanren.errors import ConfigError
from tanren.jobs import cores, find_slots
from tanren.jobs.slots import gpus_of_driver

UUIDS = [f"GPU-{n}{n}{n}-aaaa" for n in range(3)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with three GPUs: its driver's tool prints what the real one prints."""
    tool = tmp_path / "nvidia-smi"
    lines = [f"{n}, {uuid}, NVIDIA H200, 143771 MiB" for n, uuid in enumerate(UUIDS)]
    write(tool, "\n".join(lines))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in ("TANREN_DEVICE", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return tool


def write(tool: Path, text: str, code: int = 0) -> None:
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n", encoding="utf-8")
    tool.chmod(0o755)


def seen(parallel: int | None = None) -> list[str | None]:
    return [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in find_slots(parallel)]


def test_each_gpu_is_a_slot_that_sees_itself_alone(machine: Path) -> None:
    slots = find_slots()
    assert [dict(slot.environment) for slot in slots] == [
        {"CUDA_VISIBLE_DEVICES": uuid} for uuid in UUIDS
    ]
    assert {slot.kind for slot in slots} == {"cuda"}
    assert "H200" in slots[1].name and "143771 MiB" in slots[1].name and "1" in slots[1].name
    assert seen(2) == UUIDS[:2]
    with pytest.raises(ConfigError, match="4"):
        find_slots(4)


@pytest.mark.parametrize(
    "setting, expected",
    [
        ("2,0", [UUIDS[2], UUIDS[0]]),
        ("GPU-111", [UUIDS[1]]),
        (f"{UUIDS[2]}, 1", [UUIDS[2], UUIDS[1]]),
        ("MIG-5,0", ["MIG-5", UUIDS[0]]),
        ("0,-1,1", [UUIDS[0]]),
        ("0,7,1", [UUIDS[0]]),
        ("1,1", [UUIDS[1]]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("GPU-", []),
    ],
)
def test_cuda_visible_devices_decides(
    machine: Path, monkeypatch: pytest.MonkeyPatch, setting: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    if expected:
        assert seen() == expected
    else:
        assert [slot.kind for slot in find_slots()] == ["cpu"]


def test_among_different_cards_an_index_stays_the_user_s(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA counts the fastest first, the driver's tool by place."""
    write(machine, f"0, {UUIDS[0]}, Tesla T4, 15360 MiB\n1, {UUIDS[1]}, NVIDIA H200, 143771 MiB")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert seen() == ["0"]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert seen() == [UUIDS[0]]


def test_the_device_asked_for_decides(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANREN_DEVICE", "cuda:1")
    (slot,) = find_slots()
    assert dict(slot.environment) == {"CUDA_VISIBLE_DEVICES": UUIDS[1], "TANREN_DEVICE": "cuda"}
    monkeypatch.setenv("TANREN_DEVICE", "mps")
    assert [slot.kind for slot in find_slots()] == ["mps"]
    monkeypatch.setenv("TANREN_DEVICE", "cpu")
    slots = find_slots(5)
    assert [slot.environment["TANREN_DEVICE"] for slot in slots] == ["cpu"] * 5


@pytest.mark.parametrize(
    "text, code",
    [("No devices were found", 6), ("Failed", 0), ("", 0), (f"0, {UUIDS[0]}, a, 1 MiB\nlost", 15)],
)
def test_a_driver_that_fails_has_no_gpus(machine: Path, text: str, code: int) -> None:
    write(machine, text, code)
    assert [slot.kind for slot in find_slots()] == ["cpu"]
    assert gpus_of_driver(["/nowhere/nvidia-smi"]) == ()


def test_slots_of_the_processor_share_its_cores(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(machine, "", 9)
    for count in (1, 2, 1000):
        slots = find_slots(count)
        threads = [int(slot.environment["OMP_NUM_THREADS"]) for slot in slots]
        assert threads == [max(1, cores() // count)] * count
        assert "TANREN_DEVICE" not in slots[0].environment
        assert len({slot.name for slot in slots}) == count
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert find_slots(1)[0].environment["OMP_NUM_THREADS"] == "1", "never more than asked for"
    with pytest.raises(ConfigError):
        find_slots(0)


@pytest.mark.parametrize(
    "files, limit",
    [
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_container_s_share_counts(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="ascii")
    everything = len(os.sched_getaffinity(0))
    assert cores(tmp_path) == (everything if limit is None else min(limit, everything))
