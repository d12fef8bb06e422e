"""Rows to convert, in every format, and what came of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tanren.chat import Example, parse_line
from tanren.data.convert import Conversion, Settings, convert

Rows = Sequence[dict[str, Any]]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def jsonl(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def delimited(rows: Rows, delimiter: str = ",") -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def xlsx(path: Path, rows: Rows) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.append(list(rows[0]))
    for row in rows:
        page.append(list(row.values()))
    book.save(path)
    return path


def parquet(path: Path, rows: Rows) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


class Converted:
    """A conversion and its files, with the laws that hold for each."""

    def __init__(self, made: Conversion) -> None:
        assert made.out is not None
        self.made = made
        self.bytes = made.out.read_bytes()
        self.lines = self.bytes.decode("utf-8").split("\n")[:-1]
        self.chats = [json.loads(line) for line in self.lines]
        self.ledger = self._ledger()
        self._check()

    def _ledger(self) -> list[dict[str, Any]]:
        if self.made.ledger_file is None:
            return []
        text = self.made.ledger_file.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def _check(self) -> None:
        account = self.made.ledger
        assert account.rows_in == sum(part.rows for part in self.made.parts)
        assert account.rows_in == account.rows_used + account.rows_left_out
        assert account.rows_left_out == sum(entry["rows"] for entry in self.ledger)
        assert self.made.chats == len(self.lines)
        for number, line in enumerate(self.lines, 1):
            assert isinstance(parse_line(line, source="out", line=number), Example), line

    @property
    def turns(self) -> list[list[tuple[str, str]]]:
        return [[(m["role"], m["content"]) for m in chat["messages"]] for chat in self.chats]

    @property
    def left_out(self) -> dict[str, list[int]]:
        """Reason -> lines."""
        found: dict[str, list[int]] = {}
        for entry in self.ledger:
            found.setdefault(entry["reason"], []).append(entry["line"])
        return found


def converted(*paths: Path, **settings: Any) -> Converted:
    out = paths[0].with_name("out.jsonl")
    return Converted(
        convert([str(path) for path in paths], out, Settings(**settings), overwrite=True)
    )
