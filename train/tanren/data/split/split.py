"""One file to a folder of parts: read, group, assign, copy, and a manifest of all that.

OUT/
  train.jsonl, validation.jsonl, test.jsonl   rows as they stand in the file, in its order
  split.json                                  settings, counts, hashes, what moved together
  ledger.jsonl                                rows left out, if any
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tanren.data.files import shown_path
from tanren.data.near import NEAR_THRESHOLD
from tanren.data.read import FileCounts
from tanren.data.split.assign import Assignment, assign
from tanren.data.split.groups import Groups
from tanren.data.split.near_pairs import NearRows
from tanren.data.split.rows import Progress, Table, TableReader, row_reader, said
from tanren.data.split.wish import Wish
from tanren.errors import DataError, Fault
from tanren.rundir import discard_stale, staged_folder, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLIT_FILE = "split.json"
LEDGER_FILE = "ledger.jsonl"
_BOM = b"\xef\xbb\xbf"
_SHOWN_GROUPS = 20
_WRITE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SplitSettings:
    wish: Wish
    seed: int = 42
    stratify: str | None = None
    """A key of the rows' metadata, or `answer`."""
    group: str | None = None
    near_threshold: float | None = NEAR_THRESHOLD
    """None: near duplicates are not looked for."""
    same_prompt: bool = True
    """Rows of one prompt stay together."""
    skip_faulty: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "wish": self.wish.as_dict()}


@dataclass(slots=True)
class _Together:
    """How many rows each reason has joined to an earlier row."""

    group: int = 0
    same_prompt: int = 0
    near: int = 0
    near_cut_rows: int = 0
    near_crowded_rows: int = 0
    largest: list[dict[str, Any]] = field(default_factory=list)


def split_file(
    path: Path,
    out: Path,
    settings: SplitSettings,
    *,
    source: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the folder `out`, whole or not at all, and return the manifest.

    An existing `out` is replaced, so ask before. `source` adds to what the manifest says of where
    the rows came from. Raises DataError for faulty rows (unless skipped), a file that is no chat
    JSONL, and a split that cannot be; ConfigError for counts that the rows do not allow.
    """
    near = NearRows(settings.near_threshold) if settings.near_threshold is not None else None
    reader = TableReader(path, stratify=settings.stratify, group=settings.group, near=near)
    table = reader.read(on_progress)
    _require_rows(table, path, settings.skip_faulty)
    targets = settings.wish.targets(table.rows)
    groups, together = _grouped(path, table, settings, near)
    labels = groups.labels()
    assignment = assign(labels, _strata(table), targets, settings.seed)
    together.largest = _largest(labels, assignment, table, settings.wish.parts)
    discard_stale(out)
    with staged_folder(out) as folder:
        parts = _copy(path, folder, table, assignment.part_of, settings.wish.parts)
        manifest = {
            "source": {"name": shown_path(Path(path.name)), **_counted(table), **(source or {})},
            "settings": settings.as_dict(),
            "parts": _parts(settings.wish.parts, targets, parts),
            "strata": _strata_document(table, settings, assignment),
            "together": asdict(together),
            "groups": int((labels == range(len(labels))).sum()),
        }
        write_json(folder / SPLIT_FILE, manifest)
        _write_ledger(folder / LEDGER_FILE, table)
    return manifest


def deviations(manifest: dict[str, Any]) -> list[str]:
    """Parts and strata that do not have what was asked for, in words."""
    said_ = [
        f"{part['name']}: {part['rows']:,} rows instead of {part['wanted']:,}"
        for part in manifest["parts"]
        if part["rows"] != part["wanted"]
    ]
    for stratum in manifest["strata"] or ():
        for name, wanted, got in zip(
            (part["name"] for part in manifest["parts"]),
            stratum["wanted"],
            stratum["rows"],
            strict=True,
        ):
            if wanted != got:
                said_.append(f"{stratum['value']!r} in {name}: {got:,} rows instead of {wanted:,}")
    return said_


# --- what is read ---------------------------------------------------------------------------------


def _require_rows(table: Table, path: Path, skip_faulty: bool) -> None:
    faults = [fault for row in table.refused for fault in row.faults]
    if faults and not skip_faulty:
        rows = f"{len(table.refused):,} of {table.rows + len(table.refused):,} rows are faulty"
        raise DataError(f"{rows}; mend them, or leave them out with --faulty skip", faults)
    if not table.rows:
        raise DataError(f"no usable row in {shown_path(path)}", faults)


def _grouped(
    path: Path, table: Table, settings: SplitSettings, near: NearRows | None
) -> tuple[Groups, _Together]:
    groups, together = Groups(table.rows), _Together()
    if settings.group is not None:
        together.group = groups.join_equal(table.groups, table.grouped_rows)
    if settings.same_prompt:
        together.same_prompt = groups.join_equal(table.prompts)
    if near is not None:
        with row_reader(path, table.offsets) as read:
            together.near = sum(1 for _ in near.pairs(lambda row: said(read(row)), groups))
        together.near_cut_rows = near.cut_rows
        together.near_crowded_rows = near.crowded_rows
    return groups, together


def _strata(table: Table) -> NDArray[Any]:
    import numpy as np

    if not table.strata:
        return np.zeros(table.rows, dtype=np.int64)
    return np.frombuffer(table.strata, dtype=np.int64)


# --- what is written ------------------------------------------------------------------------------


class _PartFile:
    """One part as it is written: its bytes, their hash, its rows."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._digest = hashlib.sha256()
        self.rows = self.bytes = 0

    def add(self, line: bytes) -> None:
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self.rows += 1
        if self._waiting_bytes >= _WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        data = b"".join(self._waiting)
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)
        self._waiting.clear()
        self._waiting_bytes = 0

    def as_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "bytes": self.bytes, "sha256": self._digest.hexdigest()}


def _copy(
    path: Path, folder: Path, table: Table, part_of: NDArray[Any], names: Sequence[str]
) -> list[_PartFile]:
    """The second pass: each row's line, byte for byte, to its part.

    A byte order mark before a row goes, and a last line gets its newline.
    """
    digest = hashlib.sha256()
    lines, parts_of_rows, row = table.lines, part_of.tolist(), 0
    with ExitStack() as stack:
        parts = [_PartFile(stack.enter_context(open(folder / f"{n}.jsonl", "wb"))) for n in names]
        file = stack.enter_context(open(path, "rb", buffering=_WRITE_BYTES))
        for number, raw in enumerate(file, 1):
            digest.update(raw)
            if row < len(lines) and lines[row] == number:
                parts[parts_of_rows[row]].add(_whole_line(raw))
                row += 1
        for part in parts:
            part.flush()
    if digest.hexdigest() != table.counts.sha256:
        found, expected = "the file rewritten", "the file unchanged while it is split"
        fault = Fault(shown_path(path), found, expected, "wait until nothing writes to it")
        raise DataError("the rows changed while they were copied", [fault])
    return parts


def _whole_line(raw: bytes) -> bytes:
    line = raw.removeprefix(_BOM)
    return line if line.endswith(b"\n") else line + b"\n"


def _write_ledger(path: Path, table: Table) -> None:
    """A line for each row that is in no part; no file where there is none."""
    if not table.refused:
        return
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in table.refused:
            entry = {
                "line": row.line,
                "reason": "faulty",
                "faults": [
                    {**fault.as_dict(), "where": _within_row(fault)} for fault in row.faults
                ],
            }
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _within_row(fault: Fault) -> str:
    """The place without the file's path, which differs between machines."""
    return fault.where.partition(" ")[2] or "row"


# --- what the manifest says -----------------------------------------------------------------------


def _counted(table: Table) -> dict[str, Any]:
    counts: FileCounts = table.counts
    return {
        "sha256": counts.sha256,
        "bytes": counts.bytes,
        "lines": counts.lines,
        "blank_lines": counts.blank_lines,
        "rows": counts.examples + counts.refused,
        "rows_left_out": counts.refused,
        "rows_split": counts.examples,
        "byte_order_marks": counts.byte_order_marks,
    }


def _parts(
    names: Sequence[str], targets: Sequence[int], parts: Sequence[_PartFile]
) -> list[dict[str, Any]]:
    return [
        {"name": name, "file": f"{name}.jsonl", "wanted": target, **part.as_dict()}
        for name, target, part in zip(names, targets, parts, strict=True)
    ]


def _strata_document(
    table: Table, settings: SplitSettings, assignment: Assignment
) -> list[dict[str, Any]] | None:
    if settings.stratify is None:
        return None
    return [
        {"value": name, "wanted": wanted, "rows": got}
        for name, wanted, got in zip(
            table.stratum_names, assignment.wanted, assignment.got, strict=True
        )
    ]


def _largest(
    labels: NDArray[Any], assignment: Assignment, table: Table, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The largest groups of several rows, each by the line of its first row."""
    import numpy as np

    leaders, sizes = np.unique(labels, return_counts=True)
    order = np.lexsort((leaders, -sizes))[:_SHOWN_GROUPS]
    return [
        {
            "line": table.lines[int(leaders[i])],
            "rows": int(sizes[i]),
            "part": names[int(assignment.part_of[leaders[i]])],
        }
        for i in order
        if sizes[i] > 1
    ]
