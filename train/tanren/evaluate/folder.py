"""An evaluation's folder: the one place that knows its layout.

<time>-<name>/
  settings.json        what is asked of whom; an evaluation is gone on with only if it is the same
  answers/<model>.jsonl   journal: every answer and loss as soon as it is there
  rows/<model>.jsonl      rows of the data, with scores; <model>.retention.jsonl: general ones
  evaluation.json      all that was measured; it is written last
  report.md, report.html
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tanren.endpoint import Journal
from tanren.errors import Fault, RunError
from tanren.evaluate.answered import Answered, read_rows
from tanren.rundir import read_json, runs_root, storage_errors, write_json, write_text


def evaluations_root() -> Path:
    return runs_root() / "evaluations"


@dataclass(frozen=True, slots=True)
class EvaluationFolder:
    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "settings.json"

    @property
    def evaluation_file(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def report_markdown(self) -> Path:
        return self.path / "report.md"

    @property
    def report_html(self) -> Path:
        return self.path / "report.html"

    @property
    def sheet(self) -> Path:
        """For people to rate."""
        return self.path / "sheet"

    def rows_file(self, model: str, part: str = "") -> Path:
        return self.path / "rows" / f"{slug(model)}{part}.jsonl"

    def journal(self, model: str) -> Journal:
        return Journal(self.path / "answers" / f"{slug(model)}.jsonl")

    def known_records(self, model: str) -> Iterator[dict[str, Any]]:
        """What this model's journal holds under a key. It is only read: an evaluation that is under
        way may be writing it.
        """
        file = self.path / "answers" / f"{slug(model)}.jsonl"
        for line in file.read_bytes().split(b"\n")[:-1] if file.is_file() else ():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and "key" in record:
                    yield record

    def spending(self, model: str) -> Journal:
        """Requests to an endpoint and what they cost."""
        return Journal(self.path / "answers" / f"{slug(model)}.spending.jsonl")

    @property
    def judgings_file(self) -> Path:
        """Which judgements of the journal belong to which models and prompts."""
        return self.path / "judgings.json"

    def judgements(self) -> Journal:
        return Journal(self.path / "judgements.jsonl")

    @property
    def created(self) -> str:
        """When it was begun (ISO 8601): the day that plain models' templates are told."""
        return str(read_json(self.path / "created.json")["created"])

    # --- rows -------------------------------------------------------------------------------------

    def finished_rows(self, model: str, part: str = "") -> list[Answered] | None:
        """Rows that were completed before; None where they were not."""
        file = self.rows_file(model, part)
        return list(read_rows(file)) if file.is_file() else None

    def write_rows(self, model: str, rows: Iterable[Answered], part: str = "") -> None:
        """Whole or not at all, in the order of the data."""
        file = self.rows_file(model, part)
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(row.as_dict(), ensure_ascii=False, allow_nan=False) for row in rows)
        write_text(file, "".join(f"{line}\n" for line in lines))


def other_folders(paths: Iterable[str]) -> tuple[EvaluationFolder, ...]:
    """Other evaluations, finished or not. RunError naming every folder that is none."""
    folders = tuple(EvaluationFolder(Path(path)) for path in paths)
    faults = [
        Fault(
            f"answers_from {folder.path}",
            "no evaluation (no settings.json)",
            "the folder of an evaluation",
            "name one that `tanren eval` made, or leave it away",
        )
        for folder in folders
        if not folder.settings_file.is_file() or not (folder.path / "created.json").is_file()
    ]
    if faults:
        raise RunError.of(*faults)
    return folders


def slug(name: str) -> str:
    """A file name for a model's name; names that differ have slugs that differ."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60]
    if plain == name:
        return plain
    return f"{plain or 'model'}-{hashlib.sha256(name.encode('utf-8')).hexdigest()[:6]}"


def opened_folder(
    out: Path | None, request: Mapping[str, Any], *, resume: bool, name: str
) -> EvaluationFolder:
    """A new folder, or with `resume` the one that the same request has begun.

    RunError where there is something else already, or nothing to go on with.
    """
    if resume:
        return _begun(out, request)
    path = out or _new_path(name)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        remedy = f"choose another --out, or go on with it: --resume --out {path}"
        raise RunError.of(Fault(str(path), "something there already", "a new folder", remedy))
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    folder = EvaluationFolder(path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder.path / "created.json", {"created": now})
    write_json(folder.settings_file, request)
    return folder


def _new_path(name: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    base = f"{stamp}-{slug(name)}"
    for suffix in ("", *(f"-{k}" for k in range(2, 1000))):
        path = evaluations_root() / f"{base}{suffix}"
        if not path.exists():
            return path
    raise RunError.of(Fault(str(evaluations_root()), "no free name", "one", "give --out"))


def _begun(out: Path | None, request: Mapping[str, Any]) -> EvaluationFolder:
    if out is None:
        return _latest(request)
    folder = EvaluationFolder(out)
    if not folder.settings_file.is_file():
        remedy = "leave --resume away to begin one"
        raise RunError.of(Fault(str(out), "no evaluation", "one that was begun", remedy))
    faults = list(_differences(read_json(folder.settings_file), request, str(out)))
    if faults:
        raise RunError.of(*faults)
    return folder


def _latest(request: Mapping[str, Any]) -> EvaluationFolder:
    wanted = _as_json(request)
    for path in sorted(evaluations_root().glob("*/settings.json"), reverse=True):
        folder = EvaluationFolder(path.parent)
        if not folder.evaluation_file.exists() and read_json(path) == wanted:
            return folder
    found = f"no unfinished evaluation of these models on this data in {evaluations_root()}"
    remedy = "name its folder with --out, or leave --resume away to begin anew"
    raise RunError.of(Fault("--resume", found, "one that was begun", remedy))


def _differences(before: Any, now: Mapping[str, Any], where: str) -> Iterable[Fault]:
    """What makes the answers of before useless."""
    wanted = _as_json(now)
    for key in sorted({*before, *wanted}):
        if before.get(key) != wanted.get(key):
            yield Fault(
                f"{where} {key}",
                _short(wanted.get(key)),
                _short(before.get(key)),
                "ask for the same, or begin anew in another --out",
            )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def _as_json(values: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(values, ensure_ascii=False))
