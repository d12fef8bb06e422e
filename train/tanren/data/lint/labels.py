"""Short answers that come again and again: a task of classes, and how even they are."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable

from tanren.data.lint.corpus import Again, Seen, bare
from tanren.data.lint.found import Findings


class Labels:
    """Short answers that come again and again: a task of classes."""

    _LONGEST = 40
    _MAX_LABELS = 100
    _MIN_ROWS = 20
    _MAX_KEPT = 20_000
    _BALANCED = 0.75
    _RARE_ROWS = 5

    def __init__(self) -> None:
        self._rows = 0
        self.counts: Counter[str] | None = Counter()
        self._first: dict[str, int] = {}

    def add(self, row: Seen) -> None:
        self._rows += 1
        if self.counts is None:
            return
        label = row.answer.strip()
        if len(label) > self._LONGEST or "\n" in label:
            label = ""
        self.counts[label] += 1
        self._first.setdefault(label, row.line)
        if len(self.counts) > self._MAX_KEPT:
            self.counts = None

    def labels(self) -> Counter[str] | None:
        """The labels with their rows; None where the answers are no labels."""
        if self.counts is None or self._rows < self._MIN_ROWS:
            return None
        found = Counter({label: rows for label, rows in self.counts.items() if label})
        few = max(2, min(self._MAX_LABELS, self._rows // 5))
        short = sum(found.values())
        return found if short >= 0.9 * self._rows and len(found) <= few else None

    def finish(self, lines: array[int], again: Again, findings: Findings) -> None:
        labels = self.labels()
        if not labels:
            return
        rows = sum(labels.values())
        top, most = labels.most_common(1)[0]
        evenness = entropy(labels.values()) / math.log2(max(2, len(labels)))
        if evenness < self._BALANCED:
            facts = {
                "labels": len(labels),
                "largest": top,
                "largest_share": most / rows,
                "entropy_bits": entropy(labels.values()),
                "evenness": evenness,
            }
            findings.add_whole("label-imbalance", most, facts)
        for label, count in sorted(labels.items(), key=lambda item: item[1]):
            if count < self._RARE_ROWS:
                findings.add("rare-label", self._first[label], "", f"{label} ({count} rows)")
        self._variants(labels, findings)

    def _variants(self, labels: Counter[str], findings: Findings) -> None:
        by_plain: dict[str, list[str]] = {}
        for label in labels:
            by_plain.setdefault(bare(label), []).append(label)
        for plain, same in by_plain.items():
            if plain and len(same) > 1:
                usual = max(same, key=lambda label: labels[label])
                for label in same:
                    if label != usual:
                        shown = f"{label} ({labels[label]} rows) beside {usual} ({labels[usual]})"
                        findings.add("label-variants", self._first[label], "", shown)


def entropy(counts: Iterable[int]) -> float:
    """Shannon's, in bits."""
    known = [count for count in counts if count]
    total = sum(known)
    return -sum(count / total * math.log2(count / total) for count in known)
