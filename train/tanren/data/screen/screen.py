"""Files screened row by row, in one pass and little memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tanren.chat import Example
from tanren.data.files import open_data, shown_path
from tanren.data.read import MAX_LINE_BYTES, ChatReader
from tanren.data.screen.actions import Plan
from tanren.data.screen.detect import may_hold, require_packages
from tanren.data.screen.moderator import Moderator, Passage, Unjudged
from tanren.data.screen.row import Entry, Screened, finder, screen_row
from tanren.data.screen.words import WordList
from tanren.data.screen.writing import require_free, staged_files
from tanren.errors import ConfigError, DataError, Fault, WorkError

BLOCK_ROWS = 256
"""Rows whose messages a moderator is given together."""
SHOWN_FINDINGS = 1000
"""Findings of a file that are kept for the report; the ledger on disk has all."""
_MOST_FAULTS = 1000
_BOM = b"\xef\xbb\xbf"

OnProgress = Callable[[int, int | None], None]
"""Bytes read of one file, and its size."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a file's screened rows and its ledger go."""

    rows: Path
    ledger: Path

    @classmethod
    def of(cls, rows: Path) -> Target:
        return cls(rows, rows.with_name(rows.name + ".screen.jsonl"))


@dataclass
class FileReport:
    """rows == untouched + redacted + dropped. `untouched` rows left byte for byte as they came,
    with or without findings that were only reported.
    """

    source: str
    rows: int = 0
    untouched: int = 0
    redacted: int = 0
    dropped: int = 0
    blank_lines: int = 0
    rows_with_findings: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    rows_by_kind: Counter[str] = field(default_factory=Counter)
    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    unjudged: int = 0
    """Messages of which the moderator said nothing."""
    unjudged_words: str = ""
    first: list[tuple[int, Entry]] = field(default_factory=list)
    """Line and finding; at most `SHOWN_FINDINGS`."""
    target: Target | None = None

    def count(self, line: int, screened: Screened, *, changed: bool) -> None:
        self.rows += 1
        self.dropped += screened.line is None
        self.redacted += screened.line is not None and changed
        self.untouched += screened.line is not None and not changed
        entries = screened.entries
        if not entries:
            return
        self.rows_with_findings += 1
        self.findings.update(entry.kind for entry in entries)
        self.rows_by_kind.update({entry.kind for entry in entries})
        self.actions.update((entry.kind, entry.action) for entry in entries)
        room = SHOWN_FINDINGS - len(self.first)
        self.first += [(line, entry) for entry in entries[: max(room, 0)]]

    def as_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "rows": self.rows,
            "untouched": self.untouched,
            "redacted": self.redacted,
            "dropped": self.dropped,
            "blank_lines": self.blank_lines,
            "rows_with_findings": self.rows_with_findings,
            "findings": dict(self.findings),
            "rows_by_kind": dict(self.rows_by_kind),
            "actions": {f"{kind} {action}": n for (kind, action), n in self.actions.items()},
            "unjudged_messages": self.unjudged,
            "out": str(self.target.rows) if self.target else None,
            "ledger": str(self.target.ledger) if self.target else None,
            "first_findings": [{"line": line, **entry.as_dict()} for line, entry in self.first],
        }


def targets(sources: Sequence[Path], out: Path | None, *, overwrite: bool) -> list[Target | None]:
    """One file goes to the file `out`; several go into the folder `out` under their own names.

    Raises ConfigError where something would be lost.
    """
    if out is None:
        return [None] * len(sources)
    rows = [out] if len(sources) == 1 else [out / source.name for source in sources]
    if len(sources) == 1 and out.is_dir():
        rows = [out / sources[0].name]
    found = [Target.of(path) for path in rows]
    finals = [path for target in found for path in (target.rows, target.ledger)]
    require_free(finals, sources, overwrite=overwrite)
    return [*found]


@dataclass(frozen=True)
class Screener:
    """What to look for and what to do about it. `keep_unjudged`: rows of which the moderator said
    nothing are passed on (and counted) instead of ending the work.
    """

    plan: Plan
    words: WordList | None = None
    moderator: Moderator | None = None
    keep_unjudged: bool = False

    def screen(
        self, source: Path, target: Target | None = None, on_progress: OnProgress | None = None
    ) -> FileReport:
        """One file. Nothing is written if any row is faulty (DataError with all faults) or, unless
        they are kept, if a message could not be judged (WorkError).
        """
        require_packages()
        if self.moderator is not None:
            # No verdict is paid for before all rows are known to be good.
            require_sound(source)
        report = FileReport(shown_path(source), target=target)
        if target is None:
            self._run(source, report, None, None, on_progress)
        else:
            with staged_files([target.rows, target.ledger]) as (rows, ledger):
                self._run(source, report, rows, ledger, on_progress)
        return report

    def _run(
        self,
        source: Path,
        report: FileReport,
        rows: BinaryIO | None,
        ledger: BinaryIO | None,
        on_progress: OnProgress | None,
    ) -> None:
        find_in = finder(self.words.find if self.words else None)
        for raw, item, unsafe in self._judged(_Lines(source, report, on_progress), report):
            if item is None:
                written: bytes | None = raw
            else:
                body, prefix, ending = _parts(raw)
                screened = Screened(body, unsafe)
                if unsafe or self._may_hold(body):
                    screened = screen_row(body, self.plan, find_in, unsafe)
                changed = screened.line is not None and screened.line is not body
                report.count(item.line, screened, changed=changed)
                written = raw
                if screened.line is None or changed:
                    written = screened.line and prefix + screened.line + ending
                if ledger is not None and screened.entries:
                    ledger.write(_ledger_lines(report.source, item.line, screened.entries))
            if rows is not None and written is not None:
                rows.write(written)

    def _may_hold(self, body: bytes) -> bool:
        """Whether a row has to be parsed at all: most hold no sign of anything."""
        if b"\\u" in body or b"\\/" in body:
            return True
        text = body.decode("utf-8")
        if may_hold(text):
            return True
        return self.words is not None and ("\\" in text or self.words.may_hold(text))

    # --- moderation -------------------------------------------------------------------------------

    def _judged(
        self, lines: _Lines, report: FileReport
    ) -> Iterator[tuple[bytes, Example | None, Sequence[Entry]]]:
        """Lines with what the moderator said of their messages."""
        if self.moderator is None:
            for raw, item in lines:
                yield raw, item, ()
            return
        reading = iter(lines)
        while block := list(islice(reading, BLOCK_ROWS)):
            said = self._verdicts(self.moderator, [item for _, item in block if item], report)
            for raw, item in block:
                yield raw, item, said.get(item.line, ()) if item else ()

    def _verdicts(
        self, moderator: Moderator, rows: Sequence[Example], report: FileReport
    ) -> dict[int, list[Entry]]:
        places, passages = [], []
        for row in rows:
            for path, passage in passages_of(row):
                places.append((row.line, path))
                passages.append(passage)
        found: dict[int, list[Entry]] = {}
        verdicts = moderator.judge(passages) if passages else ()
        for (line, path), verdict in zip(places, verdicts, strict=True):
            if isinstance(verdict, Unjudged):
                self._note_unjudged(f"{report.source}:{line} {path}", verdict, report)
            elif verdict.flagged:
                rule = f"{moderator.name}: {', '.join(verdict.flagged)}"
                action = self.plan.of("unsafe")
                entry = Entry(path, "unsafe", rule, action, None, None, "…", verdict.scores)
                found.setdefault(line, []).append(entry)
        return found

    def _note_unjudged(self, where: str, verdict: Unjudged, report: FileReport) -> None:
        report.unjudged += 1
        report.unjudged_words = report.unjudged_words or verdict.words
        if not self.keep_unjudged:
            remedy = "start again (what was judged is kept), or add --keep-unjudged"
            fault = Fault(where, f"no verdict ({verdict.words})", "one of every message", remedy)
            raise WorkError("the moderator did not judge every message", [fault])


def passages_of(row: Example) -> Iterator[tuple[str, Passage]]:
    """What a moderator reads of a row: every text that somebody wrote, with its path."""
    asked = ""
    for index, message in enumerate(row.messages):
        role = message["role"]
        before = asked if role == "assistant" else ""
        for key in ("content", "reasoning_content"):
            text = message.get(key, "")
            if text.strip():
                yield f"messages[{index}].{key}", Passage(text, role, before)
        for number, call in enumerate(message.get("tool_calls", ())):
            path = f"messages[{index}].tool_calls[{number}].function.arguments"
            if call["function"]["arguments"].strip(" {}"):
                yield path, Passage(call["function"]["arguments"], role, before)
        if role == "user":
            asked = message["content"]


def require_sound(path: Path) -> None:
    """DataError with every fault of the file's rows."""
    for _ in _Lines(path, FileReport(shown_path(path)), None):
        pass


class _Lines:
    """Every line of a file as its bytes, with the row on it; None for a blank line.

    The file is read by two readers side by side, one for what the rows mean and one for their
    bytes. After the last line DataError is raised if any row was faulty.
    """

    def __init__(self, path: Path, report: FileReport, on_progress: OnProgress | None) -> None:
        if path.exists() and not path.is_file() and not path.is_dir():
            remedy = "write it to a file first"
            fault = Fault(shown_path(path), "a pipe", "a file that can be read twice", remedy)
            raise ConfigError.of(fault)
        self._path = path
        self._report = report
        self._on_progress = on_progress

    def __iter__(self) -> Iterator[tuple[bytes, Example | None]]:
        reader = ChatReader(self._path)
        faults: list[Fault] = []
        with open_data(self._path) as raw_file:
            at = 0
            for item in reader:
                while at < item.line - 1:
                    at += 1
                    self._report.blank_lines += 1
                    yield raw_file.readline(MAX_LINE_BYTES), None
                at += 1
                raw = raw_file.readline(MAX_LINE_BYTES)
                if isinstance(item, Example):
                    yield raw, item
                elif len(faults) < _MOST_FAULTS:
                    faults += item.faults
                if self._on_progress is not None and at % 1000 == 0:
                    self._on_progress(reader.counts.bytes, reader.counts.total_bytes)
            while rest := raw_file.readline(MAX_LINE_BYTES):
                self._report.blank_lines += 1
                yield rest, None
        if faults:
            count = reader.counts.refused
            words = f"{count:,} row{'s' if count != 1 else ''} cannot be used; nothing was written"
            raise DataError(words, faults)


def _parts(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """The row, what stands before it (a byte order mark, blanks) and its line ending."""
    body = raw.removeprefix(_BOM).rstrip(b" \t\r\n")
    start = raw.index(body)
    return body, raw[:start], raw[start + len(body) :]


def _ledger_lines(source: str, line: int, entries: Sequence[Entry]) -> bytes:
    return b"".join(
        json.dumps({"file": source, "line": line, **entry.as_dict()}, ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        )
        + b"\n"
        for entry in entries
    )
