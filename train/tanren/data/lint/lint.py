"""One pass over each file, and what it showed: findings, and the numbers behind the pictures."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tanren.chat import Example
from tanren.data.files import shown_path
from tanren.data.lint.catalog import SEVERITIES, Severity
from tanren.data.lint.corpus import (
    CorpusRule,
    Endings,
    Languages,
    Seen,
    Systems,
    Widths,
    few_rows,
)
from tanren.data.lint.found import Finding, Findings
from tanren.data.lint.labels import Labels, entropy
from tanren.data.lint.lengths import Lengths, histogram
from tanren.data.lint.mojibake import mend_mojibake
from tanren.data.lint.repeats import Repeats
from tanren.data.lint.rows import last_answer, last_question, lint_row, system_prompt
from tanren.data.near import NEAR_THRESHOLD
from tanren.data.read import ChatReader, Refused
from tanren.data.split.rows import Progress, require_file, row_reader, said
from tanren.errors import DataError, Fault

MAX_FAULTS = 100_000
_SHOWN_LABELS = 30


@dataclass(slots=True)
class LintedFile:
    path: str
    rows: int = 0
    faulty_rows: int = 0
    faults: list[Fault] = field(default_factory=list)
    """The first 100,000; `fault_count` has all."""
    fault_count: int = 0
    findings: list[Finding] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    """Histograms of lengths, languages, labels, system prompts."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "rows": self.rows,
            "faulty_rows": self.faulty_rows,
            "fault_count": self.fault_count,
            "faults": [fault.as_dict() for fault in self.faults],
            "findings": [finding.as_dict() for finding in self.findings],
            **self.numbers,
        }


@dataclass(frozen=True, slots=True)
class LintReport:
    files: tuple[LintedFile, ...]
    against: tuple[str, ...]
    near_threshold: float | None

    @property
    def findings(self) -> list[Finding]:
        return [finding for file in self.files for finding in file.findings]

    def count(self, severity: Severity) -> int:
        """Findings of a severity; each may be of many rows."""
        return sum(finding.severity == severity for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "files": [file.as_dict() for file in self.files],
            "against": list(self.against),
            "near_threshold": self.near_threshold,
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
        }

    def require_sound(self) -> None:
        """DataError with every fault, if a row could not be read at all."""
        faults = [fault for file in self.files for fault in file.faults]
        if faults:
            rows = sum(file.faulty_rows for file in self.files)
            count = sum(file.fault_count for file in self.files)
            raise DataError(f"{count:,} faults in {rows:,} rows that cannot be used", faults)


def lint_files(
    paths: Sequence[Path],
    *,
    against: Sequence[Path] = (),
    skip: Collection[str] = (),
    max_characters: int | None = None,
    near_threshold: float | None = NEAR_THRESHOLD,
    on_progress: Progress | None = None,
) -> LintReport:
    """Everything that is found in `paths`; rows of `against` are only compared with.

    `skip` names rules to leave out; `near_threshold` None looks for no near duplicates. Raises
    DataError for a file that is no chat JSONL; faulty rows are kept in the report.
    """
    skipped = frozenset(skip)
    repeats = Repeats(near_threshold)
    with ExitStack() as stack:
        passes = [_Pass(path, skipped, max_characters, repeats, stack) for path in paths]
        others = [_Pass(path, None, None, repeats, stack) for path in against]
        for one in [*passes, *others]:
            one.read(on_progress)
        everything = [*passes, *others]
        repeats.finish(
            [one.findings for one in everything],
            lambda file, row: said(everything[file].row(row)),
        )
        files = tuple(one.result() for one in passes)
    return LintReport(files, tuple(shown_path(path) for path in against), near_threshold)


class _Pass:
    """One file on its way through all rules. Without `skipped` it is only compared with."""

    def __init__(
        self,
        path: Path,
        skipped: frozenset[str] | None,
        max_characters: int | None,
        repeats: Repeats,
        stack: ExitStack,
    ) -> None:
        self._path = path
        self._repeats = repeats
        self._stack = stack
        self.findings = None if skipped is None else Findings(shown_path(path), skipped)
        self._lines, self._offsets = array("q"), array("q")
        self._linted = LintedFile(shown_path(path))
        self._lengths, self._languages = Lengths(max_characters), Languages()
        self._labels, self._systems = Labels(), Systems()
        self._rules: tuple[CorpusRule, ...] = (
            self._lengths, self._languages, self._labels, self._systems, Endings(), Widths(),
        )  # fmt: skip
        self.row: Callable[[int], Example]

    def read(self, on_progress: Progress | None) -> None:
        require_file(self._path)
        reader = ChatReader(self._path)
        self._repeats.start_file(self._linted.path)
        end = 0
        for number, row in enumerate(reader):
            start, end = end, reader.counts.bytes
            if isinstance(row, Refused):
                room = max(0, MAX_FAULTS - len(self._linted.faults))
                self._linted.faults.extend(row.faults[:room])
                continue
            self._lines.append(row.line)
            self._offsets.append(start)
            self._repeats.add(row)
            if self.findings is not None:
                self._lint(row, self.findings)
            if on_progress is not None and number % 200 == 0:
                on_progress(end, reader.counts.total_bytes)
        self._linted.rows = reader.counts.examples
        self._linted.faulty_rows = reader.counts.refused
        self._linted.fault_count = reader.counts.faults
        self.row = self._stack.enter_context(row_reader(self._path, self._offsets))

    def _lint(self, row: Example, findings: Findings) -> None:
        lint_row(row, findings)
        seen = _seen(row)
        for rule in self._rules:
            rule.add(seen)

    def result(self) -> LintedFile:
        assert self.findings is not None
        for rule in self._rules:
            rule.finish(self._lines, lambda row: _seen(self.row(row)), self.findings)
        few_rows(self._linted.rows, self.findings)
        self._linted.findings = self.findings.all()
        self._linted.numbers = {
            "near_crowded_rows": self.findings.crowded_rows,
            "prompt_characters": histogram(self._lengths.prompts),
            "answer_characters": histogram(self._lengths.answers),
            "languages": self._languages.counts(),
            "labels": _label_numbers(self._labels),
            "systems": self._systems.facts(),
        }
        return self._linted


def _seen(row: Example) -> Seen:
    last = last_answer(row)
    asked = last_question(row, last)
    message = row.messages[last]
    return Seen(
        line=row.line,
        question="" if asked is None else mend_mojibake(row.messages[asked]["content"]),
        question_path="" if asked is None else f"messages[{asked}].content",
        answer=mend_mojibake(message["content"]),
        answer_path=f"messages[{last}].content",
        system=system_prompt(row),
        characters=sum(len(m["content"]) for m in row.messages),
    )


def _label_numbers(labels: Labels) -> dict[str, Any] | None:
    found = labels.labels()
    if not found:
        return None
    return {
        "distinct": len(found),
        "largest_share": max(found.values()) / sum(found.values()),
        "entropy_bits": entropy(found.values()),
        "counts": dict(found.most_common(_SHOWN_LABELS)),
    }
