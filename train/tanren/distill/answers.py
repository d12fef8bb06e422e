"""What was answered, on disk as soon as it is there: a killed distillation asks only for the rest.

The work is replayed from its first row at every start, with answers from the journal where it has
them, so that it comes to the same end whenever it was stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from tanren.distill.rows import digest
from tanren.distill.teacher import Teacher
from tanren.endpoint import Failure, Journal, Reply
from tanren.errors import WorkError
from tanren.evaluate.answering import split_reasoning

Message = Mapping[str, Any]
FINAL = ("refused", "withheld")
"""Failures that are an answer of sorts: asked again, the teacher would say the same."""


class Unanswered(WorkError):
    """The teacher gave no answer this time; the row is left for the next start."""


class Stopped(WorkError):
    """No further question is asked."""


class Answers:
    """Asks a teacher for what the journal lacks."""

    def __init__(self, teacher: Teacher, journal: Journal) -> None:
        self.stopped: str | None = None
        """Why nothing more is asked, for people."""
        self._teacher = teacher
        self._journal = journal
        self._known = {record["key"]: record for record in journal.records}
        self._proven = any("reply" in record for record in journal.records)
        self._refusals: list[dict[str, Any]] = []

    async def get(self, place: str, messages: Sequence[Message]) -> Reply | Failure:
        """The answer to `messages` at `place`, which names row, try and turn.

        A Failure is final. Raises Unanswered, Stopped, or what the teacher raises.
        """
        key = digest([place, list(messages)])
        known = self._known.get(key)
        if known is not None:
            return _recalled(known)
        if self.stopped is not None:
            raise Stopped(self.stopped)
        found = await self._teacher.ask(messages, stream=_stream(place))
        if isinstance(found, Failure) and found.kind not in FINAL:
            raise Unanswered(found.words)
        found = _split(found) if isinstance(found, Reply) else found
        self._keep({"key": key, "place": place, **_record(found)}, found)
        return found

    def _keep(self, record: dict[str, Any], found: Reply | Failure) -> None:
        """Refusals before the first answer may be a setting's fault: they are kept only once the
        teacher has answered something.
        """
        self._known[record["key"]] = record
        if isinstance(found, Failure) and not self._proven:
            self._refusals.append(record)
            return
        self._proven = True
        for earlier in (*self._refusals, record):
            self._journal.append(earlier)
        self._refusals.clear()


def _stream(place: str) -> int:
    """A number of 48 bits for the draws at a place."""
    return int.from_bytes(hashlib.sha256(place.encode("utf-8")).digest()[:6], "big")


def _split(reply: Reply) -> Reply:
    """Thoughts that stand in the text are no part of the answer; white space around it neither."""
    reasoning, text = split_reasoning(reply.text)
    return Reply(
        text.strip(), reply.reasoning or reasoning, reply.finish_reason, reply.model,
        reply.prompt_tokens, reply.answer_tokens, reply.seconds,
    )  # fmt: skip


def _record(found: Reply | Failure) -> dict[str, Any]:
    if isinstance(found, Failure):
        return {"failure": {"kind": found.kind, "words": found.words}}
    values = found.as_dict()
    return {"reply": {name: values[name] for name in values if name not in ("attempts", "cached")}}


def _recalled(record: Mapping[str, Any]) -> Reply | Failure:
    return Reply(**record["reply"]) if "reply" in record else Failure(**record["failure"])
