"""A distillation's folder: the one place that knows its layout.

<out>/
  settings.json      what the answers depend on; a folder is gone on with only if it is the same
  replies.jsonl      journal: every answer as soon as it is there
  judgements.jsonl   journal: what judges replied
  spending*.jsonl    journal: requests and what they cost
  train.jsonl        accepted rows in the order of the source: chat-format JSONL
  provenance.jsonl   a line for each line of train.jsonl: where it comes from and what it took
  rejected.jsonl     the other rows, with all attempts and what was wrong in each
  summary.json       the numbers
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tanren.endpoint import Journal
from tanren.errors import Fault, RunError
from tanren.rundir import RunDirectory, read_json, storage_errors, write_json, write_text

VERSION = 1
"""Counts up when answers of before would be read otherwise."""
MARK = "tanren data distill"
_OURS = (
    "settings.json", "replies.jsonl", "judgements.jsonl", "spending*.jsonl", "train.jsonl",
    "provenance.jsonl", "rejected.jsonl", "summary.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DistillFolder:
    path: Path

    @property
    def train_file(self) -> Path:
        return self.path / "train.jsonl"

    @property
    def provenance_file(self) -> Path:
        return self.path / "provenance.jsonl"

    @property
    def rejected_file(self) -> Path:
        return self.path / "rejected.jsonl"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def settings_file(self) -> Path:
        return self.path / "settings.json"

    @property
    def day(self) -> str:
        """When it was begun (ISO): the day that templates are told."""
        return str(read_json(self.settings_file)["created"])[:10]

    def replies(self) -> Journal:
        return Journal(self.path / "replies.jsonl")

    def judgements(self) -> Journal:
        return Journal(self.path / "judgements.jsonl")

    def spending(self, judge: int | None = None) -> Journal:
        """The teacher's, or that of a judge by its number."""
        part = "" if judge is None else f"-judge-{judge + 1}"
        return Journal(self.path / f"spending{part}.jsonl")

    def ensure_free(self) -> None:
        """RunError while another process works on it."""
        owner = RunDirectory(self.path).owner()
        if owner is not None:
            remedy = "wait, or stop that process"
            found = f"process {owner} at work"
            raise RunError.of(Fault(str(self.path), found, "nobody at work on it", remedy))

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this process, without what a killed one left half-written."""
        with RunDirectory(self.path).claim():
            for staged in self.path.glob(".*.tmp"):
                staged.unlink()
            yield

    def write_lines(self, file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        """Whole or not at all."""
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        write_text(file, "".join(f"{line}\n" for line in lines))


def opened_folder(
    path: Path, identity: Mapping[str, Any], *, overwrite: bool = False
) -> DistillFolder:
    """A new folder, or the one that the same settings have begun.

    RunError for a folder that other settings have begun, or that is none of ours.
    """
    wanted = json.loads(json.dumps(identity))
    folder = DistillFolder(path)
    if path.exists() and not path.is_dir():
        raise RunError.of(Fault(str(path), "a file", "a folder to make", "choose another --out"))
    if path.exists() and any(not file.name.startswith(".") for file in path.iterdir()):
        begun = _begun(folder)
        folder.ensure_free()
        if not overwrite:
            faults = list(_differences(begun, wanted, str(path)))
            if faults:
                raise RunError("the folder was begun with other settings", faults)
            return folder
        with storage_errors(path):
            _empty(folder)
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(
        folder.settings_file,
        {"made_by": MARK, "version": VERSION, "created": now, "settings": wanted},
    )
    return folder


def _begun(folder: DistillFolder) -> dict[str, Any]:
    """What an earlier start asked for. RunError where there was none."""
    values = read_json(folder.settings_file) if folder.settings_file.is_file() else {}
    if not isinstance(values, dict) or values.get("made_by") != MARK:
        fault = Fault(
            str(folder.path), "other things in it", "a new folder", "choose another --out"
        )
        raise RunError.of(fault)
    return {**values["settings"], "version": values["version"]}


def _empty(folder: DistillFolder) -> None:
    """Remove what a distillation writes, and nothing that somebody put beside it."""
    for pattern in _OURS:
        for file in folder.path.glob(pattern):
            file.unlink()


def _differences(before: Any, now: Mapping[str, Any], where: str) -> Iterator[Fault]:
    now = {**now, "version": VERSION}
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            remedy = "ask for the same, choose another --out, or lose its answers with --overwrite"
            yield Fault(f"{where} {key}", _short(now.get(key)), _short(before.get(key)), remedy)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."
