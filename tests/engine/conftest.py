"""`ask(**settings)`: a fresh engine; `tuned("lora", seed=1)`: a tuned tiny model, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def ask() -> Callable[..., Any]:
    from engine.answering import Asking

    from tanren.engine.loop import Engine
    from tanren.engine.wire import EngineSettings

    def make(**settings: Any) -> Asking:
        return Asking(Engine(EngineSettings(**settings)))

    return make


@pytest.fixture(scope="session")
def tuned(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    from engine.answering import make_tuned

    made: dict[tuple[Any, ...], Path] = {}

    def build(method: str = "lora", *, family: str = "qwen3", seed: int = 1, **more: Any) -> Path:
        key = (method, family, seed, *sorted(more.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{method}") / "adapter"
            made[key] = make_tuned(tiny_model(family), folder, method, seed=seed, **more)
        return made[key]

    return build
