"""What was found: rows counted without bound, the first places kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tanren.data.lint.catalog import RULES, SEVERITIES, Rule, Severity
from tanren.strict_json import escape

MAX_PLACES = 1_000
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Place:
    line: int
    """1-based; 0 for the file as a whole."""
    path: str
    """`messages[1].content`, or "" for the row."""
    shown: str
    """A short piece of the text, on one line."""


@dataclass(slots=True)
class Finding:
    """One rule's rows in one file."""

    rule: str
    file: str
    rows: int = 0
    places: list[Place] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    severity: Severity = "note"
    """The rule's own, unless the facts make it milder."""

    @property
    def about(self) -> Rule:
        return RULES[self.rule]

    @property
    def hidden(self) -> int:
        """Rows that are counted and not among the places."""
        return self.rows - len({place.line for place in self.places})

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "finds": self.about.finds,
            "remedy": self.about.remedy,
            "fixed_by_fix": self.about.fixed,
        }


class Findings:
    """All findings of one file."""

    def __init__(self, file: str, skipped: frozenset[str]) -> None:
        self.file = file
        self._skipped = skipped
        self._found: dict[str, Finding] = {}
        self._last_line: dict[str, int] = {}
        self.crowded_rows = 0
        """Rows too many alike to compare each with all others."""

    def wants(self, rule: str) -> bool:
        return rule not in self._skipped

    def add(self, rule: str, line: int, path: str, shown: str, *, more: str = "") -> None:
        """`more` is put behind the piece of text, which is made short."""
        if rule in self._skipped:
            return
        finding = self._of(rule)
        if self._last_line.get(rule) != line:
            self._last_line[rule] = line
            finding.rows += 1
        if len(finding.places) < MAX_PLACES:
            finding.places.append(Place(line, path, piece(shown) + more))

    def add_whole(
        self, rule: str, rows: int, facts: Mapping[str, Any], severity: Severity | None = None
    ) -> None:
        """What is true of the file and not of single rows."""
        if rule in self._skipped:
            return
        finding = self._of(rule)
        finding.rows = max(finding.rows, rows)
        finding.facts.update(facts)
        finding.severity = severity or finding.about.severity

    def all(self) -> list[Finding]:
        """The worst first; within a severity in the order of the table."""
        order = list(RULES)
        return sorted(
            self._found.values(),
            key=lambda f: (SEVERITIES.index(f.severity), order.index(f.rule)),
        )

    def _of(self, rule: str) -> Finding:
        if rule not in self._found:
            self._found[rule] = Finding(rule, self.file, severity=RULES[rule].severity)
        return self._found[rule]


def piece(text: str) -> str:
    """The start of a text, with everything invisible in it written out."""
    cut = text[:SHOWN_CHARACTERS]
    return escape(cut) + ("…" if len(text) > SHOWN_CHARACTERS else "")


def around(text: str, start: int, end: int, margin: int = 20) -> str:
    """The piece of a text that a match stands in."""
    before, after = max(0, start - margin), min(len(text), max(end, start + 1) + margin)
    return ("…" if before else "") + text[before:after] + ("…" if after < len(text) else "")
