"""General questions with what a right answer must hold, read from a chat-format file.

What a row tests stands in its `metadata`, which every reader of chat files ignores:

    {"messages": [..., {"role": "assistant", "content": "Paris."}],
     "metadata": {"category": "general knowledge", "language": "en",
                  "check": {"any_of": ["Paris"]}, "wrong": "Lyon."}}

`check` is described in `answer_check.py`. Without one an answer must equal the reference,
normalised. `wrong` is an answer that must not pass. Reference and `wrong` are tried when the set is
read, so that a check that can never hold, or always does, is a fault and no measurement.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tanren.chat import Example, render_ready
from tanren.data.files import shown_path
from tanren.data.read import ChatReader, Refused
from tanren.errors import DataError, Fault
from tanren.evaluate.answer_check import AnswerCheck, spoken
from tanren.evaluate.metrics.text import normalised, script_of
from tanren.strict_json import close_match, quoted, shown

OWN_FILES = tuple(Path(__file__).parent / f"retention_{name}.jsonl" for name in ("ja", "en"))
"""The set that comes with the package and was written for it."""

_KEYS = ("category", "language", "check", "wrong")
_LANGUAGES = {"japanese": "ja", "chinese": "zh", "korean": "ko", "other": "en"}


@dataclass(frozen=True, slots=True)
class RetentionRow:
    """`number` counts through the whole set from 1: it is `Answered.row` of the answer to it."""

    number: int
    where: str
    """`file:line`; of the package's own files without their folder."""
    messages: tuple[dict[str, Any], ...]
    """What is asked, without the reference."""
    reference: str
    category: str
    language: str
    check: AnswerCheck | None = None
    wrong: str | None = None

    @property
    def question(self) -> str:
        """The last thing the user says."""
        asked = [str(m["content"]) for m in self.messages if m["role"] == "user"]
        return asked[-1] if asked else ""


@dataclass(frozen=True, slots=True)
class RetentionSet:
    rows: tuple[RetentionRow, ...]
    files: Mapping[str, str]
    """By path as shown: the SHA-256 of its bytes."""

    @classmethod
    def read(cls, path: Path | None = None) -> Self:
        """The user's file, or the package's own set. DataError with every fault at once."""
        rows: list[RetentionRow] = []
        faults: list[Fault] = []
        files: dict[str, str] = {}
        for file in [path] if path is not None else OWN_FILES:
            read = _read_file(file, faults, first=len(rows) + 1)
            rows.extend(read.rows)
            files.update(read.files)
        if faults:
            raise DataError.of(*faults)
        return cls(tuple(rows), files)


def kept(row: RetentionRow, answer: str) -> bool:
    """Whether the answer is right by the row's check, or by its reference where it has none."""
    if row.check is not None:
        return row.check.passes(answer, row.question)
    return normalised(spoken(answer)) == normalised(row.reference)


# --- reading --------------------------------------------------------------------------------------


def _read_file(path: Path, faults: list[Fault], *, first: int) -> RetentionSet:
    """Rows that have no fault, numbered from `first`; their faults go to `faults`."""
    reader = ChatReader(path)
    read = list(reader)
    name = path.name if path in OWN_FILES else reader.source
    metadata = _metadata(path, reader)
    rows = []
    for number, row in enumerate(read, start=first):
        if isinstance(row, Refused):
            faults.extend(row.faults)
            continue
        made = _row(number, row, f"{name}:{row.line}", metadata[row.line - 1])
        if isinstance(made, RetentionRow):
            rows.append(made)
        else:
            faults.extend(made)
    return RetentionSet(tuple(rows), {name: reader.counts.sha256 or ""})


def _metadata(path: Path, reader: ChatReader) -> list[bytes]:
    """The file's lines once more, since an `Example` carries no metadata."""
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != reader.counts.sha256:
        found = "other bytes when it was read again"
        remedy = "give a file that nothing writes to, and no pipe"
        raise DataError.of(Fault(shown_path(path), found, "a file at rest", remedy))
    return raw.split(b"\n")


def _row(number: int, example: Example, where: str, line: bytes) -> RetentionRow | list[Fault]:
    metadata = json.loads(line.decode("utf-8-sig")).get("metadata", {})
    faults = [*_conversation_faults(example, where), *_metadata_faults(metadata, where)]
    if faults:
        return faults
    messages, _ = render_ready(example)
    last = example.trained_turns[-1]
    reference = str(messages[last].get("content", ""))
    check: AnswerCheck | None = None
    if "check" in metadata:
        read = AnswerCheck.read(metadata["check"], f"{where} metadata.check")
        if isinstance(read, list):
            return read
        check = read
    row = RetentionRow(
        number,
        where,
        tuple(messages[:last]),
        reference,
        metadata.get("category", "other"),
        metadata.get("language") or _LANGUAGES[script_of(str(m["content"]) for m in messages)],
        check,
        metadata.get("wrong"),
    )
    return _trial_faults(row) or row


def _conversation_faults(example: Example, where: str) -> list[Fault]:
    if example.tools:
        remedy = "leave rows with tools out: their answers are not compared as text"
        return [Fault(f"{where} tools", "tools", "a conversation in text", remedy)]
    if not example.trained_turns:
        remedy = "add the right answer as the last message"
        return [Fault(where, "no assistant message", "a reference answer", remedy)]
    return []


def _metadata_faults(metadata: object, where: str) -> list[Fault]:
    """Keys of the user's own are left alone, but not those that are nearly ours."""
    if not isinstance(metadata, Mapping):
        return [Fault(f"{where} metadata", shown(metadata), "an object", "put it into an object")]
    faults = [
        Fault(f"{where} metadata", f"the key {quoted(key)}", "|".join(_KEYS), f'write "{meant}"')
        for key in metadata
        if key not in _KEYS and (meant := close_match(key, _KEYS))
    ]
    for key in ("category", "language", "wrong"):
        if key in metadata and not (isinstance(metadata[key], str) and metadata[key].strip()):
            found = shown(metadata[key])
            faults.append(Fault(f"{where} metadata.{key}", found, "a text", "write it in quotes"))
    return faults


def _trial_faults(row: RetentionRow) -> list[Fault]:
    """A check that its own reference fails, or that `wrong` passes, measures nothing."""
    faults = []
    if not kept(row, row.reference):
        remedy = "mend the check or the reference"
        found = f"the reference {quoted(row.reference)} failing it"
        faults.append(Fault(f"{row.where} metadata.check", found, "a check it passes", remedy))
    if row.wrong is not None and kept(row, row.wrong):
        found = f"the wrong answer {quoted(row.wrong)} passing the check"
        remedy = "make the check stricter"
        faults.append(Fault(f"{row.where} metadata.wrong", found, "an answer that fails", remedy))
    return faults
