"""Training files looked at in a process of its own: `python -P -m tanren.jobs.check_files SPEC`.

Whatever a file holds, nothing but this process can be hurt by it, and this one has limits: memory,
time, no core dumps. It reads the JSON file SPEC and writes the JSON file that SPEC names.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tanren.data.read import ChatReader, PreferenceReader, Refused
from tanren.errors import DataError, Fault, TanrenError
from tanren.rundir import read_json, write_json

MOST_MEMORY_BYTES = 4 << 30
LEAST_EXAMPLES = {"training_file": 10, "validation_file": 1}
LONGEST_ROWS = 512
"""As many as a step can have at most: of preferences two a row."""
_MEASURED_BYTES = 4 << 20
"""Of a longer row the bytes are counted instead of the tokens: it is cut anyway."""
_TOKENS_A_MESSAGE, _TOKENS_A_ROW = 8, 32
"""What chat templates write around messages, generously."""

Param = Literal["training_file", "validation_file"]


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One file to look at. `label` is what the words of an error call it."""

    path: str
    param: Param


@dataclass(frozen=True, slots=True)
class Spec:
    """What to check. `tokenizer`: a tokenizer.json, None: there is none on this disk yet."""

    files: tuple[FileSpec, ...]
    report: str
    method: Literal["supervised", "dpo"] = "supervised"
    skip_faulty: bool = False
    tokenizer: str | None = None

    @classmethod
    def read(cls, file: Path) -> Spec:
        values = read_json(file)
        return cls(**{**values, "files": tuple(FileSpec(**each) for each in values["files"])})


@dataclass(slots=True)
class FileReport:
    """What one file holds. `longest`: tokens of its longest rows, longest first; bytes where no
    tokenizer could count them, which is an upper bound.
    """

    param: Param
    examples: int = 0
    refused: int = 0
    first_fault: str | None = None
    longest: list[int] = field(default_factory=list)
    counted_in: Literal["tokens", "bytes"] = "tokens"


@dataclass(slots=True)
class Report:
    """`error`: code, message and param of the first file that cannot be used; None: all can."""

    files: list[FileReport] = field(default_factory=list)
    error: dict[str, str | None] | None = None

    @classmethod
    def read(cls, file: Path) -> Report:
        values = read_json(file)
        return cls([FileReport(**each) for each in values["files"]], values["error"])


def check(spec: Spec) -> Report:
    """Look at all files; the first that cannot be used ends it."""
    report = Report()
    for each in spec.files:
        try:
            found = _check_file(each, spec)
        except DataError as error:
            first = str(error.faults[0]) if error.faults else error.message
            words = f"The {_label(each)} cannot be read: {_without_path(first, each.path)}"
            report.error = _error("invalid_file_format", words, each.param)
            return report
        report.files.append(found)
        report.error = _problem(each, found, spec.skip_faulty)
        if report.error is not None:
            return report
    return report


def _problem(file: FileSpec, found: FileReport, skip_faulty: bool) -> dict[str, str | None] | None:
    if found.refused and not skip_faulty:
        more = f" ({found.refused} lines cannot be used)" if found.refused > 1 else ""
        words = (
            f"The {_label(file)} is not in the format for fine-tuning: {found.first_fault}{more}"
        )
        return _error("invalid_file_format", words, file.param)
    least = LEAST_EXAMPLES[file.param]
    if found.examples < least:
        plural = "s" if least > 1 else ""
        words = (
            f"{_label(file).capitalize()} has {found.examples} example(s), but must have at least "
            f"{least} example{plural}"
        )
        return _error("invalid_n_examples", words, file.param)
    return None


def _error(code: str, message: str, param: str) -> dict[str, str | None]:
    return {"code": code, "message": message, "param": param}


def _label(file: FileSpec) -> str:
    return file.param.replace("_", " ")


def _check_file(file: FileSpec, spec: Spec) -> FileReport:
    found = FileReport(param=file.param)
    longest: list[tuple[int, int, str, int]] = []
    for number, row in enumerate(_rows(Path(file.path), spec.method)):
        if isinstance(row, list):
            found.refused += 1
            if found.first_fault is None:
                more = f" (and {len(row) - 1} more faults there)" if len(row) > 1 else ""
                found.first_fault = _without_path(str(row[0]), file.path) + more
            continue
        found.examples += 1
        for text, messages in row:
            size = len(text.encode("utf-8", errors="replace"))
            kept = text if size <= _MEASURED_BYTES else ""
            item = (size, number, kept, messages)
            if len(longest) < LONGEST_ROWS:
                heapq.heappush(longest, item)
            elif size > longest[0][0]:
                heapq.heapreplace(longest, item)
    _measure(found, longest, spec.tokenizer)
    return found


def _without_path(words: str, path: str) -> str:
    """Clients know files by their ids, not by our folders."""
    return words.replace(f"{path}:", "line ").replace(path, "the file")


def _rows(path: Path, method: str) -> Iterator[list[Fault] | tuple[tuple[str, int], ...]]:
    """Every row as the texts that are trained in it, each with its number of messages, or as its
    faults.
    """
    if method == "dpo":
        yield from _preference_rows(path)
        return
    for row in ChatReader(path):
        if isinstance(row, Refused):
            yield list(row.faults)
        else:
            yield ((_text(row.messages, row.tools), len(row.messages)),)


def _preference_rows(path: Path) -> Iterator[list[Fault] | tuple[tuple[str, int], ...]]:
    for row in PreferenceReader(path):
        if isinstance(row, Refused):
            yield list(row.faults)
        else:
            pair = (row.preferred, row.rejected)
            yield tuple((_text(each.messages, each.tools), len(each.messages)) for each in pair)


def _text(messages: Any, tools: Any) -> str:
    parts = [
        part
        for message in messages
        for part in (message.get("reasoning_content", ""), message.get("content", ""))
    ]
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    extra = [str(value) for value in (*calls, *tools)]
    return "\n".join((*parts, *extra))


def _measure(
    found: FileReport, longest: list[tuple[int, int, str, int]], tokenizer: str | None
) -> None:
    count = _counter(tokenizer)
    found.counted_in = "tokens" if count is not None else "bytes"
    for size, _, text, messages in longest:
        own = size if count is None or (size and not text) else count(text)
        found.longest.append(own + _TOKENS_A_MESSAGE * messages + _TOKENS_A_ROW)
    found.longest.sort(reverse=True)


def _counter(file: str | None) -> Any:
    """A function from text to its number of tokens; None where there is no tokenizer for it."""
    if file is None:
        return None
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(file)
    return lambda text: len(made.encode(text, add_special_tokens=False).ids)


def _limit_this_process() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with contextlib.suppress(OSError):
        os.nice(5)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> int:
    _limit_this_process()
    spec = Spec.read(Path(sys.argv[1]))
    try:
        report = check(spec)
    except TanrenError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    except MemoryError:
        print(f"error: a row needs more than {MOST_MEMORY_BYTES >> 30} GiB of memory", flush=True)
        return 1
    write_json(Path(spec.report), asdict(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
