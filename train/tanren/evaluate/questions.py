"""The rows of a test file as questions: what is asked, and what a right answer is.

A row's last trained reply is the reference, the messages before it are the prompt; what follows it
is not used. Rows that cannot be used are counted by reason.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tanren.chat import Example, render_ready
from tanren.data.files import shown_path
from tanren.data.read import ChatReader
from tanren.errors import DataError, Fault
from tanren.evaluate.answered import Answered

if TYPE_CHECKING:
    from tanren.evaluate.retention import RetentionSet

NOT_VALID = "not a valid row"
TOOL_CALL = "the reference is a tool call"
NO_REPLY = "no trained reply"
_FAULTS_KEPT = 5


@dataclass(frozen=True, slots=True)
class Question:
    """`row` is the line in the file, from 1. `reply` is the index of the reference in the example's
    messages.
    """

    row: int
    example: Example
    reply: int
    options: tuple[str, ...] = ()
    """Every row's labels, or the row's own choices, as a reply would say them."""

    @classmethod
    def of(cls, example: Example) -> Self:
        return cls(example.line, example, example.trained_turns[-1])

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The prompt, as chat templates want it."""
        messages, _ = render_ready(self.example)
        return tuple(messages[: self.reply])

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        return render_ready(self.example)[1]

    @property
    def reference(self) -> str:
        return str(self.example.messages[self.reply].get("content") or "")

    @property
    def text(self) -> str:
        """The last thing the user said."""
        asked = [m for m in self.example.messages[: self.reply] if m["role"] == "user"]
        return str(asked[-1].get("content") or "") if asked else ""

    @property
    def asks_alone(self) -> bool:
        """Whether the prompt is text: no tools, no calls."""
        spoken = all("tool_calls" not in m and m["role"] != "tool" for m in self.messages)
        return spoken and not self.example.tools

    def with_reply(self, reply: str, *, line: int) -> Example:
        """The row as if it ended with this reply; `line` names it."""
        said = {"role": "assistant", "content": reply}
        messages = (*self.example.messages[: self.reply], said)
        return replace(self.example, messages=messages, line=line, warnings=())

    def prompt_key(self) -> str:
        """sha256 (hex) of what is asked: messages before the reference, and tools."""
        return _digest([self.messages, self.tools])

    def reference_key(self) -> str:
        """The same with the reference."""
        messages, tools = render_ready(self.example)
        return _digest([messages[: self.reply + 1], tools])

    def unanswered(self, error: str = "not asked") -> Answered:
        """Its row without an answer."""
        return Answered(
            row=self.row,
            messages=self.messages,
            reference=self.reference,
            answer="",
            finish_reason="error",
            options=self.options,
            error=error,
        )


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Questions:
    """`file_rows` == usable + sum(left_out). `rows` are the usable ones, or the first `limit`."""

    file: str
    sha256: str
    rows: tuple[Question, ...]
    file_rows: int
    usable: int
    left_out: dict[str, int]
    faults: tuple[Fault, ...] = ()
    """The first of those rows that are not valid."""

    @property
    def notes(self) -> list[str]:
        """What was not used, in sentences."""
        notes = [f"{count:,} rows left out: {reason}" for reason, count in self.left_out.items()]
        notes += [f"left out: {fault}" for fault in self.faults]
        if len(self.rows) < self.usable:
            notes.append(f"only the first {len(self.rows):,} of {self.usable:,} rows were asked")
        return notes


def read_questions(path: Path, *, limit: int | None = None) -> Questions:
    """The whole file is read, so that its digest is known. DataError where no row can be used."""
    reader = ChatReader(path)
    rows: list[Question] = []
    left_out: Counter[str] = Counter()
    faults: list[Fault] = []
    usable = total = 0
    for row in reader:
        total += 1
        reason = _reason_against(row)
        if reason is not None:
            left_out[reason] += 1
            if not isinstance(row, Example):
                faults += row.faults
            continue
        assert isinstance(row, Example)
        usable += 1
        if limit is None or len(rows) < limit:
            rows.append(Question.of(row))
    if not rows:
        raise DataError.of(*(faults or [_no_row(path, left_out)]))
    sha256 = reader.counts.sha256 or ""
    return Questions(
        shown_path(path), sha256, tuple(rows), total, usable, dict(left_out),
        tuple(faults[:_FAULTS_KEPT]),
    )  # fmt: skip


def _reason_against(row: object) -> str | None:
    if not isinstance(row, Example):
        return NOT_VALID
    if not row.trained_turns:
        return NO_REPLY
    return TOOL_CALL if "tool_calls" in row.messages[row.trained_turns[-1]] else None


def _no_row(path: Path, left_out: Counter[str]) -> Fault:
    reasons = ", ".join(f"{count:,} rows: {reason}" for reason, count in left_out.items())
    remedy = "add conversations that end with the right answer"
    return Fault(shown_path(path), reasons, "at least one question with its answer", remedy)


def retention_questions(rows: RetentionSet) -> tuple[Question, ...]:
    """The set's rows; `row` is the number in the set."""
    return tuple(
        Question(
            row.number,
            Example(
                row.where,
                row.number,
                (*row.messages, {"role": "assistant", "content": row.reference}),
            ),
            len(row.messages),
        )
        for row in rows.rows
    )


def spread(rows: Sequence[Question], count: int) -> list[Question]:
    """At most `count` of the rows, evenly over all: a file may be sorted."""
    if len(rows) <= count:
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]


def as_rows(questions: Iterable[Question]) -> list[Answered]:
    """Rows without answers, for what looks at questions and references alone."""
    return [question.unanswered() for question in questions]
