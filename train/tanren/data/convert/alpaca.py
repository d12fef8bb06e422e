"""Alpaca: `instruction`, `input`, `output`, and what grew around them (`system`, `history`)."""

from __future__ import annotations

from typing import Any

from tanren.data.convert.records import LeftOut, Record
from tanren.data.convert.shapes import OTHER_SHAPE, Kit, Messages, RowShape, answered
from tanren.strict_json import quoted, shown

INSTRUCTION = ("instruction", "指示")
INPUT = ("input", "context", "入力")
OUTPUT = ("output", "response", "出力", "応答", "回答")
_SYSTEM, _HISTORY = "system", "history"


class Alpaca(RowShape):
    """The question is the instruction, an empty line, and the input where there is one."""

    def __init__(self, kit: Kit) -> None:
        self._instruction, self._input, self._output = alpaca_columns(kit.columns)
        own = {self._instruction, self._input, self._output, _SYSTEM, _HISTORY}
        super().__init__(kit, frozenset(own))
        listed = [n for n in (self._instruction, self._input) if n in kit.columns]
        listed += [n for n in (_SYSTEM, _HISTORY) if n in kit.columns]
        names = ", ".join(map(quoted, listed))
        self.said = f"Alpaca: {names}, answer {quoted(self._output)}"

    def read(self, value: dict[str, Any], record: Record) -> dict[str, Any]:
        text = self._cells.text
        question = text(value.get(self._instruction), self._instruction)
        more = value.get(self._input)
        if more:
            more = text(more, self._input)
            if more and not more.isspace():
                question = f"{question}\n\n{more}" if question else more
        answer = text(value.get(self._output), self._output)
        messages: Messages = []
        if value.get(_SYSTEM):
            system = text(value[_SYSTEM], _SYSTEM)
            messages = [{"role": "system", "content": system}] if system.strip() else []
        if value.get(_HISTORY):
            messages += self._history(value[_HISTORY])
        if self._system is not None:
            messages = self.with_system(messages, value)
        messages += (self.asked(question), answered(answer))
        return {"messages": messages}

    def _history(self, pairs: object) -> Messages:
        """Earlier turns, `[[question, answer], ...]`."""
        if not isinstance(pairs, list):
            raise _bad_history(_HISTORY, pairs)
        messages: Messages = []
        for index, pair in enumerate(pairs):
            if not isinstance(pair, list) or len(pair) != 2:
                raise _bad_history(f"{_HISTORY}[{index}]", pair)
            question, answer = (self._cells.text(item, _HISTORY) for item in pair)
            messages += (self.asked(question), answered(answer))
        return messages


def _bad_history(path: str, value: object) -> LeftOut:
    remedy = "write earlier turns as [[question, answer], ...]"
    return LeftOut(OTHER_SHAPE, (path, shown(value), "pairs of question and answer", remedy))


def alpaca_columns(columns: tuple[str, ...]) -> tuple[str, str, str]:
    """Instruction, input and output as they are called here; the usual name where one is absent."""

    def first(names: tuple[str, ...]) -> str:
        return next((name for name in names if name in columns), names[0])

    return first(INSTRUCTION), first(INPUT), first(OUTPUT)
