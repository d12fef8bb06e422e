"""One row at a time: what can be said of it alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

from tanren.chat import Example
from tanren.data.lint import texts
from tanren.data.lint.found import Findings, around, piece
from tanren.data.lint.mend import MENDS, changed_by
from tanren.data.lint.mojibake import lost_characters, mend_mojibake

SPOKEN = ("system", "developer", "user", "assistant")
"""Roles whose text is trimmed; what a tool returned stays as it came."""

TextRule = Callable[[str], Iterator[str]]
_TEXT_RULES: dict[str, TextRule] = {
    "control-characters": texts.control_characters,
    "no-break-space": texts.odd_spaces,
    "contact": texts.contacts,
}
_ANSWER_RULES: dict[str, TextRule] = {
    "template-leftover": texts.leftovers,
    "boilerplate": texts.boilerplate,
    "unclosed-fence": texts.open_fence,
    "unclosed-bracket": texts.open_brackets,
    "loop": texts.loops,
}
# Said by rules of their own here, in other words.
_OWN_WARNINGS = ("U+FFFD", "NUL character", "empty text")


def lint_row(row: Example, findings: Findings) -> None:
    """Everything but what needs other rows."""
    for index, message in enumerate(row.messages):
        role = message["role"]
        for key in ("content", "reasoning_content"):
            text = message.get(key)
            if text:
                path = f"messages[{index}].{key}"
                trims = key == "content" and role in SPOKEN
                _lint_characters(text, path, row.line, findings, trims=trims)
                if role == "assistant":
                    said = mend_mojibake(text)
                    _first_of_each(_ANSWER_RULES, said, path, row.line, findings)
    _lint_row(row, findings)


def _lint_characters(text: str, path: str, line: int, findings: Findings, *, trims: bool) -> None:
    for name in MENDS:
        if (name == "outer-space" and not trims) or not findings.wants(name):
            continue
        changed = changed_by(name, text)
        if changed is not None:
            if name == "outer-space":
                findings.add(name, line, path, _with_spaces(text))
            else:
                before, after = difference(text, changed)
                findings.add(name, line, path, before, more=f" → {piece(after)}")
            if name == "mojibake":  # its odd characters are none of the text's own
                text = changed
    _first_of_each(_TEXT_RULES, text, path, line, findings)
    lost = None if text.isascii() else lost_characters(text)
    if lost is not None:
        findings.add("damaged-characters", line, path, around(text, *lost))


def _first_of_each(
    rules: Mapping[str, TextRule], text: str, path: str, line: int, findings: Findings
) -> None:
    """One place a text is enough to go there; the rows are what is counted."""
    for name, rule in rules.items():
        if findings.wants(name):
            shown = next(rule(text), None)
            if shown is not None:
                findings.add(name, line, path, shown)


def _lint_row(row: Example, findings: Findings) -> None:
    last = last_answer(row)
    message = row.messages[last]
    asked = last_question(row, last)
    question = row.messages[asked]["content"].strip() if asked is not None else ""
    if question and question == message["content"].strip():
        findings.add("prompt-as-answer", row.line, f"messages[{last}]", question)
    if message.get("weight") == 0:
        findings.add("untrained-answer", row.line, f"messages[{last}]", message["content"])
    for index, other in enumerate(row.messages):
        if other["role"] in ("system", "developer") and not other["content"].strip():
            findings.add("empty-system", row.line, f"messages[{index}].content", other["content"])
    for warning in row.warnings:
        if not any(words in warning.found for words in _OWN_WARNINGS):
            findings.add("chat-warning", row.line, warning.where.partition(" ")[2], warning.found)


def last_answer(row: Example) -> int:
    """The index of the last assistant message; every row has one."""
    return max(i for i, message in enumerate(row.messages) if message["role"] == "assistant")


def last_question(row: Example, last: int) -> int | None:
    """The index of what the user said before it; None where nobody did."""
    asked = (i for i in range(last - 1, -1, -1) if row.messages[i]["role"] == "user")
    return next(asked, None)


def system_prompt(row: Example) -> str | None:
    """The first message's text if it is the system's."""
    first = row.messages[0]
    text: str = first["content"]
    return text if first["role"] in ("system", "developer") else None


def difference(before: str, after: str) -> tuple[str, str]:
    """Where two texts part: a piece of each around the first difference."""
    pairs = zip(before, after, strict=False)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    start = sum(1 for _ in same)
    begin = max(0, start - 8)
    mark = "…" if begin else ""
    return mark + before[begin : start + 16], mark + after[begin : start + 16]


def _with_spaces(text: str) -> str:
    """The two ends of a text, with the white space there made visible."""
    bare = text.strip()
    left, right = text.partition(bare)[0], text.rpartition(bare)[2]
    return f"{_visible(left)}{bare[:12]}…{bare[-12:]}{_visible(right)}"


def _visible(space: str) -> str:
    return space.replace(" ", "␣").replace("\u3000", "□")
