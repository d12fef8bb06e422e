"""What can be learned of a base without loading it: its config.json and its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def base_file(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a model folder, or of a hub model that is on this disk already; None: it is not.

    Nothing is downloaded.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() or folder.is_absolute() or name.startswith((".", "~")):
        path = folder / file
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:  # no name of the hub: the run will say so
        return None
    return Path(found) if isinstance(found, str) else None


def base_config(name: str, revision: str | None) -> dict[str, Any] | None:
    """config.json of a model; None where it is not on this disk or cannot be read."""
    path = base_file(name, revision, "config.json")
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
