"""The gate's page says what will train and in which groups (T19, T20)."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from tanren.cli.gate_page import show_gate
from tanren.config import load
from tanren.gate import examine

ROOT = Path(__file__).resolve().parents[2]


def test_layers_without_an_adapter_and_every_group_are_shown() -> None:
    base = {
        "model": {"name": str(ROOT / "data" / "tiny-chat")},
        "data": {"train": str(ROOT / "data" / "taro.jsonl")},
        "method": {"name": "dora", "lr_ratio": 16, "target_modules": ["q_proj", "v_proj"]},
    }
    gate = examine(load(None, base=base))
    page = Console(file=io.StringIO(), width=200, record=True)
    show_gate(page, gate.as_dict())
    lines = page.export_text().splitlines()
    layers = next(line for line in lines if "layers with an adapter" in line)
    assert "q_proj 4/4" in layers and "v_proj 4/4" in layers and "down_proj 0/4" in layers
    for group in gate.groups:
        line = next(line.split() for line in lines if line.split()[:1] == [group["name"]])
        assert float(line[3]) == group["learning_rate"]
    assert {group["name"] for group in gate.groups} == {"A", "B", "magnitude"}
