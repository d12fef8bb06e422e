"""Only for the tests of training: collecting garbage does not walk through imported libraries."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def libraries_are_no_garbage() -> Iterator[None]:
    """A run collects garbage three times, 0.4 s each for a million objects that importing made."""
    import bitsandbytes  # noqa: F401

    import tanren.pipeline  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()  # else a library complains about leaks when the process ends
