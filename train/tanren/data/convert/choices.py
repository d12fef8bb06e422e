"""Multiple choice: a question, its choices, and which of them is right; the answer is its text."""

from __future__ import annotations

import re
from typing import Any

from tanren.data.convert.records import LeftOut, Record
from tanren.data.convert.shapes import Kit, RowShape, answered
from tanren.strict_json import quoted, shown

QUESTIONS = ("question", "stem", "質問", "問題", "設問")
LABELS = ("label", "answer", "answer_idx", "answerKey", "correct", "正解", "正答")
_NUMBERED = re.compile(r"(choice|option|選択肢)[ _]?([0-9]+|[a-zA-Z])", re.IGNORECASE)
_LIST = ("choices", "options")
_BAD_LABEL = "a label that names no choice"


def choice_columns(columns: tuple[str, ...]) -> tuple[str, ...]:
    """`choice0`, `choice1`, ... in order; or `choices`, a list."""
    numbered = [name for name in columns if _NUMBERED.fullmatch(name)]
    if len(numbered) > 1:
        return tuple(sorted(numbered, key=_number))
    return tuple(name for name in columns if name in _LIST)[:1]


def _number(name: str) -> tuple[int, str]:
    match = _NUMBERED.fullmatch(name)
    assert match is not None
    return (int(match[2]), "") if match[2].isdecimal() else (0, match[2].lower())


def choice_roles(columns: tuple[str, ...]) -> tuple[str, str] | None:
    """The columns of question and label, where there are choices at all."""
    question = next((name for name in QUESTIONS if name in columns), None)
    label = next((name for name in LABELS if name in columns), None)
    return (question, label) if question and label and choice_columns(columns) else None


class Choices(RowShape):
    """A label is a number counted as the columns are (from 0 in a list), a letter, or a text."""

    def __init__(self, kit: Kit, question: str, label: str) -> None:
        self._question, self._label = question, label
        self._columns = choice_columns(kit.columns)
        self._listed = self._columns[0] in _LIST
        super().__init__(kit, frozenset((question, label, *self._columns)))
        many = self._columns[0] + ("" if self._listed else f"..{self._columns[-1]}")
        self.said = (
            f"multiple choice: {quoted(question)}, {many}, {quoted(label)}; "
            "the question lists the choices, the answer is the text of the right one"
        )

    def read(self, value: dict[str, Any], record: Record) -> dict[str, Any]:
        question = self._cells.text(value.get(self._question), self._question)
        self.asked(question)  # an empty one is left out before its choices are added
        choices = self._choices(value)
        right = self._right(value.get(self._label), choices)
        lines = [question, *(f"{name}. {text}" for name, text in choices.items())]
        messages = self.begun(value)
        messages += (self.asked("\n".join(lines)), answered(right))
        return {"messages": messages}

    def _choices(self, value: dict[str, Any]) -> dict[str, str]:
        """What each choice is called -> its text, without those that are empty."""
        if not self._listed:
            texts = {n: self._cells.text(value.get(n), n) for n in self._columns}
            named = {_NUMBERED.fullmatch(name)[2]: text for name, text in texts.items()}  # type: ignore[index]
            return {name: text for name, text in named.items() if text}
        column = self._columns[0]
        items = value.get(column)
        if not isinstance(items, list) or not items:
            found, remedy = shown(items), "write the choices as a list of texts"
            raise LeftOut(_BAD_LABEL, (column, found, "a list of choices", remedy))
        return {str(i): self._cells.text(item, column) for i, item in enumerate(items)}

    def _right(self, label: object, choices: dict[str, str]) -> str:
        if label is None or label == "" or label == -1:
            raise LeftOut("no label: which choice is right is not known")
        written = str(label).strip()
        by_name = {name.casefold(): text for name, text in choices.items()}
        if written.casefold() in by_name:
            return by_name[written.casefold()]
        if written in choices.values():
            return written
        if len(written) == 1 and written.isascii() and written.isalpha():
            place = ord(written.upper()) - ord("A")
            if place < len(choices):
                return list(choices.values())[place]
        expected = "one of " + ", ".join(choices)
        remedy = "write the choice's number, letter or text"
        raise LeftOut(_BAD_LABEL, (self._label, shown(label), expected, remedy))
