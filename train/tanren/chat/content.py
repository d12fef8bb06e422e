"""The text of one message: `content` as a string, parts or null, a refusal, and reasoning."""

from __future__ import annotations

from typing import Any

from tanren.chat.findings import Findings
from tanren.chat.wording import KEYS, MESSAGE_KEY_ALIASES
from tanren.strict_json import child, close_match, quoted, shown

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

# Stands for content that has a fault already, so that it is not called empty as well.
_FAULTY = "-"


def is_plain_text(content: object) -> bool:
    """Text that is neither blank nor suspicious, which is nearly all there is."""
    return (
        type(content) is str
        and content != ""
        and not content.isspace()
        and "\ufffd" not in content
        and "\0" not in content
    )


def read_content(
    message: dict[str, Any], path: str, role: str | None, findings: Findings, *, has_calls: bool
) -> str:
    """The message's text; "" where the tool calls of an assistant stand instead of it."""
    place = child(path, "content")
    text = _text(message.get("content"), place, findings)
    if role in ("assistant", None) and message.get("refusal") is not None:
        text = _refusal(message["refusal"], text, child(path, "refusal"), findings)
    if text is None:
        if not has_calls and not _misnamed(message):
            _report_missing(message, place, role, findings)
        return ""
    if not text.strip() and not has_calls:
        _report_blank(place, role, findings)
    _warn_of_characters(text, place, findings)
    return text


def read_reasoning(message: dict[str, Any], path: str, findings: Findings) -> dict[str, str]:
    """`{"reasoning_content": text}`, whichever of its three names was used, or nothing."""
    given = [key for key in REASONING_KEYS if message.get(key) is not None]
    if not given:
        return {}
    if len(given) > 1:
        found = f"both {quoted(given[0])} and {quoted(given[1])}"
        findings.fault(path, found, "one of them", 'keep "reasoning_content"')
    place, text = child(path, given[0]), message[given[0]]
    if not isinstance(text, str):
        findings.fault(place, shown(text), "text", "write it as a string")
        return {}
    _warn_of_characters(text, place, findings)
    return {"reasoning_content": text}


def _text(content: object, path: str, findings: Findings) -> str | None:
    """A string as it is; text parts joined with nothing between them; None for null."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [_part(part, child(path, i), findings) for i, part in enumerate(content)]
        return "".join(parts)
    remedy = "write it as text in double quotes"
    if isinstance(content, dict):
        remedy = "write the object as JSON text in a string"
    findings.fault(path, shown(content), "text or a list of text parts", remedy)
    return _FAULTY


def _part(part: object, path: str, findings: Findings) -> str:
    if not isinstance(part, dict):
        remedy = "write the part as an object" if isinstance(part, str) else "remove it"
        findings.fault(path, shown(part), '{"type": "text", "text": ...}', remedy)
        return _FAULTY
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        _report_part_type(kind, child(path, "type"), findings)
        return _FAULTY
    for key in part:
        if key not in ("type", kind):
            findings.unknown_key(path, key, ("type", kind), "remove it")
    text = part.get(kind)
    if not isinstance(text, str):
        found = "nothing" if text is None else shown(text)
        findings.fault(child(path, kind), found, "text", "write the part's text as a string")
        return _FAULTY
    return text


def _report_part_type(kind: object, path: str, findings: Findings) -> None:
    if kind in ("input_text", "output_text"):
        remedy = 'rename it to "text"'
    elif kind is None:
        remedy = 'add "type": "text"'
    else:
        remedy = "remove the part or the row: only text is trained"
    findings.fault(path, "nothing" if kind is None else shown(kind), '"text"', remedy)


def _refusal(refusal: object, text: str | None, path: str, findings: Findings) -> str | None:
    """A refusal is what the assistant says, so it is its content."""
    if not isinstance(refusal, str):
        findings.fault(path, shown(refusal), "text or null", "write it as a string")
        return _FAULTY
    if text and refusal and text != refusal:
        found = 'a refusal beside other "content"'
        findings.fault(path, found, "one of the two", "keep what the model should say")
    return text or refusal


def _misnamed(message: dict[str, Any]) -> bool:
    """Whether the missing content stands under another name, which is a fault already."""
    return "content" not in message and any(
        MESSAGE_KEY_ALIASES.get(key) == "content" or close_match(key, ("content",))
        for key in message
        if key not in KEYS
    )


def _report_missing(
    message: dict[str, Any], path: str, role: str | None, findings: Findings
) -> None:
    if role == "assistant" and (message.get("tool_calls") or message.get("function_call")):
        return  # the calls are there and have faults of their own
    found = "null" if "content" in message else "nothing"
    remedy = "write the text"
    if role == "assistant":
        remedy = "write the answer, or the tool calls if there is none"
    elif role in ("tool", "function"):
        remedy = f'write what the {role} returned, "" for nothing'
    findings.fault(path, found, "text", remedy)


def _report_blank(path: str, role: str | None, findings: Findings) -> None:
    if role == "assistant":
        remedy = "write the answer, or remove the message"
        findings.fault(path, "empty text", "the text to learn, or tool calls", remedy)
    elif role in ("system", "developer", "user"):
        findings.warn(path, "empty text", "some text", "write the text or remove the message")


def _warn_of_characters(text: str, path: str, findings: Findings) -> None:
    if "\ufffd" in text:
        found = f"{text.count(chr(0xFFFD))} replacement character(s) U+FFFD"
        remedy = "look at the source: text was decoded with the wrong encoding somewhere"
        findings.warn(path, found, "readable text", remedy)
    if "\0" in text:
        found = f"{text.count(chr(0))} NUL character(s)"
        findings.warn(path, found, "readable text", "remove them: many tools end text there")
