"""What a distillation writes: rows to train on, where they come from, and what was rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tanren.distill.loop import Attempt, Outcome
from tanren.distill.rows import SourceRow

SAME, NONE = "same", "none"


def train_row(outcome: Outcome, *, system_in_rows: str, keep_repair_turns: bool) -> dict[str, Any]:
    """One line of chat-format JSONL."""
    row = outcome.row
    system = _system(row.system, system_in_rows)
    messages: list[Mapping[str, Any]] = []
    if system:
        messages.append({"role": "system", "content": system})
    messages += [dict(message) for message in row.history]
    messages.append({"role": "user", "content": row.user})
    if keep_repair_turns:
        messages += _repair_turns(outcome)
    messages.append({"role": "assistant", "content": outcome.answer})
    return {"messages": messages}


def _system(own: str | None, asked: str) -> str | None:
    if asked == SAME:
        return own
    return None if asked == NONE else asked


def _repair_turns(outcome: Outcome) -> list[Mapping[str, Any]]:
    """The accepted try up to its last answer; what failed is not trained (T27)."""
    turns: list[Mapping[str, Any]] = []
    for attempt in outcome.attempts[:-1]:
        if attempt.number == outcome.attempts[-1].number:
            turns.append({"role": "assistant", "content": attempt.answer, "weight": 0})
            turns.append({"role": "user", "content": attempt.told})
    return turns


def provenance_row(outcome: Outcome, number: int, teacher: str) -> dict[str, Any]:
    """`number` is the line in train.jsonl, from 1."""
    last = outcome.attempts[-1]
    return {
        "row": number,
        "source": source_of(outcome.row),
        "teacher": {"name": teacher, "model": last.reply.model if last.reply else ""},
        "prompt_sha256": outcome.row.prompt_sha256,
        "tries": last.number,
        "attempts": len(outcome.attempts),
        "repairs": last.turn,
        "prompt_tokens": outcome.prompt_tokens,
        "answer_tokens": outcome.answer_tokens,
        "seconds": round(outcome.seconds, 6),
        "values": dict(outcome.values),
    }


def rejected_row(outcome: Outcome) -> dict[str, Any]:
    """With every attempt and what was wrong in it."""
    return {
        "reason": reason_of(outcome.attempts[-1]),
        "source": source_of(outcome.row),
        "question": outcome.row.user,
        "attempts": [attempt.as_dict() for attempt in outcome.attempts],
    }


def reason_of(last: Attempt) -> str:
    return last.failure or ", ".join(last.broken)


def source_of(row: SourceRow) -> dict[str, Any]:
    """Where a row comes from: a place in the source, or one of the teacher's ideas."""
    if row.given is not None:
        return {"seeds": row.file, "idea": row.key, "sha256": row.sha256}
    return {"row": row.position + 1, "file": row.file, "line": row.line, "sha256": row.sha256}


def in_order(outcomes: Mapping[int, Outcome], *, accepted: bool) -> Sequence[Outcome]:
    """In the order of the source."""
    found = [outcomes[position] for position in sorted(outcomes)]
    return [outcome for outcome in found if outcome.accepted == accepted]
