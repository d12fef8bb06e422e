"""Experiment trackers by name: are they installed, and where do they write?"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from tanren.config import TrackingConfig
from tanren.errors import ConfigError, Fault


def require_trackers(tracking: TrackingConfig) -> None:
    """Raise ConfigError naming every tracker that is not installed."""
    faults = [
        Fault(
            "tracking.trackers",
            f"{name!r}, which is not installed",
            "an installed tracker",
            f"pip install {name}, or leave it away",
        )
        for name in tracking.trackers
        if find_spec(name) is None
    ]
    if faults:
        raise ConfigError.of(*faults)


def keep_inside(tracking: TrackingConfig, folder: Path) -> None:
    """Let trackers that write files write them into the run, unless the user has said where."""
    if "tensorboard" in tracking.trackers:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    if "mlflow" in tracking.trackers:
        os.environ.setdefault("MLFLOW_TRACKING_URI", (folder / "mlruns").absolute().as_uri())
        os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", tracking.project)
    if "wandb" in tracking.trackers:
        os.environ.setdefault("WANDB_PROJECT", tracking.project)
        os.environ.setdefault("WANDB_DIR", str(folder))
