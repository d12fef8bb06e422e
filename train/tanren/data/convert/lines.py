"""JSONL: a JSON value on every line."""

from __future__ import annotations

from collections.abc import Iterator

from tanren.data.convert.encodings import Damage
from tanren.data.convert.opening import Input
from tanren.data.convert.records import Broken, Record
from tanren.strict_json import read_json

NOT_JSON = "not JSON"
UNDECODABLE = "undecodable bytes"


class JsonLines:
    """Blank lines, CRLF and a byte order mark are accepted."""

    columns = None

    def __init__(self, file: Input, encoding: str, command: str) -> None:
        self.name = file.name
        self.blank = 0
        self.said = "JSONL" + ("" if encoding == "utf-8" else f" in {encoding}")
        self._file = file
        self._encoding = encoding
        self._command = command

    @property
    def total_bytes(self) -> int:
        return self._file.total_bytes

    def done_bytes(self) -> int:
        return self._file.done_bytes()

    def __iter__(self) -> Iterator[Record | Broken]:
        self.blank = 0
        name = self.name
        damage = Damage(name, self._encoding, self._command)
        for number, text in enumerate(self._file.lines(self._encoding, "\n"), 1):
            if not text.isascii():
                fault = damage.fault(text, number)
                if fault is not None:
                    yield Broken(number, UNDECODABLE, (fault,))
                    continue
            text = text.strip(" \t\r\n")
            if not text:
                self.blank += 1
                continue
            value, faults = read_json(text, f"{name}:{number}")
            yield Broken(number, NOT_JSON, tuple(faults)) if faults else Record(number, value, text)
