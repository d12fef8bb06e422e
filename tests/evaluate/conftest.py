from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from evaluate.evaluating import Tuned, tune


@pytest.fixture(scope="session")
def tuned(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A finished run of a few steps on a tiny model, made once. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANREN_HOME", str(folder))
        patch.setenv("TANREN_DEVICE", "cpu")
        return tune(tiny_model(), folder)
