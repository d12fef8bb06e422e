"""The safe changes, made in a new file, each of them on record.

Rows that need none are copied byte for byte. Fixing the result again changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tanren.chat import Example, parse_line
from tanren.chat.content import REASONING_KEYS
from tanren.data.files import open_data, shown_path
from tanren.data.lint.catalog import RULES
from tanren.data.lint.mend import MENDS, Step, mended
from tanren.data.lint.rows import SPOKEN
from tanren.data.read import MAX_LINE_BYTES
from tanren.errors import DataError, Fault
from tanren.rundir import storage_errors

FIXED_RULES = tuple(rule.name for rule in RULES.values() if rule.fixed)
_BOM = b"\xef\xbb\xbf"


def changes_path(out: Path) -> Path:
    """`fixed.jsonl` -> `fixed.jsonl.changes.jsonl`, beside it."""
    return out.with_name(f"{out.name}.changes.jsonl")


def fix_file(path: Path, out: Path, *, skip: Collection[str] = ()) -> dict[str, Any]:
    """Write `out` and the list of its changes, both whole or not at all; returns the counts.

    Every row must be sound (`lint_files(...).require_sound()` says so beforehand); DataError if
    one is not, or if `out` is the file itself.
    """
    if out.exists() and os.path.samefile(path, out):
        fault = Fault("--fix", shown_path(out), "a new file", "name another file")
        raise DataError("the rows are not changed in their own file", [fault])
    rules = [rule for rule in FIXED_RULES if rule not in skip]
    fixer = _Fixer(shown_path(path), rules)
    with (
        _whole_file(changes_path(out)) as changes,
        _whole_file(out) as fixed,
        open_data(path) as file,
    ):
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            kept = fixer.line(raw, number, changes)
            if kept is not None:
                fixed.write(kept)
    return {
        "out": shown_path(out),
        "changes": shown_path(changes_path(out)),
        "rows_in": fixer.rows_in,
        "rows_out": fixer.rows_out,
        "rows_changed": fixer.rows_changed,
        "by_rule": dict(sorted(fixer.by_rule.items())),
    }


class _Fixer:
    """Line by line; counts what it did. rows_in == rows_out + the duplicates left out."""

    def __init__(self, source: str, rules: Collection[str]) -> None:
        self._source = source
        self._rules = [rule for rule in rules if rule in MENDS]
        self._seen: dict[bytes, int] | None = {} if "duplicate" in rules else None
        self.rows_in = self.rows_out = self.rows_changed = 0
        self.by_rule: Counter[str] = Counter()

    def line(self, raw: bytes, number: int, changes: BinaryIO) -> bytes | None:
        """The line as it is to be written; None for a blank line and a repeated row."""
        bare = raw.removeprefix(_BOM)
        text = bare.decode("utf-8").strip(" \t\r\n")
        if not text:
            return None
        self.rows_in += 1
        row = json.loads(text)
        steps = self._mend(row)
        fixed = json.dumps(row, ensure_ascii=False) if steps else text
        parsed = parse_line(fixed, source=self._source, line=number)
        if isinstance(parsed, list):
            raise DataError("a row cannot be used", parsed)
        if bare != raw:
            self._log(changes, number, "", "byte-order-mark", "\ufeff", "")
        for where, step in steps:
            self._log(changes, number, where, step.rule, step.before, step.after)
        first = self._repeated(parsed, number)
        if first is not None:
            self._log(changes, number, "", "duplicate", fixed, None, kept_line=first)
            return None
        self.rows_out += 1
        self.rows_changed += bool(steps)
        ending = bare[len(bare.rstrip(b"\r\n")) :] or b"\n"
        return fixed.encode("utf-8") + ending if steps else bare.rstrip(b"\r\n") + ending

    def _repeated(self, row: Example, number: int) -> int | None:
        """The line of the same row that was kept."""
        if self._seen is None:
            return None
        digest = row.sha256[:16]
        first = self._seen.setdefault(digest, number)
        return None if first == number else first

    def _mend(self, row: dict[str, Any]) -> list[tuple[str, Step]]:
        steps: list[tuple[str, Step]] = []
        for index, message in enumerate(row["messages"]):
            for key in ("content", "refusal", *REASONING_KEYS):
                value = message.get(key)
                if value is None:
                    continue
                trims = key in ("content", "refusal") and message["role"] in SPOKEN
                rules = [rule for rule in self._rules if trims or rule != "outer-space"]
                text, made = mended(_joined(value), rules)
                if made:
                    message[key] = _like(value, text)
                    steps += [(f"messages[{index}].{key}", step) for step in made]
        return steps

    def _log(
        self,
        changes: BinaryIO,
        line: int,
        where: str,
        rule: str,
        before: str,
        after: str | None,
        kept_line: int | None = None,
    ) -> None:
        self.by_rule[rule] += 1
        entry = {"line": line, "path": where, "rule": rule, "before": before, "after": after}
        if kept_line is not None:
            entry["kept_line"] = kept_line
        changes.write(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")


def _joined(content: str | list[dict[str, Any]]) -> str:
    """A message's text; parts are joined with nothing between them, as they are trained."""
    if isinstance(content, str):
        return content
    return "".join(part[part["type"]] for part in content)


def _like(content: str | list[dict[str, Any]], text: str) -> str | list[dict[str, Any]]:
    """New text in the old one's shape: parts become one part."""
    return text if isinstance(content, str) else [{"type": "text", "text": text}]


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when everything is in it."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        try:
            with open(staged, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
