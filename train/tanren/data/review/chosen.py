"""Which rows are looked at: all, named ones, a sample, or those that `tanren data lint` found."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tanren.data.files import shown_path
from tanren.errors import DataError, Fault
from tanren.strict_json import quoted


@dataclass(frozen=True, slots=True)
class Chosen:
    """Lines of the data file, 1-based, each with why it is shown (or no reason)."""

    why: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def rows(self, lines: Sequence[int], source: str) -> list[int]:
        """Numbers of the rows that stand on these lines. DataError for lines without a row."""
        numbers = {line: index for index, line in enumerate(lines)}
        faults = [
            Fault(f"{source}:{line}", "no row there", f"a line of {source}", "correct the place")
            for line in sorted(self.why)
            if line not in numbers
        ]
        if faults:
            raise DataError("places that are not in the data", faults)
        return sorted(numbers[line] for line in self.why)


Choose = Callable[[Sequence[int], str], list[int]]
"""From the lines of the rows and the file's name to the numbers of the rows to show."""


def sampled(count: int, seed: int) -> Choose:
    """So many rows, the same for the same seed and number of rows; all where there are fewer."""

    def choose(lines: Sequence[int], source: str) -> list[int]:
        drawn = random.Random(seed).sample(range(len(lines)), min(count, len(lines)))
        return sorted(drawn)

    return choose


def chosen_places(listing: Path, data: Path) -> Chosen:
    """`17`, `chats.jsonl:17` or `chats.jsonl:17 anything` a line; blank lines and `#` lines are
    passed over. DataError with every line that is none, or of another file.
    """
    why: dict[int, list[str]] = {}
    faults = []
    for number, words in enumerate(_text(listing).splitlines(), start=1):
        place = words.strip()
        if not place or place.startswith("#"):
            continue
        found = _place(place, data)
        if found is None:
            where = f"{shown_path(listing)}:{number}"
            expected = f"a line number of {shown_path(data)}, such as {shown_path(data)}:17"
            faults.append(Fault(where, quoted(place), expected, "correct or remove the line"))
        else:
            line, reason = found
            why.setdefault(line, []).extend([reason] if reason else [])
    if faults:
        raise DataError("places that cannot be read", faults)
    return Chosen(why)


def _place(place: str, data: Path) -> tuple[int, str] | None:
    first, _, reason = place.partition(" ")
    name, colon, digits = first.rpartition(":")
    if " " in str(data) and place.startswith(f"{shown_path(data)}:"):
        name, colon = shown_path(data), ":"
        digits, _, reason = place[len(name) + 1 :].partition(" ")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18 or int(digits) < 1:
        return None
    return (int(digits), reason.strip()) if not colon or _same(name, data) else None


def _same(name: str, data: Path) -> bool:
    return name == shown_path(data) or Path(name).resolve() == data.resolve()


def chosen_by_lint(report: Path, data: Path) -> Chosen:
    """The places of a `tanren data lint --json` report, each with what was found there.

    DataError if it is none, or of other files. A report names the first thousand places of each
    finding.
    """
    files = _files_of(report)
    mine = [file for file in files if _same(str(file.get("path")), data)]
    if not mine:
        names = ", ".join(quoted(str(file.get("path"))) for file in files[:6]) or "no file"
        remedy = "lint this file: tanren data lint FILE --json > findings.json"
        where = shown_path(report)
        raise DataError.of(Fault(where, f"findings of {names}", shown_path(data), remedy))
    why: dict[int, list[str]] = {}
    for line, reason in _reasons(mine):
        reasons = why.setdefault(line, [])
        if reason not in reasons:
            reasons.append(reason)
    return Chosen(why)


def _reasons(files: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    for file in files:
        for finding in file.get("findings", ()):
            for place in finding.get("places", ()):
                if place["line"] > 0:  # 0 is the file as a whole
                    where = f" at {place['path']}" if place.get("path") else ""
                    yield place["line"], f"{finding['rule']}: {finding.get('finds', '')}{where}"


def _files_of(report: Path) -> list[Mapping[str, Any]]:
    try:
        found = json.loads(_text(report))
        files = list(found["files"])
        for _ in _reasons(files):  # every place is one
            pass
        return files
    except (ValueError, KeyError, TypeError, AttributeError):
        expected = "a report of `tanren data lint --json`"
        remedy = "write one: tanren data lint FILE --json > findings.json"
        fault = Fault(shown_path(report), "something else", expected, remedy)
        raise DataError.of(fault) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = type(error).__name__
        fault = Fault(shown_path(path), found, "a UTF-8 text file", "correct the path")
        raise DataError.of(fault) from None
