"""What only many rows together show: languages, endings, system prompts, widths of letters.

Each class takes every row, keeps a few bytes of it, and says in the end which rows stand out.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tanren.data.lint import texts
from tanren.data.lint.found import Findings
from tanren.data.lint.languages import LANGUAGES, language
from tanren.data.near import comparable

_TEXT_SAMPLE = 60


@dataclass(frozen=True, slots=True)
class Seen:
    """A row as the rules of this file need it."""

    line: int
    question: str
    question_path: str
    answer: str
    answer_path: str
    system: str | None
    characters: int
    """Of all messages together."""


Again = Callable[[int], Seen]
"""Reads a row once more, by its number from 0."""


class CorpusRule(Protocol):
    def add(self, row: Seen) -> None: ...

    def finish(self, lines: array[int], again: Again, findings: Findings) -> None: ...


class Languages:
    """One byte for a question's language and one for its answer's."""

    _MIN_ROWS = 20
    _USUAL = 0.9
    _TRANSLATION = 0.2

    def __init__(self) -> None:
        self.questions, self.answers = bytearray(), bytearray()

    def add(self, row: Seen) -> None:
        self.questions.append(LANGUAGES.index(language(row.question)))
        self.answers.append(LANGUAGES.index(language(row.answer)))

    def counts(self) -> dict[str, dict[str, int]]:
        return {
            "questions": _named(self.questions),
            "answers": _named(self.answers),
        }

    def finish(self, lines: array[int], again: Again, findings: Findings) -> None:
        both = [
            row
            for row, (asked, said) in enumerate(zip(self.questions, self.answers, strict=True))
            if asked and said
        ]
        other = [row for row in both if self.questions[row] != self.answers[row]]
        if other and len(other) > self._TRANSLATION * len(both) and len(both) >= self._MIN_ROWS:
            # The rows translate, or their answers are in one language on purpose.
            facts = {"of_rows": len(both), "share": len(other) / len(both)}
            findings.add_whole("other-language", len(other), facts, "note")
            other = []
        for row in other:
            self._place("other-language", row, lines, again, findings)
        self._rare(set(other), lines, again, findings)

    def _rare(
        self, said_already: set[int], lines: array[int], again: Again, findings: Findings
    ) -> None:
        counts = Counter(code for code in self.answers if code)
        known = sum(counts.values())
        if known < self._MIN_ROWS:
            return
        usual, rows = counts.most_common(1)[0]
        if rows < self._USUAL * known:
            return
        for row, code in enumerate(self.answers):
            if code and code != usual and row not in said_already:
                self._place("rare-language", row, lines, again, findings)

    def _place(
        self, rule: str, row: int, lines: array[int], again: Again, findings: Findings
    ) -> None:
        seen = again(row)
        asked, said = LANGUAGES[self.questions[row]], LANGUAGES[self.answers[row]]
        shown = f"{asked or '?'} → {said}: {seen.answer}"
        findings.add(rule, lines[row], seen.answer_path, shown)


def _named(codes: bytearray) -> dict[str, int]:
    counts = Counter(codes)
    return {name or "unclear": counts[i] for i, name in enumerate(LANGUAGES) if counts[i]}


class Endings:
    """How answers end: in mid-sentence where most do not, or all with the same words."""

    _MIN_ROWS = 20
    _USUAL = 0.9
    _MIN_CHARACTERS = 8
    _SAME_SHARE = 0.05
    _SAME_ROWS = 10

    def __init__(self) -> None:
        self._ended = 0
        self._cut = array("q")
        self._rows = 0
        self._last = array("Q")

    def add(self, row: Seen) -> None:
        how = texts.ending(row.answer)
        self._ended += how == "ended"
        if how == "cut":
            self._cut.append(self._rows)
        last = texts.last_sentence(row.answer)
        self._last.append(digest(last) if len(last) >= self._MIN_CHARACTERS else 0)
        self._rows += 1

    def finish(self, lines: array[int], again: Again, findings: Findings) -> None:
        known = self._ended + len(self._cut)
        if known >= self._MIN_ROWS and self._ended >= self._USUAL * known:
            for row in self._cut:
                seen = again(row)
                findings.add("cut-answer", lines[row], seen.answer_path, "…" + seen.answer[-40:])
        import numpy as np

        enough = max(self._SAME_ROWS, self._SAME_SHARE * self._rows)
        values, first, counts = np.unique(
            np.frombuffer(self._last, dtype=np.uint64), return_index=True, return_counts=True
        )
        for i in np.flatnonzero((counts >= enough) & (values != 0)).tolist():
            row, count = int(first[i]), int(counts[i])
            self._same(row, count, lines, again, findings)

    def _same(
        self, row: int, count: int, lines: array[int], again: Again, findings: Findings
    ) -> None:
        seen = again(row)
        shown = f"{texts.last_sentence(seen.answer)[:_TEXT_SAMPLE]} ({count:,} rows)"
        findings.add("same-ending", lines[row], seen.answer_path, shown)
        findings.add_whole("same-ending", count, {})


class Systems:
    """Which rows have which system prompt. 8 bytes a row and the first thousand wordings."""

    _KEPT = 1_000
    _USUAL = 0.9

    def __init__(self) -> None:
        self._digests = array("Q")
        self._wordings: dict[int, str] = {}
        self._counts: Counter[int] = Counter()

    def add(self, row: Seen) -> None:
        if row.system is None or not row.system.strip():
            self._digests.append(0)
            return
        number = digest(row.system)
        self._digests.append(number)
        if number in self._counts or len(self._counts) < self._KEPT:
            self._counts[number] += 1
            self._wordings.setdefault(number, row.system)

    def facts(self) -> dict[str, int]:
        return {"rows_with": sum(d != 0 for d in self._digests), "wordings": len(self._counts)}

    def finish(self, lines: array[int], again: Again, findings: Findings) -> None:
        rows = len(self._digests)
        bare = [row for row, number in enumerate(self._digests) if number == 0]
        if bare and len(bare) < rows:
            for row in bare:
                seen = again(row)
                if seen.system is None:
                    findings.add("some-without-system", lines[row], "messages[0]", seen.question)
        odd = self._odd_wordings(rows - len(bare))
        for row, number in enumerate(self._digests):
            if number in odd:
                shown = f"{self._wordings[number]}"
                findings.add(
                    "system-variants", lines[row], "messages[0].content", shown, more=odd[number]
                )

    def _odd_wordings(self, rows: int) -> dict[int, str]:
        """Rare wordings beside a usual one, and such that differ from another in nothing but
        space, case or width.
        """
        if len(self._counts) < 2 or len(self._counts) >= self._KEPT:
            return {}
        (usual, most), *others = self._counts.most_common()
        odd: dict[int, str] = {}
        if most >= self._USUAL * rows:
            odd = {number: f" ({count} rows)" for number, count in others}
        first: dict[str, int] = {}
        for number, _ in self._counts.most_common():
            plain = bare(self._wordings[number])
            if plain in first:
                odd[number] = f" (as in {self._counts[first[plain]]} other rows, but for signs)"
            first.setdefault(plain, number)
        odd.pop(usual, None)
        return odd


class Widths:
    """Full-width letters and digits, and Western commas in Japanese, where most rows differ."""

    _FEW = 0.2
    _WIDE, _NARROW, _BOTH = 1, 2, 4
    _EAST, _WEST = 8, 16

    def __init__(self) -> None:
        self._flags = bytearray()

    def add(self, row: Seen) -> None:
        flags = 0
        for text in (row.question, row.answer):
            if text.isascii():
                continue
            if texts.full_width(text) is not None:
                flags |= self._WIDE
                flags |= self._BOTH if texts.both_widths(text) else 0
            elif texts.has_narrow(text):
                flags |= self._NARROW
            east, west = texts.punctuation_styles(text)
            flags |= self._EAST * east | self._WEST * (west is not None)
        self._flags.append(flags)

    def finish(self, lines: array[int], again: Again, findings: Findings) -> None:
        self._few("mixed-width", self._WIDE, self._NARROW, lines, again, findings)
        self._few("mixed-punctuation", self._WEST, self._EAST, lines, again, findings)

    def _few(
        self,
        rule: str,
        rare: int,
        usual: int,
        lines: array[int],
        again: Again,
        findings: Findings,
    ) -> None:
        """Rows with the rare style, if they are few; rows with both in one text in any case."""
        rows = [row for row, flags in enumerate(self._flags) if flags & rare]
        others = sum(bool(flags & usual) and not flags & rare for flags in self._flags)
        few = len(rows) <= self._FEW * (len(rows) + others)
        for row in rows:
            if few or (rule == "mixed-width" and self._flags[row] & self._BOTH):
                seen = again(row)
                for path, text in (
                    (seen.question_path, seen.question),
                    (seen.answer_path, seen.answer),
                ):
                    shown = (
                        texts.full_width(text)
                        if rule == "mixed-width"
                        else texts.punctuation_styles(text)[1]
                    )
                    if shown is not None:
                        findings.add(rule, lines[row], path, shown)
                        break


def few_rows(rows: int, findings: Findings) -> None:
    if 0 < rows < 10:
        findings.add_whole("few-rows", rows, {"rows": rows})
    elif 10 <= rows < 50:
        findings.add_whole("few-rows", rows, {"rows": rows}, "note")


def digest(text: str) -> int:
    """64 bits of BLAKE2b, never 0, which stands for nothing."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


def bare(label: str) -> str:
    """A label without case, width and punctuation. A sign alone is a label too."""
    plain = comparable(label)
    letters = [c for c in plain if unicodedata.category(c)[0] in "LNMS"]
    return "".join(letters)
