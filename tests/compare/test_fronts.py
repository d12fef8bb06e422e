from __future__ import annotations

import random

import pytest
from compare.hand_made import DORA, LORA_PLUS, arm, compared

from tanren.compare.fronts import front


def beaten(arm: str, quality: dict[str, float], cost: dict[str, float], way: int) -> bool:
    return any(
        way * quality[other] <= way * quality[arm]
        and cost[other] <= cost[arm]
        and (quality[other], cost[other]) != (quality[arm], cost[arm])
        for other in quality
    )


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_nobody_beats(seed: int, higher: bool) -> None:
    rng = random.Random(seed)
    names = [f"arm {i}" for i in range(rng.randint(1, 12))]
    quality = {name: float(rng.randint(0, 6)) for name in names}  # few values: many ties
    cost = {name: float(rng.randint(1, 6)) for name in names}
    found = front(quality, cost, higher_is_better=higher)
    way = -1 if higher else 1
    assert set(found) == {name for name in names if not beaten(name, quality, cost, way)}
    assert len(found) == len(set(found))
    assert [cost[name] for name in found] == sorted(cost[name] for name in found)


def test_arms_without_a_value_are_in_no_front() -> None:
    assert front({"a": 1.0, "b": 2.0}, {"b": 1.0}, higher_is_better=True) == ("b",)


def test_fronts_of_a_comparison() -> None:
    found = compared(
        arm("lora"),
        arm("plus", LORA_PLUS, by=-0.2, seconds=60.0),
        arm("dora", DORA, by=0.1, seconds=80.0, peak_memory_bytes=900_000),
    )
    fronts = {front.cost: front.arms for front in found.fronts}
    assert fronts["train_seconds"] == ("lora", "plus")
    assert fronts["peak_memory_bytes"] == ("dora", "plus")
    assert fronts["adapter_bytes"] == ("plus",)
    assert {front.quality for front in found.fronts} == {"validation_loss"}
