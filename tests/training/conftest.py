"""Only for the tests of training: collecting garbage does not walk through imported libraries."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def libraries_are_no_garbage() -> None:
    """A run collects garbage three times, 0.4 s each for a million objects that importing made."""
    import bitsandbytes  # noqa: F401

    import tanren.pipeline  # noqa: F401

    gc.collect()
    gc.freeze()
