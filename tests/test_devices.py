"""Cards by any spelling, and what this machine says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tanren.devices import CARDS, VARIABLE, _container_memory, find_card, known_card, this_device
from tanren.errors import ConfigError


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        *((name, name) for name in CARDS),
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("4070ti", "RTX 4070 Ti"),
        ("4070 ti super", "RTX 4070 Ti Super"),
        ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti 16GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("A100-PCIE-40GB", "A100 40GB"),
        ("a100 80 GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("NVIDIA H100 PCIe", "H100 80GB PCIe"),
        ("NVIDIA H200", "H200"),
        ("l40s", "L40S"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Tesla T4", "T4"),
    ],
)
def test_a_card_is_found_by_how_people_and_drivers_write_it(spelling: str, name: str) -> None:
    assert find_card(spelling).name == name
    assert known_card(spelling) == CARDS[name]


def test_a_card_that_is_not_there_is_never_taken_for_its_neighbour() -> None:
    """A word that makes another product of it is not ignored, on either side."""
    for name in ("RTX 4090 Laptop GPU", "RTX 3070 Ti", "L40", "H100 NVL", "4080 Ti", "Ada", "80GB"):
        assert known_card(name) is None, name


def test_an_unknown_card_names_its_neighbours_and_an_ambiguous_one_its_meanings() -> None:
    with pytest.raises(ConfigError, match="did you mean 'RTX 4090'"):
        find_card("rtx 4099")
    with pytest.raises(ConfigError, match="say which: A100 40GB, A100 80GB"):
        find_card("A100")
    with pytest.raises(ConfigError, match="choose one of RTX 3060"):
        find_card("quantum")


def test_the_table_is_plausible() -> None:
    """Units: GiB, 1e12 FLOP/s, GB/s, watts. A slip of a factor of ten shows as FLOPs per byte or
    per watt.
    """
    for card in CARDS.values():
        assert 8 <= card.memory_gib <= 192
        assert 0.05 <= card.bf16_tflops / card.watts <= 2.5
        assert 30 <= card.peak_flops / (card.bandwidth * 1e9) <= 500
        assert card.memory_bytes == card.memory_gib * 2**30
    h200 = CARDS["H200"]
    assert (h200.peak_flops, h200.reachable_flops) == (989e12, 790e12)
    assert "measured" in h200.note
    assert CARDS["RTX 4090"].reachable_flops == CARDS["RTX 4090"].peak_flops == 165e12
    assert not CARDS["T4"].bf16


def test_the_cpu_is_described_without_torch() -> None:
    code = (
        "import sys\nfrom tanren.devices import this_device\nd = this_device()\n"
        "assert 'torch' not in sys.modules\n"
        "assert d.kind == d.torch_name == 'cpu' and d.name and d.peak_flops is None\n"
        "assert 2**28 < d.memory_free <= d.memory_total < 2**50, d\n"
    )
    environment = {**os.environ, VARIABLE: "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_this_machine_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delenv(VARIABLE, raising=False)
    device = this_device()
    assert torch.device(device.torch_name).type == device.kind
    assert 0 < device.memory_free <= device.memory_total
    assert (device.kind == "cuda") == torch.cuda.is_available()


def test_a_wish_that_cannot_be_met_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for wish in ("cuda:99", "gpu", "cpu:0"):
        monkeypatch.setenv(VARIABLE, wish)
        with pytest.raises(ConfigError, match=VARIABLE):
            this_device()


def test_a_containers_limit_is_read(tmp_path: Path) -> None:
    assert _container_memory(tmp_path) == (None, 0)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("4096\n", encoding="ascii")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("96\n", encoding="ascii")
    assert _container_memory(tmp_path) == (4096, 96)
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("7\n", encoding="ascii")
    assert _container_memory(tmp_path) == (None, 7)
    (tmp_path / "memory.max").write_text("512\n", encoding="ascii")
    assert _container_memory(tmp_path) == (512, 7)
