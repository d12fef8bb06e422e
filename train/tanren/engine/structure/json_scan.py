"""Where a JSON object or text ends, found while it arrives: each character is looked at once."""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 128
"""Objects and lists inside each other."""
_TELLING = re.compile(r'["\\{}\[\]]')


class JsonScan:
    """Follows one value that begins with `{` or `"` at `start` of a growing text."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._at = start
        self._depth = 0
        self._quoted = False
        self._end: int | None = None

    def end(self, text: str) -> int | None:
        """The index behind the value; None while it is open."""
        if self._end is None:
            self._end = self._looked_for(text)
        return self._end

    def _looked_for(self, text: str) -> int | None:
        while (found := _TELLING.search(text, self._at)) is not None:
            character = found.group()
            if character == "\\" and self._quoted:
                if found.end() >= len(text):
                    self._at = found.start()  # what is escaped has not arrived
                    return None
                self._at = found.end() + 1
                continue
            self._at = found.end()
            if character == '"':
                self._quoted = not self._quoted
            elif not self._quoted and character != "\\":
                self._depth += 1 if character in "{[" else -1
            if self._depth <= 0 and not self._quoted:
                return self._at
        self._at = len(text)
        return None


class NumberText(float):
    """A number that keeps its digits as written: `1.10`, and `1e400`, which is no float."""

    text: str

    def __new__(cls, text: str) -> NumberText:
        made = super().__new__(cls, text)
        made.text = text
        return made


def read_json(text: str) -> Any:
    """The value that `text` is. Line breaks inside of strings are taken: models write them.

    Raises ValueError, for nesting that is too deep as well.
    """
    try:
        value = json.loads(
            text,
            strict=False,
            parse_constant=_refused,
            parse_float=NumberText,
            parse_int=_whole_number,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _require_shallow(value)
    return value


def _require_shallow(value: Any) -> None:
    """What is written as text again needs several calls a level: a model could end the process."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    raise ValueError("nested too deeply")


def read_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is, or is the JSON text of; None for anything else."""
    try:
        value = read_json(text)
        if isinstance(value, str):
            value = read_json(value)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _whole_number(text: str) -> int | NumberText:
    try:
        return int(text)
    except ValueError:  # more digits than Python reads
        return NumberText(text)


def json_text(value: object) -> str:
    """JSON with every character and number as it was written.

    Halves of surrogate pairs stay escaped: no UTF-8 text can hold them.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json_text(key)}: {json_text(value[key])}" for key in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(json_text, value)) + "]"
    if isinstance(value, NumberText):
        return value.text
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
