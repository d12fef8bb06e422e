"""Nothing leaves the machine: telemetry of every library off, and no look-ups for what is on disk
already (T29).

Call `apply()` before transformers, peft, trl, datasets or a tracker is imported: they read the
environment then.
"""

from __future__ import annotations

import logging
import os
import warnings

_SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRACKIO_DISABLE_TELEMETRY": "1",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TOKENIZERS_PARALLELISM": "true",
}


def apply(*, offline: bool = False) -> None:
    """Switch telemetry and chatter off. `offline`: everything needed is on disk, so forbid the hub
    altogether.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("torch.distributed.elastic.multiprocessing.redirects").setLevel(logging.ERROR)
    # transformers itself reads the name that it calls deprecated
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
