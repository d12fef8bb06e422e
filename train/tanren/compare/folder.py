"""A comparison's folder: the one place that knows its layout.

comparisons/<name>/
  created.json         when it was begun: the day that templates are told
  comparison.yaml      the settings of the last start
  data/<name>-rows-<n>.jsonl         parts of training files, for arms with fewer rows
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
    def opened(cls, path: Path, question: str = "") -> ComparisonFolder:
        """A new folder or one that a comparison has begun. RunError where something else lies.
        `question`: what tells it from other comparisons.
        """
        folder = cls(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not folder.created_file.is_file():
                raise RunError.of(
                    Fault(str(path), "something else", "a comparison or a new folder", "give --out")
                )
            return folder
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).isoformat("T", "seconds")
        write_json(folder.created_file, {"created": now, "question": question})
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
    def question(self) -> str | None:
        """None where it is not known."""
        if not self.created_file.is_file():
            return ""
        found = read_json(self.created_file).get("question")
        return None if found is None else str(found)

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

    def spent(self, seconds: float) -> float:
        """Seconds of all starts that came to a report, this one among them."""
        file = self.path / "seconds.json"
        before = read_json(file)["seconds"] if file.is_file() else 0.0
        total = round(before + seconds, 1)
        write_json(file, {"seconds": total})
        return total

    def rows_file(self, rows: int, source: Path) -> Path:
        """Of another file it is another one."""
        origin = hashlib.sha256(str(source.resolve()).encode("utf-8")).hexdigest()[:6]
        return self.path / "data" / f"{slug(source.stem)}-{origin}-rows-{rows}.jsonl"

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

        `hashes`: what stands for files and model in the key, as paths may change, and for what
        makes tokens and numbers of them.
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

    def all_runs(self) -> list[RunDirectory]:
        """Of earlier settings too."""
        return [RunDirectory(file.parent) for file in sorted(self.runs.glob("*/config.yaml"))]

    def evaluation(self, arm: str, settings: Mapping[str, Any]) -> Path:
        """Where an arm is evaluated under these settings."""
        return self.evaluations / f"{slug(arm)}-{_digest(settings)}"

    def left_over(self, used: set[Path]) -> list[Path]:
        """Run directories of earlier settings that this comparison does not use."""
        return [run.path for run in self.all_runs() if run.path not in used]


def run_key(config: RunConfig, hashes: Mapping[str, str | None]) -> str:
    """Of everything that decides on a run's numbers: settings, data, base weights."""
    values = config.model_dump(mode="json")
    values["data"] = {**values["data"], "train": None, "validation": None}
    values["model"] = {**values["model"], "name": None}
    return _digest({"settings": values, **hashes})


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=list)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:KEY_LENGTH]
