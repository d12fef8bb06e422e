"""`family_model("phi3")`: a tiny model folder of a family; see `gguf_models.FAMILIES`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from export.gguf.gguf_models import build


@pytest.fixture(scope="session")
def family_model(tiny_model: Callable[..., Path]) -> Callable[[str], Path]:
    return partial(build, tiny_model)
