"""An append-only JSONL file that survives the process that writes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tanren.errors import Fault, RunError
from tanren.rundir import storage_errors


class Journal:
    """Complete lines are read back; a torn last one (the machine died) is cut off, as it would
    spoil the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        """What earlier starts wrote, and what was appended since."""
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab+", buffering=0)  # noqa: SIM115 - closed by close()
            self._read()

    def _read(self) -> None:
        self._file.seek(0)
        whole = self._file.readall() or b""
        kept = whole[: whole.rfind(b"\n") + 1]
        if len(kept) < len(whole):
            os.truncate(self.path, len(kept))
        for number, line in enumerate(kept.splitlines(), start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                self._file.close()
                fault = Fault(
                    f"{self.path}:{number}",
                    "a damaged line",
                    "a JSON object",
                    "delete the line; what it held is done again",
                )
                raise RunError.of(fault)
            self.records.append(record)

    def append(self, record: dict[str, Any]) -> None:
        """One record as one write, so that a reader never sees half of it while we live."""
        try:
            line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:  # half of an emoji, which only an escape can say
            line = json.dumps(record, allow_nan=False).encode()
        with storage_errors(self.path):
            self._file.write(line + b"\n")
        self.records.append(record)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
