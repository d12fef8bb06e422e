"""From chat rows to checked lines: nothing is written that the chat format refuses."""

from __future__ import annotations

import json
from json.encoder import encode_basestring  # what json.dumps(..., ensure_ascii=False) quotes with
from typing import Any

from tanren.chat import parse_line, parse_object
from tanren.chat.content import is_plain_text
from tanren.errors import Fault

_OPENINGS = {
    role: f'{{"role": "{role}", "content": '
    for role in ("system", "developer", "user", "assistant")
}
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def quick_line(row: dict[str, Any]) -> bytes | None:
    """The line of a row that is plain all through, which nearly every row is; None for others.

    Equals `checked_line`: messages of a plain role and plain text, one of them the assistant's,
    are what the chat format accepts without a warning. A message after the last answer is one.
    """
    messages = row.get("messages")
    if len(row) != 1 or type(messages) is not list:
        return None
    parts = []
    role = None
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return None
        if next(iter(message)) != "role":  # keys stay in their order
            return None
        role, text = message.get("role"), message.get("content")
        if type(role) is not str or role not in _OPENINGS or type(text) is not str:
            return None
        if not is_plain_text(text):
            return None
        parts.append(_OPENINGS[role] + encode_basestring(text))
    if role != "assistant":
        return None
    line = '{"messages": [' + "}, ".join(parts) + "}]}\n"
    try:
        return line.encode("utf-8")
    except UnicodeEncodeError:
        return None


def checked_line(
    row: dict[str, Any] | str, *, source: str, line: int
) -> tuple[bytes, int] | list[Fault]:
    """The line and how many warnings the chat format has of it, or all faults."""
    if isinstance(row, str):
        example = parse_line(row, source=source, line=line)
    else:
        example = parse_object(row, source=source, line=line)
    if isinstance(example, list):
        return example
    text = row if isinstance(row, str) else _dumps(row)
    return text.encode("utf-8") + b"\n", len(example.warnings)
