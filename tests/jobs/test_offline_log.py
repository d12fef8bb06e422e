"""A job that names Weights & Biases gets a log on this disk, and nothing is sent anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tanren.jobs.attempts import _private
from tanren.jobs.run_settings import Start, run_config
from tanren.jobs.slots import Slot
from tanren.store.settings import Base

NAMED = ({"type": "wandb", "wandb": {"project": "私の計画"}},)


def trackers(**more: Any) -> tuple[tuple[str, ...], str]:
    start = Start(Base(id="tiny", name="data/tiny-chat"))
    tracking = run_config(
        start, train=Path("a"), validation=None, method="supervised", hyperparameters={}, auto={},
        asked={}, seed=1, **more,
    ).tracking  # fmt: skip
    return tracking.trackers, tracking.project


def test_the_log_is_written_where_the_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trackers(integrations=NAMED)[0] == ()
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert trackers(integrations=NAMED) == (("wandb",), "私の計画")
    assert trackers()[0] == ()


def test_a_jobs_process_is_forbidden_to_send() -> None:
    slot = _private(Slot("GPU 0", {"CUDA_VISIBLE_DEVICES": "0", "WANDB_MODE": "online"}, "cuda"))
    assert slot.environment == {"CUDA_VISIBLE_DEVICES": "0", "WANDB_MODE": "offline"}
    assert (slot.name, slot.kind) == ("GPU 0", "cuda")
