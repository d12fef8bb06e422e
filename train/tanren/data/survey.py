"""One pass over the data files before anything is loaded: every fault, every repeat, all counts. No
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tanren.chat import Example, Preference
from tanren.data.duplicates import DuplicateFinder, DuplicateReport
from tanren.data.read import ChatReader, FileCounts, PreferenceReader
from tanren.errors import DataError, Fault

MAX_FAULTS = 100_000
"""Kept per file; the counts have no bound."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes read so far and the file's size (None for a pipe)."""


@dataclass(slots=True)
class FileSurvey:
    """What one file holds. `faults` keeps the first 100,000; `counts.faults` counts all."""

    path: str
    counts: FileCounts
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    turns: int = 0
    trained_turns: int = 0
    with_system: int = 0
    with_tools: int = 0
    with_reasoning: int = 0

    def as_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["counts"]["ignored_keys"] = dict(self.counts.ignored_keys)
        return plain


@dataclass(frozen=True, slots=True)
class Survey:
    """Training file, validation file where there is one, and what repeats within and between
    them.
    """

    train: FileSurvey
    validation: FileSurvey | None
    duplicates: DuplicateReport
    preferences: bool = False

    @property
    def files(self) -> list[FileSurvey]:
        return [self.train] if self.validation is None else [self.train, self.validation]

    @property
    def faults(self) -> list[Fault]:
        return [fault for file in self.files for fault in file.faults]

    @property
    def fault_count(self) -> int:
        return sum(file.counts.faults for file in self.files)

    @property
    def has_reasoning(self) -> bool:
        return any(file.with_reasoning for file in self.files)

    @property
    def warnings(self) -> list[str]:
        found = [text for file in self.files for text in file.warnings]
        return found + _duplicate_warnings(self.duplicates, self.preferences)

    def as_dict(self) -> dict[str, Any]:
        return {
            "train": self.train.as_dict(),
            "validation": self.validation.as_dict() if self.validation else None,
            "duplicates": asdict(self.duplicates),
            "fault_count": self.fault_count,
            "warnings": self.warnings,
        }

    def require_sound(self, *, skip_faulty: bool = False) -> None:
        """Raise DataError with every fault, unless faulty rows are to be left out and others
        remain.
        """
        bare = [f for f in self.files if f.counts.examples == 0]
        if (self.fault_count and not skip_faulty) or bare:
            rows = sum(file.counts.refused for file in self.files)
            raise DataError(
                f"{self.fault_count} faults in {rows} of "
                f"{sum(f.counts.examples for f in self.files) + rows} rows",
                self.faults,
            )


def survey(
    path: Path,
    *,
    against: Path | None = None,
    preferences: bool = False,
    on_progress: Progress | None = None,
) -> Survey:
    """Read `path`, and `against` as its validation file: chat lines or, with `preferences`,
    preference lines. Raises DataError for a file that is no such JSONL at all.

    Of preferences what repeats is looked for in prompts with their preferred answers.
    """
    finder = DuplicateFinder()
    reader = PreferenceReader if preferences else ChatReader
    train = _read(reader(path), finder.add_train, on_progress)
    validation = None
    if against is not None:
        validation = _read(reader(against), finder.add_validation, on_progress)
    return Survey(train, validation, finder.report(), preferences)


def _read(
    reader: ChatReader | PreferenceReader,
    add: Callable[[Example], None],
    on_progress: Progress | None,
) -> FileSurvey:
    found = FileSurvey(str(reader.path), reader.counts)
    warned: dict[str, list[str]] = {}
    for number, row in enumerate(reader):
        if isinstance(row, Example | Preference):
            example = row.preferred if isinstance(row, Preference) else row
            _count(found, example, row)
            for warning in row.warnings:
                warned.setdefault(f"{warning.found}; {warning.remedy}", []).append(warning.where)
            add(example)
        else:
            found.faults.extend(row.faults[: max(0, MAX_FAULTS - len(found.faults))])
        if on_progress is not None and number % 1000 == 0:
            on_progress(reader.counts.bytes, reader.counts.total_bytes)
    found.counts = reader.counts
    if on_progress is not None:
        on_progress(reader.counts.bytes, reader.counts.total_bytes)
    found.warnings = _file_warnings(found, warned)
    return found


def _count(found: FileSurvey, row: Example, whole: Example | Preference) -> None:
    """`whole` is the row itself; of a preference `row` is the half with the preferred answer."""
    found.turns += sum(message["role"] == "assistant" for message in row.messages)
    if isinstance(whole, Preference):
        found.turns += 1
        found.trained_turns += 2
        found.with_reasoning += not _reasons(row) and _reasons(whole.rejected)
    else:
        found.trained_turns += len(row.trained_turns)
    found.with_system += any(m["role"] in ("system", "developer") for m in row.messages)
    found.with_tools += bool(row.tools)
    found.with_reasoning += _reasons(row)


def _reasons(row: Example) -> bool:
    return any(
        "reasoning_content" in m or "<think>" in m.get("content", "")
        for m in row.messages
        if m["role"] == "assistant"
    )


def _file_warnings(found: FileSurvey, warned: dict[str, list[str]]) -> list[str]:
    warnings = [
        f"{len(places)} times, first at {places[0]}: {text}" for text, places in warned.items()
    ]
    for key, rows in found.counts.ignored_keys.items():
        warnings.append(f"{found.path}: the key {key!r} stands in {rows} rows and is not used")
    return warnings


def _duplicate_warnings(report: DuplicateReport, preferences: bool) -> list[str]:
    said = []
    compared = " (prompt and preferred answer)" if preferences else ""
    for name, finding in (
        ("rows repeat an earlier row word for word", report.train.identical),
        ("rows nearly repeat an earlier row", report.train.near),
        ("rows ask what an earlier row asks and answer otherwise", report.train.contradictions),
        ("validation rows are training rows: their loss says nothing", report.leaks.identical),
        ("validation rows ask what a training row asks", report.leaks.same_prompt),
        ("validation rows are nearly training rows", report.leaks.near),
    ):
        if finding.count:
            first = finding.pairs[0]
            said.append(
                f"{finding.count} {name}{compared}, first {first.second} (see {first.first})"
            )
    if report.train.rows > report.train.near_rows:
        said.append(
            f"near repeats were looked for in the first {report.train.near_rows:,} of "
            f"{report.train.rows:,} rows"
        )
    return said
