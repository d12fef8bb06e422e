"""What the model before training says of every answer: computed once, kept with the run.

A resumed run takes them from its folder: when every weight is trained, there is no other place. The
file is bound to the data, the base and all else that decides on them by a key.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tanren.adapter import adapter_switched_off
from tanren.encode import Encoded
from tanren.environment import everyone_waits
from tanren.rundir import sha256_of, storage_errors

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tanren.config import RunConfig
    from tanren.preference.trainer import PreferenceTrainer

FILE = "reference_log_probs.npz"


@dataclass(frozen=True)
class References:
    """(pairs, 2) float32 summed log-probabilities of each file's answers, by its content's hash."""

    by_content: Mapping[str, NDArray[np.float32]]

    def of(self, encoded: Encoded) -> NDArray[np.float32]:
        return self.by_content[content_sha256(encoded)]


def content_sha256(encoded: Encoded) -> str:
    """Of token ids, lengths, and which tokens are trained."""
    digest = hashlib.sha256()
    for array in (encoded.input_ids, encoded.offsets, encoded.trained):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def references(trainer: PreferenceTrainer, files: list[Encoded], *, base: str) -> References:
    """Of the untrained model, or as an earlier attempt kept them.

    The reference is the base with its adapter switched off. Where a method's start changes the base
    (PiSSA, OLoRA), it is the base with that start, which is the same model; where the run goes on
    from an adapter, it is the base with that one. `base`: fingerprint of the base model. Every
    process computes them alike; the first one writes.
    """
    path = trainer.run.path / FILE
    config = trainer.run_config
    facts = {
        "base": base,
        "dtype": config.model.dtype,
        "storage": config.method.storage,
        "adapter": _adapter_sha256(config),
        "content": [content_sha256(encoded) for encoded in files],
    }
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    kept = _kept(path, key)
    if kept is not None:
        return kept
    with _untrained(trainer, config):
        found = References({content_sha256(f): trainer.answer_log_probs(f) for f in files})
    if trainer.args.process_index == 0:
        _keep(path, key, found)
    everyone_waits()
    return found


def _adapter_sha256(config: RunConfig) -> str | None:
    """Of the weights that the run goes on from; its folder may hold others by now."""
    if config.model.adapter is None:
        return None
    return sha256_of(Path(config.model.adapter) / "adapter_model.safetensors")


def _untrained(trainer: PreferenceTrainer, config: RunConfig) -> AbstractContextManager[Any]:
    if config.method.initialisation in ("pissa", "olora") or config.model.adapter is not None:
        return contextlib.nullcontext()
    return adapter_switched_off(trainer.network)


def _kept(path: Path, key: str) -> References | None:
    """What the run has already; None where it has nothing, or of other data."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, LookupError, zipfile.BadZipFile):
        return None
    if arrays.pop("key", np.array("")).item() != key:
        return None
    return References(arrays)


def _keep(path: Path, key: str, found: References) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, key=np.array(key), **found.by_content)
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        with open(staged, "wb") as file:
            file.write(content.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
