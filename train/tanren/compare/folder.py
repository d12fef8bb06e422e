"""A comparison's folder: the one place that knows its layout.

comparisons/<name>/
  created.json         when it was begun: the day that templates are told
  comparison.yaml      the settings of the last start
  data/rows-<n>.jsonl  parts of the training file, for arms with fewer rows
  runs/<arm>-<rate>-<seed>-<key>/    ordinary run directories; key: settings and data
  evaluations/<arm>-<key>/           ordinary evaluations; <arm>-<key>.yaml: their settings
  results.json, results.csv, report.md, report.html, recommended.yaml

A run is found again by its key, so that the same comparison started once more goes on where it was,
and a changed one keeps what it still needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tanren.config import RunConfig
from tanren.errors import Fault, RunError
from tanren.evaluate.folder import slug
from tanren.rundir import RunDirectory, home, read_json, storage_errors, write_json

KEY_LENGTH = 8


def comparisons_root() -> Path:
    return home() / "comparisons"


@dataclass(frozen=True, slots=True)
class ComparisonFolder:
    path: Path

    @classmethod
    def opened(cls, path: Path) -> ComparisonFolder:
        """A new folder or one that a comparison has begun. RunError where something else lies."""
        folder = cls(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not folder.created_file.is_file():
                raise RunError.of(
                    Fault(str(path), "something else", "a comparison or a new folder", "give --out")
                )
            return folder
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        write_json(folder.created_file, {"created": datetime.now(UTC).isoformat("T", "seconds")})
        return folder

    def discard(self) -> None:
        """Remove a folder in which nothing was trained."""
        if not self.runs.exists():
            shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):  # others lie there, or somebody put it there
                comparisons_root().rmdir()

    @property
    def created_file(self) -> Path:
        return self.path / "created.json"

    @property
    def settings_file(self) -> Path:
        return self.path / "comparison.yaml"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def created(self) -> str:
        """ISO 8601, UTC."""
        return str(read_json(self.created_file)["created"])

    def rows_file(self, rows: int) -> Path:
        return self.path / "data" / f"rows-{rows}.jsonl"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For this process alone. RunError while another one compares here."""
        lock = FileLock(self.path / ".lock")
        try:
            with lock.acquire(timeout=0):
                yield
        except Timeout:
            raise RunError.of(
                Fault(
                    str(self.path),
                    "another process at work",
                    "a comparison that nobody carries out",
                    "wait for it, or stop it",
                )
            ) from None

    # --- runs and evaluations ---------------------------------------------------------------------

    def run(self, arm: str, config: RunConfig, hashes: Mapping[str, str | None]) -> RunDirectory:
        """The run directory of these settings on this data, made where there is none yet.

        `hashes`: what stands for files and model in the key, as paths may change: `train`,
        `validation`, `model`.
        """
        key = run_key(config, hashes)
        rate = config.training.learning_rate
        shown = rate if isinstance(rate, str) else f"{rate:g}"
        run = RunDirectory(self.runs / f"{slug(arm)}-lr{shown}-s{config.seed}-{key}")
        if not run.config_file.exists():
            return RunDirectory.create(run.path, config)
        if run.state() != "succeeded" and run.owner() is None:
            run.write_config(config)  # the files may lie elsewhere by now
        return run

    def evaluation(self, arm: str, settings: Mapping[str, Any]) -> Path:
        """Where an arm is evaluated under these settings."""
        return self.evaluations / f"{slug(arm)}-{_digest(settings)}"

    def left_over(self, used: set[Path]) -> list[Path]:
        """Run directories of earlier settings that this comparison does not use."""
        found = (file.parent for file in self.runs.glob("*/config.yaml"))
        return sorted(path for path in found if path not in used)


def run_key(config: RunConfig, hashes: Mapping[str, str | None]) -> str:
    """Of everything that decides on a run's numbers: settings, data, base weights."""
    values = config.model_dump(mode="json")
    values["data"] = {**values["data"], "train": None, "validation": None}
    values["model"] = {**values["model"], "name": None}
    return _digest({"settings": values, **hashes})


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=list)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:KEY_LENGTH]
