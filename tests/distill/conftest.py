from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distill.distilling import Carry, write_settings
from distill.teacher import running_teacher
from endpoint.chat_server import ChatServer

from tanren.distill.distillation import Distilled, distill
from tanren.distill.ideas import distill_ideas
from tanren.distill.settings import load_distillation


@pytest.fixture
def teacher() -> Iterator[ChatServer]:
    with running_teacher() as server:
        yield server


@pytest.fixture
def carry_out(tmp_path: Path) -> Carry:
    """`carry_out(settings, seeds=None, allow_python=False, overwrite=False)` into `out`."""

    def carry(values: dict[str, Any], seeds: Path | None = None, **options: Any) -> Distilled:
        path = write_settings(tmp_path / "distill.yaml", {"out": str(tmp_path / "out"), **values})
        config = load_distillation(path)

        def tell(event: str, /, **fields: Any) -> None:
            assert event in ("stage", "progress")

        if seeds is not None:
            return distill_ideas(config, path, seeds, tell=tell, **options)
        return distill(config, path, tell=tell, **options)

    return carry
