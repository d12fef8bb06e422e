"""What is wrong with text that is no JSON, and what to do about it."""

from __future__ import annotations

import json
import re

from tanren.errors import Fault
from tanren.strict_json.showing import escape, quoted

_PYTHON_WORDS = {
    "True": "true",
    "False": "false",
    "None": "null",
    "undefined": "null",
    "nan": "null",
}
_WIDE_MARKS = dict(zip("“”„＂‘’：，｛｝［］", '""""\'\':,{}[]', strict=True))
_NOT_ONE_LINE = "write the whole object on one line"


def syntax_fault(text: str, error: json.JSONDecodeError, where: str) -> Fault:
    position, found, expected, remedy = _diagnose(text, error.msg, error.pos)
    return Fault(f"{where} column {position + 1}", found, expected, remedy)


def _diagnose(text: str, message: str, position: int) -> tuple[int, str, str, str]:
    """Position, found, expected, remedy.

    Goes by the text more than by the message, because messages differ between versions of Python.
    """
    inside = _inside_string(text, message, position)
    if inside:
        return inside
    at, rest = text[position : position + 1], text[position:]
    before = text[:position].rstrip()
    if at in ("]", "}") and before.endswith(","):
        return (
            len(before) - 1,
            f'a comma before "{at}"',
            "no comma after the last entry",
            "delete the comma",
        )
    if message.startswith("Illegal trailing comma"):  # Python 3.13 points at the comma itself
        closing = rest[1:].lstrip()[:1]
        return (
            position,
            f'a comma before "{closing}"',
            "no comma after the last entry",
            "delete the comma",
        )
    if message.startswith("Extra data"):
        return position, *_after_the_object(rest)
    if not rest.strip():
        return position, *_early_end(text)
    return position, *_unexpected(rest, message)


def _inside_string(text: str, message: str, position: int) -> tuple[int, str, str, str] | None:
    if message.startswith("Unterminated string"):
        found = (
            f"a string that does not end on this line, starting {quoted(text[position + 1 :][:20])}"
        )
        remedy = f"write a line break inside text as \\n, close the quote, and {_NOT_ONE_LINE}"
        return position, found, 'a closing "', remedy
    if message.startswith("Invalid control character"):
        character = text[position]
        if text.startswith(("\x1b$", "\x1b("), position):
            remedy = "convert the file from ISO-2022-JP to UTF-8"
        else:
            remedy = f"write it as {escape(character)}"
        return (
            position,
            f"a raw {escape(character)} inside a string",
            "control characters escaped",
            remedy,
        )
    if message.startswith("Invalid \\"):
        start = text.rfind("\\", 0, position + 1)
        sequence = text[start : start + (6 if text[start + 1 : start + 2] == "u" else 2)]
        known = 'one of \\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX'
        remedy = "write a backslash in text as \\\\"
        return start, f"the escape {escape(sequence).replace(chr(92) * 2, chr(92))}", known, remedy
    return None


def _after_the_object(rest: str) -> tuple[str, str, str]:
    if rest.strip() == ",":
        return "a comma after the object", "one JSON object per line", "delete the comma"
    if rest[0] in "{[":
        return (
            "a second value on the same line",
            "one JSON object per line",
            "put each object on its own line",
        )
    return quoted(rest[:20]) + " after the value", "one JSON object per line", "delete it"


def _early_end(text: str) -> tuple[str, str, str]:
    if text.strip() in ("{", "["):
        remedy = f"{_NOT_ONE_LINE} (the file is JSON spread over many lines)"
    else:
        remedy = f"{_NOT_ONE_LINE}; if it was cut off, restore the rest or delete the line"
    return "the end of the line", "the rest of a JSON value", remedy


def _unexpected(rest: str, message: str) -> tuple[str, str, str]:
    found = quoted(rest[:20])
    if rest[0] == "'":
        return (
            found,
            "double quotes",
            "write strings and keys in double quotes (a Python dict: use json.dumps)",
        )
    if rest[0] in _WIDE_MARKS:
        return (
            found,
            f"a plain {_WIDE_MARKS[rest[0]]}",
            "replace the typographic or full-width character",
        )
    if rest.startswith(("//", "/*", "#")):
        return found, "JSON", "delete the comment: JSON has none"
    word = re.match(r"\w*", rest)
    name = word.group() if word else ""
    if message.startswith("Expecting property name"):
        return (
            found,
            "a key in double quotes",
            f'write "{name}"' if name.isidentifier() else "quote the key",
        )
    if name in _PYTHON_WORDS:
        return found, "a JSON value", f"write {_PYTHON_WORDS[name]}"
    if message.startswith("Expecting ',' delimiter"):
        return (
            found,
            "a comma or the end of the list or object",
            'add the comma, or write a quote in text as \\"',
        )
    if message.startswith("Expecting ':' delimiter"):
        return found, 'a ":" after the key', "add the colon and the value"
    return (
        found,
        "a JSON value",
        'write text in double quotes; a row looks like {"messages": [...]}',
    )
