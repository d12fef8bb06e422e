"""A table where chats are wanted: converted on the way, and said so."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tanren.cli.display import shell

TABLES = (".csv", ".tsv", ".xlsx", ".parquet", ".json")


@contextlib.contextmanager
def as_chat(path: Path, *, skip_faulty: bool = False) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The chats of a file, and what to say of where they came from.

    A chat JSONL is itself. A table becomes one in a temporary folder, if it can be read in only
    one way; else the error says which flags of `tanren data convert` decide.
    """
    if path.suffix.lower() not in TABLES or not path.is_file():
        yield path, {}
        return
    from tanren.data.convert import Settings, convert
    from tanren.data.files import shown_path
    from tanren.rundir import sha256_of

    with tempfile.TemporaryDirectory(prefix="tanren-split-") as folder:
        chats = Path(folder) / f"{path.stem}.jsonl"
        command = f"tanren data convert {shell(path)} --out {shell(path.with_suffix('.jsonl'))}"
        made = convert([str(path)], chats, Settings(command=command, skip_faulty=skip_faulty))
        part = made.parts[0]
        table = {
            "name": shown_path(Path(path.name)),
            "sha256": sha256_of(path),
            "read_as": f"{part.format}: {part.shape}",
            "unused_columns": dict(part.unused),
            "rows": made.ledger.rows_in,
            "rows_left_out": made.ledger.rows_left_out,
            "left_out": {
                name: {"rows": reason.rows, "lines": [_line(place) for place in reason.places]}
                for name, reason in made.ledger.reasons.items()
            },
        }
        yield chats, {"name": shown_path(Path(path.name)), "table": table}


def _line(place: str) -> int:
    """Of `folder/table.csv:17`; the folder is another on another machine."""
    return int(place.rpartition(":")[2])
